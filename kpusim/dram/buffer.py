"""A buffer of waiting requests, and what the first of them would do in each bank."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

__all__ = ["Buffer"]

NONE = -1


class Buffer:
    """Reads, or writes, that wait: by bank in order of arrival. A request is its number, which counts arrivals.

    Of every bank three requests matter, each the oldest of its kind: in an open bank the one that hits the open row and
    the one that conflicts with it, in a closed bank the one that opens it. They are kept sorted, the last two by
    pseudo-channel. A conflict is not among `conflicts` while its bank is held, that is while the request that the
    bank was activated for has not been served.
    """

    def __init__(self, rows: Sequence[int], banks: Sequence[int], pseudochannel: Sequence[int]):
        """rows, banks: of every request. pseudochannel: of every bank."""
        self.size = 0
        self.hits: list[int] = []
        self.conflicts: list[list[int]] = [[] for _ in range(pseudochannel[-1] + 1)]
        self.openers: list[list[int]] = [[] for _ in range(pseudochannel[-1] + 1)]
        self._row, self._bank, self._pseudochannel = rows, banks, pseudochannel
        self._waiting: list[list[int]] = [[] for _ in pseudochannel]
        self._hit = [NONE] * len(pseudochannel)
        self._conflict = [NONE] * len(pseudochannel)

    def add(self, request: int, open_row: int, held: bool) -> None:
        """Takes in the youngest request, whose bank has `open_row` open (NONE: is closed)."""
        bank = self._bank[request]
        waiting = self._waiting[bank]
        waiting.append(request)
        self.size += 1
        if open_row == NONE:
            if len(waiting) == 1:
                self.openers[self._pseudochannel[bank]].append(request)
        elif self._row[request] == open_row:
            if self._hit[bank] == NONE:
                self._hit[bank] = request
                self.hits.append(request)
        elif self._conflict[bank] == NONE:
            self._conflict[bank] = request
            if not held:
                self.conflicts[self._pseudochannel[bank]].append(request)

    def take_hit(self, request: int) -> None:
        """Gives out a request of `hits`."""
        bank, row = self._bank[request], self._row
        waiting, open_row = self._waiting[bank], row[request]
        position = waiting.index(request)
        del waiting[position]
        self.size -= 1
        self.hits.remove(request)
        self._hit[bank] = NONE
        for place in range(position, len(waiting)):
            if row[waiting[place]] == open_row:
                self._hit[bank] = waiting[place]
                insort(self.hits, waiting[place])
                break

    def open(self, bank: int, open_row: int, serve: bool) -> None:
        """A closed bank has been activated, and is held; `serve`: for its opener here, which leaves."""
        waiting, row = self._waiting[bank], self._row
        if not waiting:
            return
        self.openers[self._pseudochannel[bank]].remove(waiting[0])
        if serve:
            del waiting[0]
            self.size -= 1
        for request in waiting:
            if row[request] != open_row:
                self._conflict[bank] = request
                break
        for request in waiting:
            if row[request] == open_row:
                self._hit[bank] = request
                insort(self.hits, request)
                break

    def release(self, bank: int) -> None:
        """A bank is no longer held."""
        if self._conflict[bank] != NONE:
            insort(self.conflicts[self._pseudochannel[bank]], self._conflict[bank])

    def close(self, bank: int) -> None:
        """A bank that is not held has been precharged."""
        pseudochannel = self._pseudochannel[bank]
        if self._hit[bank] != NONE:
            self.hits.remove(self._hit[bank])
            self._hit[bank] = NONE
        if self._conflict[bank] != NONE:
            self.conflicts[pseudochannel].remove(self._conflict[bank])
            self._conflict[bank] = NONE
        if self._waiting[bank]:
            insort(self.openers[pseudochannel], self._waiting[bank][0])
