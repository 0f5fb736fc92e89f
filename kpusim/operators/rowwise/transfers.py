"""What the DMA queues of a rowwise operator do: operands to the tiles, block by block, and results back."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve, frozen

from kpusim.isa.expr import Const, Expr, Name, ceiling_division, minimum
from kpusim.isa.program import Instruction, Loop, Node, Rows, Section, SemaphoreRef, Signal, TileSet
from kpusim.machine import Machine
from kpusim.operators.rowwise.exchange import Exchange
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.place import Place
from kpusim.operators.rowwise.work import Stream, Work
from kpusim.operators.seats import DST, ENGINE, ZERO, Seat, loop

__all__ = ["STEP", "Traffic", "free", "full", "over_pieces", "over_steps", "piece_of", "share_of", "slot_of"]

STEP = Name("s")
Build = Callable[[Stream, Expr, int], Instruction]  # of a stream, a tile and the number of a sweep


def full(stream: Stream, tile: Expr, slot: Expr) -> SemaphoreRef:
    """Says that a slot has data: of HBM, or results."""
    return SemaphoreRef(f"{stream.name}_full", tile, slot)


def free(stream: Stream, tile: Expr, slot: Expr) -> SemaphoreRef:
    """Says that nobody needs a slot any more."""
    return SemaphoreRef(f"{stream.name}_free", tile, slot)


def over_steps(work: Work, mapping: Mapping, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """A loop over the blocks of a tile, if there is something to do."""
    return (loop(STEP.id, mapping.steps(work), *nodes),) if nodes else ()


def over_pieces(work: Work, mapping: Mapping, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """A loop over the pieces of a block, if there are several, and something to do."""
    pieces = mapping.pieces(work)
    return (loop("p", pieces, *nodes),) if nodes and pieces > 1 else nodes


def piece_of(work: Work, mapping: Mapping) -> Expr:
    """The piece that such a loop is at."""
    return Name("p") if mapping.pieces(work) > 1 else ZERO


def slot_of(work: Work, mapping: Mapping, stream: Stream, sweep: int = 0) -> Expr:
    """The slot of an operand at a step, a piece and a sweep, by the names of the loops."""
    slots, pieces, piece = mapping.count(work, stream), mapping.pieces(work), piece_of(work, mapping)
    if stream.kind == "row":
        return STEP % slots
    if stream.kind == "column" and mapping.stays(work):
        return piece
    loads = mapping.loads(work, stream) if stream.role == "in" else [sweep]
    turn = loads.index(sweep) if sweep in loads else 0
    return ((STEP * len(loads) + turn) * pieces + piece) % slots


def share_of(work: Work, mapping: Mapping, machine: Machine) -> int:
    """Tiles of a DMA engine that take turns, see `Place`; 1 where they do not."""
    multicast = mapping.column_tiles > 1 and any(stream.kind == "column" for stream in work.streams)
    multicast |= mapping.exchanges(work)
    share, rest = divmod(mapping.tiles, machine.dma_engines)
    return share if share and not rest and not multicast else 1


@frozen
class Traffic:
    """The sections of the DMA engines: loads in the first half of their queues, stores in the second."""

    work: Work
    map: Mapping
    machine: Machine

    @property
    def seat(self) -> Seat:
        """Each engine serves the tiles next to it."""
        return Seat(self.map.tiles, self.machine.dma_engines, 0)

    def sections(self) -> list[Section]:
        """Operands are dealt to the queues by turns."""
        half = max(self.machine.dma.queues // 2, 1)
        found = []
        for role, first, body in (("in", 0, self._loads), ("out", half, self._stores)):
            streams = [stream for stream in self.work.streams if stream.role == role]
            listed = [stream for stream in streams if stream.index or stream.name in dict(self.work.indices)]
            turns = [stream for stream in streams if not self._stays(stream) and stream not in listed]
            for queue in range(half):
                dealt = turns[queue::half] + (listed if queue == half - 1 else [])
                nodes = self._columns(streams) if queue == half - 1 and role == "in" else ()
                copies = self._copies() if role == "out" and queue == half - 1 else ()
                nodes += over_steps(self.work, self.map, copies + body(dealt))
                if nodes:
                    found.append(self.seat.section(first + queue, nodes))
        return found

    def _stays(self, stream: Stream) -> bool:
        return stream.kind == "column" and self.map.stays(self.work)

    def _columns(self, streams: list[Stream]) -> tuple[Node, ...]:
        """Operands that stay: each piece by one engine, to all tiles that take it."""
        staying = [stream for stream in streams if self._stays(stream)]
        if not staying:
            return ()
        turns, pieces = self.map.column_tiles, self.map.pieces(self.work)
        seat = self.seat
        number = ENGINE if seat.share > 1 else Name("g")
        engines = len(seat.section(0, ()).places)
        column = Name("v") * engines + number  # by piece, then by tile
        tiles = TileSet(column % turns, Const(self.map.row_tiles), turns)
        place = Place(self.work, self.map, column % turns, ZERO, column // turns)

        def load(stream: Stream) -> Instruction:
            view = place.view(stream.name, column // turns, tiles)
            done = Signal(full(stream, DST, column // turns))
            return Instruction("load", (view, place.box(stream)), signals=(done,))

        count = ceiling_division(Const(turns * pieces) - number, engines)
        return (Loop("v", ZERO, count, tuple(load(stream) for stream in staying)),)

    def _loads(self, streams: list[Stream]) -> tuple[Node, ...]:
        """The operands of a block: those of its rows, then sweep by sweep those of its pieces."""
        rows = [stream for stream in streams if stream.kind == "row"]
        nodes = self._each([stream for stream in rows if not stream.index], self._load)
        nodes += self._each([stream for stream in rows if stream.index], self._gather)
        for sweep in range(len(self.map.sweeps(self.work))):
            loaded = [
                stream for stream in streams if stream.kind != "row" and sweep in self.map.loads(self.work, stream)
            ]
            nodes += self._pieces(loaded, self._load, sweep)
        return nodes

    def _stores(self, streams: list[Stream]) -> tuple[Node, ...]:
        """The results of a block: those of its pieces, then those of its rows."""
        blocks, rows = ([stream for stream in streams if stream.kind == kind] for kind in ("block", "row"))
        return self._pieces(blocks, self._store) + self._each(rows, self._store)

    def _pieces(self, streams: list[Stream], build: Build, sweep: int = 0) -> tuple[Node, ...]:
        """For each piece, of each tile of an engine; or the other way round, so that HBM sees whole rows."""
        if not self.map.row_by_row(self.work) or not streams:
            return over_pieces(self.work, self.map, self._each(streams, build, sweep))
        return self.seat.each(
            lambda tile: over_pieces(self.work, self.map, tuple(build(stream, tile, sweep) for stream in streams))
        )

    def _copies(self) -> tuple[Node, ...]:
        """Totals between tiles that share rows."""
        exchange = Exchange(self.work, self.map)
        nodes: tuple[Node, ...] = ()
        for total in exchange.totals:  # one after the other: the next waits for this one of all tiles
            nodes += self.seat.each(lambda tile, total=total: (exchange.copy(total, self._place(tile)),))  # type: ignore[misc]
        return nodes

    def _each(self, streams: list[Stream], build: Build, sweep: int = 0) -> tuple[Node, ...]:
        """For each tile of an engine."""
        if not streams:
            return ()
        return self.seat.each(lambda tile: tuple(build(stream, tile, sweep) for stream in streams))

    def _place(self, tile: Expr) -> Place:
        share = share_of(self.work, self.map, self.machine)
        return Place(self.work, self.map, tile, STEP, piece_of(self.work, self.map), share=share)

    def _load(self, stream: Stream, tile: Expr, sweep: int) -> Instruction:
        place, slot = self._place(tile), slot_of(self.work, self.map, stream, sweep)
        views = place.view(stream.name, slot, TileSet(tile)), place.box(stream)
        return Instruction(
            "load", views, waits=(free(stream, tile, slot),), signals=(Signal(full(stream, tile, slot)),)
        )

    def _gather(self, stream: Stream, tile: Expr, _: int) -> Instruction:
        """Rows by an index, which the first of those that need it waits for, and the last gives up."""
        place, slot = self._place(tile), slot_of(self.work, self.map, stream)
        index = self.work.operands[stream.index]
        assert isinstance(index, Stream)
        users = [other for other in self.work.streams if other.index == stream.index]
        waits, signals = [free(stream, tile, slot)], [Signal(full(stream, tile, slot))]
        if stream is users[0]:
            waits.append(full(index, tile, slot))
        if stream is users[-1]:
            signals.append(Signal(free(index, tile, slot), "read"))
        rows = Rows(f"{stream.index}_list", minimum(self.work.rows, place.first_row), place.rows)
        tiles = TileSet(tile)
        views = place.view(stream.name, slot, tiles), place.box(stream), rows, place.view(stream.index, slot, tiles)
        return Instruction("gather", views, (), tuple(waits), tuple(signals))

    def _store(self, stream: Stream, tile: Expr, _: int) -> Instruction:
        place, slot = evolve(self._place(tile), wide=True), slot_of(self.work, self.map, stream)
        views = place.box(stream), place.view(stream.name, slot, TileSet(tile))
        return Instruction(
            "store", views, waits=(full(stream, tile, slot),), signals=(Signal(free(stream, tile, slot), "read"),)
        )
