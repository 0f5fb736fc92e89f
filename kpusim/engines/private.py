"""A unit that only touches its own tile, in plain mode: every wait, start and end is an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from kpusim.engines.fabric import Fabric
from kpusim.engines.kernel import Phase
from kpusim.engines.sequencer import Sequencer
from kpusim.engines.stalls import BARRIER, PORT
from kpusim.engines.work import NO_WORK, Work
from kpusim.isa.walk import Step

__all__ = ["PrivateUnit"]


class PrivateUnit(Sequencer):
    """The matrix or vector engine of one tile, executing one section in order."""

    def __init__(self, unit: int, tile: int, steps: Iterator[Step], work: Callable[[Step], Work], fabric: Fabric):
        super().__init__(unit, steps, fabric)
        self.tile = tile
        self._work = work
        self._visible = 0  # when all results so far are
        self._ordinal = 0

    def _ready(self, step: Step, start: int) -> None:
        self._kernel.at(start, Phase.PRIVATE, self.unit, partial(self._start, step, start))

    def _start(self, step: Step, now: int) -> None:
        fabric = self._fabric
        if fabric.watcher is not None:
            fabric.watcher.issue(self.unit, self.tile, step, now)
        if step.code.row.name == "barrier":
            fabric.barrier.arrive(self.unit, max(now, self._visible), partial(self._leave, step))
            return
        work = self._work(step) if step.code.row.unit != "any" else NO_WORK
        work.count += 1
        end = now + work.occupancy
        self._stalls[PORT] = work.occupancy - work.busy
        done = self._visible = max(end + work.drain, self._visible)
        ordinal = self._ordinal
        self.clock, self._ordinal = end, ordinal + 1
        fabric.report(self.unit, step, (end - work.busy, end, done), self._latest, 0, self._stalls)
        fabric.signal(step, "read", [end], None, self.unit, ordinal)
        fabric.signal(step, "done", [done], None, self.unit, ordinal)
        self._kernel.at(end, Phase.PRIVATE, self.unit, self.fetch)

    def _leave(self, step: Step, time: int) -> None:
        self._stalls[BARRIER] += time - self.clock
        self._fabric.report(self.unit, step, (time, time, time), self._latest, 0, self._stalls)
        self.clock = self._visible = time
        self._ordinal += 1
        self.fetch()
