"""Chains of vector instructions: what they write and read by the names of buffers, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from kpusim.costs import vector_timer
from kpusim.isa.tables import DTYPE_BITS, instruction_rows
from kpusim.machine import Machine

__all__ = ["Step", "elementwise_cycles"]


@frozen
class Step:
    """One vector instruction: what it writes and reads are buffers, or numbers."""

    op: str
    target: str
    sources: tuple[str | float, ...]

    @property
    def buffers(self) -> tuple[str, ...]:
        """Those that it touches."""
        return (self.target, *(source for source in self.sources if isinstance(source, str)))


def elementwise_cycles(steps: tuple[Step, ...], machine: Machine, elements: int, dtypes: Mapping[str, str]) -> int:
    """Cycles of the vector engine for steps on `elements` each.

    dtypes: of buffers as large as that; those of which `dtypes` says nothing are smaller and cost nothing.
    """
    total = 0
    for step in steps:
        size = elements * sum(DTYPE_BITS[dtypes[name]] for name in step.buffers if name in dtypes) // 8
        total += vector_timer(machine, instruction_rows()[step.op].timing_class)(elements, size)
    return total
