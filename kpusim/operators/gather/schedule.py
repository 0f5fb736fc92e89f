"""Which rows are written in which order, so that no two lanes ever write the same place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.isa.expr import ceil_div

__all__ = ["Block", "Schedule", "schedule", "stripes_of"]

Numbers = npt.NDArray[np.int64]


@frozen
class Block:
    """`many` rows from `first` on in the order of a schedule.

    hot: all are duplicates of one row, of whose columns these are `wide` from `left` on; they are summed on chip with
    those of the blocks before, from the one that `begins` a sum to the one that `ends` it.
    """

    first: int
    many: int
    left: int = 0
    wide: int = 0
    hot: int = 0
    begins: int = 0
    ends: int = 0


@frozen
class Schedule:
    """order: positions in the list, as they are worked on. lanes: the blocks of each, one after the other."""

    order: tuple[int, ...]
    lanes: tuple[tuple[Block, ...], ...]

    @property
    def hot(self) -> bool:
        """Whether a row has more duplicates than a block has rows."""
        return any(block.hot for blocks in self.lanes for block in blocks)


def schedule(
    rows: tuple[int, ...], size: int, lanes: int, stripes: tuple[tuple[int, int], ...] = (), height: int = 1
) -> Schedule:
    """Blocks of at most `size` rows for `lanes` lanes, the next always to the one with the fewest.

    A list without duplicates stays as it is. Of duplicates that overwrite each other (without stripes) only the last is
    written. Where duplicates add up, the list is sorted by row, stable, and cut between rows: each row is in one block.
    Of a row with more duplicates than that, (left, wide) `stripes` of its columns are summed, each in one lane, by
    blocks of at most `height` rows.
    """
    listed = np.array(rows, np.int64)
    if len(np.unique(listed)) == len(listed):
        order = np.arange(len(listed))
    elif stripes:
        order = np.argsort(listed, kind="stable")
    else:
        order = np.sort(len(listed) - 1 - np.unique(listed[::-1], return_index=True)[1])
    heads = np.flatnonzero(np.diff(listed[order], prepend=-1))  # where another row begins
    ends = np.append(heads[1:], len(order))
    dealt: list[list[Block]] = [[] for _ in range(min(lanes, len(order)))]
    for head, end in zip(*(each[ends - heads > size].tolist() for each in (heads, ends)), strict=True):
        for left, wide in stripes:
            min(dealt, key=len).extend(_summed(head, end, height, left, wide))
    for start, end in _cut(heads, ends, size):
        min(dealt, key=len).append(Block(start, end - start))
    return Schedule(tuple(order.tolist()), tuple(tuple(blocks) for blocks in dealt if blocks))


def _summed(head: int, end: int, height: int, left: int, wide: int) -> Iterator[Block]:
    """The blocks of a stripe of the duplicates of one row."""
    for start in range(head, end, height):
        stop = min(start + height, end)
        yield Block(start, stop - start, left, wide, 1, int(start == head), int(stop == end))


def _cut(heads: Numbers, ends: Numbers, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of blocks of whole runs of duplicates, as many as fit; longer runs are left out."""
    start = stop = 0
    for head, end in zip(heads.tolist(), ends.tolist(), strict=True):
        if end - start > size:
            if stop > start:
                yield start, stop
            start = head
        if end - start > size:  # a run by itself
            start = end
        stop = end
    if stop > start:
        yield start, stop


def stripes_of(width: int, most: int, unit: int, lanes: int) -> tuple[tuple[int, int], ...]:
    """(left, wide) of the stripes of a row's columns: one for each lane, of whole units and at most `most` columns."""
    wide = min(ceil_div(ceil_div(width, lanes), unit) * unit, most)
    return tuple((left, min(wide, width - left)) for left in range(0, width, wide))
