"""Quantities over time in few bins, from spans that arrive in any order and number."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.trace.schema import BINS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@frozen
class Profile:
    """Cumulative amounts of one block of spans."""

    cumulative: Floats
    """[rows, n + 1]: element [r, j] is row r's amount before cycle j * width."""
    width: int

    def at_least(self, width: int) -> "Profile":
        """The same amounts in bins no narrower than width, as far as doubling goes."""
        cumulative, own = self.cumulative, self.width
        while own < width and cumulative.shape[1] > 2:
            cumulative = np.concatenate((cumulative[:, :-1:2], cumulative[:, -1:]), axis=1)
            own *= 2
        return Profile(np.ascontiguousarray(cumulative), own)

    def before(self, cycles: Floats, end: int) -> Floats:
        """Amounts before each of cycles, [rows, len(cycles)]; linear within a bin, all of it at `end`."""
        bins = self.cumulative.shape[1] - 1
        bin_of = np.clip(cycles // self.width, 0, bins - 1).astype(np.int64)
        left = bin_of * self.width
        right = np.minimum(left + self.width, np.maximum(end, left + 1))
        fraction = np.where(cycles >= end, 1.0, np.clip((cycles - left) / (right - left), 0.0, 1.0))
        bin_of = np.where(cycles >= end, bins - 1, bin_of)
        lower = self.cumulative[:, bin_of]
        return np.asarray(lower + (self.cumulative[:, bin_of + 1] - lower) * fraction)


class Accumulator:
    """Sums amounts spread evenly over intervals of time into at most BINS bins, whose width doubles as time grows.

    Each interval changes a row's slope at its two ends; a bin's sum follows from the slopes before it and, for the
    changes within it, what remains of the bin after each. So an interval costs the same whether it covers one bin
    or all.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._shift = 0
        self._slope: Floats = np.zeros((rows, BINS))
        self._rest: Floats = np.zeros((rows, BINS))

    def add(self, row: Ints, start: Ints, end: Ints, amount: Floats) -> None:
        """Spread amount[i] over [start[i], end[i]) of row[i]; all of it falls on start[i] where the two are equal."""
        if not len(row):
            return
        self._cover(int(end.max()))
        length = end - start
        rate = np.where(length > 0, amount / np.maximum(length, 1), 0.0)
        at_once = np.where(length > 0, 0.0, amount)
        first, last = start >> self._shift, end >> self._shift
        base = row * BINS
        keys = np.concatenate((base + first, base + last))
        left_in_first = ((first + 1) << self._shift) - start
        left_in_last = ((last + 1) << self._shift) - end
        self._slope += self._sums(keys, np.concatenate((rate, -rate)))
        self._rest += self._sums(keys, np.concatenate((rate * left_in_first + at_once, -rate * left_in_last)))

    def profile(self) -> Profile:
        """What has been added so far."""
        width = 1 << self._shift
        sums = self._rest + width * (np.cumsum(self._slope, axis=1) - self._slope)
        sums = np.maximum(sums, 0.0)  # rounding may leave -1e-13
        used = np.flatnonzero(self._rest.any(axis=0) | self._slope.any(axis=0))
        sums = sums[:, : used[-1] + 1] if len(used) else sums[:, :1]
        return Profile(np.concatenate((np.zeros((self._rows, 1)), np.cumsum(sums, axis=1)), axis=1), width)

    def _sums(self, keys: Ints, weights: Floats) -> Floats:
        sums: Any = np.bincount(keys, weights, self._rows * BINS)
        return np.asarray(sums.reshape(self._rows, BINS))

    def _cover(self, cycle: int) -> None:
        """Double the width until `cycle` falls into a bin."""
        while cycle >> self._shift >= BINS:
            rest = self._rest[:, ::2] + self._rest[:, 1::2] + self._slope[:, ::2] * (1 << self._shift)
            slope = self._slope[:, ::2] + self._slope[:, 1::2]
            self._shift += 1
            self._rest[:, BINS // 2 :] = self._slope[:, BINS // 2 :] = 0.0
            self._rest[:, : BINS // 2], self._slope[:, : BINS // 2] = rest, slope


class Timeline:
    """The profiles of a run's operators, each laid down at its start, in at most BINS bins of one width."""

    FINEST: Final = 2
    """A profile is worth keeping at 1 / FINEST of the run's width so far, which only grows."""

    def __init__(self, rows: int) -> None:
        self._bins: Floats = np.zeros((rows, BINS))
        self._end = 0
        self.width = 1

    def trim(self, profile: Profile) -> Profile:
        """The profile without detail that this run can no longer show."""
        return profile.at_least(self.width // self.FINEST)

    def add(self, profile: Profile, start: int, cycles: int) -> None:
        """Add a profile that lasts `cycles` from cycle `start` of the run."""
        if not cycles:
            return
        self._end = max(self._end, start + cycles)
        while self._end > BINS * self.width:
            self._bins[:, : BINS // 2] = self._bins[:, ::2] + self._bins[:, 1::2]
            self._bins[:, BINS // 2 :] = 0.0
            self.width *= 2
        first, last = start // self.width, (start + cycles - 1) // self.width
        edges = np.arange(first, last + 2, dtype=np.float64) * self.width - start
        self._bins[:, first : last + 1] += np.diff(profile.before(edges, cycles), axis=1)

    def rates(self) -> Floats:
        """Amounts a cycle, [rows, bins]; the last bin's over the cycles that the run still had."""
        count = max(1, -(-self._end // self.width))
        cycles = np.full(count, float(self.width))
        cycles[-1] = max(1, self._end - (count - 1) * self.width)
        return np.asarray(self._bins[:, :count] / cycles)
