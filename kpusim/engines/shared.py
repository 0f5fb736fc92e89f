"""The shared level between the DMA engines and HBM: a buffer that software manages, or a cache.

All that engines read and write passes its port, a reservation in the order of requests; it is through `latency`
after its last byte. Banks are not modelled. A buffer has addresses of its own, behind HBM's. A cache looks up which
lines of a request it holds. Absent lines go on to HBM as one request, `latency` after they were asked for. Lines that
are still on their way are waited for, by the latest fetch of their block. Reading brings lines in, and so does writing
them in part; what is written whole is not fetched. What is thrown out dirty goes to HBM when its place is taken, and
nobody waits for it. A cache is empty at the start of a program and cleaned at its end: the program ends when all that
it has written is in HBM.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Protocol

from kpusim.engines.shared_lines import Block, Blocks, Lines, Residency, SingleLines
from kpusim.engines.transfer import Chunk, Segment, chunk_of, joined
from kpusim.machine import Machine

__all__ = ["Buffer", "Cache", "Memory", "shared_level"]

PATTERNS = 1024  # chosen: chunks whose lines are kept; a program has a few dozen boxes of different sizes


class Memory(Protocol):
    """HBM, or what stands before it."""

    def access(self, chunk: Chunk, base: int, now: int, write: bool) -> int:
        """Reserves a chunk counted from block `base`, from cycle `now` on: when all is back (or accepted)."""


def shared_level(machine: Machine, hbm: Memory) -> Buffer | Cache | None:
    """The shared level of a machine before its HBM, if it has one."""
    kind = machine.shared.kind
    if kind == "none":
        return None
    return Buffer(machine, hbm) if kind == "buffer" else Cache(machine, hbm)


class _Port:
    """The way through the level: next free at `free`, in ticks of 1/`ticks` cycle, and the bytes that took it."""

    def __init__(self, machine: Machine):
        rate = machine.shared.bytes_per_cycle
        self._ticks, self._byte_ticks = rate.numerator, rate.denominator
        self._latency = machine.shared.latency_cycles
        self._free = self._read = self._written = 0

    def through(self, size: int, now: int, write: bool) -> int:
        """The cycle at which `size` bytes that are asked for at cycle `now` have passed."""
        free, arrival = self._free, now * self._ticks
        self._free = free = (free if free > arrival else arrival) + size * self._byte_ticks
        if write:
            self._written += size
        else:
            self._read += size
        return -(-free // self._ticks) + self._latency

    @property
    def counters(self) -> dict[str, int]:
        """Bytes read and written by the engines."""
        return {"shared.read_bytes": self._read, "shared.write_bytes": self._written}


class Buffer:
    """Addresses of the buffer are served here, others by HBM."""

    def __init__(self, machine: Machine, hbm: Memory):
        self._hbm, self._port = hbm, _Port(machine)
        self._first = machine.buffer_address // machine.hbm.interleave_bytes

    def access(self, chunk: Chunk, base: int, now: int, write: bool) -> int:
        """Reserves a chunk, which is all here or all in HBM, from cycle `now` on: when all is back (or accepted)."""
        if base + chunk.runs[0][0] < self._first:
            return self._hbm.access(chunk, base, now, write)
        return self._port.through(chunk.size, now, write)

    def clean(self, now: int) -> int:
        """Everything stays where it is."""
        return now

    @property
    def counters(self) -> dict[str, int]:
        """By name."""
        return self._port.counters


class Cache:
    """Holds lines of HBM; blocks are numbered by address / `shared.block`."""

    def __init__(self, machine: Machine, hbm: Memory):
        shared = machine.shared
        self._hbm, self._port = hbm, _Port(machine)
        self._latency, self._back = shared.latency_cycles, shared.write == "back"
        self._line, self._block = shared.line_bytes, shared.block_bytes
        self._interleave, self._access = machine.hbm.interleave_bytes, machine.hbm.access_bytes
        model = Blocks if shared.lookup == "blocks" else SingleLines
        self._held: Residency = model(shared.sets, shared.ways, shared.block_bytes // shared.line_bytes)
        self._hits = self._misses = self._written_back = 0
        self._pattern = lru_cache(PATTERNS)(self._lines_of)
        self._request = lru_cache(PATTERNS)(self._request_for)

    def access(self, chunk: Chunk, base: int, now: int, write: bool) -> int:
        """Reserves a chunk from cycle `now` on: when all is back (or accepted)."""
        passed, asked = self._port.through(chunk.size, now, write), now + self._latency
        first, inside = divmod(base * self._interleave, self._block)
        pattern = (self._lines_of if chunk.descriptors else self._pattern)(chunk.stretches, inside)
        held, hits, misses = self._held, 0, 0
        absent: list[tuple[Block, Lines]] = []
        for offset, lines, whole in pattern:
            block = held.block(first + offset)
            missing = held.touch(block, lines, *self._writing(lines, whole) if write else (lines, 0))
            count, missed = lines.bit_count(), missing.bit_count()
            hits, misses = hits + count - missed, misses + missed
            if write:
                missing &= ~whole if self._back else 0
            elif missed < count and block.ready > passed:
                passed = block.ready
            if missing:
                absent.append((block, missing))
        self._hits += hits
        self._misses += misses
        if absent:
            back = self._bring(absent, asked, bool(chunk.descriptors))
            if not write and back > passed:
                passed = back
        if victims := held.victims():
            self._write_back(victims, asked, bool(chunk.descriptors))
        if write and not self._back:
            passed = max(passed, self._hbm.access(chunk, base, asked, write=True))
        return passed

    def _writing(self, lines: Lines, whole: Lines) -> tuple[Lines, Lines]:
        """(lines brought in, lines made dirty) by writing `lines`, of which `whole` ones entirely."""
        return (lines, lines) if self._back else (whole, 0)

    def _bring(self, absent: list[tuple[Block, Lines]], now: int, once: bool) -> int:
        """Fetches absent lines at cycle `now`: when all are back."""
        chunk, base = self._chunk_of([(block.number, missing) for block, missing in absent], once)
        back = self._hbm.access(chunk, base, now, write=False)
        for block, _ in absent:
            block.ready = back
        return back

    def _write_back(self, dirty: list[tuple[int, Lines]], now: int, once: bool = False) -> int:
        """Writes dirty lines to HBM at cycle `now`: when all are accepted."""
        chunk, base = self._chunk_of(dirty, once)
        self._written_back += chunk.size
        return self._hbm.access(chunk, base, now, write=True)

    def clean(self, now: int) -> int:
        """Writes all dirty lines to HBM at cycle `now`, block by block: when all are accepted."""
        return max([now, *(self._write_back([block], now) for block in self._held.clean())])

    def _lines_of(self, stretches: tuple[Segment, ...], inside: int) -> tuple[tuple[int, Lines, Lines], ...]:
        """(block, lines, those of them that are covered whole) of stretches `inside` bytes behind the first block."""
        found: dict[int, tuple[Lines, Lines]] = {}
        for start, end in joined(stretches):
            start, end = start + inside, end + inside
            for number in range(start // self._block, -(-end // self._block)):
                at = number * self._block
                low, high = max(start - at, 0), min(end - at, self._block)
                touched, whole = found.get(number, (0, 0))
                touched |= _range(low // self._line, -(-high // self._line))
                whole |= _range(-(-low // self._line), high // self._line)
                found[number] = touched, whole
        return tuple([(number, *lines) for number, lines in found.items()])

    def _chunk_of(self, parts: list[tuple[int, Lines]], once: bool) -> tuple[Chunk, int]:
        """The request for (block, lines), and the interleave block that it counts from; once: it will hardly recur."""
        first = parts[0][0]
        base, inside = divmod(first * self._block, self._interleave)
        lines = tuple([(number - first, lines) for number, lines in parts])
        return (self._request_for if once else self._request)(lines, inside), base

    def _request_for(self, parts: tuple[tuple[int, Lines], ...], inside: int) -> Chunk:
        """The request for (block, lines), `inside` bytes behind the interleave block that it counts from."""
        line, block = self._line, self._block
        runs = ((number * block, low, high) for number, lines in parts for low, high in _runs(lines))
        spans = ((inside + at + low * line, (high - low) * line) for at, low, high in runs)
        return chunk_of(_rows(spans), self._interleave, self._access)

    @property
    def counters(self) -> dict[str, int]:
        """By name; hits and misses in lines."""
        own = {"hits": self._hits, "misses": self._misses, "writeback_bytes": self._written_back}
        return self._port.counters | {f"shared.{name}": count for name, count in own.items()}


def _rows(spans: Iterable[tuple[int, int]]) -> Iterator[Segment]:
    """Spans of (address, length) in order, those of one length and pitch as one segment."""
    first = count = pitch = length = 0
    for address, size in spans:
        step = address - first if count == 1 else pitch
        if count and size == length and step > 0 and address == first + count * step:
            count, pitch = count + 1, step
            continue
        if count:
            yield first, count, pitch or 1, length
        first, count, pitch, length = address, 1, 0, size
    if count:
        yield first, count, pitch or 1, length


def _range(low: int, high: int) -> Lines:
    """The lines from `low` to `high`, which is not among them."""
    return (1 << high) - (1 << low) if high > low else 0


def _runs(lines: Lines) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of each run of lines, the lowest first."""
    at = 0
    while lines:
        skipped = (lines & -lines).bit_length() - 1
        lines >>= skipped
        length = (~lines & (lines + 1)).bit_length() - 1
        yield at + skipped, at + skipped + length
        lines >>= length
        at += skipped + length
