"""Teams that do the same at the same time: where they hardly share anything, one of them stands for all.

All teams are alike where each has the same bands of queries in the same order, of other heads. They meet only in HBM
and in its network, so that one of them alone is as fast, unless HBM is busy.
"""

from __future__ import annotations

from math import gcd, lcm

from attrs import evolve

from kpusim.isa.program import Program, Section
from kpusim.operators.attention.estimate import Cost
from kpusim.operators.attention.grid import Grid
from kpusim.operators.attention.loads import KEY_QUEUE, VALUE_QUEUE
from kpusim.operators.base import Equal
from kpusim.operators.seats import Seat

__all__ = ["equal_team"]

LONG = 100_000  # chosen: blocks of keys that tiles work on from which a simulation takes seconds
IDLE = 0.5  # chosen: HBM in use for less than this; `tests/test_attention_equal.py` bounds what is left out


def equal_team(grid: Grid, program: Program, cost: Cost, streams: Seat, tiles: Seat, long: int = LONG) -> Equal | None:
    """The part of `program` of the first teams, or None where it does not stand for all, or all are soon simulated.

    streams, tiles: how streams and tiles are dealt to DMA engines. What an engine serves stays together.
    """
    splits, width = grid.map.splits, grid.width
    teams = grid.streams // splits
    kept = lcm(splits, streams.share, tiles.share // gcd(tiles.share, width)) // splits
    kept = lcm(kept, max(teams // grid.problem.entries, 1))
    if teams <= kept or teams % kept or cost.blocks < long or cost.parts["HBM"] > IDLE * cost.cycles:
        return None
    done = [tuple((item.row, item.blocks, item.seen) for item in items) for items in grid.schedule.streams[::splits]]
    if done != done[:kept] * (teams // kept):
        return None

    def cut(section: Section) -> Section:
        if section.unit != "dma":
            return evolve(section, last=kept * splits * width)
        keys = section.queue in (KEY_QUEUE, VALUE_QUEUE)
        seat, groups = (streams, kept * splits) if keys else (tiles, kept * splits * width)
        if seat.share > 1:
            return evolve(section, last=groups // seat.share)
        return evolve(section, last=section.first + seat.stride * (groups - 1) + 1)

    return Equal(evolve(program, sections=tuple(map(cut, program.sections))), teams // kept)
