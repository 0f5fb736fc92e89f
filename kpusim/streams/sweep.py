"""Sweeps of a machine's HBM: read latency against load, and bandwidth against the size of accesses, by pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil

from attrs import evolve, frozen

from kpusim.engines.footprint import timing_of
from kpusim.errors import UserError
from kpusim.machine import Machine
from kpusim.machine.quantities import SIZE, text
from kpusim.streams.levels import bandwidth, default_level, mean_read_latency, reference_level
from kpusim.streams.requests import PATTERNS, Request, Stream

__all__ = ["STEPS", "STRIDE", "Bandwidth", "Latency", "Sweep", "refuse_ideal", "sweep"]

LOADS = (0.05, 0.2, 0.5, 0.65, 0.8, 0.9, 0.95)  # of what the pattern reaches
SIZES = (64, 256, 1024, 4096, 16384)  # bytes of an access
REFERENCE_LOADS = (0.2, 0.5, 0.8)  # chosen: the reference takes a hundred times as long
REFERENCE_SIZES = (64, 1024, 16384)
ASKED = 4096  # bytes of a request whose latency is measured; chosen: eight channels' blocks
PIECE = 256  # of them, bytes of a strided access; chosen: 128 columns in bf16
STRIDE = 8192  # chosen: a row of 4096 columns in bf16
CHUNK = 16384  # bytes that are asked for at once where bandwidth is measured, as DMA engines do
SPAN = 1 << 30
LEAST, MOST = 300, 20_000  # requests of a point; chosen: means within some percent, and rarer refreshes are left out
FLOOD = 2  # times the peak are asked for to see what is reached
MARGIN = 1.3  # of an interval of refresh, so that one is whole
FASTEST = 1 << 20  # bytes a cycle: answers come at whole cycles
SLOWEST = 1 << 62  # ticks: 64 bits must last
STEPS = len(PATTERNS) * (1 + len(LOADS) + len(SIZES))
"""Steps of a sweep, each told to `begins`."""


@frozen
class Latency:
    """A point of latency against load. load: the part of what the pattern reaches; gb_per_s: what that is."""

    pattern: str
    load: float
    gb_per_s: float
    latency_ns: float
    reference_ns: float | None


@frozen
class Bandwidth:
    """A point of bandwidth against size. gb_per_s: of wanted bytes, where more are asked for than it reaches."""

    pattern: str
    access_bytes: int
    gb_per_s: float
    reference_gb_per_s: float | None


@frozen
class Sweep:
    """A machine's sweep. attainable: the peak less the share of refresh."""

    machine: str
    peak_gb_per_s: float
    attainable_gb_per_s: float
    latency: Sequence[Latency]
    bandwidth: Sequence[Bandwidth]


@frozen
class _Bench:
    """What all points of a sweep have in common."""

    machine: Machine
    stream: Stream
    reference: bool

    @property
    def interval(self) -> float:
        """Cycles from one refresh to the next; 0 without any."""
        return float(self.machine.hbm.refresh_interval_cycles) if self.machine.hbm.refresh_cycles else 0.0

    def requests(self, stream: Stream, number: int, bytes_per_cycle: float) -> list[Request]:
        """Requests from the middle between two refreshes on: so many intervals have so many refreshes."""
        return list(stream.requests(self.machine.hbm, number, bytes_per_cycle, start=int(self.interval / 2)))

    def gb_per_s(self, bytes_per_cycle: float) -> float:
        """10^9 bytes a second."""
        return bytes_per_cycle * float(self.machine.clock_hz) / 1e9

    def flooded(self, stream: Stream) -> tuple[float, list[Request]]:
        """(bytes/cycle, requests) where more is asked for than is reached, for an interval of refresh at least."""
        machine, number = self.machine, LEAST
        rate = FLOOD * float(machine.hbm.peak_bytes_per_cycle)
        requests, reached = list[Request](), 0.0
        for _ in range(2):
            requests = self.requests(stream, number, rate)
            reached = bandwidth(machine, requests, default_level(machine, requests))
            needed = ceil(MARGIN * reached * self.interval / stream.request_bytes)
            if not number < needed <= MOST:
                break
            number = needed
        return reached, requests

    def latency(self, stream: Stream, reached: float, load: float) -> Latency:
        """The point at a part of what is reached, over whole intervals of refresh."""
        machine, rate, number = self.machine, load * reached, LEAST
        each = rate * self.interval / stream.request_bytes  # requests of an interval
        if 0 < each <= MOST:
            number = ceil(each * ceil(LEAST / each))
        requests = self.requests(stream, number, rate)
        ns = 1e9 / float(machine.clock_hz)
        answers, reference = default_level(machine, requests), None
        if self.reference and load in REFERENCE_LOADS:
            reference = ns * mean_read_latency(requests, reference_level(machine, requests))
        found = ns * mean_read_latency(requests, answers)
        return Latency(stream.pattern, load, self.gb_per_s(rate), found, reference)

    def bandwidth(self, stream: Stream) -> Bandwidth:
        """The point of one size."""
        reached, requests = self.flooded(stream)
        reference = None
        if self.reference and stream.access_bytes in REFERENCE_SIZES:
            answers = reference_level(self.machine, requests)
            reference = self.gb_per_s(bandwidth(self.machine, requests, answers))
        return Bandwidth(stream.pattern, stream.access_bytes, self.gb_per_s(reached), reference)


