"""Lanes between HBM and HBM: the loops, views and semaphores that all lowerings by index are written with."""

from __future__ import annotations

from itertools import chain

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
from kpusim.operators.declare import full_and_free, sram_bytes
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection
from kpusim.operators.seats import ZERO, Seat, loop, part, parts

__all__ = ["BLOCK", "INDEX_QUEUE", "LANE", "LOAD_QUEUE", "STORE_QUEUE", "WHOLE", "Lanes", "in_turn"]

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

    def slot(self, name: str) -> Expr:
        """Of a buffer: of rows one for each piece of a block, of the rest one for each block."""
        turn = BLOCK * self.pieces + PIECE if self.pieces > 1 and name in ("block", "result") else BLOCK
        return turn % self.map.count(name)

    def rows(self) -> View:
        """The block's rows in the lane's tile."""
        return View(
            "block", self.slot("block"), (Range(ZERO, self.length), Range(ZERO, self.columns.length)), self.tile
        )

    def index(self) -> View:
        """The block's indices in the lane's tile."""
        every = (WHOLE,) if self.selection.leading else ()
        return View("index", self.slot("index"), (Range(ZERO, self.length), *every), self.tile)

    def semaphores(self, *names: str) -> tuple[Semaphore, ...]:
        """Full and free of each of these buffers."""
        pairs = (full_and_free(name, self.map.lanes, self.map.count(name)) for name in names)
        return tuple(chain.from_iterable(pairs))

    def full(self, name: str) -> SemaphoreRef:
        """Says that the lane's slot of a buffer has data."""
        return SemaphoreRef(f"{name}_full", LANE, self.slot(name))

    def free(self, name: str) -> SemaphoreRef:
        """Says that nobody needs it any more."""
        return SemaphoreRef(f"{name}_free", LANE, self.slot(name))

    def each(self, *body: Node) -> Loop:
        """Each block of the executing lane."""
        return Loop("b", ZERO, self.blocks, body)

    def each_piece(self, *body: Node) -> tuple[Node, ...]:
        """Each piece of a block's rows."""
        return (loop("c", self.pieces, *body),) if self.pieces > 1 else body

    def with_index(
        self, op: str, operands: tuple[Operand, ...], wait: SemaphoreRef, signal: Signal
    ) -> tuple[Node, ...]:
        """A transfer of a block, piece by piece, that holds the block's indices as long as it runs."""
        full, free = self.full("index"), Signal(self.free("index"))
        if self.pieces == 1:
            return (Instruction(op, operands, (), (full, wait), (signal, free)),)
        one = Instruction(op, operands, (), (wait,), (signal,))
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
            ("slots", str(mapping.slots), "blocks under way in a tile; one more of indices"),
            ("row", f"{selection.row_bytes} bytes", f"at least {asked} in accesses of {access}"),
            ("SRAM", f"{needed} bytes", f"of {self.machine.tile_bytes} a tile"),
        )


def in_turn(selection: Selection, mapping: Mapping, machine: Machine) -> Lanes:
    """Lanes that take the blocks of a list in turn.

    What all store at once lies side by side: rows of HBM are written whole while they are open.
    """
    lanes, blocks = mapping.lanes, ceil_div(selection.count, mapping.rows)
    own = Const(blocks // lanes) if blocks % lanes == 0 else parts(Const(blocks) - LANE, lanes)
    block = part(Const(selection.count), mapping.rows, BLOCK * lanes + LANE)
    return Lanes(selection, mapping, machine, own, block.start, block.length or ZERO)
