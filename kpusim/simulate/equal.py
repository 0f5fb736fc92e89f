"""One of several equal shares of a program, simulated for all of them."""

from __future__ import annotations

from attrs import evolve

from kpusim.simulate.run import Run

__all__ = ["times"]

MOST = "busiest"  # in the name of a counter that is a maximum, not a sum


def times(run: Run, copies: int) -> Run:
    """The run of a share with the counters of all `copies`; cycles and the accounts of its units are its own."""
    counters = {name: count if MOST in name else count * copies for name, count in run.counters.items()}
    return evolve(run, counters=counters)
