"""What every queue does before it can begin an instruction: fetch it, and take what it waits for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from kpusim.engines.fabric import Fabric
from kpusim.engines.semaphore import Semaphore
from kpusim.engines.stalls import CAUSES
from kpusim.isa.walk import Step

__all__ = ["Sequencer"]


class Sequencer(ABC):
    """An in-order queue. `clock` is the end of its last span, and of the waits that it has taken since."""

    def __init__(self, unit: int, steps: Iterator[Step], fabric: Fabric):
        self.unit = unit
        self.clock = 0
        self.waiting_for: Semaphore | None = None
        self.finished = False
        self._fabric, self._kernel = fabric, fabric.kernel
        self._steps = steps
        self._step: Step | None = None
        self._pending: list[int] = []  # semaphores that the next instruction still waits for
        self._latest = 0  # greatest token that it took
        self._stalls: list[int] = []  # cycles that it waited, by cause

    @property
    def pc(self) -> int:
        """The instruction at which it is."""
        assert self._step is not None
        return self._step.code.pc

    def fetch(self) -> None:
        """Goes on to the next instruction."""
        self._step = next(self._steps, None)
        if self._step is None or self._step.code.row.name == "halt":
            self.finished = True
            return
        self._pending, self._latest, self._stalls = self._step.waits(), 0, [0] * len(CAUSES)
        self._wait()

    def _wait(self) -> None:
        """Takes the tokens it waits for, one after the other; comes back when a missing one is there."""
        fabric = self._fabric
        while self._pending:
            number = self._pending[0]
            semaphore = fabric.semaphores[number]
            token = semaphore.take(self._wait)
            if token is None:
                self.waiting_for = semaphore
                return
            self._pending.pop(0)
            self.clock = fabric.note_wait(number, token, self.clock, self._stalls)
            self._latest = max(self._latest, token)
        self.waiting_for = None
        assert self._step is not None
        self._ready(self._step, max(self.clock, self._kernel.now))

    @abstractmethod
    def _ready(self, step: Step, start: int) -> None:
        """All that `step` waits for is there: it may begin at cycle `start`."""
