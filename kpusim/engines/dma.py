"""DMA engines: in-order queues whose transfers an engine serves chunk by chunk.

A queue issues one instruction at a time: it takes its waits, is set up, and goes on to the next when the engine has
taken its last chunk, so that transfers of one queue overlap. The engine takes a chunk every size / rate cycles from the
queue whose turn it is (see `arbiter`), as long as the bytes that its chunks have under way stay within its limit; who
is next waits for room. The `read` and the `done` instants of a queue's transfers are each in order, and nothing is done
before the engine is through with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from heapq import heappop, heappush
from math import lcm

from attrs import define, field

from kpusim.engines.arbiter import Arbiter
from kpusim.engines.fabric import Fabric
from kpusim.engines.kernel import Phase
from kpusim.engines.sequencer import Sequencer
from kpusim.engines.stalls import BARRIER, ENGINE, MEMORY
from kpusim.engines.transfer import NOTHING, Chunk, Transfer
from kpusim.isa.walk import Step
from kpusim.machine import Machine

__all__ = ["DmaEngine", "DmaQueue", "Entry"]


@define(eq=False)
class Entry:
    """An issued instruction of a queue until it has completed."""

    step: Step
    start: int
    released: int  # the latest token it took
    stalls: list[int]  # cycles by cause
    ordinal: int
    transfer: Transfer
    granted: int = 0  # chunks the engine has taken
    sent: int = 0  # chunks that have left their source, or are about to
    returned: int = 0  # chunks whose data is where it belongs, or on its way there
    end: int = 0  # the engine is through with its last chunk
    read: int = 0  # its source is free, as far as known
    left: bool = False  # all of it has left its source, at cycle `read`
    arrivals: list[int] = field(factory=list)  # cycle of visibility, by destination

    @property
    def complete(self) -> bool:
        """Whether nothing is left but to signal."""
        return self.returned == len(self.transfer.chunks)


Leg = Callable[["DmaQueue", Entry, Chunk, int], None]
"""A part of a chunk's way, from a cycle on."""


