"""One of several equal shares of a program, simulated for all of them."""

from __future__ import annotations

import numpy as np
from attrs import evolve

from kpusim.isa.program import Program
from kpusim.simulate.run import Run
from kpusim.simulate.shares import used_units

__all__ = ["times"]

MOST = "busiest"  # in the name of a counter that is a maximum, not a sum


def times(run: Run, program: Program, copies: int) -> Run:
    """The run of `program` as that of its share tells it: each of `copies` does the same in the same cycles."""
    counters = {name: count if MOST in name else count * copies for name, count in run.counters.items()}
    busy, stalls = np.zeros_like(run.busy), np.zeros_like(run.stalls)
    units, mine = used_units(program, run.machine), used_units(run.program, run.machine)
    for kind in mine:
        source = np.resize(mine[kind], len(units[kind]))
        busy[units[kind]], stalls[units[kind]] = run.busy[source], run.stalls[source]
    return evolve(run, program=program, busy=busy, stalls=stalls, counters=counters)
