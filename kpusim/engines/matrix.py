"""The matrix engine: what a matmul instruction occupies, and when its result is visible."""

from __future__ import annotations

from kpusim.costs import matmul_array_timer, matmul_operand_bytes, matmul_sram_bytes, matmul_timer
from kpusim.engines.sram import Traffic
from kpusim.engines.work import Work
from kpusim.isa.walk import Step, ViewAt
from kpusim.machine import Machine

__all__ = ["MatrixEngine"]


class MatrixEngine:
    """The closed forms of one machine's array, remembered by size."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self.works: dict[tuple[int, int, int, bool, str], Work] = {}

    def work(self, m: int, n: int, k: int, accumulate: bool, dtype: str) -> Work:
        """The work of one m x k times k x n instruction with factors of `dtype`."""
        key = m, n, k, accumulate, dtype
        if key not in self.works:
            occupancy, drain = matmul_timer(self._machine, dtype, accumulate=accumulate)(m, n, k)
            busy, _ = matmul_array_timer(self._machine, dtype)(m, n, k)
            moved = matmul_sram_bytes(self._machine, m, n, k, dtype, accumulate=accumulate)
            self.works[key] = Work(occupancy, busy, drain, {f"macs.{dtype}": m * n * k, "sram.matrix_bytes": moved})
        return self.works[key]

    def work_of(self, step: Step) -> Work:
        """The work of a resolved matmul."""
        out, a, _ = _views(step)
        return self.work(*_sizes(step, out, a), step.option("accumulate") != 0, a.dtype)

    def traffic_of(self, step: Step) -> Traffic:
        """What a resolved matmul moves of each operand."""
        views, accumulate = _views(step), step.option("accumulate") != 0
        moved = matmul_operand_bytes(self._machine, views[1].dtype, accumulate=accumulate)(*_sizes(step, *views[:2]))
        return tuple(zip(views, moved, strict=True))


def _views(step: Step) -> tuple[ViewAt, ViewAt, ViewAt]:
    out, a, b = step.operands()
    assert isinstance(out, ViewAt) and isinstance(a, ViewAt) and isinstance(b, ViewAt)
    return out, a, b


def _sizes(step: Step, out: ViewAt, a: ViewAt) -> tuple[int, int, int]:
    """m, n, k."""
    n = out.sizes[-1]
    m = out.elements // n if n else 0
    if step.option("transpose_a"):
        return m, n, a.elements // m if m else 0
    return m, n, a.sizes[-1]
