"""What an instruction's work is, as Python text: sizes of its operands go in, closed formulas are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kpusim.isa.expr import Const, Expr, names_in, tables_in
from kpusim.isa.program import Buffer, Instruction, View
from kpusim.isa.ranges import view_ranges
from kpusim.isa.tables import DTYPE_BITS, Row, instruction_rows

__all__ = ["WorkText"]

PRODUCT = " * "


class WorkText:
    """Calls of `matrix_work` and `vector_work` for a program's buffers; `text` writes an expression."""

    def __init__(self, buffers: Mapping[str, Buffer], text: Callable[[Expr], str]):
        self.buffers, self.text = buffers, text

    def call(self, node: Instruction) -> tuple[frozenset[str], frozenset[str], str]:
        """(names, tables) that the sizes of its work depend on, and the Python text that computes it ("" for control).

        The text has a place for whether it accumulates.
        """
        row = instruction_rows()[node.op]
        if row.unit == "any":
            return frozenset(), frozenset(), ""
        views = [operand for operand in node.operands if isinstance(operand, View)]
        sizes = [[length for _, length in view_ranges(view, self.buffers[view.buffer])] for view in views]
        exprs = [length for lengths in sizes for length in lengths]
        if row.unit == "matrix":
            exprs.append(node.option("transpose_a"))
        call = self.matrix_call(node, views, sizes) if row.unit == "matrix" else self.vector_call(row, views, sizes)
        names = frozenset().union(*(names_in(expr) for expr in exprs))
        return names, frozenset().union(*(tables_in(expr) for expr in exprs)), call

    def size(self, expr: Expr) -> str:
        return str(max(expr.value, 0)) if isinstance(expr, Const) else f"max(0, {self.text(expr)})"

    def product(self, lengths: list[Expr]) -> str:
        return PRODUCT.join(self.size(length) for length in lengths) or "1"

    def matrix_call(self, node: Instruction, views: list[View], sizes: list[list[Expr]]) -> str:
        m, n, k = f"({self.product(sizes[0][:-1])})", self.size(sizes[0][-1]), self.size(sizes[1][-1])
        swapped = node.option("transpose_a")
        if swapped != Const(0):
            k = f"(({self.product(sizes[1])}) // ({m} or 1) if {self.text(swapped)} else {k})"
        dtype = self.buffers[views[1].buffer].dtype
        return f"matrix_work({m} if {n} else 0, {n}, {k}, {{}}, {dtype!r})"

    def vector_call(self, row: Row, views: list[View], sizes: list[list[Expr]]) -> str:
        elements = ", ".join(self.product(lengths) for lengths in sizes)
        size = " + ".join(
            f"-(-({self.product(lengths)}) * {DTYPE_BITS[self.buffers[view.buffer].dtype]} // 8)"
            for view, lengths in zip(views, sizes, strict=True)
        )
        passes = str(row.passes) if isinstance(row.passes, int) else self.size(sizes[0][-1])
        return f"vector_work({row.timing_class!r}, max({elements}, 0), {size}, {passes})"
