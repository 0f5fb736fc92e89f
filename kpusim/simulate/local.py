"""Local clocks: units that only touch their own tile run ahead of the event queue.

Each such unit is a generator compiled from its section (`simulate.compiler`). It runs until a semaphore has no token
for it, and goes onto the kernel's run list when there is one; semaphores carry the times of their signals.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from kpusim.engines.fabric import Fabric
from kpusim.engines.semaphore import Semaphore, span_key
from kpusim.engines.stalls import PORT
from kpusim.engines.work import Work
from kpusim.isa.walk import SectionCode
from kpusim.simulate.compiler import SectionFunction
from kpusim.simulate.spans import NO_SPAN, SPAN, Rows

__all__ = ["LocalUnit"]


class LocalUnit:
    """The matrix or vector engine of one tile with a clock of its own."""

    def __init__(self, unit: int, tile: int, function: SectionFunction, code: SectionCode, fabric: Fabric):
        self.unit, self.tile = unit, tile
        self.key, self.span = span_key(unit, 0), fabric.span
        self.pc = self.clock = 0  # where it last waited, and from when on
        self.waiting_for: Semaphore | None = None
        self.finished = False
        self.released = 0  # when a barrier let it go
        self._code, self._fabric = code, fabric
        self._alike: dict[tuple[int, Work, int], Rows] = {}  # spans of repeated instructions, from cycle 0
        self._resume: Callable[[], None] = function(tile, self).__next__
        self.wake = partial(fabric.kernel.soon, self._resume)

    def fetch(self) -> None:
        """Starts it."""
        self.wake()

    def arrive(self, time: int) -> None:
        """It is at a barrier at cycle `time`."""
        self.waiting_for, self.clock = None, time
        self._fabric.barrier.arrive(self.unit, time, self._leave)

    def _leave(self, time: int) -> None:
        self.released = time
        self.wake()

    def repeat(self, start: int, done: int, times: int, work: Work, opcode: int, pc: int, iteration: int) -> None:
        """Records the spans of one instruction executed `times` over, each right behind the one before.

        `done`: when what was before is visible; nothing is earlier.
        """
        key = times, work, pc
        if key not in self._alike:
            self._alike[key] = rows = np.zeros(times, SPAN)
            rows["end_cycle"] = np.arange(1, times + 1) * work.occupancy
            rows["start_cycle"] = rows["end_cycle"] - work.busy
            rows["done_cycle"] = rows["end_cycle"] + work.drain
            rows["stall_port"] = work.occupancy - work.busy
            rows["iteration"] = np.arange(times)
            rows["unit"], rows["opcode"], rows["pc"], rows["released_by"] = self.unit, opcode, pc, NO_SPAN
        rows = self._alike[key].copy()
        for column in ("start_cycle", "end_cycle", "done_cycle"):
            rows[column] += start
        if done > start + work.occupancy + work.drain:
            np.maximum(rows["done_cycle"], done, out=rows["done_cycle"])
        rows["iteration"] += iteration
        assert self._fabric.span_block is not None
        self._fabric.span_block(rows)

    def fail(self, error: IndexError) -> None:
        """An index has left what it indexes: says so in the words of the plain mode, which walks the same steps.

        Raises UserError for the first step that does so.
        """
        for step in self._code.steps(self.tile):
            step.waits()
            step.operands()
            for name in step.code.options:
                step.option(name)
            step.signals("read")
            step.signals("done")
        raise error

    def finish(self, clock: int, done: int, busy: int, stalls: tuple[int, ...], instructions: int) -> None:
        """Its section is over: the accounts of the whole run."""
        fabric, account = self._fabric, self._fabric.accounts[self.unit]
        account.busy, account.instructions = busy, instructions
        account.stalls[: len(stalls)] = stalls
        account.stalls[PORT] = clock - busy - sum(stalls)  # up to its last instruction, a unit is never idle
        fabric.end = max(fabric.end, clock, done)
        self.finished, self.waiting_for = True, None
