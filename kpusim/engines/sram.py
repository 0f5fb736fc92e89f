"""The banks of an SRAM that DMA, matrix and vector engine of a tile share.

Addresses go over the banks in blocks of `sram.interleave`. Each bank is a reservation with a next-free time of its own,
made in global time order: for a chunk of a DMA transfer when it is to leave, or when its head arrives; for operands and
results of an instruction in pieces of a chunk, each when the array or the lanes come to it. The bytes of a view are
taken to lie evenly over its span; a DMA transfer goes through it from the first byte to the last, an instruction uses
all of it all along (an array reads all rows of a fold at once).

Banks hold a stream up only by as much as they are later than its own port: what the banks are behind at its head, they
make good while the port is the slower one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

from kpusim.engines.kernel import Kernel, Phase
from kpusim.engines.transfer import Chunk, Transfer
from kpusim.isa.walk import ViewAt
from kpusim.machine import Machine

__all__ = ["Loads", "Sram", "Traffic"]

Loads = tuple[tuple[int, int], ...]
"""(bank, bytes) of one access."""

Traffic = tuple[tuple[ViewAt, int], ...]
"""The views of an instruction, and the bytes that it moves of each: more than it has where they pass several times."""


class Sram:
    """Next-free times of all banks by tile, in ticks of 1/`ticks` cycle: rates are exact."""

    def __init__(self, machine: Machine, kernel: Kernel, chunk_bytes: int):
        sram = machine.sram
        self._kernel, self._chunk_bytes = kernel, chunk_bytes
        self._banks, self._interleave, self._latency = sram.banks, sram.interleave_bytes, sram.latency_cycles
        self.ticks, self._byte_ticks = sram.bank_bytes_per_cycle.as_integer_ratio()
        self._port, self._port_scale = sram.ports.dma.as_integer_ratio()
        self._free = defaultdict[int, list[int]](lambda: [0] * sram.banks)
        self._moved = defaultdict[int, list[int]](lambda: [0] * sram.banks)
        self._loads, self._pieces = cache(self._spread), cache(self._cut)

    @property
    def busiest_bank_bytes(self) -> int:
        """Bytes that all users together have moved through the bank that moved most."""
        return max(map(max, self._moved.values()), default=0)

    def access(self, tile: int, loads: Loads, now: int) -> int:
        """Reserves banks of `tile` from cycle `now` on; returns the cycle at which the last byte is through."""
        free, moved, ready, byte_ticks = self._free[tile], self._moved[tile], now * self.ticks, self._byte_ticks
        last = ready
        for bank, size in loads:
            start = free[bank]
            free[bank] = end = (start if start > ready else ready) + size * byte_ticks
            moved[bank] += size
            if end > last:
                last = end
        return -(-last // self.ticks)

    # --- DMA transfers --------------------------------------------------------------------------------------------

    def read(self, transfer: Transfer, chunk: Chunk, now: int) -> int:
        """A chunk is to leave its source at cycle `now`: the cycle at which its head can, not to run dry."""
        assert transfer.origin is not None
        through = self.access(transfer.source, self._part(transfer.origin, transfer, chunk), now)
        return max(now, through - self._port_cycles(chunk.size))

    def write(
        self, requester: int, transfer: Transfer, chunk: Chunk, arrivals: list[int], then: Callable[[list[int]], None]
    ) -> None:
        """A chunk is on its way to all tiles of a transfer, and whole behind their ports at cycles `arrivals`.

        Its banks are reserved when its head is at the first tile, in each tile from when it is there. Calls `then` with
        the cycles at which the banks have it.
        """
        assert transfer.target is not None
        loads, latency = self._part(transfer.target, transfer, chunk), self._latency
        before = latency + self._port_cycles(chunk.size)
        heads = [arrival - before for arrival in arrivals]
        first = max(min(heads), self._kernel.now)

        def arrive() -> None:
            through = [self.access(tile, loads, max(at, first)) for tile, at in zip(transfer.tiles, heads, strict=True)]
            then([max(arrival, time + latency) for arrival, time in zip(arrivals, through, strict=True)])

        self._kernel.at(first, Phase.RETURN, requester, arrive)

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
        return tuple(
            tuple((bank, size * (i + 1) // count - size * i // count) for bank, size in loads) for i in range(count)
        )

    def _spread(self, spans: tuple[tuple[int, int, int], ...]) -> Loads:
        """The bytes by bank of (first byte, byte behind, bytes moved) spans together; each spreads evenly."""
        total = [0] * self._banks
        for low, high, size in spans:
            done = spread = 0
            for bank, held in enumerate(self._held(low, high)):
                done += held
                total[bank] += size * done // (high - low) - spread
                spread = size * done // (high - low)
        return tuple((bank, size) for bank, size in enumerate(total) if size)

    def _held(self, low: int, high: int) -> Sequence[int]:
        """How many of the bytes from `low` to `high` each bank holds."""
        block, period = self._interleave, self._interleave * self._banks

        def below(end: int, bank: int) -> int:
            return end // period * block + min(max(end % period - bank * block, 0), block)

        return [below(high, bank) - below(low, bank) for bank in range(self._banks)]
