"""The vector engine: what a vector instruction occupies."""

from __future__ import annotations

from kpusim.costs import vector_timer
from kpusim.engines.sram import Traffic
from kpusim.engines.work import Work
from kpusim.isa.walk import Step, ViewAt
from kpusim.machine import Machine

__all__ = ["VectorEngine"]


class VectorEngine:
    """The closed forms of one machine's vector lanes, remembered by size."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self.works: dict[tuple[str, int, int, int], Work] = {}

    def work(self, operation: str, elements: int, size: int, passes: int) -> Work:
        """The work of one instruction of class `operation` on `elements`, moving `size` bytes, `passes` times over."""
        key = operation, elements, size, passes
        if key not in self.works:
            time, worked, moved = vector_timer(self._machine, operation), elements * passes, size * passes
            adds = {f"vector.{operation}": worked, "sram.vector_bytes": moved}
            self.works[key] = Work(time(worked, moved), time(worked, 0), 0, adds)
        return self.works[key]

    def work_of(self, step: Step) -> Work:
        """The work of a resolved vector instruction."""
        views, passes = _views_and_passes(step)
        elements = max(view.elements for view in views)
        return self.work(step.code.row.timing_class, elements, sum(view.size_bytes for view in views), passes)

    def traffic_of(self, step: Step) -> Traffic:
        """What a resolved vector instruction moves of each operand."""
        views, passes = _views_and_passes(step)
        return tuple([(view, view.size_bytes * passes) for view in views])


def _views_and_passes(step: Step) -> tuple[list[ViewAt], int]:
    """Its operands in the SRAM, and how many times over they pass."""
    views = [operand for operand in step.operands() if isinstance(operand, ViewAt)]
    passes = step.code.row.passes
    return views, passes if isinstance(passes, int) else views[0].sizes[-1]