def sweep(
    machine: Machine,
    begins: Callable[[str], object],
    *,
    reference: bool = False,
    stride: int = STRIDE,
    span: int | None = None,
    writes: Fraction = Fraction(0),
    seed: int = 1,
) -> Sweep:
    """Sweeps a machine's HBM; `begins` is called with the name of each of `STEPS` steps.

    reference: asks the reference, too. stride, span (None: 1 GiB, or all of the memory), in bytes, writes, seed: of
    the streams. Strided accesses of more than half the stride are twice their size apart. Raises UserError.
    """
    hbm = machine.hbm
    span = min(SPAN, hbm.total_capacity_bytes) if span is None else span
    _check(machine, stride, span, writes)
    bench = _Bench(machine, Stream("", CHUNK, CHUNK, stride, span, writes, seed), reference)
    latencies: list[Latency] = []
    bandwidths: list[Bandwidth] = []
    for pattern in PATTERNS:
        piece = min(PIECE, stride) if pattern == "strided" else ASKED
        stream = evolve(bench.stream, pattern=pattern, request_bytes=ASKED, access_bytes=piece)
        begins(pattern)
        reached, _ = bench.flooded(stream)
        for load in LOADS:
            begins(f"{pattern} at {load:.0%}")
            latencies.append(bench.latency(stream, reached, load))
        for size in SIZES:
            begins(f"{pattern} by {text(size, SIZE, 1)}")
            stream = evolve(bench.stream, pattern=pattern, access_bytes=size, stride_bytes=max(stride, 2 * size))
            bandwidths.append(bench.bandwidth(stream))
    return Sweep(
        machine.name,
        bench.gb_per_s(float(hbm.peak_bytes_per_cycle)),
        bench.gb_per_s(float(hbm.attainable_bytes_per_cycle)),
        latencies,
        bandwidths,
    )


def refuse_ideal(machine: Machine) -> None:
    """Raises UserError for a memory that is too fast to be measured."""
    if machine.hbm.peak_bytes_per_cycle > FASTEST:
        problem = "this memory is ideal: so much arrives in one cycle that there is no load to see"
        raise UserError(problem, where="[hbm] bandwidth", allowed=f"up to {text(FASTEST, SIZE, 1)} a cycle in all")


def _check(machine: Machine, stride: int, span: int, writes: Fraction) -> None:
    """Raises UserError for streams that cannot be, and a memory too fast or too slow to be measured."""
    hbm = machine.hbm
    capacity = hbm.total_capacity_bytes
    if not 4 * CHUNK <= span <= capacity:
        allowed = f"{text(4 * CHUNK, SIZE, 1)} to {text(capacity, SIZE, 1)}, all of the memory"
        raise UserError("not a span to sweep", where="--span", found=text(span, SIZE, 1), allowed=allowed)
    if not PIECE <= stride <= span // 2:
        allowed = f"{text(PIECE, SIZE, 1)}, an access, to half the span"
        raise UserError("not a stride to sweep", where="--stride", found=text(stride, SIZE, 1), allowed=allowed)
    if writes > Fraction(9, 10):
        raise UserError("no latency of reads without reads", where="--writes", found=str(writes), allowed="0 to 9/10")
    refuse_ideal(machine)
    timing = timing_of(hbm)
    each = timing.opening + timing.row_cycle + timing.recovery + -(-max(SIZES) // hbm.access_bytes) * timing.burst
    if LEAST * (CHUNK // min(SIZES)) * each > SLOWEST:
        raise UserError("this memory is too slow to sweep", where="[hbm] bandwidth")
