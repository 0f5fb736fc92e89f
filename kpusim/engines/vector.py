"""The vector engine: what a vector instruction occupies."""

from __future__ import annotations

from kpusim.costs import vector_timer
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
        views = [operand for operand in step.operands() if isinstance(operand, ViewAt)]
        row = step.code.row
        passes = row.passes if isinstance(row.passes, int) else views[0].sizes[-1]
        elements = max(view.elements for view in views)
        return self.work(row.timing_class, elements, sum(view.size_bytes for view in views), passes)
