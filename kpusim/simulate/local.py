"""Local clocks: units that only touch their own tile run ahead of the event queue.

Each such unit is a generator compiled from its section (`simulate.compiler`). It runs until a semaphore has no token
for it, and goes onto the kernel's run list when there is one; semaphores carry the times of their signals.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kpusim.engines.fabric import Fabric
from kpusim.engines.semaphore import Semaphore, span_key
from kpusim.simulate.compiler import SectionFunction

__all__ = ["LocalUnit"]


class LocalUnit:
    """The matrix or vector engine of one tile with a clock of its own."""

    def __init__(self, unit: int, tile: int, function: SectionFunction, fabric: Fabric):
        self.unit, self.tile = unit, tile
        self.key, self.span = span_key(unit, 0), fabric.span
        self.waiting_for: Semaphore | None = None
        self.finished = False
        self.released = 0  # when a barrier let it go
        self._fabric = fabric
        self._resume: Callable[[], None] = function(tile, self).__next__
        self.wake = partial(fabric.kernel.soon, self._resume)

    def fetch(self) -> None:
        """Starts it."""
        self.wake()

    def arrive(self, time: int) -> None:
        """It is at a barrier at cycle `time`."""
        self.waiting_for = None
        self._fabric.barrier.arrive(self.unit, time, self._leave)

    def _leave(self, time: int) -> None:
        self.released = time
        self.wake()

    def finish(self, clock: int, done: int, busy: int, stalls: tuple[int, ...], instructions: int) -> None:
        """Its section is over: the accounts of the whole run."""
        fabric, account = self._fabric, self._fabric.accounts[self.unit]
        account.busy, account.instructions = busy, instructions
        account.stalls[: len(stalls)] = stalls
        fabric.end = max(fabric.end, clock, done)
        self.finished, self.waiting_for = True, None
