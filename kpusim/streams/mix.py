"""Streams side by side: what HBM reaches for a mix of reads and writes, each in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from attrs import evolve

from kpusim.machine import Machine
from kpusim.streams.levels import bandwidth, default_level
from kpusim.streams.requests import Request, Stream

__all__ = ["mix_bandwidth"]

FLOOD = 2  # times the peak are asked for; chosen: more waits, and reaches no more
LEAST = 600  # requests; chosen: means within a per cent
INTERVALS = 5  # of refresh, chosen: so that parts of one hardly count


def mix_bandwidth(machine: Machine, streams: Sequence[Stream]) -> float:
    """Bytes/cycle of streams with requests of one size, each of which asks for as much, in a span of its own.

    More is asked for than is reached. The spans lie one behind the other in memory.
    """
    hbm, size = machine.hbm, streams[0].request_bytes
    number = max(LEAST, ceil(INTERVALS * hbm.refresh_interval_cycles * hbm.peak_bytes_per_cycle / size))
    rate = FLOOD * float(hbm.peak_bytes_per_cycle) / len(streams)
    asked: list[Request] = []
    before = 0
    for stream in streams:
        for request in stream.requests(hbm, number // len(streams), rate):
            asked.append(evolve(request, base=request.base + before))
        before += ceil(stream.span_bytes / hbm.interleave_bytes)
    asked.sort(key=lambda request: request.cycle)
    return bandwidth(machine, asked, default_level(machine, asked))
