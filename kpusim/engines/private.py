"""A unit that only touches its own tile, in plain mode: every wait, start and end is an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kpusim.engines.fabric import BARRIER, CAUSES, Fabric
from kpusim.engines.kernel import Phase
from kpusim.engines.semaphore import Semaphore
from kpusim.engines.work import NO_WORK, Work
from kpusim.isa.walk import Step

__all__ = ["PrivateUnit"]


class PrivateUnit:
    """The matrix or vector engine of one tile, executing one section in order."""

    def __init__(self, unit: int, tile: int, steps: Iterator[Step], work: Callable[[Step], Work], fabric: Fabric):
        self.unit, self.tile = unit, tile
        self._steps, self._work, self._fabric, self._kernel = steps, work, fabric, fabric.kernel
        self.step: Step | None = None
        self.waiting_for: Semaphore | None = None
        self.finished = False
        self._clock = self._visible = 0
        self._pending: list[int] = []
        self._latest, self._ordinal = 0, 0
        self._stalls: list[int] = []

    def fetch(self) -> None:
        """Goes on to the next instruction."""
        self.step = next(self._steps, None)
        if self.step is None or self.step.code.row.name == "halt":
            self.step, self.finished = None, True
            return
        self._pending, self._latest, self._stalls = self.step.waits(), 0, [0] * len(CAUSES)
        self._wait()

    def _wait(self) -> None:
        fabric = self._fabric
        while self._pending:
            number = self._pending[0]
            semaphore = fabric.semaphores[number]
            token = semaphore.take(self._wait)
            if token is None:
                self.waiting_for = semaphore
                return
            self._pending.pop(0)
            self._clock = fabric.note_wait(number, token, self._clock, self._stalls)
            self._latest = max(self._latest, token)
        self.waiting_for = None
        self._kernel.at(max(self._clock, self._kernel.now), Phase.PRIVATE, self.unit, self._start)

    def _start(self) -> None:
        step, now, fabric = self.step, self._kernel.now, self._fabric
        assert step is not None
        if fabric.watcher is not None:
            fabric.watcher.issue(self.unit, self.tile, step, now)
        if step.code.row.name == "barrier":
            fabric.barrier.arrive(self.unit, max(now, self._visible), self._leave)
            return
        work = self._work(step) if step.code.row.unit != "any" else NO_WORK
        work.count += 1
        end = now + work.occupancy
        done = self._visible = max(end + work.drain, self._visible)
        ordinal = self._ordinal
        self._clock, self._ordinal = end, ordinal + 1
        fabric.report(self.unit, step, (now, end, done), self._latest, 0, self._stalls)
        fabric.signal(step, "read", [end], None, self.unit, ordinal)
        fabric.signal(step, "done", [done], None, self.unit, ordinal)
        self._kernel.at(end, Phase.PRIVATE, self.unit, self.fetch)

    def _leave(self, time: int) -> None:
        step = self.step
        assert step is not None
        self._stalls[BARRIER] += time - self._clock
        self._fabric.report(self.unit, step, (time, time, time), self._latest, 0, self._stalls)
        self._clock = self._visible = time
        self._ordinal += 1
        self.fetch()
