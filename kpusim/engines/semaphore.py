"""Semaphores that carry the times of their signals.

A token is one integer: the cycle of the signal or, where spans are recorded, `time << KEY_BITS | key` with the span
that gave it (see `span_key`). The greater of two tokens is the later one and, within a cycle, that of the unit with the
higher id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from kpusim.engines.stalls import NO_SPAN
from kpusim.errors import UserError
from kpusim.isa.program import Program

__all__ = ["KEY_BITS", "KEY_MASK", "NO_SPAN", "ProgramError", "Semaphore", "check_rest", "make_semaphores", "span_key"]

KEY_BITS = 64
KEY_MASK = (1 << KEY_BITS) - 1
ORDINAL_BITS = 40


def span_key(unit: int, ordinal: int) -> int:
    """The key of a unit's `ordinal`-th span (from 0)."""
    return unit << ORDINAL_BITS | ordinal


class ProgramError(UserError):
    """A program that no machine can run right: it deadlocks, or its semaphores do not add up."""


class Semaphore:
    """One semaphore with one producer: tokens that wait to be taken, and at most one queue that waits for a token."""

    __slots__ = ("_place", "init", "tokens", "waiter")

    def __init__(self, place: tuple[str, int, int], init: int):
        self._place, self.init = place, init
        self.tokens: deque[int] = deque([0] * init)
        self.waiter: Callable[[], None] | None = None

    def signal(self, token: int, producer: int) -> None:
        """One signal by queue `producer`, whose tokens never go back in time. Wakes the waiter."""
        self.tokens.append(token)
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            waiter()

    def take(self, waiter: Callable[[], None]) -> int | None:
        """The oldest token, or None: then `waiter` is called when there is one."""
        if self.tokens:
            return self.tokens.popleft()
        self.waiter = waiter
        return None

    @property
    def array(self) -> str:
        """The semaphore array that it belongs to."""
        return self._place[0]

    @property
    def name(self) -> str:
        """What messages call it: array, instance and slot."""
        array, instance, slot = self._place
        return f"{array}[{instance}][{slot}]"

    @property
    def at_rest(self) -> bool:
        """Whether it is back at its initial count, with no round half signalled."""
        return len(self.tokens) == self.init and not self.half_signalled

    @property
    def half_signalled(self) -> bool:
        """Whether some of its producers have signalled a round, and others have not."""
        return False

    def leads(self, producer: int) -> bool:
        """Whether the next signal of queue `producer` would be a round ahead of the others'.

        A hardware counter would take it for the signal of one of them.
        """
        return False

    def settle(self, token: int) -> None:
        """After a barrier at rest, its credits date from the barrier at the earliest."""
        self.tokens = deque([max(old, token) for old in self.tokens])


class Joined(Semaphore):
    """A semaphore with several producers, which it joins by rounds.

    The k-th signal of each belongs to round k; a complete round is one token, the greatest of its producers' tokens.
    """

    __slots__ = ("_completed", "_counts", "_rounds", "join")

    def __init__(self, place: tuple[str, int, int], init: int, join: int):
        super().__init__(place, init)
        self.join = join
        self._counts: dict[int, int] = {}
        self._completed = 0
        self._rounds: deque[list[int]] = deque()

    def signal(self, token: int, producer: int) -> None:
        """As with one producer, a complete round at a time. Raises ProgramError for a producer too many."""
        counts, rounds = self._counts, self._rounds
        signals = counts.get(producer, 0)
        counts[producer] = signals + 1
        place = signals - self._completed
        if place < 0:
            problem = f"more queues signal {self.name} than it joins"
            raise ProgramError(problem, found=len(counts), allowed=str(self.join))
        if place == len(rounds):
            rounds.append([0, 0])
        entry = rounds[place]
        entry[0] += 1
        if token > entry[1]:
            entry[1] = token
        if entry[0] == self.join:
            rounds.popleft()
            self._completed += 1
            Semaphore.signal(self, entry[1], producer)

    @property
    def half_signalled(self) -> bool:
        """Whether some of its producers have signalled a round, and others have not."""
        return bool(self._rounds)

    def leads(self, producer: int) -> bool:
        """Whether the next signal of queue `producer` would be a round ahead of the others'."""
        return self._counts.get(producer, 0) > self._completed


def make_semaphores(program: Program) -> list[Semaphore]:
    """All semaphores of a program by flat number."""
    return [
        Joined((sem.name, instance, slot), sem.init, sem.join)
        if sem.join > 1
        else Semaphore((sem.name, instance, slot), sem.init)
        for sem in program.semaphores
        for instance in range(sem.instances)
        for slot in range(sem.slots)
    ]


def check_rest(semaphores: Sequence[Semaphore], when: str) -> None:
    """Raises ProgramError unless every semaphore is back at its initial count."""
    for sem in semaphores:
        if not sem.at_rest:
            problem = f"semaphore {sem.name} is not back at its initial count {when}"
            if sem.half_signalled:
                problem += ", and not all of its producers have signalled the round under way"
            raise ProgramError(problem, found=len(sem.tokens), allowed=str(sem.init))
