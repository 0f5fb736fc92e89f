"""Whose turn it is at a DMA engine: strict between priorities, fair by bytes among equals.

Among equals this is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with equal weights: a requester's
next request is tagged with the bytes that it has been served, the least tag is next, and whoever was away resumes
at the tag that is being served, so that it neither loses a turn nor collects any. Two requesters that always ask differ
in bytes by one request of each at most; with requests of one size this is round-robin. A lower priority is served
when no higher one asks, which may be never.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Generic, Protocol, TypeVar

__all__ = ["Arbiter", "Requester"]


class Requester(Protocol):
    """Who asks: `unit` decides between those who have never been served; the greater `priority` goes first."""

    unit: int
    priority: int
    tag: int  # bytes, on the scale that all requesters of a priority share
    turn: int  # number of its last turn


R = TypeVar("R", bound=Requester)


class Arbiter(Generic[R]):
    """Requesters with one request each, of which the next is served; a request may be announced ahead of its time."""

    def __init__(self) -> None:
        self._coming: list[tuple[int, int, R]] = []  # heap of (cycle, unit, requester)
        self._asking: list[tuple[int, int, int, int, R]] = []  # heap of (-priority, tag, turn, unit, requester)
        self._tags: dict[int, int] = {}  # the tag that was served last, by priority
        self._turns = 0

    def ask(self, requester: R, time: int) -> None:
        """`requester`, which asks for nothing else, wants to be served from cycle `time` on."""
        heappush(self._coming, (time, requester.unit, requester))

    def soonest(self, now: int) -> int | None:
        """The first cycle, not before `now`, at which somebody asks; None where nobody has said that it will."""
        return now if self._asking else self.newcomer()

    def newcomer(self) -> int | None:
        """The first cycle at which somebody asks who does not yet."""
        return self._coming[0][0] if self._coming else None

    def next(self, now: int) -> R | None:
        """Whose turn it is at cycle `now`; None where nobody asks."""
        coming = self._coming
        while coming and coming[0][0] <= now:
            requester = heappop(coming)[2]
            priority = requester.priority
            requester.tag = max(requester.tag, self._tags.get(priority, 0))
            heappush(self._asking, (-priority, requester.tag, requester.turn, requester.unit, requester))
        return self._asking[0][4] if self._asking else None

    def served(self, size: int, more: bool) -> None:
        """The one whose turn it is has been served `size` bytes, and asks for more or not."""
        level, tag, _, unit, requester = self._asking[0]
        self._tags[-level] = tag
        self._turns += 1
        requester.tag, requester.turn = tag + size, self._turns
        if more:
            heapreplace(self._asking, (level, tag + size, self._turns, unit, requester))
        else:
            heappop(self._asking)
