"""The banks of an SRAM that DMA, matrix and vector engine of a tile share.

Addresses go over the banks in blocks of `sram.interleave`. Each bank is reserved by itself, in global time order: for a
chunk of a DMA transfer that is to leave, from now on; for one that sets out for its tiles, from when its head will be
there; for operands and results of an instruction in pieces of a chunk, each when the array or the lanes come to it. Who
comes before what is reserved for later uses the time until then: a bank is never idle while somebody waits for it.
The bytes of a view are taken to lie evenly over its span; a DMA transfer goes through it from the first byte to the
last, an instruction uses all of it all along (an array reads all rows of a fold at once).

Banks hold a stream up only by as much as they are later than its own port: what the banks are behind at its head, they
make good while the port is the slower one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from attrs import define, evolve, field

from kpusim.engines.kernel import Kernel
from kpusim.engines.transfer import Chunk, Transfer
from kpusim.isa.walk import ViewAt
from kpusim.machine import Machine

__all__ = ["Banks", "Loads", "Sram", "Traffic"]

Loads = tuple[tuple[int, int], ...]
"""(banks as the bits of a number, bytes of each of them) of one access."""

Traffic = tuple[tuple[ViewAt, int], ...]
"""The views of an instruction, and the bytes that it moves of each: more than it has where they pass several times."""


@define(eq=False)
class Banks:
    """Banks of a tile that were used alike so far: `members` as bits, bytes that each has moved, when each is taken.

    `starts` and `ends` are spans of time that do not overlap, in order.
    """

    members: int
    moved: int = 0
    starts: list[int] = field(factory=list)
    ends: list[int] = field(factory=list)

    def split(self, members: int) -> Banks:
        """Some of the banks, which are no longer among these."""
        self.members ^= members
        return evolve(self, members=members, starts=[*self.starts], ends=[*self.ends])

    def take(self, start: int, length: int, now: int) -> int:
        """Takes the first `length` from `start` on that is not taken yet; returns its end. Nobody asks before `now`."""
        starts, ends = self.starts, self.ends
        past = bisect_right(ends, now)
        del starts[:past], ends[:past]
        first = last = bisect_right(ends, start)  # spans from here on end after `start`
        time = start
        while last < len(starts) and time + length > starts[last]:
            length -= max(starts[last] - time, 0)
            time = ends[last]
            last += 1
        time += length
        starts[first:last] = [min(start, starts[first]) if last > first else start]
        ends[first:last] = [time]
        return time


class Sram:
    """The banks of all tiles; times are in ticks of 1/`ticks` cycle, so that rates are exact."""

    def __init__(self, machine: Machine, kernel: Kernel, chunk_bytes: int):
        sram = machine.sram
        self._kernel, self._chunk_bytes = kernel, chunk_bytes
        self._banks, self._interleave, self._latency = sram.banks, sram.interleave_bytes, sram.latency_cycles
        self.ticks, self._byte_ticks = sram.bank_bytes_per_cycle.as_integer_ratio()
        self._port, self._port_scale = sram.ports.dma.as_integer_ratio()
        self._groups = defaultdict[int, list[Banks]](lambda: [Banks((1 << sram.banks) - 1)])
        self._loads, self._pieces = cache(self._spread), cache(self._cut)

    @property
    def busiest_bank_bytes(self) -> int:
        """Bytes that all users together have moved through the bank that moved most."""
        return max((group.moved for groups in self._groups.values() for group in groups), default=0)

    def access(self, tile: int, loads: Loads, start: int) -> int:
        """Reserves banks of `tile` from cycle `start` on; returns the cycle at which the last byte is through."""
        ticks, byte_ticks, groups = self.ticks, self._byte_ticks, self._groups[tile]
        now, last = self._kernel.now * ticks, 0
        for banks, size in loads:
            for group in groups:
                if not group.members & banks:
                    continue
                if group.members & ~banks:
                    groups.append(group.split(group.members & ~banks))
                group.moved += size
                last = max(last, group.take(start * ticks, size * byte_ticks, now))
        return -(-last // ticks)

    # --- DMA transfers --------------------------------------------------------------------------------------------

    def read(self, transfer: Transfer, chunk: Chunk, now: int) -> int:
        """A chunk is to leave its source at cycle `now`: the cycle at which its head can, not to run dry."""
        assert transfer.origin is not None
        through = self.access(transfer.source, self._part(transfer.origin, transfer, chunk), now)
        return max(now, through - self._port_cycles(chunk.size))

    def write(self, transfer: Transfer, chunk: Chunk, arrivals: Sequence[int]) -> list[int]:
        """A chunk is on its way to all tiles of a transfer, and whole behind their ports at cycles `arrivals`.

        Returns the cycles at which the banks have it.
        """
        assert transfer.target is not None
        loads, latency, now = self._part(transfer.target, transfer, chunk), self._latency, self._kernel.now
        before = latency + self._port_cycles(chunk.size)
        return [
            max(arrival, self.access(tile, loads, max(arrival - before, now)) + latency)
            for tile, arrival in zip(transfer.tiles, arrivals, strict=True)
        ]

    def _part(self, view: ViewAt, transfer: Transfer, chunk: Chunk) -> Loads:
        """What a chunk needs of the banks: its part of the view's span."""
        (low, high), size = view.span, transfer.size
        start = low + (high - low) * chunk.first // size
        end = low - (low - high) * (chunk.first + chunk.size) // size
        return self._loads(((start, end, chunk.size),))

    def _port_cycles(self, size: int) -> int:
        return -(-size * self._port_scale // self._port)

    # --- instructions -----------------------------------------------------------------------------------------------

    def pieces(self, traffic: Traffic) -> tuple[Loads, ...]:
        """What an instruction needs of the banks, in equal pieces of at most a chunk, one after the other."""
        return self._pieces(tuple([(*view.span, size) for view, size in traffic if size]))

    def _cut(self, spans: tuple[tuple[int, int, int], ...]) -> tuple[Loads, ...]:
        loads, count = self._loads(spans), -(-sum(size for _, _, size in spans) // self._chunk_bytes)

        def piece(i: int) -> Loads:
            parts = ((banks, size * (i + 1) // count - size * i // count) for banks, size in loads)
            return tuple((banks, size) for banks, size in parts if size)

        return tuple(map(piece, range(count)))

    def _spread(self, spans: tuple[tuple[int, int, int], ...]) -> Loads:
        """The loads of (first byte, byte behind, bytes moved) spans together, each of which spreads evenly."""
        total = [0] * self._banks
        for low, high, size in spans:
            done = spread = 0
            for bank, held in enumerate(self._held(low, high)):
                done += held
                total[bank] += size * done // (high - low) - spread
                spread = size * done // (high - low)
        sizes = sorted({size for size in total if size})
        return tuple((sum(1 << bank for bank in range(self._banks) if total[bank] == size), size) for size in sizes)

    def _held(self, low: int, high: int) -> Sequence[int]:
        """How many of the bytes from `low` to `high` each bank holds."""
        block, period = self._interleave, self._interleave * self._banks

        def below(end: int, bank: int) -> int:
            return end // period * block + min(max(end % period - bank * block, 0), block)

        return [below(high, bank) - below(low, bank) for bank in range(self._banks)]
