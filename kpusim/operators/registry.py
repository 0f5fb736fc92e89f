"""Families by name, and operators from text such as `gemm(m=2048, n=4096, k=4096)`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import attrs

from kpusim.errors import UserError
from kpusim.operators.attention import Attention, Mla
from kpusim.operators.base import Family, Operator
from kpusim.operators.elementwise import ELEMENTWISE
from kpusim.operators.gather import Gather, GatherNd, Scatter, ScatterAdd
from kpusim.operators.gemm import Gemm, GroupedGemm
from kpusim.operators.moe import MoeCombine, Permute, TopkRouting
from kpusim.operators.norm import NORMS

__all__ = ["FAMILIES", "allowed_by", "build_operator", "make_operator", "text_of"]

FAMILIES: Mapping[str, type[Family]] = MappingProxyType(
    {
        family.family: family
        for family in (
            Gemm, GroupedGemm, Gather, GatherNd, Scatter, ScatterAdd, TopkRouting, Permute, MoeCombine,
            *NORMS, *ELEMENTWISE, Attention, Mla,
        )
    }
)  # fmt: skip


def make_operator(text: str, where: str = "--op") -> Operator:
    """The operator that `text` calls. Raises UserError for anything but one call with literal keyword arguments."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        params = {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg}
        if len(params) < len(call.keywords):
            raise ValueError  # a parameter twice, or `**`
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        example = "family(name=value, ...), as in gemm(m=2048, n=4096, k=4096)"
        raise UserError("not an operator", where=where, found=text, allowed=example) from error
    return build_operator(call.func.id, params, where)


def build_operator(family: str, params: Mapping[str, object], where: str, *, check: bool = True) -> Operator:
    """The operator of that family. Raises UserError for an unknown family or parameter, or an impossible value.

    check: also that the parameters do not contradict each other.
    """
    if family not in FAMILIES:
        raise UserError("unknown operator", where=where, found=family, allowed=[*FAMILIES])
    kind = FAMILIES[family]
    fields = {field.name: field for field in attrs.fields(cast(Any, kind))}
    for name in params:
        if name not in fields:
            raise UserError(f"{family} has no such parameter", where=where, found=name, allowed=[*fields])
    for name, field in fields.items():
        if name not in params and field.default is attrs.NOTHING:
            given = ", ".join(params) or "nothing"
            raise UserError(f"{family} needs the parameter {name}", where=where, found=given, allowed=[*fields])
        if name in params:
            _check(family, name, params[name], field, where)
    operator = cast(Operator, cast(Any, kind)(**params))
    if check:
        try:
            operator.check()
        except UserError as error:
            raise UserError(f"impossible {family}: {error}", where=where) from error
    return operator


def text_of(operator: Operator) -> str:
    """The text that `make_operator` reads back as an equal operator; parameters at their defaults are left out."""
    fields = {field.name: field.default for field in attrs.fields(cast(Any, type(operator)))}
    given = {name: getattr(operator, name) for name in fields if getattr(operator, name) != fields[name]}
    return f"{operator.family}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _check(family: str, name: str, value: object, field: Any, where: str) -> None:
    """Runs the validator of one parameter, so that the message names it."""
    try:
        if field.validator is not None:
            field.validator(None, field, value)
    except (TypeError, ValueError) as error:
        allowed = allowed_by(error)
        raise UserError(f"impossible {name} of {family}", where=where, found=value, allowed=allowed) from error


def allowed_by(error: Exception) -> Any:
    """What the validator that complained allows: options, or words."""
    args = error.args
    if isinstance(error, TypeError):
        return f"a value of type {args[2].__name__}"
    return (
        [option or '""' for option in args[2]]
        if len(args) > 2
        else str(error).partition("must be ")[2].partition(":")[0]
    )


def _literal(node: ast.expr) -> object:
    """A number, a string, a boolean, or a bare word (which stands for the string)."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    return ast.literal_eval(node)
