"""Sizes in symbols: tiny integer arithmetic such as "tokens * (heads + 2 * kv_heads) // 2"."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from kpusim.errors import UserError

__all__ = ["evaluate", "resolve_symbols"]

_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_ALLOWED = "whole numbers, symbols, + - * // and parentheses"
_LONGEST = 200  # characters
_GREATEST = 2**62


def evaluate(expression: int | str, symbols: Mapping[str, int], where: str) -> int:
    """The value of an expression. Raises UserError, with `where`, for unknown symbols and anything but arithmetic."""
    if isinstance(expression, int):
        return expression
    if len(expression) > _LONGEST:
        raise UserError("too long an expression", where=where, allowed=f"up to {_LONGEST} characters")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, expression, symbols, where)
    except (SyntaxError, ValueError) as error:
        raise UserError("not an expression", where=where, found=expression, allowed=_ALLOWED) from error


def _value(node: ast.expr, text: str, symbols: Mapping[str, int], where: str) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        value = node.value
    elif isinstance(node, ast.Name):
        if node.id not in symbols:
            raise UserError("unknown symbol", where=where, found=node.id, allowed=list(symbols) or "none")
        value = symbols[node.id]
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = (_value(side, text, symbols, where) for side in (node.left, node.right))
        if right == 0 and isinstance(node.op, ast.FloorDiv):
            raise UserError("division by zero", where=where, found=text)
        value = _OPERATIONS[type(node.op)](left, right)
    else:
        raise UserError("not an expression", where=where, found=text, allowed=_ALLOWED)
    if abs(value) > _GREATEST:
        raise UserError("too large a number", where=where, found=text, allowed=f"up to {_GREATEST}")
    return value


def resolve_symbols(
    declared: Mapping[str, int | str], changes: Mapping[str, int | str], where: Callable[[str], str]
) -> dict[str, int]:
    """The value of every symbol; a symbol may use those declared before it.

    changes: values instead of the declared ones. `where` tells the place of a symbol. Raises UserError as `evaluate`.
    """
    for name in changes:
        if name not in declared:
            raise UserError("unknown symbol", where=where(name), found=name, allowed=list(declared) or "none")
    values: dict[str, int] = {}
    for name, default in declared.items():
        values[name] = evaluate(changes.get(name, default), values, where(name))
    return values
