"""HBM: channels with banks and open rows, each a reservation of its data bus made when a request arrives.

Addresses interleave over all channels in blocks; the `rotate` hash shifts the channel of every further stripe of blocks
by one, so that power-of-two pitches spread. A row hit costs its bursts on the bus; a miss also opens its row, which is
limited by the gap between two activations of a channel and waits for its bank, while the bus goes on with other requests
(the controller reorders).
Refresh takes its share (tRFC / tREFI) off the bus rate. All rows are closed at the start of a program and at a barrier.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from kpusim.machine import Machine

__all__ = ["Hbm", "Segment"]

Segment = tuple[int, int, int, int]
"""(address, count, pitch, length): `count` runs of `length` bytes, `pitch` bytes from one start to the next."""


class Hbm:
    """Next-free times of every channel's bus, activation slot and banks, in ticks of 1/`ticks` cycle."""

    def __init__(self, machine: Machine):
        hbm = machine.hbm
        self._channels = hbm.channel_count
        self._interleave, self._access = hbm.interleave_bytes, hbm.access_bytes
        self._blocks_per_row = hbm.row_bytes // hbm.interleave_bytes
        self._banks = hbm.banks
        self._rotate = hbm.hash == "rotate"
        self._turns = self._blocks_per_row * self._banks
        burst = Fraction(hbm.access_bytes) / (hbm.attainable_bytes_per_cycle / self._channels)
        self.ticks = burst.denominator
        self._burst = burst.numerator
        self._activate = (hbm.precharge_cycles + hbm.row_activate_cycles) * self.ticks
        self._activate_gap = hbm.activate_gap_cycles * self.ticks
        self._latency = hbm.read_cycles + hbm.controller_cycles
        self._bus = [0] * self._channels
        self._activations = [0] * self._channels
        self._bank_free = [0] * (self._channels * self._banks)
        self._open_row = [-1] * (self._channels * self._banks)
        self.bytes_read = self.bytes_written = self.row_hits = self.row_misses = 0

    def close_rows(self) -> None:
        """Closes every row: the state at the start of a program and after a barrier."""
        self._open_row = [-1] * len(self._open_row)

    def access(self, segments: Iterable[Segment], now: int, write: bool) -> int:
        """Reserves what `segments` need from cycle `now` on: the cycle at which all data is back (or written).

        Counts whole accesses in `bytes_read` or `bytes_written`.
        """
        interleave, access = self._interleave, self._access
        last = arrival = now * self.ticks
        accesses = 0
        for address, count, pitch, length in segments:
            for start in range(address, address + count * pitch, pitch):
                at, end = start // access * access, start + length
                while at < end:
                    block = at // interleave
                    stop = (block + 1) * interleave
                    bursts = -(-((stop if stop < end else end) - at) // access)
                    accesses += bursts
                    done = self._burst_group(block, bursts, arrival)
                    if done > last:
                        last = done
                    at = stop
        if write:
            self.bytes_written += accesses * access
        else:
            self.bytes_read += accesses * access
        return -(-last // self.ticks) + self._latency

    def _burst_group(self, block: int, bursts: int, arrival: int) -> int:
        """Reserves the bursts of one request to one row; returns the tick at which the last has left the bus."""
        stripe, channel = divmod(block, self._channels)
        if self._rotate:
            channel = (channel + stripe % self._turns) % self._channels
        row = stripe // self._blocks_per_row
        bank = channel * self._banks + row % self._banks
        start = self._bus[channel]
        if start < arrival:
            start = arrival
        time = bursts * self._burst
        self._bus[channel] = start + time
        if self._open_row[bank] == row:
            self.row_hits += 1
            return start + time
        self.row_misses += 1
        self._open_row[bank] = row
        activation = max(arrival, self._activations[channel], self._bank_free[bank])
        self._activations[channel] = activation + self._activate_gap
        end = max(start, activation + self._activate) + time
        self._bank_free[bank] = end
        return end
