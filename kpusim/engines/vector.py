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
            time, moved = vector_timer(self._machine, operation), {"sram.vector_bytes": size}
            occupancy, busy = time(elements * passes, size * passes), time(elements * passes, 0)
            self.works[key] = Work(occupancy, busy, 0, {f"vector.{operation}": elements * passes, **moved})
        return self.works[key]

    def work_of(self, step: Step) -> Work:
        """The work of a resolved vector instruction."""
        views = [operand for operand in step.operands() if isinstance(operand, ViewAt)]
        row = step.code.row
        passes = row.passes if isinstance(row.passes, int) else views[0].sizes[-1]
        elements = max(view.elements for view in views)
        return self.work(row.timing_class, elements, sum(view.size_bytes for view in views), passes)
