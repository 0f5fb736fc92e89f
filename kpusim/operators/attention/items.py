"""Work items of an attention, and which team takes which: bands of queries, with the blocks of keys that they see."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from heapq import heapreplace

from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.operators.attention.lists import gathered
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.attention.problem import Problem

__all__ = ["Item", "Schedule", "band_lengths", "schedule"]


@frozen
class Item:
    """A band of queries of one sequence of keys.

    row: its first query. blocks: the numbers of the key blocks that it reads, ascending: a range, or any; `first` of
    the band's are others' before. seen: for each tile along the band, how many of them it works on: no query of it sees
    those behind.
    """

    entry: int
    row: int
    first: int
    blocks: Sequence[int]
    seen: tuple[int, ...]


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
    """Items dealt to the teams of `tiles` tiles: the longest first, each to the team with least to do."""
    rows = range(0, problem.queries, mapping.band)
    lengths = dict(zip(rows, band_lengths(problem, mapping), strict=True))
    order = sorted(((row, entry) for row in rows for entry in range(problem.entries)), key=lambda at: -lengths[at[0]])
    teams: list[list[tuple[int, int]]] = [[] for _ in range(mapping.teams(problem, tiles))]
    load = [(0, team) for team in range(len(teams))]
    for row, entry in order:
        blocks, team = load[0]
        heapreplace(load, (blocks + lengths[row], team))
        teams[team].append((row, entry))
    return Schedule(
        tuple(
            tuple(_item(problem, mapping, entry, row, part) for row, entry in items)
            for items in teams
            for part in range(mapping.splits)
        )
    )


@cache
def band_lengths(problem: Problem, mapping: Mapping) -> list[int]:
    """Blocks of keys that each band of queries sees."""
    rows = range(0, problem.queries, mapping.band)
    if problem.block:
        return [int(problem.chosen_counts[row // problem.block]) for row in rows]
    return [len(_blocks(problem, mapping, 0, row)) for row in rows]


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
    return Item(entry, row, start, mine, tuple(seen))


def _blocks(problem: Problem, mapping: Mapping, entry: int, row: int) -> Sequence[int]:
    """The key blocks that some query of a band sees; one at least."""
    last = min(row + mapping.band, problem.queries) - 1
    size = mapping.block_keys
    if problem.block:
        chosen = row // problem.block
        return tuple(_chosen_blocks(problem)[entry][chosen][: int(problem.chosen_counts[chosen])])
    first, end = int(problem.lowest[row]) // size, max(ceil_div(int(problem.highest[last]), size), 1)
    sinks = range(min(ceil_div(problem.sinks, size), first))
    return (*sinks, *range(first, end)) if sinks else range(min(first, end - 1), end)


@cache
def _chosen_blocks(problem: Problem) -> list[list[list[int]]]:
    """The chosen blocks by sequence and query block."""
    found: list[list[list[int]]] = gathered(problem).tolist()
    return found
