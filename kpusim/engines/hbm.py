"""HBM: channels with a bus, banks with open rows, and a rate of openings, each a reservation made as requests arrive.

The default level of the model; `kpusim.dram` is its reference, burst by burst. A chunk is one request. In each of its
channels it takes its bursts on the bus, from when its first row there is open. A row is opened at the rate that tRRD
and tFAW allow, once the bank is done with the row before, and no earlier than the controller looks ahead: when its
read buffer (`hbm.queue`) takes up what it opens the row for. While a bank opens, the bus serves others, as a
controller does that takes ready requests first.

Writing is done when the write buffer has taken it; every burst pays its part of the turnarounds of draining the
buffer. A refresh stops all channels at once and closes their rows: reservations count time without refreshes. Rows are
closed at the start of a program and at a barrier, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kpusim.engines.footprint import Footprint, Ints, footprint, locate, timing_of
from kpusim.machine import Machine

if TYPE_CHECKING:
    from kpusim.engines.transfer import Chunk

__all__ = ["Hbm"]

ROWS = 1 << 40  # more than a bank has: a row has another number after each refresh
KEPT = 1024  # chosen: footprints of one chunk; the boxes of a tensor begin at a few hundred places

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.intp]


class Hbm:
    """What is known of every resource of the HBM (`Footprint` numbers them), a column each, in ticks."""

    def __init__(self, machine: Machine):
        hbm = self._hbm = machine.hbm
        self._timing = timing_of(hbm)
        channels, self._banks = hbm.channel_count, hbm.separate_banks
        resources = channels * (2 + self._banks)
        self._free, self._closing, self._held = (np.zeros(resources, np.int64) for _ in range(3))
        self._open, self._former = (np.full(resources, -1, np.int64) for _ in range(2))
        self._latest_held = self._busiest = 0  # of all resources
        self._ahead = hbm.queue * self._timing.burst
        self._period = hbm.alignment_bytes // hbm.interleave_bytes * (self._banks if hbm.hash == "xor" else 1)
        self._turned: dict[int, Numbers] | None = {} if hbm.hash == "rotate" else None
        self._now, self._row = np.zeros((), np.int64), np.zeros((), np.int64)
        self._precharge, self._opening, self._looks_ahead = map(
            np.array, (self._timing.precharge, self._timing.opening, self._ahead)
        )
        self._refreshes = self._opened = 0  # refreshes so far, and rows that they and barriers closed
        self.bytes_read = self.bytes_written = self.row_hits = self.row_misses = 0

    @property
    def pattern(self) -> list[int]:
        """The channel of each interleave block, from address 0 until it repeats."""
        channels: list[int] = locate(np.arange(self._period), self._hbm)[0].tolist()
        return channels

    @property
    def row_conflicts(self) -> int:
        """Those of `row_misses` that found another row of their bank open."""
        return self.row_misses - self._opened - self._open_rows()

    def close_rows(self) -> None:
        """Closes every row: the state at the start of a program and after a barrier."""
        self._opened += self._open_rows()
        self._open.fill(-1)
        self._former.fill(-1)

    def access(self, chunk: Chunk, base: int, now: int, write: bool) -> int:
        """Reserves what a chunk, counted from block `base`, needs from cycle `now` on: when all is back (or accepted).

        Counts whole accesses in `bytes_read` or `bytes_written`, and accesses to open and closed rows. The simulator's
        hottest function: a few operations, each on all of a chunk's channels or banks at once.
        """
        row, place = divmod(base, self._period)
        shape = chunk.places.get(place)
        if shape is None:
            shape = self._footprint(chunk, place)
        time = self._between(now * self._timing.ticks)
        resources = shape.resources if self._turned is None else self._turn(row % self._banks)[shape.resources]
        banks, ends = resources[shape.channels : shape.channels + shape.banks], self._free[resources]
        self._now[()] = time
        np.maximum(ends, self._now, out=ends)
        closed, former = self._rows(shape, row + self._refreshes * ROWS, banks)
        if former is not None:
            ready = ends[shape.channels : shape.channels + shape.banks]
            reserved = ready[former]
            ready[former] = time
        last = self._serve(shape, ends, closed, banks, time, write)
        if former is not None:
            ready[former] = reserved
        self._free[resources] = ends
        self._busiest = max(self._busiest, last)
        misses = int(np.count_nonzero(closed)) + shape.further
        self.row_misses += misses
        self.row_hits += shape.accesses - misses
        if write:
            self.bytes_written += shape.accesses * self._hbm.access_bytes
            done = self._cycle(last - shape.buffered, 0)
        else:
            self.bytes_read += shape.accesses * self._hbm.access_bytes
            done = self._cycle(last, self._timing.latency)
        return max(now + self._hbm.controller_cycles, done)

    def _serve(self, shape: Footprint, ends: Ints, closed: Bools, banks: Numbers, time: int, write: bool) -> int:
        """Moves `ends`, when resources are free, behind a chunk; the tick at which its last burst is over."""
        several, backlog = shape.several, self._busiest > time + self._ahead
        bus, ready = ends[: shape.channels], ends[shape.channels : shape.channels + shape.banks]
        if backlog:
            ready += closed * self._precharge
            np.maximum(ready, self._of_banks(bus - self._looks_ahead, shape), out=ready)
        self._open_closed(shape, ends, closed, banks, time)
        if shape.activate is None:
            np.maximum(bus, ready, out=bus)
        else:
            filled = np.minimum(self._of_banks(bus - self._now, shape), shape.others)
            np.subtract(ready, filled, out=filled)
            np.maximum(bus, filled if several is None else np.minimum.reduceat(filled, several.first), out=bus)
        ends += shape.written if write else shape.work
        if backlog and shape.long:
            np.maximum(ready, self._of_banks(bus, shape) - shape.others, out=ready)
        if write:
            drain = closed * shape.drain
            bus += drain if several is None else np.add.reduceat(drain, several.first)
            self._hold(banks, ready + self._timing.recovery)
        elif shape.rest is not None:
            self._hold(banks, ready + closed * shape.rest)
        return int(np.maximum.reduce(ends if shape.activate is None else ends[: shape.channels + shape.banks]))

    def _turn(self, turn: int) -> Numbers:
        """The number of every resource where the row of a base turns the banks so far."""
        assert self._turned is not None
        if turn not in self._turned:
            channels = self._hbm.channel_count
            numbers = np.arange(channels * (2 + self._banks))
            of_banks = numbers[channels:-channels].reshape(channels, self._banks)
            turned = np.roll(of_banks, -turn, 1).ravel()
            self._turned[turn] = np.concatenate((numbers[:channels], turned, numbers[-channels:]))
        return self._turned[turn]

    def _footprint(self, chunk: Chunk, place: int) -> Footprint:
        if len(chunk.places) >= KEPT:
            chunk.places.clear()
        shape = chunk.places[place] = footprint(chunk.runs, place, self._hbm, self._timing)
        return shape

    def _rows(self, shape: Footprint, row: int, banks: Numbers) -> tuple[Bools, Bools | None]:
        """(banks whose rows are to be opened, and are the open ones from here on; those in `former`).

        `former`: banks that are wanted with the row which they had before their last opening, and still have: such
        requests overtake what the bank will open next. None where there are none.
        """
        self._row[()] = row
        wanted = shape.rows + self._row
        current, before = self._open[banks], self._former[banks]
        closed: Bools = current != wanted
        former: Bools = before == wanted
        opened = wanted if shape.last is shape.rows else shape.last + self._row
        found = np.count_nonzero(former)
        if found:
            former &= closed
            former &= self._closing[banks] > self._now
            found = np.count_nonzero(former)
        if found:
            closed &= ~former
            opened = np.where(former, current, opened)
        self._open[banks] = opened
        np.copyto(before, current, where=closed)
        self._former[banks] = before
        return closed, former if found else None

    def _of_banks(self, channels: Ints, shape: Footprint) -> Ints:
        """What is known of a chunk's channels, for each of its banks."""
        return channels if shape.several is None else channels[shape.several.channel]

    def _open_closed(self, shape: Footprint, ends: Ints, closed: Bools, banks: Numbers, time: int) -> None:
        """Moves when banks are free to when their closed rows are open."""
        several, ready = shape.several, ends[shape.channels : shape.channels + shape.banks]
        if self._latest_held > time:
            np.maximum(ready, self._held[banks] * closed, out=ready)
        if shape.activate is not None:
            rates, taken = ends[shape.channels + shape.banks :], shape.activate * closed
            if several is None:
                np.maximum(ready, rates * closed, out=ready)
                rates += taken
            else:
                until = np.cumsum(taken)
                waited = rates[several.channel] + until - taken - (until - taken)[several.first][several.channel]
                np.maximum(ready, waited * closed, out=ready)
                rates += np.add.reduceat(taken, several.first)
        closing = self._closing[banks]
        np.copyto(closing, ready, where=closed)
        self._closing[banks] = closing
        ready += closed * self._opening

    def _hold(self, banks: Numbers, until: Ints) -> None:
        """Opens no other row of these banks before."""
        np.maximum(until, self._held[banks], out=until)
        self._held[banks] = until
        self._latest_held = max(self._latest_held, int(np.maximum.reduce(until)))

    def _open_rows(self) -> int:
        return int(np.count_nonzero(self._open >= self._refreshes * ROWS))

    def _between(self, tick: int) -> int:
        """A tick in time without refreshes; during one, it stands still."""
        timing = self._timing
        refreshes = tick // timing.interval if timing.refresh else 0
        if not refreshes:
            return tick
        if refreshes > self._refreshes:
            self._opened += self._open_rows()
            self._refreshes = refreshes
        return max(tick, refreshes * timing.interval + timing.refresh) - refreshes * timing.refresh

    def _cycle(self, time: int, latency: int) -> int:
        """The core cycle of a time without refreshes, `latency` ticks and the controller behind it."""
        timing = self._timing
        if timing.refresh and time > timing.interval:
            time += timing.refresh * (1 + (time - timing.interval - 1) // (timing.interval - timing.refresh))
        return -(-(time + latency) // timing.ticks) + self._hbm.controller_cycles
