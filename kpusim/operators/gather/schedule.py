"""Which rows are written in which order, so that no two lanes ever write the same one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from attrs import frozen

__all__ = ["Schedule", "schedule"]

Numbers = npt.NDArray[np.int64]
Block = tuple[int, int, int]  # start in the order, rows, whether the next block of the lane writes the same row again


@frozen
class Schedule:
    """order: positions in the list, as they are worked on. lanes: the blocks of each, one after the other."""

    order: tuple[int, ...]
    lanes: tuple[tuple[Block, ...], ...]


def schedule(rows: tuple[int, ...], block: int, lanes: int, *, add: bool) -> Schedule:
    """Blocks of at most `block` rows for `lanes` lanes, dealt in turn.

    A list without duplicates stays as it is. Of duplicates that overwrite each other only the last is written. Where
    duplicates add up, the list is sorted by row, stable, and cut between rows: each row is in one block. Of a row with
    more duplicates than that the blocks go to one lane, which lets each be done before the next begins.
    """
    listed = np.array(rows, np.int64)
    if len(np.unique(listed)) == len(listed):
        order = np.arange(len(listed))
    elif add:
        order = np.argsort(listed, kind="stable")
    else:
        order = np.sort(len(listed) - 1 - np.unique(listed[::-1], return_index=True)[1])
    dealt: list[list[Block]] = [[] for _ in range(min(lanes, len(order)))]
    chain: list[Block] = []
    for each in _cut(listed[order], block):
        chain.append(each)
        if not each[2]:
            min(dealt, key=len).extend(chain)
            chain = []
    return Schedule(tuple(order.tolist()), tuple(tuple(blocks) for blocks in dealt if blocks))


def _cut(rows: Numbers, block: int) -> list[Block]:
    """Blocks of rows, of which the same are neighbours."""
    blocks: list[Block] = []
    heads = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1], [True])))  # where another row begins
    start = 0
    while start < len(rows):
        end = min(start + block, len(rows))
        head = int(heads[np.searchsorted(heads, end, side="right") - 1])
        stop = head if head > start else end  # within a row's duplicates only where they fill the block
        blocks.append((start, stop - start, int(head <= start)))
        start = stop
    return blocks
