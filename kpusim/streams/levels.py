"""Both levels of HBM's model on one stream: the simulation's own, and the reference, burst by burst.

The reference serves every channel by itself, as a DRAM with the machine's timings; the bursts of a block take turns
among bank groups as `hbm.bank_interleave` and `hbm.alternating_groups` say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from kpusim.dram.serve import Burst, serve
from kpusim.engines.footprint import bursts_of, locate
from kpusim.engines.hbm import Hbm
from kpusim.engines.transfer import Chunk
from kpusim.machine import Machine
from kpusim.machine.drams import dram_of
from kpusim.streams.requests import Request

__all__ = ["bandwidth", "default_level", "mean_read_latency", "reference_level"]

Answers = Sequence[float]
"""The core cycle at which each request is back, or accepted for writing."""

BUSY = 0.85  # chosen: when so many answers have come, no channel of a random stream has done its part


def default_level(machine: Machine, requests: Sequence[Request]) -> Answers:
    """Answers of the simulation's own level."""
    hbm = Hbm(machine)
    return [hbm.access(each.chunk, each.base, each.cycle, each.write) for each in requests]


def reference_level(machine: Machine, requests: Sequence[Request]) -> Answers:
    """Answers of the reference. Raises UserError for a machine that can only refresh."""
    dram, hbm = dram_of(machine), machine.hbm
    tick = hbm.access_bytes / hbm.channel_bytes_per_cycle / 2  # core cycles of one
    asked: dict[int, list[tuple[int, Burst]]] = defaultdict(list)
    for number, request in enumerate(requests):
        arrival = int(request.cycle / tick)
        for channel, group, bank, row in _bursts(request.chunk, request.base, machine):
            asked[channel].append((number, (arrival, 0, 0, group, bank, row, request.write)))
    answers = [0.0] * len(requests)
    for queue in asked.values():
        served = serve(dram, hbm.queue, [burst for _, burst in queue])
        for (number, _), departed in zip(queue, served.departed, strict=True):
            answers[number] = max(answers[number], float(departed * tick) + hbm.controller_cycles)
    return answers


def _bursts(chunk: Chunk, base: int, machine: Machine) -> Iterator[tuple[int, int, int, int]]:
    """(channel, bank group, bank of the group, row) of each burst of a chunk."""
    hbm = machine.hbm
    turns, turn = hbm.alternating_groups, hbm.bank_interleave_bytes // hbm.access_bytes
    banks, groups = hbm.separate_banks, hbm.bank_groups // turns
    blocks, bursts = bursts_of(chunk.runs)
    places = (places.tolist() for places in (*locate(blocks + base, hbm), bursts))
    for channel, numbered, row, wanted in zip(*places, strict=True):
        bank, group = divmod(numbered - channel * banks, groups)
        for burst in range(wanted):
            yield channel, group * turns + burst // turn % turns, bank, row


def mean_read_latency(requests: Sequence[Request], answers: Answers) -> float:
    """Mean core cycles from asking to the answer, of the requests that read; one at least does."""
    reads = [answer - each.cycle for each, answer in zip(requests, answers, strict=True) if not each.write]
    return sum(reads) / len(reads)


def bandwidth(machine: Machine, requests: Sequence[Request], answers: Answers) -> float:
    """Bytes/cycle that are answered from the first answer on, while all channels are still at work.

    Those are whole intervals of refresh, where there are some. Counts what is asked for, not all of the accesses that
    have it. For requests of one size, and answers of which not all come at once. A request over many channels is
    answered when the last of them has done its part.
    """
    hbm = machine.hbm
    times = sorted(answers)
    window = times[int(BUSY * (len(times) - 1))] - times[0]
    if hbm.refresh_cycles and window >= hbm.refresh_interval_cycles:
        window -= window % hbm.refresh_interval_cycles
    within = sum(1 for time in times[1:] if time <= times[0] + window)
    part = within / (len(times) - 1)
    return sum(each.chunk.size for each in requests[1:]) * part / window
