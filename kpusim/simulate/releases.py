"""From the key of a span to its row.

While a program runs, a span names the one that released it by a key (unit and ordinal), because that one may be
recorded later. Here rows wait until everything that they name has been recorded, and get row numbers instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kpusim.engines.semaphore import ORDINAL_BITS
from kpusim.simulate.spans import NO_SPAN, Rows

__all__ = ["RowNumbers"]

Integers = npt.NDArray[np.int64]


class RowNumbers:
    """Takes rows in the order of recording and hands them on in that order, `released_by` resolved."""

    def __init__(self, units: int, sink: Callable[[Rows], object]) -> None:
        self._sink = sink
        self._rows: list[Integers] = [np.empty(0, np.int64) for _ in range(units)]
        self._counts = np.zeros(units, np.int64)
        self._next = 0
        self._waiting: deque[tuple[Rows, Integers]] = deque()

    def take(self, rows: Rows) -> None:
        """Some more rows; they are this object's to change."""
        self._number(rows["unit"].astype(np.int64))
        keys = rows["released_by"]
        self._waiting.append((rows, np.flatnonzero(keys != NO_SPAN)))
        while self._waiting and self._resolve(*self._waiting[0]):
            self._sink(self._waiting.popleft()[0])

    def finish(self) -> None:
        """No more rows come. Raises ValueError if a span is named that was never recorded."""
        if self._waiting:
            raise ValueError("a span was released by one that is not recorded")

    def _number(self, units: Integers) -> None:
        """Appends the row numbers of new rows to the lists of their units."""
        order = np.argsort(units, kind="stable")
        present, first, counts = np.unique(units[order], return_index=True, return_counts=True)
        for unit, start, count in zip(present.tolist(), first.tolist(), counts.tolist(), strict=True):
            used, known = int(self._counts[unit]), self._rows[unit]
            if used + count > len(known):
                self._rows[unit] = known = np.concatenate([known[:used], np.empty(used + count, np.int64)])
            known[used : used + count] = self._next + order[start : start + count]
            self._counts[unit] += count
        self._next += len(units)

    def _resolve(self, rows: Rows, named: Integers) -> bool:
        """Replaces the keys of rows `named` by row numbers; False, and nothing done, while one is not known."""
        keys = rows["released_by"][named]
        units, ordinals = (keys >> np.uint64(ORDINAL_BITS)).astype(np.int64), (keys & _ORDINAL).astype(np.int64)
        if np.any(ordinals >= self._counts[units]):
            return False
        order = np.argsort(units, kind="stable")
        present, first = np.unique(units[order], return_index=True)
        found = np.empty(len(named), np.uint64)
        for unit, part in zip(present.tolist(), np.split(order, first)[1:], strict=True):
            found[part] = self._rows[unit][ordinals[part]]
        rows["released_by"][named] = found
        return True


_ORDINAL = np.uint64((1 << ORDINAL_BITS) - 1)
