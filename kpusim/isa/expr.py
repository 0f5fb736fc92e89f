"""Index expressions: what an address, a size, a loop bound or a semaphore index may be.

An expression is a small tree over integers, loop counters, tile parameters and table look-ups, with
``+ - * // % min max cdiv`` (ceiling division). Divisors are positive constants, and one side of every product is
a constant, so expressions stay affine up to rounding and clamping: what an address generator can step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from attrs import frozen

__all__ = [
    "Binary",
    "Call",
    "Const",
    "Expr",
    "Lookup",
    "Name",
    "as_expr",
    "as_table",
    "bounds",
    "ceil_div",
    "ceiling_division",
    "compiled",
    "compiled_tuple",
    "fold",
    "height",
    "illegal",
    "maximum",
    "minimum",
    "names_in",
    "python_source",
    "show",
    "tables_in",
]


class Arithmetic:
    """Operators that build expressions, so that lowerings read like the program they write."""

    def __add__(self, other: Expr | int) -> Expr:
        return fold(Binary("+", as_expr(self), as_expr(other)))

    def __radd__(self, other: int) -> Expr:
        return fold(Binary("+", as_expr(other), as_expr(self)))

    def __sub__(self, other: Expr | int) -> Expr:
        return fold(Binary("-", as_expr(self), as_expr(other)))

    def __rsub__(self, other: int) -> Expr:
        return fold(Binary("-", as_expr(other), as_expr(self)))

    def __mul__(self, other: Expr | int) -> Expr:
        return fold(Binary("*", as_expr(self), as_expr(other)))

    def __rmul__(self, other: int) -> Expr:
        return fold(Binary("*", as_expr(other), as_expr(self)))

    def __floordiv__(self, other: int) -> Expr:
        return fold(Binary("//", as_expr(self), as_expr(other)))

    def __mod__(self, other: int) -> Expr:
        return fold(Binary("%", as_expr(self), as_expr(other)))


@frozen
class Const(Arithmetic):
    """An integer."""

    value: int


@frozen
class Name(Arithmetic):
    """A loop counter, a `let` parameter, or the executing `tile` or `engine` (`dst` in a signal of a DMA)."""

    id: str


@frozen
class Binary(Arithmetic):
    """`left op right` with op one of ``+ - * // %`` (floor division and modulus)."""

    op: str
    left: Expr
    right: Expr


@frozen
class Call(Arithmetic):
    """`min(...)`, `max(...)` or `cdiv(a, b)`, the ceiling of a / b."""

    function: str
    args: tuple[Expr, ...]


@frozen
class Lookup(Arithmetic):
    """`table[index]`: one entry of one of the program's tables."""

    table: str
    index: Expr


Expr = Const | Name | Binary | Call | Lookup

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "//": 2, "%": 2}
FUNCTIONS = ("min", "max", "cdiv")
HEIGHT = 64  # levels of an expression: Python compiles no more than 200 brackets


def as_expr(value: object) -> Expr:
    """`value` itself if it is an expression, else the constant of that integer."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Const(value)
    raise TypeError(f"not an index expression: {value!r}")


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly below `expr`."""
    match expr:
        case Binary(_, left, right):
            return (left, right)
        case Call(_, args):
            return args
        case Lookup(_, index):
            return (index,)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything below it."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def names_in(expr: Expr) -> frozenset[str]:
    """The names that `expr` depends on."""
    return frozenset(node.id for node in walk(expr) if isinstance(node, Name))


def tables_in(expr: Expr) -> frozenset[str]:
    """The tables that `expr` reads."""
    return frozenset(node.table for node in walk(expr) if isinstance(node, Lookup))


def height(expr: Expr) -> int:
    """Levels of the tree: 1 for a number or a name."""
    return 1 + max((height(child) for child in children(expr)), default=0)


def illegal(expr: Expr) -> str | None:
    """Why `expr` itself (its parts are legal) is none that a machine can step, or None."""
    match expr:
        case Binary("*", left, right) if not isinstance(left, Const) and not isinstance(right, Const):
            return "one side of a product must be a constant"
        case Binary("//" | "%", _, right) if not (isinstance(right, Const) and right.value > 0):
            return "a divisor must be a positive constant"
        case Call("cdiv", args) if not (len(args) == 2 and isinstance(args[1], Const) and args[1].value > 0):
            return "cdiv takes a value and a positive constant"
        case Call(function, args) if len(args) < 2:
            return f"{function} takes two values or more"
        case _:
            return f"an expression has at most {HEIGHT} levels" if height(expr) > HEIGHT else None


def fold(expr: Expr) -> Expr:
    """`expr` with constants computed and neutral elements dropped, one level deep (its parts are folded already)."""
    match expr:
        case Binary(op, Const(a), Const(b)):
            return Const(_BINARY[op](a, b))
        case Binary("+", left, Const(0)) | Binary("-", left, Const(0)) | Binary("*" | "//", left, Const(1)):
            return left
        case Binary("+", Const(0), right) | Binary("*", Const(1), right):
            return right
        case Binary("*", _, Const(0)) | Binary("*", Const(0), _) | Binary("%", _, Const(1)):
            return Const(0)
        case Call(function, args) if all(isinstance(arg, Const) for arg in args):
            return Const(_CALL[function](*(arg.value for arg in args if isinstance(arg, Const))))
        case _:
            return expr


def minimum(*args: Expr | int) -> Expr:
    """`min` of the arguments as an expression."""
    return fold(Call("min", tuple(as_expr(arg) for arg in args)))


