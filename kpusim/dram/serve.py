"""Requests with arrival times, served by one channel: what bounds the simulator's own model of HBM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from attrs import frozen

from kpusim.dram.controller import Controller
from kpusim.dram.requests import Requests, flat_bank
from kpusim.machine.dram import Dram

__all__ = ["Burst", "Served", "serve"]

Burst = tuple[int, int, int, int, int, int, bool]
"""(arrival tick, pseudo-channel, stack id, bank group, bank, row, whether it writes)."""


@frozen
class Served:
    """What became of each request, in ticks (`dram.tick_ps` each), and of all of them.

    accepted: when it came into a buffer: a request can be issued one tick later. issued: its RD or WR. departed: when
    a read's data is complete, when a write is accepted. Requests hit, miss or conflict with the open row by their first
    command: RD or WR, ACT, PRE.
    """

    accepted: Sequence[int]
    issued: Sequence[int]
    departed: Sequence[int]
    row_hits: int
    row_misses: int
    row_conflicts: int


def serve(dram: Dram, queue: int, bursts: Iterable[Burst]) -> Served:
    """Serves bursts that arrive at given ticks, in ascending order, until all have been issued.

        served = serve(load_dram("hbm3-6400"), 64, [(0, 0, 0, 0, 0, 7, False), (3, 1, 0, 2, 1, 7, True)])
        served.departed[0]  # 109: the tick at which the first burst is back

    queue: bursts that the read buffer takes, and as many the write buffer. Room in front of them is unlimited, in
    order: a burst that finds its buffer full keeps the later ones waiting. Raises ValueError for descending arrivals.
    """
    columns = tuple(zip(*bursts, strict=True)) or ((),) * 7
    arrivals, *place, rows, writes = columns
    if any(later < earlier for earlier, later in pairwise(arrivals)):
        raise ValueError("arrivals descend")
    banks = [flat_bank(dram.organisation, *each) for each in zip(*place, strict=True)]
    controller = Controller(dram, queue, Requests(banks, rows, writes))
    _run(controller, arrivals)
    departed = [
        accepted if write else done
        for accepted, done, write in zip(controller.accepted, controller.done, writes, strict=True)
    ]
    return Served(
        controller.accepted,
        controller.issued,
        departed,
        controller.row_hits,
        controller.row_misses,
        controller.row_conflicts,
    )


def _run(controller: Controller, arrivals: Sequence[int]) -> None:
    """Steps through the ticks in which something may happen. A request that arrives at a tick is offered behind it."""
    request, total, tick = 0, len(arrivals), 0
    while controller.columns_issued < total:
        while request < total and arrivals[request] <= tick and controller.offer(request, tick):
            request += 1
        following = controller.next_tick(tick)
        if request < total and arrivals[request] > tick:
            following = min(following, arrivals[request])
        tick = following
        controller.tick(tick)
