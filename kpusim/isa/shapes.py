"""Which shapes of operands fit together. A size that is no constant fits anything: run time will tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kpusim.isa.expr import Const, Expr
from kpusim.isa.program import Box, Buffer, Instruction, Operand, Rows, TensorMap, View
from kpusim.isa.tables import Row

__all__ = ["shape_problem", "sizes_of"]

Sizes = tuple[int | None, ...]  # None: not a constant


def sizes_of(operand: Operand, buffers: Mapping[str, Buffer], maps: Mapping[str, TensorMap]) -> Sizes:
    """The sizes of an operand along its dimensions; () for a scalar."""
    match operand:
        case View(buffer, _, ranges):
            extents = buffers[buffer].shape
        case Box(name, ranges):
            extents = maps[name].box
        case Rows(_, _, count):
            return (_constant(count),)
        case _:
            return ()
    if not ranges:
        return extents
    pairs = zip(ranges, extents, strict=True)
    return tuple([extent if item.length is None else _constant(item.length) for item, extent in pairs])


def _constant(expr: Expr) -> int | None:
    return max(expr.value, 0) if isinstance(expr, Const) else None


def shape_problem(row: Row, node: Instruction, sizes: Sequence[Sizes]) -> tuple[str, str] | None:
    """(found, allowed) where the operands' sizes contradict each other, or None."""
    if row.timing_class == "matmul":
        return _matmul(node, *sizes)
    if row.timing_class == "transfer":
        return _transfer(node, sizes)
    if row.name == "transpose":
        out, src = sizes
        return _equal(out, (*src[:-2], *src[:-3:-1]), "the last two dimensions of src swapped")
    if row.name.startswith("row_"):
        return _equal(sizes[0], (*sizes[1][:-1], 1), "one element for each row of src")
    if row.name.startswith("col_"):
        return (
            _equal(sizes[0], (1, *sizes[1][1:]), "one element for each column of src") if len(sizes[1]) == 2 else None
        )
    if row.name == "top_k":
        values, indices, src = sizes
        return _equal(indices, values, "as many indices as values") or _equal(values[:-1], src[:-1], "the rows of src")
    if row.name == "prefix_sum":
        return _equal(sizes[0], sizes[1], "the shape of src")
    return next((problem for src in sizes[1:] if (problem := _broadcast(sizes[0], src))), None)


def _differ(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None and a != b


def _equal(found: Sizes, wanted: Sizes, why: str) -> tuple[str, str] | None:
    if len(found) == len(wanted) and not any(map(_differ, found, wanted)):
        return None
    return _text(found), f"{_text(wanted)}: {why}"


def _broadcast(out: Sizes, src: Sizes) -> tuple[str, str] | None:
    aligned = zip(reversed(src), reversed(out), strict=False)
    if len(src) <= len(out) and all(size == 1 or not _differ(size, extent) for size, extent in aligned):
        return None
    return f"{_text(src)} for {_text(out)}", "sizes that are equal or 1, from the last dimension on"


def _matmul(node: Instruction, out: Sizes, a: Sizes, b: Sizes) -> tuple[str, str] | None:
    (m, n), (rows, k), (depth, columns) = _matrix(out), _matrix(a), _matrix(b)
    swap_a, swap_b = node.option("transpose_a"), node.option("transpose_b")
    if not (isinstance(swap_a, Const) and isinstance(swap_b, Const)):
        return None
    if swap_a.value:
        rows, k = k, rows
    if swap_b.value:
        depth, columns = columns, depth
    if _differ(m, rows) or _differ(k, depth) or _differ(n, columns):
        allowed = f"out[m, n], {'a[k, m]' if swap_a.value else 'a[m, k]'}, {'b[n, k]' if swap_b.value else 'b[k, n]'}"
        return f"out {_text(out)}, a {_text(a)}, b {_text(b)}", allowed
    return None


def _matrix(sizes: Sizes) -> tuple[int | None, int | None]:
    """Rows and columns: leading dimensions are rows."""
    return _count(sizes[:-1]), sizes[-1]


def _count(sizes: Sizes) -> int | None:
    result = 1
    for size in sizes:
        if size is None:
            return None
        result *= size
    return result


def _transfer(node: Instruction, sizes: Sequence[Sizes]) -> tuple[str, str] | None:
    """As many elements on both sides; with an index list, a row of the box for each index."""
    sides = list(sizes[:2])
    if len(sizes) > 2:
        box = next(number for number, operand in enumerate(node.operands) if isinstance(operand, Box))
        sides[box] = (*sizes[2], *sizes[box][1:])
    if _differ(_count(sides[0]), _count(sides[1])):
        return f"{_text(sides[0])} from {_text(sides[1])}", "as many elements in dst as in src"
    if len(sizes) > 3 and _differ(_count(sizes[2]), _count(sizes[3])):
        return f"{_text(sizes[3])} for {_text(sizes[2])}", "as many elements in index as in the list"
    return None


def _text(sizes: Sizes) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"