class DmaEngine:
    """One engine: it grants chunks of its queues, one by one."""

    def __init__(self, number: int, machine: Machine, fabric: Fabric):
        dma = machine.dma
        self.number = number
        self._kernel, self._memory, self._network = fabric.kernel, fabric.memory, fabric.network
        self._sram, self._edges, self._translation = fabric.sram, fabric.edges, fabric.translation
        self._limit = dma.outstanding_bytes
        self._ticks = lcm(dma.bytes_per_cycle.numerator, dma.rows_per_cycle.numerator)
        self._byte_ticks = int(self._ticks / Fraction(dma.bytes_per_cycle))
        self._descriptor_ticks = int(self._ticks / Fraction(dma.rows_per_cycle))
        self._free = 0
        self._outstanding = 0
        self._releases: list[tuple[int, int]] = []  # heap of (cycle, bytes) that are under way until then
        self._blocked_since = -1
        self._armed = -1
        self._turns: Arbiter[DmaQueue] = Arbiter()

    def ask(self, queue: DmaQueue, time: int) -> None:
        """`queue` has chunks to grant from cycle `time` on."""
        self._turns.ask(queue, time)
        self._arm(time)

    def _arm(self, time: int) -> None:
        """Looks for a chunk to grant at `time` or as soon as the engine is free."""
        free = self._free // self._ticks
        if time < free:
            time = free
        if self._armed < 0 or time < self._armed:
            self._armed = time
            self._kernel.at(time, Phase.GRANT, self.number, lambda: self._grant(time))

    def _grant(self, time: int) -> None:
        """Grants the next chunk of the queue whose turn it is, if the limit of outstanding bytes allows."""
        if self._armed != time:
            return  # an earlier event has taken its place
        self._armed = -1
        turns = self._turns
        queue = turns.next(time)
        if queue is None or self._has_room(queue, time):
            if queue is not None:
                self._serve(queue, time)
            again = turns.soonest(time)
        else:
            again = turns.newcomer()  # whose turn may come before
        if again is not None:
            self._arm(again)

    def _has_room(self, queue: DmaQueue, now: int) -> bool:
        """Whether the next chunk of `queue` may go under way; if not, the engine waits for the next release."""
        assert queue.head is not None
        releases = self._releases
        while releases and releases[0][0] <= now:
            self._outstanding -= heappop(releases)[1]
        size = queue.head.transfer.chunks[queue.head.granted].size
        if not self._outstanding or self._outstanding + size <= self._limit:
            return True
        if self._blocked_since < 0:
            self._blocked_since = now
        if releases:
            self._arm(releases[0][0])
        return False

    def _serve(self, queue: DmaQueue, now: int) -> None:
        """Takes the next chunk of `queue`; with the last one, the queue goes on to its next instruction."""
        entry = queue.head
        assert entry is not None
        chunk = entry.transfer.chunks[entry.granted]
        waited = max(now - queue.served, 0)
        blocked = min(now - self._blocked_since, waited) if self._blocked_since >= 0 else 0
        entry.stalls[MEMORY] += blocked
        entry.stalls[ENGINE] += waited - blocked
        self._blocked_since = -1
        self._outstanding += chunk.size
        ticks = max(chunk.size * self._byte_ticks, chunk.descriptors * self._descriptor_ticks)
        self._free = max(self._free, now * self._ticks) + ticks
        queue.served = entry.end = -(-self._free // self._ticks)
        entry.granted += 1
        self._send(queue, entry, chunk, now)
        more = entry.granted < len(entry.transfer.chunks)
        self._turns.served(chunk.size, more)
        if not more:
            queue.head, queue.clock = None, entry.end
            queue.fetch()

    def _send(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """The first leg of a chunk: HBM for a load, SRAM and NoC for a store or a copy."""
        transfer = entry.transfer
        if transfer.kind == "load":
            self._translated(queue, entry, chunk, now, self._load)
            return
        leaves = now if self._sram is None else self._sram.read(transfer, chunk, now)
        if leaves > now:
            self._kernel.at(leaves, Phase.RETURN, queue.unit, lambda: self._leave(queue, entry, chunk, leaves))
        else:
            self._leave(queue, entry, chunk, now)

    def _translated(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int, then: Leg) -> None:
        """Goes on with `then` once it is known where a chunk's bytes are."""
        known = self._translation.after(chunk, entry.transfer.base, now)
        if known > now:
            self._kernel.at(known, Phase.GRANT, self.number, lambda: then(queue, entry, chunk, known))
        else:
            then(queue, entry, chunk, now)

    def _load(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """A load asks the HBM for a chunk."""
        if self._edges is None:
            back = self._memory.access(chunk, entry.transfer.base, now, write=False)
            self._kernel.at(back, Phase.RETURN, queue.unit, lambda: self._loaded(queue, entry, chunk, back))
        else:
            then = partial(self._loaded, queue, entry, chunk)
            self._edges.read(self.number, queue.unit, chunk, entry.transfer.base, now, then)

    def _leave(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """The data of a store or a copy sets out from its tile."""
        transfer, network = entry.transfer, self._network
        copy = transfer.kind == "copy"
        route = (
            network.copy_route(transfer.source, transfer.tiles)
            if copy
            else network.store_route(transfer.source, self.number)
        )
        _, free, arrivals = network.reserve(route, now, chunk.size)
        queue.source_free(entry, free)
        if copy:
            if self._sram is not None:
                arrivals = self._sram.write(transfer, chunk, arrivals)
            self._release(chunk.size, max(arrivals))
            queue.arrived(entry, arrivals)
        else:
            at = arrivals[0]
            then = partial(self._translated, queue, entry, chunk, at, self._stored)
            self._kernel.at(at, Phase.RETURN, queue.unit, then)

    def _loaded(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """A load's data has come from HBM and sets out for its tiles."""
        route = self._network.load_route(self.number, entry.transfer.tiles)
        leaves, _, arrivals = self._network.reserve(route, now, chunk.size)
        self._release(chunk.size, leaves)
        if self._sram is not None:
            arrivals = self._sram.write(entry.transfer, chunk, arrivals)
        queue.arrived(entry, arrivals)

    def _stored(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """A store's data has come from its tile."""
        if self._edges is None:
            self._written(queue, entry, chunk, now)
        else:
            then = partial(self._written, queue, entry, chunk)
            self._edges.write(self.number, queue.unit, chunk, entry.transfer.base, now, then)

    def _written(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """A store's data has reached HBM, which an addition reads first."""
        if entry.transfer.kind == "add":
            read = self._memory.access(chunk, entry.transfer.base, now, write=False)
            self._kernel.at(read, Phase.RETURN, queue.unit, lambda: self._write(queue, entry, chunk, read))
        else:
            self._write(queue, entry, chunk, now)

    def _write(self, queue: DmaQueue, entry: Entry, chunk: Chunk, now: int) -> None:
        """Data is written."""
        done = self._memory.access(chunk, entry.transfer.base, now, write=True)
        self._release(chunk.size, done)
        queue.arrived(entry, [done])

    def _release(self, size: int, time: int) -> None:
        """`size` bytes are no longer under way from cycle `time` on."""
        heappush(self._releases, (time, size))
        if self._blocked_since >= 0:
            self._arm(time)


class DmaQueue(Sequencer):
    """One in-order queue of an engine: takes waits, issues, completes in order, signals."""

    def __init__(self, unit: int, engine: DmaEngine, steps: Iterator[Step], fabric: Fabric):
        super().__init__(unit, steps, fabric)
        self.engine = engine
        machine = fabric.machine
        self._setup = machine.dma.setup_cycles
        self.priority = machine.dma.priority((unit - 2 * machine.tiles.count) % machine.dma.queues)
        self.tag = self.turn = 0  # where it stands in the engine's arbitration
        self.head: Entry | None = None  # what the engine is taking chunks of
        self.served = 0  # end of the engine's last cycle for the head
        self._ordinal = 0
        self._entries: deque[Entry] = deque()
        self._unread: deque[Entry] = deque()  # without their `read` signals
        self._last_done = self._last_read = 0

    # Issue --------------------------------------------------------------------------------------------------------

    def _ready(self, step: Step, start: int) -> None:
        fabric = self._fabric
        transfer = fabric.transfers.of(step) if step.code.row.unit == "dma" else NOTHING
        if transfer.chunks and fabric.watcher is None:
            self._issue(step, transfer, start)  # nobody sees it before its first chunk: no event
        else:
            self._kernel.at(start, Phase.READY, self.unit, partial(self._issue, step, transfer, start))

    def _issue(self, step: Step, transfer: Transfer, start: int) -> None:
        fabric = self._fabric
        entry = Entry(step, start, self._latest, self._stalls, self._ordinal, transfer, end=start)
        entry.arrivals = [start] * max(len(transfer.tiles), 1)
        self._ordinal += 1
        self._entries.append(entry)
        self.clock = start
        if fabric.watcher is not None:
            fabric.watcher.issue(self.unit, self.engine.number, step, start)
        if step.code.row.name != "barrier":
            self._unread.append(entry)
        if transfer.chunks:
            self.head, self.served = entry, start + self._setup
            self.engine.ask(self, self.served)
            return
        self._complete()
        if step.code.row.name != "barrier":
            self.fetch()

    # Completion: in order ---------------------------------------------------------------------------------------------

    def source_free(self, entry: Entry, time: int) -> None:
        """Another chunk of `entry` leaves its source at cycle `time`; with the last one it is free."""
        entry.sent += 1
        entry.read = max(entry.read, time)
        if entry.sent == len(entry.transfer.chunks):
            entry.left = True
            self._signal_reads()

    def arrived(self, entry: Entry, arrivals: list[int]) -> None:
        """Another chunk of `entry` is there (or will be, at those cycles)."""
        entry.returned += 1
        entry.arrivals = arrivals if entry.returned == 1 else list(map(max, entry.arrivals, arrivals))
        if entry.complete:
            self._complete()

    def _complete(self) -> None:
        """Signals `done` of the oldest entries, as far as they are complete, and arrives at a barrier behind them."""
        entries, fabric = self._entries, self._fabric
        while entries and entries[0].complete:
            entry = entries.popleft()
            if entry.step.code.row.name == "barrier":
                fabric.barrier.arrive(self.unit, max(entry.start, self._last_done), partial(self._leave, entry))
                return
            earliest = max(self._last_done, entry.end)
            times = entry.arrivals
            if min(times) < earliest:
                times = [max(time, earliest) for time in times]
            self._last_done = max(times)
            fabric.report(
                self.unit, entry.step, (entry.start, entry.end, self._last_done), entry.released,
                entry.transfer.size, entry.stalls,
            )  # fmt: skip
            if not entry.left:
                entry.read, entry.left = self._kernel.now, True
                self._signal_reads()
            fabric.signal(entry.step, "done", times, entry.transfer.tiles, self.unit, entry.ordinal)

    def _signal_reads(self) -> None:
        """Signals `read` of the oldest entries, as far as they have left their source."""
        unread, fabric = self._unread, self._fabric
        while unread and unread[0].left:
            entry = unread.popleft()
            self._last_read = max(self._last_read, entry.read)
            if "read" in entry.step.code.instants or fabric.watcher is not None:
                fabric.signal(entry.step, "read", [self._last_read], entry.transfer.tiles, self.unit, entry.ordinal)

    def _leave(self, entry: Entry, time: int) -> None:
        """The barrier lets this queue go at cycle `time`."""
        entry.stalls[BARRIER] += time - entry.start
        self._fabric.report(self.unit, entry.step, (time, time, time), entry.released, 0, entry.stalls)
        self.clock = self._last_done = time
        self.fetch()
