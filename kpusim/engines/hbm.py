"""HBM: channels with banks and open rows, each a reservation of its data bus made when a request arrives.

Addresses interleave over all channels in blocks; the `rotate` hash shifts the channel of every further stripe of
blocks by one, so that power-of-two pitches spread. A row hit takes its bursts on the bus; a miss takes at least the gap
between two activations of a channel, and its data comes after its row has been opened, while the bus goes on with other
requests (the controller reorders). Refresh takes its share (tRFC / tREFI) off the bus rate. All rows are closed at the
start of a program and at a barrier. Conflicts of two rows of one bank (tRC), turnaround and finite queues are not
modelled.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from kpusim.machine import Machine

if TYPE_CHECKING:
    from kpusim.engines.transfer import Chunk

__all__ = ["Hbm", "Run"]

Run = tuple[int, int, int, int]
"""(block, count, step, bursts): `count` interleave blocks, `step` apart, and the bursts that are wanted of each."""


class Hbm:
    """Next-free times of every channel's bus, in ticks of 1/`ticks` cycle, and the open row of every bank.

    The pattern of channels and banks repeats after one row of every bank (`machine.hbm.alignment_bytes`), so a block's
    place in it is looked up, and the number of the repetition is its row.
    """

    def __init__(self, machine: Machine):
        hbm = machine.hbm
        channels, banks = hbm.channel_count, hbm.banks
        self._access = hbm.access_bytes
        burst = Fraction(hbm.access_bytes) / (hbm.attainable_bytes_per_cycle / channels)
        self.ticks = burst.denominator
        self._burst = burst.numerator
        self._opening = (hbm.precharge_cycles + hbm.row_activate_cycles) * self.ticks
        self._activate_gap = hbm.activate_gap_cycles * self.ticks
        self._latency = hbm.read_cycles + hbm.controller_cycles
        self._bus = [0] * channels
        self._open_row = [-1] * (channels * banks)
        stripes = hbm.row_bytes // hbm.interleave_bytes * banks
        shift = 1 if hbm.hash == "rotate" else 0
        places = [(stripe, index) for stripe in range(stripes) for index in range(channels)]
        self._channel = [(index + stripe * shift) % channels for stripe, index in places]
        self._bank = [c * banks + s * banks // stripes for c, (s, _) in zip(self._channel, places, strict=True)]
        self.bytes_read = self.bytes_written = self.row_hits = self.row_misses = 0

    @property
    def pattern(self) -> list[int]:
        """The channel of each interleave block, from address 0 until it repeats."""
        return self._channel

    def close_rows(self) -> None:
        """Closes every row: the state at the start of a program and after a barrier."""
        self._open_row = [-1] * len(self._open_row)

    def access(self, chunk: Chunk, base: int, now: int, write: bool) -> int:
        """Reserves what a chunk, counted from block `base`, needs from cycle `now` on: when all is back (or written).

        Counts whole accesses in `bytes_read` or `bytes_written`, and accesses to open and closed rows. The loop over
        blocks is the simulator's hottest: hence one function, local names and no calls.
        """
        channels, banks, bus, open_row = self._channel, self._bank, self._bus, self._open_row
        period, ticks = len(channels), self.ticks
        last = arrival = now * ticks
        accesses = misses = 0
        for block, count, step, bursts in chunk.runs:
            row, place = divmod(base + block, period)
            hit_time = bursts * self._burst
            miss_time = max(hit_time, self._activate_gap)
            accesses += count * bursts
            before = misses
            while count:
                part = min(count, -((place - period) // step))
                stop = place + part * step
                for channel, bank in zip(channels[place:stop:step], banks[place:stop:step], strict=True):
                    end = bus[channel]
                    if end < arrival:
                        end = arrival
                    if open_row[bank] == row:
                        end += hit_time
                    else:
                        open_row[bank] = row
                        misses += 1
                        end += miss_time
                    bus[channel] = end
                    if end > last:
                        last = end
                count -= part
                skipped, place = divmod(stop, period)
                row += skipped
            if misses > before:
                last = max(last, arrival + self._opening + hit_time)
        self.row_misses += misses
        self.row_hits += accesses - misses
        if write:
            self.bytes_written += accesses * self._access
        else:
            self.bytes_read += accesses * self._access
        return -(-last // ticks) + self._latency
