"""The memory controller of one channel: two buffers, FR-FCFS in two command slots a tick, all-bank refresh.

Each tick has a column slot (RD, WR) and then a row slot (ACT, PRE, PREA, REF). A request whose own ACT has been issued
leaves its buffer for the active ones, which hold their bank open until they are served. In both slots the oldest
request that is ready goes first; rows stay open until a conflict or a refresh. Writes wait until they fill `WRITE_HIGH`
of their buffer, or no read waits, and are then drained down to `WRITE_LOW`.

HBM3 issues on both edges of CK: RD, WR, ACT and REF at odd ticks, PRE and PREA at any. JEDEC's rule for row commands
paired within a CK needs no code: tRAS, tPPD and tRFC of at least a CK each already keep apart what it does.

Nothing can happen in a tick in which no request arrives, no gap ends and no refresh falls due, and which follows no
tick with a command; `next_tick` says which to look at, so that the others are skipped.
"""

from __future__ import annotations

from bisect import insort
from fractions import Fraction
from heapq import heappop, heappush
from math import ceil

from kpusim.dram.buffer import NONE, Buffer
from kpusim.dram.requests import Requests
from kpusim.dram.timing import Timing
from kpusim.machine.dram import Dram

__all__ = ["Controller"]

WRITE_HIGH = Fraction(8, 10)
WRITE_LOW = Fraction(2, 10)
"""Parts of the write buffer, as Ramulator 2's defaults."""

FORWARDED_TICKS = 1
"""From the arrival of a read to its data, where a buffered write has it."""

NEVER = 1 << 62


