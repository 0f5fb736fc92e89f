"""A unit of a tile whose every wait, start and end is an event: in plain mode, or where it shares its SRAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from kpusim.engines.fabric import Fabric
from kpusim.engines.kernel import Phase
from kpusim.engines.sequencer import Sequencer
from kpusim.engines.sram import Traffic
from kpusim.engines.stalls import BARRIER, PORT
from kpusim.engines.work import NO_WORK, Work
from kpusim.isa.walk import Step

__all__ = ["PrivateUnit", "SharingUnit"]


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
        self._execute(step, work, now)

    def _execute(self, step: Step, work: Work, now: int) -> None:
        """Does `work` from cycle `now` on."""
        self._finish(step, work, now, now + work.occupancy)

    def _finish(self, step: Step, work: Work, start: int, end: int) -> None:
        """`work` takes the cycles from `start` to `end`; those in which it does not keep the unit busy come first."""
        fabric = self._fabric
        self._stalls[PORT] = end - start - work.busy
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


class SharingUnit(PrivateUnit):
    """One that contends for the banks of its SRAM: it works at its own pace, and no faster than they let data pass."""

    def __init__(
        self,
        unit: int,
        tile: int,
        steps: Iterator[Step],
        work: Callable[[Step], Work],
        traffic: Callable[[Step], Traffic],
        fabric: Fabric,
    ):
        super().__init__(unit, tile, steps, work, fabric)
        self._traffic = traffic

    def _execute(self, step: Step, work: Work, now: int) -> None:
        sram = self._fabric.sram
        assert sram is not None
        pieces = sram.pieces(self._traffic(step)) if work.occupancy else ()
        count, occupancy = len(pieces), work.occupancy

        def go_on(number: int, time: int) -> None:
            if number == count:
                self._finish(step, work, now, time)
            else:
                self._kernel.at(time, Phase.SRAM, self.unit, partial(move, number, time))

        def move(number: int, time: int) -> None:
            through = sram.access(self.tile, pieces[number], time)
            own = time + occupancy * (number + 1) // count - occupancy * number // count
            go_on(number + 1, max(own, through))

        go_on(0, now)
