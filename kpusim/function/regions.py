"""Where an operand lies: bytes of a tile's SRAM or elements of an HBM tensor; and whether two overlap, exactly."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.dtypes import per_byte
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import BoxAt, RowsAt, ViewAt

__all__ = ["HbmRegion", "Region", "SramRegion", "hbm_region", "sram_region"]

Offsets = npt.NDArray[np.int64]


@frozen
class SramRegion:
    """The bytes of a view in tile `place`: runs of `length` bits, one for each combination of the outer dimensions.

    `first` is the first bit; `outer` the (count, stride in bits) of the outer dimensions, strides descending.
    Bytes that packed elements share belong to every run that touches them.
    """

    place: int
    first: int
    length: int
    outer: tuple[tuple[int, int], ...]

    @property
    def memory(self) -> tuple[str, int]:
        """Which memory it is in: regions of different ones do not meet."""
        return "sram", self.place

    @cached_property
    def low(self) -> int:
        """The first byte."""
        return self.first // 8

    @cached_property
    def high(self) -> int:
        """The first byte behind."""
        return -(-(self.first + self.length + sum((count - 1) * stride for count, stride in self.outer)) // 8)

    @cached_property
    def runs(self) -> tuple[Offsets, Offsets]:
        """First bytes of the runs and first bytes behind them, both ascending."""
        bits = np.array([self.first], np.int64)
        for count, stride in self.outer:
            bits = (bits[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
        return bits // 8, -(-(bits + self.length) // 8)

    def overlaps(self, other: Region) -> bool:
        """Whether they share a byte."""
        if not isinstance(other, SramRegion) or self.place != other.place:
            return False
        if self.low >= other.high or other.low >= self.high:
            return False
        if not self.outer and not other.outer:
            return True
        (starts, ends), (other_starts, other_ends) = self.runs, other.runs
        behind = np.searchsorted(other_ends, starts, side="right")  # the first run that ends behind each start
        some = behind < len(other_ends)
        return bool(np.any(other_starts[behind[some]] < ends[some]))


@frozen
class HbmRegion:
    """Elements [low, high) of tensor number `place`, along each dimension; `rows`: only these along the first."""

    place: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    rows: frozenset[int] | None = None

    @property
    def memory(self) -> tuple[str, int]:
        """Which memory it is in: regions of different ones do not meet."""
        return "hbm", self.place

    def overlaps(self, other: Region) -> bool:
        """Whether they share an element."""
        if not isinstance(other, HbmRegion) or self.place != other.place:
            return False
        for low, high, other_low, other_high in zip(self.low, self.high, other.low, other.high, strict=True):
            if low >= other_high or other_low >= high:
                return False
        if self.rows is None and other.rows is None:
            return True
        mine = range(self.low[0], self.high[0]) if self.rows is None else self.rows
        return any(row in (range(other.low[0], other.high[0]) if other.rows is None else other.rows) for row in mine)


Region = SramRegion | HbmRegion


def sram_region(view: ViewAt, tile: int) -> SramRegion | None:
    """The bytes of a view in `tile`, or None if it is empty."""
    if not view.elements:
        return None
    bits, shape = DTYPE_BITS[view.dtype], view.buffer.shape
    first = (view.buffer.offset + view.slot * view.buffer.slot_bytes) * 8
    strides, stride = [0] * len(shape), bits
    for i in reversed(range(len(shape))):
        strides[i] = stride
        first += view.starts[i] * stride
        stride *= shape[i]
    inner = len(shape) - 1
    while inner and view.sizes[inner] == shape[inner]:  # whole rows: one run
        inner -= 1
    outer = [(size, step) for size, step in zip(view.sizes[:inner], strides[:inner], strict=True) if size > 1]
    return SramRegion(tile, first, view.sizes[inner] * strides[inner], tuple(outer))


def hbm_region(box: BoxAt, rows: RowsAt | None = None) -> HbmRegion | None:
    """The elements of a box (of listed rows of it) inside the tensor, or None if there are none.

    The last dimension of packed elements is widened to whole bytes.
    """
    starts, sizes = box.clamped
    low, high = list(starts), [start + size for start, size in zip(starts, sizes, strict=True)]
    listed = None
    if rows is not None:
        extent = box.tensor.shape[0]
        listed = frozenset(row for row in (box.starts[0] + value for value in rows.values) if 0 <= row < extent)
        low[0], high[0] = min(listed, default=0), max(listed, default=-1) + 1
    if any(start >= end for start, end in zip(low, high, strict=True)):
        return None
    each = per_byte(box.dtype)
    if len(low) > 1 or listed is None:
        low[-1], high[-1] = low[-1] // each * each, -(-high[-1] // each) * each
    return HbmRegion(box.number, tuple(low), tuple(high), listed)
