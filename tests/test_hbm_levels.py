"""The simulator's own level of HBM against the reference, burst by burst, on streams of requests.

Bandwidth where twice the peak is asked for, and mean latency of reads at a fifth and a half of what is reached. The
bounds are what was measured, with little room: the reference decides them, and they tell when the levels drift apart.
"""

from fractions import Fraction
from functools import cache
from statistics import mean

import pytest

from kpusim.machine import load_machine
from kpusim.streams.levels import bandwidth, default_level, mean_read_latency, reference_level
from kpusim.streams.requests import Stream

MACHINES = {
    "kpu-datacenter": ("hbm.stacks=1", "hbm.channels=8", "hbm.bandwidth=204.8 GB/s"),
    "tpu-v4-like": ("hbm.stacks=1", "hbm.channels=8", "hbm.bandwidth=150 GB/s"),
    "kpu-edge": (),
}
LOADS = (0.2, 0.5)
READS = Fraction(0)
MIX = Fraction(1, 3)  # of the requests write
STREAMS = [
    *(("sequential", size, READS) for size in (64, 4096, 16384)),
    *(("random", size, READS) for size in (64, 256, 1024, 4096, 16384)),
    *(("mixed", size, READS) for size in (64, 1024, 16384)),
    *(("strided", size, READS) for size in (64, 1024, 4096, 16384)),
    *((pattern, size, MIX) for pattern in ("sequential", "random") for size in (64, 4096)),
    *((pattern, 1024, MIX) for pattern in ("random", "mixed")),
    ("strided", 4096, MIX),
]
QUICK = {
    "kpu-datacenter": [
        ("sequential", 4096, READS), ("random", 256, READS), ("random", 1024, READS), ("mixed", 1024, READS),
        ("strided", 1024, READS), ("sequential", 4096, MIX), ("random", 4096, MIX),
    ],
    "tpu-v4-like": [("random", 1024, READS), ("strided", 1024, READS), ("random", 4096, MIX)],
    "kpu-edge": [("random", 1024, READS), ("strided", 1024, READS), ("mixed", 1024, MIX)],
}  # fmt: skip
# Largest errors by machine: of bandwidth (reads; with writes; reads of 64 B, which conflict in few banks; the mean over
# the streams), and of latency.
BOUNDS = {
    "kpu-datacenter": (0.06, 0.09, 0.04, 0.03, 0.10),
    "tpu-v4-like": (0.05, 0.05, 0.10, 0.035, 0.11),
    "kpu-edge": (0.03, 0.04, 0.14, 0.035, 0.115),
}


@cache
def machine_of(name):
    return load_machine(name, MACHINES[name])


@cache
def errors(name, pattern, size, writes):
    """(of bandwidth, of the latency at each load) of the default level, as parts of the reference's."""
    machine = machine_of(name)
    hbm, peak = machine.hbm, float(machine.hbm.peak_bytes_per_cycle)
    piece = min(size, 256) if pattern == "strided" else size
    stream = Stream(pattern, size, piece, 8192, 1 << 30, writes)
    interval = float(hbm.refresh_interval_cycles)
    flood = 1.2 * interval * peak * (0.4 if (pattern, size) == ("random", 64) else 1)  # 64 B reach less than half
    found = []
    for load in (2, *LOADS):
        rate = load * (peak if load == 2 else found[0][1])
        requests = list(stream.requests(hbm, 150 if load < 1 else max(200, int(flood / size)), rate, int(interval / 2)))
        answers = [level(machine, requests) for level in (default_level, reference_level)]
        if load == 2:
            found.append([bandwidth(machine, requests, each) for each in answers])
        else:
            found.append([mean_read_latency(requests, each) for each in answers])
    return [default / reference - 1 for default, reference in found]


def check(name, streams):
    reads, mixes, small, average, latency = BOUNDS[name]
    wrong = {}
    for pattern, size, writes in streams:
        bound = mixes if writes else small if size == 64 else reads
        of_bandwidth, *of_latency = errors(name, pattern, size, writes)
        if abs(of_bandwidth) > bound or max(map(abs, of_latency)) > latency:
            wrong[pattern, size, writes] = of_bandwidth, *of_latency
    assert not wrong
    assert mean(abs(errors(name, *stream)[0]) for stream in streams) < average


@pytest.mark.parametrize("name", MACHINES)
def test_the_levels_agree(name):
    check(name, QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_the_levels_agree_on_all_streams(name):
    check(name, STREAMS)


def test_a_stream_is_the_same_twice():
    hbm = machine_of("kpu-edge").hbm
    stream = Stream("mixed", 1024, 256, 8192, 1 << 30, MIX, seed=5)
    first, second, other = (
        [(each.cycle, each.base, each.chunk.runs, each.write) for each in stream.requests(hbm, 50, 10, 7)]
        for stream in (stream, stream, Stream("mixed", 1024, 256, 8192, 1 << 30, MIX, seed=6))
    )
    assert first == second != other
    assert first[0][0] == 7
    assert [write for *_, write in first] == [i % 3 == 2 for i in range(50)]


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("sequential", [0, 1, 2, 3, 4, 5, 6, 7, 0]),
        ("strided", [0, 4, 1, 5, 2, 6, 3, 7, 0]),
        ("mixed", [0, None, 1, None, 2, None, 3, None, 0]),
    ],
)
def test_places_of_a_stream(pattern, places):
    """In blocks of 512 B of a span of eight."""
    stream = Stream(pattern, 512, 512, 2048, 4096)
    found = [each.base for each in stream.requests(machine_of("kpu-edge").hbm, 9, 1)]
    assert [place for place, known in zip(found, places, strict=True) if known is not None] == [
        place for place in places if place is not None
    ]
    assert all(4 <= place < 8 for place, known in zip(found, places, strict=True) if known is None)


def test_pieces_of_a_request_are_joined_where_they_meet():
    hbm = machine_of("kpu-edge").hbm
    (whole,) = Stream("sequential", 2048, 256, 8192, 1 << 20).requests(hbm, 1, 1)
    (apart,) = Stream("strided", 2048, 256, 8192, 1 << 20).requests(hbm, 1, 1)
    assert whole.chunk.runs == ((0, 4, 1, 8),)
    assert apart.chunk.runs == tuple((16 * i, 1, 1, 4) for i in range(8))
    assert whole.chunk.size == apart.chunk.size == 2048
