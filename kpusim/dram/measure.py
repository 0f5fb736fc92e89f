"""A channel under full load: requests offered as fast as its buffers take them, and what comes out."""

from __future__ import annotations

from fractions import Fraction

from attrs import frozen

from kpusim.dram.controller import Controller
from kpusim.dram.requests import Requests
from kpusim.machine.dram import Dram

__all__ = ["Measured", "measure"]

OFFERS = 4
"""Requests offered before each tick but the first, which has one: those of Ramulator 2's trace reader."""


@frozen
class Measured:
    """One run, until its last request was accepted: those that then wait are not in the statistics of rows and reads.

    dram_cycles: ticks done. read_ticks: of all reads that were back by then, from arrival to departure. reads_issued:
    RD commands.
    """

    dram: Dram
    requests: int
    dram_cycles: int
    read_ticks: int
    reads_issued: int
    row_hits: int
    row_misses: int
    row_conflicts: int

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes a second, of all requests; 0 if they were all accepted before the first tick."""
        time_ps = self.dram_cycles * self.dram.tick_ps
        return float(self.requests * self.dram.organisation.burst_bytes * 1000 / time_ps) if time_ps else 0.0

    @property
    def peak_gb_per_s(self) -> float:
        """10^9 bytes a second of a burst at every chance."""
        return float(self.dram.peak_bytes_per_second / 10**9)

    @property
    def avg_read_latency_ns(self) -> float:
        """Mean of reads from arrival in the buffer to departure, over the RDs issued; 0 without any."""
        ticks = Fraction(self.read_ticks, max(1, self.reads_issued))
        return float(ticks * self.dram.tick_ps / 1000)


def measure(dram: Dram, queue: int, requests: Requests) -> Measured:
    """Offers requests in order, each again until its buffer has room. `queue`: requests that each buffer takes."""
    controller = Controller(dram, queue, requests)
    total, last = len(requests), 0
    taken = int(controller.offer(0, 0))
    tick = 1
    while taken < total:
        controller.tick(tick)
        last = tick
        offers = 0
        while offers < OFFERS and taken < total and controller.offer(taken, tick):
            offers += 1
            taken += 1
        tick = tick + 1 if offers == OFFERS else controller.next_tick(tick)
    reads = zip(controller.done, controller.accepted, strict=True)
    return Measured(
        dram=dram,
        requests=total,
        dram_cycles=last,
        read_ticks=sum(done - accepted for done, accepted in reads if 0 <= done <= last),
        reads_issued=controller.reads_issued,
        row_hits=controller.row_hits,
        row_misses=controller.row_misses,
        row_conflicts=controller.row_conflicts,
    )