class Controller:
    """One channel that serves requests. Between ticks it is offered some (`offer`), then it takes a step (`tick`).

    accepted: tick after which a request came in. issued: tick of its RD or WR. done: tick at which a read's data is
    complete (NONE: not yet). row_hits, row_misses, row_conflicts: requests by their first command (RD or WR, ACT, PRE).
    """

    def __init__(self, dram: Dram, queue: int, requests: Requests):
        self.accepted = [NONE] * len(requests)
        self.issued = [NONE] * len(requests)
        self.done = [NONE] * len(requests)
        self.row_hits = self.row_misses = self.row_conflicts = self.reads_issued = self.columns_issued = 0
        self._banks, self._rows, self._writes = requests.banks, requests.rows, requests.writes
        self._addresses, self._queue, self._dram = requests.addresses, queue, dram
        self._read_ticks = dram.read_ticks
        self._timing = Timing(dram)
        banks = self._timing.pseudochannel
        self._buffers = Buffer(requests.rows, requests.banks, banks), Buffer(requests.rows, requests.banks, banks)
        self._high, self._low = int(queue * WRITE_HIGH), ceil(queue * WRITE_LOW)
        self._draining = False  # writes
        self._resized = True  # buffers since they were last asked whether to turn
        self._forwards: set[int] = set()  # addresses of buffered writes
        self._opening: list[tuple[int, int]] = []  # heap of (tick, request): active, ready for its column from then on
        self._active: list[int] = []  # ready, sorted by age
        self._age = [(NONE, NONE)] * len(requests)  # of active requests: (accepted, tick of ACT)
        self._counted = bytearray(len(requests))
        self._open_row = [NONE] * len(banks)
        self._held = [False] * len(banks)
        self._refreshes: list[int] = []  # pseudo-channels that are due
        self._next_refresh = dram.refresh_ticks
        self._odd = int(dram.both_edges)
        self._column_wake = self._opener_wake = self._conflict_wake = 0  # nothing is ready before

    def offer(self, request: int, tick: int) -> bool:
        """Offers the next request between a tick and the one behind; False if its buffer is full."""
        write, addresses = self._writes[request], self._addresses
        if self._forwards and addresses is not None and addresses[request] in self._forwards:
            if not write:
                self.done[request] = tick + FORWARDED_TICKS
            self.accepted[request] = tick
            return True
        buffer = self._buffers[write]
        if buffer.size == self._queue:
            return False
        bank = self._banks[request]
        buffer.add(request, self._open_row[bank], self._held[bank])
        self._resized = True
        self._wake(request)
        if write and addresses is not None:
            self._forwards.add(addresses[request])
        self.accepted[request] = tick
        return True

    def tick(self, tick: int) -> None:
        """One step; ticks ascend."""
        if tick == self._next_refresh:
            self._next_refresh += self._dram.refresh_ticks
            self._refreshes += range(self._dram.organisation.pseudochannels)
            self._opener_wake = tick
        if self._resized:
            self._turn()
        if tick >= self._column_wake:
            self._column(tick)
            if self._resized:
                self._turn()
        if tick >= self._opener_wake or tick >= self._conflict_wake:
            self._row(tick)

    def next_tick(self, tick: int) -> int:
        """The tick to look at after this one and the offers behind it, if there is no other offer."""
        if self._resized and self._turns():
            return tick + 1
        wake, following = self._next_refresh, tick + 1
        if self._column_wake < wake:
            wake = self._column_wake
        if self._opener_wake < wake:
            wake = self._opener_wake
        if self._conflict_wake < wake:
            wake = self._conflict_wake
        return wake if wake > following else following

    def _wake(self, request: int) -> None:
        """Looks again as soon as a request that came in may be allowed what it needs."""
        timing, bank = self._timing, self._banks[request]
        if self._open_row[bank] == NONE:
            self._opener_wake = min(self._opener_wake, timing.bank_activate[bank])
        elif self._open_row[bank] == self._rows[request]:
            self._column_wake = min(self._column_wake, timing.bank_column[self._writes[request]][bank])
        else:
            self._conflict_wake = min(self._conflict_wake, timing.bank_precharge[bank])

    def _wake_all(self) -> None:
        self._column_wake = self._opener_wake = self._conflict_wake = 0

    def _turns(self) -> bool:
        """Whether the buffers' sizes say to turn to the writes, or back; not while a refresh is due."""
        if self._refreshes:
            return False
        reads, writes = self._buffers
        if self._draining:
            return reads.size > 0 and writes.size < self._low
        return not reads.size or writes.size > self._high

    def _turn(self) -> None:
        """Turns to the writes, or back, if need be."""
        if self._turns():
            self._draining = not self._draining
            self._wake_all()
        self._resized = bool(self._refreshes)

    def _column(self, tick: int) -> None:
        """The column slot: of the active requests the oldest that is ready, else of the buffer's hits."""
        if tick < self._timing.column_bus or (self._odd and not tick & 1):
            self._column_wake = max(tick + 1, self._timing.column_bus) | self._odd
            return
        opening, active = self._opening, self._active
        while opening and opening[0][0] <= tick:
            insort(active, heappop(opening)[1], key=self._age.__getitem__)
        self._column_wake = opening[0][0] if opening else NEVER
        request = self._first_column(active, tick)
        if request != NONE:
            active.remove(request)
            self._issue(request, tick)
            self._release(self._banks[request])
        elif not self._refreshes:
            buffer = self._buffers[self._draining]
            request = self._first_column(buffer.hits, tick)
            if request != NONE:
                self._leave(request)
                buffer.take_hit(request)
                self.row_hits += self._first_command(request)
                self._issue(request, tick)
        self._column_wake |= self._odd

    def _first_column(self, requests: list[int], tick: int) -> int:
        """The first request whose RD or WR is allowed, or NONE; then wakes when the first one will be."""
        timing, banks, writes = self._timing, self._banks, self._writes
        group, rank = timing.group, timing.rank
        wake = self._column_wake
        for request in requests:
            bank, write = banks[request], writes[request]
            ready = timing.bank_column[write][bank]
            limit = timing.group_column[write][group[bank]]
            if ready < limit:
                ready = limit
            limit = timing.rank_column[write][rank[bank]]
            if ready < limit:
                ready = limit
            if ready <= tick:
                return request
            if ready < wake:
                wake = ready
        self._column_wake = wake
        return NONE

    def _issue(self, request: int, tick: int) -> None:
        """RD or WR of a request."""
        bank = self._banks[request]
        self.issued[request] = tick
        if self._writes[request]:
            self._timing.on_write(tick, bank)
        else:
            self._timing.on_read(tick, bank)
            self.done[request] = tick + self._read_ticks
            self.reads_issued += 1
        self.columns_issued += 1
        if self._active or self._buffers[self._draining].hits:
            self._column_wake = self._timing.column_bus

    def _release(self, bank: int) -> None:
        """The request that a bank was activated for has been served."""
        self._held[bank] = False
        for buffer in self._buffers:
            buffer.release(bank)
        self._conflict_wake = min(self._conflict_wake, self._timing.bank_precharge[bank])

    def _leave(self, request: int) -> None:
        """A request leaves its buffer: a write there no longer answers reads."""
        self._resized = True
        if self._writes[request] and self._addresses is not None:
            self._forwards.discard(self._addresses[request])

    def _first_command(self, request: int) -> bool:
        """Whether this is the first command for a request; it is counted only then."""
        if self._counted[request]:
            return False
        self._counted[request] = True
        return True

    def _row(self, tick: int) -> None:
        """The row slot: what a refresh needs, else ACT or PRE for the oldest request that is ready."""
        if tick < self._timing.row_bus:
            self._wait_for_bus()
            return
        if self._refreshes:
            self._opener_wake = self._conflict_wake = NEVER
            self._refresh(tick)
            return
        buffer = self._buffers[self._draining]
        opener = self._first_opener(buffer.openers, tick) if tick >= self._opener_wake else NONE
        conflict = self._first_conflict(buffer.conflicts, tick) if tick >= self._conflict_wake else NONE
        if opener != NONE and (conflict == NONE or opener < conflict):
            self._activate(opener, tick)
        elif conflict != NONE:
            self._precharge(conflict, tick)
        self._wait_for_bus()

    def _wait_for_bus(self) -> None:
        """Nothing in the row slot before its bus is free."""
        bus = self._timing.row_bus
        if self._opener_wake < bus:
            self._opener_wake = bus | self._odd
        if self._conflict_wake < bus:
            self._conflict_wake = bus

    def _first_opener(self, openers: list[list[int]], tick: int) -> int:
        """The first request whose ACT is allowed, or NONE; then wakes when there may be one."""
        timing, banks, found, wake = self._timing, self._banks, NONE, NEVER
        if self._odd and not tick & 1:
            self._opener_wake = tick + 1
            return NONE
        for pseudochannel, requests in enumerate(openers):
            limit = timing.activate[pseudochannel]
            if limit > tick:
                if requests and limit < wake:
                    wake = limit
                continue
            for request in requests:
                bank = banks[request]
                ready = timing.bank_activate[bank]
                limit = timing.group_activate[timing.group[bank]]
                if ready < limit:
                    ready = limit
                if ready <= tick:
                    if found == NONE or request < found:
                        found = request
                    break
                if ready < wake:
                    wake = ready
        self._opener_wake = wake | self._odd if found == NONE else tick
        return found

    def _first_conflict(self, conflicts: list[list[int]], tick: int) -> int:
        """The first request whose PRE is allowed, or NONE; then wakes when there may be one."""
        ready_at, banks, found, wake = self._timing.bank_precharge, self._banks, NONE, NEVER
        for pseudochannel, requests in enumerate(conflicts):
            limit = self._timing.precharge[pseudochannel]
            if limit > tick:
                if requests and limit < wake:
                    wake = limit
                continue
            for request in requests:
                ready = ready_at[banks[request]]
                if ready <= tick:
                    if found == NONE or request < found:
                        found = request
                    break
                if ready < wake:
                    wake = ready
        self._conflict_wake = wake if found == NONE else tick
        return found

    def _activate(self, request: int, tick: int) -> None:
        bank, row = self._banks[request], self._rows[request]
        self._timing.on_activate(tick, bank)
        self._leave(request)
        self._open_row[bank] = row
        self._held[bank] = True
        reads, writes = self._buffers
        reads.open(bank, row, not self._draining)
        writes.open(bank, row, self._draining)
        ready = self._timing.bank_column[self._writes[request]][bank]
        self._age[request] = self.accepted[request], tick
        heappush(self._opening, (ready, request))
        self.row_misses += self._first_command(request)
        self._column_wake = min(self._column_wake, ready)

    def _precharge(self, request: int, tick: int) -> None:
        bank = self._banks[request]
        self._timing.on_precharge(tick, bank)
        self._close(bank)
        self._opener_wake = min(self._opener_wake, self._timing.bank_activate[bank])
        self.row_conflicts += self._first_command(request)

    def _close(self, bank: int) -> None:
        self._open_row[bank] = NONE
        for buffer in self._buffers:
            buffer.close(bank)

    def _refresh(self, tick: int) -> None:
        """PREA or REF for the first pseudo-channel that is due; PREA waits for its active requests."""
        timing, pseudochannel = self._timing, self._refreshes[0]
        banks = [bank for bank, each in enumerate(timing.pseudochannel) if each == pseudochannel]
        opened = [bank for bank in banks if self._open_row[bank] != NONE]
        if any(self._held[bank] for bank in opened):
            return  # their release wakes the slot
        ready = timing.precharge_all(pseudochannel) if opened else timing.refresh(pseudochannel)
        if not opened:
            ready = max(ready, tick) | self._odd
        if ready > tick:
            self._opener_wake = ready
            return
        if opened:
            timing.on_precharge_all(tick, pseudochannel)
            for bank in opened:
                self._close(bank)
        else:
            timing.on_refresh(tick, pseudochannel)
            del self._refreshes[0]
        self._wake_all()
