"""The clock: SimPy's event queue with fixed phases within a cycle, and a plain run list for what needs no event.

Everything shared happens here, in global time order. Within a cycle, events run by phase and, within a phase, by
requester id; both go into SimPy's event priority, so that a simulation never depends on the order of insertion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import simpy

__all__ = ["LAST_REQUESTER", "Kernel", "Phase"]

REQUESTERS = 1 << 20  # ids a phase has room for
LAST_REQUESTER = REQUESTERS - 1


class Phase:
    """The order of events within a cycle, as SimPy priorities."""

    PRIVATE = 0  # units of a tile, and signals
    SRAM = REQUESTERS  # units of a tile, with the reservation of its shared SRAM
    READY = 2 * REQUESTERS  # heads of DMA queues
    GRANT = 3 * REQUESTERS  # DMA engines, with the HBM or NoC reservation of the request
    RETURN = 4 * REQUESTERS  # data that comes back, with the reservation of its way on


class Kernel:
    """Time in whole core cycles, from 0."""

    def __init__(self) -> None:
        self._environment = simpy.Environment()
        self._runnable: deque[Callable[[], None]] = deque()
        self.soon = self._runnable.append
        """Calls its argument after the current event: for units whose own clock runs ahead and that need no event."""

    @property
    def now(self) -> int:
        """The current cycle."""
        return int(self._environment.now)

    def at(self, time: int, phase: int, requester: int, call: Callable[[], None]) -> None:
        """Calls `call` at `time` (not before now), in its `Phase` and in order of `requester`."""
        environment = self._environment
        now: int = environment._now  # type: ignore[assignment]  # only ints are ever scheduled
        if time < now:
            raise AssertionError(f"event at cycle {time} scheduled at cycle {now}")
        environment.schedule(_Call(call), phase + requester, time - now)  # type: ignore[arg-type]

    def run(self) -> None:
        """Runs until nothing is left to do."""
        runnable = self._runnable
        step = self._environment.step
        while True:
            while runnable:
                runnable.popleft()()
            try:
                step()
            except simpy.core.EmptySchedule:
                return


class _Call:
    """What SimPy needs of an event that has succeeded, and no more: it calls one function."""

    __slots__ = ("_call", "callbacks")
    _ok = True

    def __init__(self, call: Callable[[], None]):
        self._call = call
        self.callbacks: Any = (self._fire,)

    def _fire(self, event: object) -> None:
        self._call()
