"""Work items of an attention, and which team takes which: bands of queries, with the blocks of keys that they see."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from heapq import heapreplace
from math import gcd

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.operators.attention.lists import gathered
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.attention.problem import Problem

__all__ = ["Item", "Schedule", "band_lengths", "listed_blocks", "schedule"]


Positions = npt.NDArray[np.int64]


@frozen
class Item:
    """A band of queries of one sequence of keys.

    row: its first query. blocks: the numbers of the key blocks that it reads, ascending: a range, or any; `first` of
    the band's are others' before. seen: for each tile along the band, how many of them it works on: no query of it sees
    those behind. turn: the place of the block that it begins with, the rest following in a circle.
    """

    entry: int
    row: int
    first: int
    blocks: Sequence[int]
    seen: tuple[int, ...]
    turn: int = 0


@frozen
class Schedule:
    """Items of each stream, in order of time: of the streams of a team the same bands, each with its own blocks."""

    streams: tuple[tuple[Item, ...], ...]

    @property
    def longest(self) -> int:
        """Items of the team that has most."""
        return max(len(items) for items in self.streams)

    @property
    def steps(self) -> int:
        """Blocks that the stream with most of them reads."""
        return max(sum(len(item.blocks) for item in items) for items in self.streams)


@cache
def schedule(problem: Problem, mapping: Mapping, tiles: int) -> Schedule:
    """Items dealt to the teams of `tiles` tiles: the longest first, each to the team with least to do.

    Where as many teams can take each sequence of keys, or each team as many, they do, if that takes no longer: then all
    do the same. Otherwise in the order of their numbers.
    """
    lengths = band_lengths(problem, mapping)
    teams, entries = mapping.teams(problem, tiles), problem.entries
    dealt = _dealt(lengths, range(entries), teams, mapping.numbered)
    shares = gcd(teams, entries)
    if shares == min(teams, entries) and not mapping.numbered:
        each = entries // shares
        apart = [_dealt(lengths, range(i * each, (i + 1) * each), teams // shares) for i in range(shares)]
        if apart[0][1] <= dealt[1]:
            dealt = [team for share, _ in apart for team in share], apart[0][1]
    return Schedule(
        tuple(
            tuple(_item(problem, mapping, entry, band * mapping.band, part) for band, entry in items)
            for items in dealt[0]
            for part in range(mapping.splits)
        )
    )


def _dealt(
    lengths: tuple[int, ...], entries: range, teams: int, numbered: bool = False
) -> tuple[list[list[tuple[int, int]]], int]:
    """((band, entry) of each team, blocks of the one with most)."""
    if numbered:
        order = [(band, entry) for entry in entries for band in range(len(lengths))]
    else:
        each = ((band, entry) for band in range(len(lengths)) for entry in entries)
        order = sorted(each, key=lambda at: -lengths[at[0]])
    found: list[list[tuple[int, int]]] = [[] for _ in range(teams)]
    load = [(0, team) for team in range(teams)]
    for band, entry in order:
        blocks, team = load[0]
        heapreplace(load, (blocks + lengths[band], team))
        found[team].append((band, entry))
    return found, max(load)[0]


def band_lengths(problem: Problem, mapping: Mapping) -> tuple[int, ...]:
    """Blocks of keys that each band of queries sees."""
    return _lengths(problem, mapping.band, mapping.block_keys)


def listed_blocks(problem: Problem, mapping: Mapping) -> int:
    """Blocks from the first to the last that one item reads, at most: so long a list of rows it has."""
    if not problem.block:
        first, end, sinks = _ranges(problem, mapping.band, mapping.block_keys)
        if (sinks > 0).any() and (first > sinks).any():
            return int(end.max())  # from the sinks to the window
    return ceil_div(max(band_lengths(problem, mapping)), mapping.splits)


@cache
def _lengths(problem: Problem, band: int, size: int) -> tuple[int, ...]:
    if problem.block:
        read = np.maximum(problem.chosen_counts, 1)
        return tuple(read[np.arange(0, problem.queries, band) // problem.block].tolist())
    first, end, sinks = _ranges(problem, band, size)
    return tuple((end - first + sinks).tolist())


@cache
def _ranges(problem: Problem, band: int, size: int) -> tuple[Positions, Positions, Positions]:
    """[bands]: the first block that some query sees, the one behind the last, and blocks of sinks before the first."""
    starts = np.arange(0, problem.queries, band)
    ends = np.minimum(starts + band, problem.queries) - 1
    end = np.maximum(-(-problem.highest[ends] // size), 1)
    first = np.minimum(problem.lowest[starts] // size, end - 1)
    return first, end, np.minimum(ceil_div(problem.sinks, size), first)


def _item(problem: Problem, mapping: Mapping, entry: int, row: int, part: int) -> Item:
    """What stream `part` of a team does of a band."""
    blocks = _blocks(problem, mapping, entry, row)
    start, end = (len(blocks) * each // mapping.splits for each in (part, part + 1))
    mine = blocks[start:end]
    seen = []
    for first in range(row, row + mapping.band, mapping.tokens):
        last = min(first + mapping.tokens, problem.queries) - 1
        high = int(problem.highest[last]) if first <= last else 0
        seen.append(max(bisect_left(mine, ceil_div(high, mapping.block_keys)), 1) if problem.causal else len(mine))
    return Item(entry, row, start, mine, tuple(seen), _turn(problem, mapping, entry * mapping.splits + part, len(mine)))


def _turn(problem: Problem, mapping: Mapping, number: int, blocks: int) -> int:
    """Where a stream begins: those that read equal stretches of memory in step would meet in the same channels."""
    if problem.unit or (problem.causal and problem.queries > 1):
        return 0  # gathered blocks lie anywhere, those of a causal mask are seen in order
    return blocks * number // (problem.entries * mapping.splits)


def _blocks(problem: Problem, mapping: Mapping, entry: int, row: int) -> Sequence[int]:
    """The key blocks that some query of a band sees; one at least."""
    if problem.block:
        chosen = row // problem.block
        return tuple(_chosen_blocks(problem)[entry][chosen][: max(int(problem.chosen_counts[chosen]), 1)])
    first, end, sinks = (int(each[row // mapping.band]) for each in _ranges(problem, mapping.band, mapping.block_keys))
    return (*range(sinks), *range(first, end)) if sinks else range(first, end)


@cache
def _chosen_blocks(problem: Problem) -> list[list[list[int]]]:
    """The chosen blocks by sequence and query block."""
    found: list[list[list[int]]] = gathered(problem).tolist()
    return found
