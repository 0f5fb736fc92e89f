"""The matrix engine: what a matmul instruction occupies, and when its result is visible."""

from __future__ import annotations

from kpusim.costs import matmul_array_timer, matmul_sram_bytes, matmul_timer
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
        out, a = step.operands()[:2]
        assert isinstance(out, ViewAt) and isinstance(a, ViewAt)
        n = out.sizes[-1]
        m = out.elements // n if n else 0
        k = a.sizes[-1]
        if step.option("transpose_a"):
            k = a.elements // m if m else 0
        return self.work(m, n, k, step.option("accumulate") != 0, a.dtype)
