"""Lanes between HBM and HBM: the loops, views and semaphores that all lowerings by index are written with."""

from __future__ import annotations

from attrs import frozen

from kpusim.isa.expr import Const, Expr, Name, ceil_div
from kpusim.isa.program import (
    Instruction,
    Loop,
    Node,
    Operand,
    Range,
    Section,
    Semaphore,
    SemaphoreRef,
    Signal,
    TileSet,
    View,
)
from kpusim.machine import Machine
from kpusim.operators.declare import sram_bytes
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection
from kpusim.operators.seats import ZERO, Seat, loop, part

__all__ = ["BLOCK", "INDEX_QUEUE", "LANE", "LOAD_QUEUE", "STORE_QUEUE", "WHOLE", "Lanes"]

LOAD_QUEUE, STORE_QUEUE, INDEX_QUEUE = 0, 1, 2
LANE, BLOCK, PIECE = Name("g"), Name("b"), Name("c")
WHOLE = Range()


@frozen
class Lanes:
    """The lanes of one mapping of one selection. Each has a DMA engine and a tile, and takes one block after the other.

    blocks: how many the executing lane has. start, length: of its block `b`, in the list.
    """

    selection: Selection
    map: Mapping
    machine: Machine
    blocks: Expr
    start: Expr
    length: Expr

    @property
    def seat(self) -> Seat:
        """Of a lane: one engine."""
        return Seat(self.map.lanes, self.machine.dma_engines, 0)

    @property
    def stride(self) -> int:
        """From the tile of one lane to that of the next."""
        return self.machine.tiles.count // self.map.lanes

    @property
    def tile(self) -> TileSet:
        """The lane's."""
        return TileSet(LANE * self.stride)

    @property
    def pieces(self) -> int:
        """Of a row."""
        return ceil_div(self.selection.width, self.map.columns)

    @property
    def columns(self) -> Range:
        """The piece's part of a row."""
        return part(Const(self.selection.width), self.map.columns, PIECE if self.pieces > 1 else ZERO)

    @property
    def slot(self) -> Expr:
        """Of a block of rows, or of a piece of it."""
        return (BLOCK * self.pieces + PIECE if self.pieces > 1 else BLOCK) % self.map.slots

    @property
    def index_slot(self) -> Expr:
        """Of a block's indices."""
        return BLOCK % self.map.index_slots

    def rows(self) -> View:
        """The block's rows in the lane's tile."""
        return View("block", self.slot, (Range(ZERO, self.length), Range(ZERO, self.columns.length)), self.tile)

    def index(self) -> View:
        """The block's indices in the lane's tile."""
        every = (WHOLE,) if self.selection.leading else ()
        return View("index", self.index_slot, (Range(ZERO, self.length), *every), self.tile)

    def semaphores(self, *names: str) -> tuple[Semaphore, ...]:
        """Full and free of each of these buffers."""
        return tuple(
            Semaphore(f"{name}_{state}", self.map.lanes, slots, init)
            for name in names
            for slots in [self.map.slots if name == "block" else self.map.index_slots]
            for state, init in (("full", 0), ("free", 1))
        )

    def semaphore(self, name: str) -> SemaphoreRef:
        """The lane's semaphore of the slot that it is at."""
        return SemaphoreRef(name, LANE, self.slot if name.startswith("block") else self.index_slot)

    def each(self, *body: Node) -> Loop:
        """Each block of the executing lane."""
        return Loop("b", ZERO, self.blocks, body)

    def each_piece(self, *body: Node) -> tuple[Node, ...]:
        """Each piece of a block's rows."""
        return (loop("c", self.pieces, *body),) if self.pieces > 1 else body

    def with_index(self, op: str, operands: tuple[Operand, ...], wait: str, signal: Signal) -> tuple[Node, ...]:
        """A transfer of a block, piece by piece, that holds the block's indices as long as it runs."""
        full, free = self.semaphore("index_full"), Signal(self.semaphore("index_free"))
        if self.pieces == 1:
            return (Instruction(op, operands, (), (full, self.semaphore(wait)), (signal, free)),)
        one = Instruction(op, operands, (), (self.semaphore(wait),), (signal,))
        return Instruction("sync", waits=(full,)), *self.each_piece(one), Instruction("sync", signals=(free,))

    def tile_section(self, *body: Node) -> Section:
        """The vector engines of the lanes' tiles."""
        lets = (("g", Name("tile") // self.stride),)
        return Section("vector", 0, self.stride * (self.map.lanes - 1) + 1, self.stride, lets=lets, body=body)

    def choices(self) -> tuple[tuple[str, str, str], ...]:
        """(what, value, reason) rows."""
        mapping, selection = self.map, self.selection
        block = mapping.rows * ceil_div(mapping.columns * selection.bits, 8)
        whole = "whole rows" if self.pieces == 1 else f"a row in {self.pieces} pieces, longer than a slot"
        needed, access = sram_bytes(selection.buffers(mapping)), self.machine.hbm.access_bytes
        asked = ceil_div(selection.row_bytes, access) * access
        return (
            ("lanes", str(mapping.lanes), "each a DMA engine and a tile, between HBM and HBM"),
            ("block", f"{mapping.rows} x {mapping.columns}", f"{block} bytes; {whole}"),
            ("slots", str(mapping.slots), "one is filled, one stored, one between; one more for indices"),
            ("row", f"{selection.row_bytes} bytes", f"at least {asked} in accesses of {access}"),
            ("SRAM", f"{needed} bytes", f"of {self.machine.sram.capacity_bytes} a tile"),
        )