def maximum(*args: Expr | int) -> Expr:
    """`max` of the arguments as an expression."""
    return fold(Call("max", tuple(as_expr(arg) for arg in args)))


def ceiling_division(a: Expr | int, b: int) -> Expr:
    """The ceiling of a / b as an expression."""
    return fold(Call("cdiv", (as_expr(a), Const(b))))


def ceil_div(a: int, b: int) -> int:
    """The ceiling of a / b."""
    return -(-a // b)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}
_CALL: dict[str, Callable[..., int]] = {"min": min, "max": max, "cdiv": ceil_div}


def show(expr: Expr) -> str:
    """The text of `expr`, which the assembler reads back to an equal tree."""
    return _show(expr, 0)


def _show(expr: Expr, above: int) -> str:
    match expr:
        case Const(value):
            return str(value) if value >= 0 or above == 0 else f"({value})"
        case Name(id):
            return id
        case Lookup(table, index):
            return f"{table}[{show(index)}]"
        case Call(function, args):
            return f"{function}({', '.join(show(arg) for arg in args)})"
        case Binary(op, left, right):
            level = PRECEDENCE[op]
            text = f"{_show(left, level)} {op} {_show(right, level + 1)}"
            return f"({text})" if level < above else text


def python_source(expr: Expr, name: Callable[[str], str] = str, table: Callable[[str], str] = str) -> str:
    """`expr` as Python source: integers and what `name` and `table` make of its names (a program may be hostile)."""
    match expr:
        case Const(value):
            return f"({int(value)})"
        case Name(id):
            return name(id)
        case Lookup(table_name, index):
            return f"{table(table_name)}[{python_source(index, name, table)}]"
        case Call("cdiv", (a, b)):
            return f"(-(-{python_source(a, name, table)} // {python_source(b, name, table)}))"
        case Call(function, args):
            return f"{function}({', '.join(python_source(arg, name, table) for arg in args)})"
        case Binary(op, left, right):
            return f"({python_source(left, name, table)} {op} {python_source(right, name, table)})"


def compiled(expr: Expr, tables: Mapping[str, Sequence[int]]) -> Callable[[Mapping[str, int]], int]:
    """A function from the values of the names in `expr` to its value; raises IndexError outside a table."""
    function: Callable[[Mapping[str, int]], int] = _compiled([expr], tables, "{}")
    return function


def compiled_tuple(
    exprs: Sequence[Expr], tables: Mapping[str, Sequence[int]]
) -> Callable[[Mapping[str, int]], tuple[int, ...]]:
    """As `compiled`, for several expressions at once."""
    function: Callable[[Mapping[str, int]], tuple[int, ...]] = _compiled(exprs, tables, "({},)")
    return function


def _compiled(exprs: Sequence[Expr], tables: Mapping[str, Sequence[int]], form: str) -> Any:
    used = sorted(frozenset().union(*(tables_in(expr) for expr in exprs)))
    place = {table: f"t{i}" for i, table in enumerate(used)}
    source = ", ".join(python_source(expr, lambda id: f"v[{id!r}]", lambda table: place[table]) for expr in exprs)
    text = f"lambda v: {form.format(source)}"
    if not used:
        return _function(text)
    return eval(text, {place[table]: _Table(table, tables[table]) for table in used})


@cache
def _function(source: str) -> Any:
    """The function of that text, compiled once: programs share many."""
    return eval(source, {})


class _Table:
    """A table whose index never wraps around."""

    def __init__(self, name: str, values: Sequence[int]):
        self.name, self.values = name, values

    def __getitem__(self, index: int) -> int:
        if 0 <= index < len(self.values):
            return self.values[index]
        raise IndexError(f"table {self.name} has {len(self.values)} entries; index {index} is outside")


def as_table(name: str, values: Sequence[int]) -> _Table:
    """`values` as something to index; raises IndexError outside (also for negative indices)."""
    return _Table(name, values)


def bounds(expr: Expr, ranges: Mapping[str, tuple[int, int]], tables: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Least and greatest value of `expr`, each name in its closed range (interval arithmetic: never too narrow)."""
    match expr:
        case Const(value):
            return value, value
        case Name(id):
            return ranges[id]
        case Lookup(table, index):
            low, high = bounds(index, ranges, tables)
            window = tables[table][max(low, 0) : max(high + 1, 0)]
            return (min(window), max(window)) if len(window) else (0, 0)
        case Call(function, args):
            spans = [bounds(arg, ranges, tables) for arg in args]
            if function == "cdiv":
                divisor = spans[1][0]
                return ceil_div(spans[0][0], divisor), ceil_div(spans[0][1], divisor)
            pick = _CALL[function]
            return pick(low for low, _ in spans), pick(high for _, high in spans)
        case Binary(op, left, right):
            return _binary_bounds(op, bounds(left, ranges, tables), bounds(right, ranges, tables))


def _binary_bounds(op: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    if op == "+":
        return a[0] + b[0], a[1] + b[1]
    if op == "-":
        return a[0] - b[1], a[1] - b[0]
    if op == "*":
        corners = [x * y for x in a for y in b]
        return min(corners), max(corners)
    if op == "//":
        return a[0] // b[0], a[1] // b[0]
    divisor = b[0]
    if a[0] // divisor == a[1] // divisor:
        return a[0] % divisor, a[1] % divisor
    return 0, divisor - 1
