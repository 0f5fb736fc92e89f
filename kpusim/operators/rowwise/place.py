"""Where a tile's blocks and pieces stand, in the tensors and in the buffers, as index expressions."""

from __future__ import annotations

from attrs import frozen

from kpusim.isa.expr import Const, Expr, ceil_div, ceiling_division, maximum, minimum
from kpusim.isa.program import Box, Range, TileSet, View
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.work import ROWS, Along, Stream, Work
from kpusim.operators.seats import TILE, ZERO

__all__ = ["Place"]


@frozen
class Place:
    """The index arithmetic of one mapping of one operator, at a tile, a step (its so many-th block) and a piece.

    share: tiles of each DMA engine, where all have as many and no operand is for all tiles of a column.
    """

    work: Work
    map: Mapping
    tile: Expr = TILE
    step: Expr = ZERO
    piece: Expr = ZERO
    row: Expr | None = None  # where given: this row of the block only
    share: int = 1
    wide: bool = False  # all columns, those that no row needs too

    @property
    def turn(self) -> Expr:
        """Where the tile stands among those that work at once.

        The tiles that DMA engines serve first come first, then those they serve next, and so on: at any time the
        engines are at one stretch of a tensor, whose HBM rows are open.
        """
        if self.share == 1:
            return self.tile
        return self.tile % self.share * (self.map.tiles // self.share) + self.tile // self.share

    @property
    def block(self) -> Expr:
        """Number of the block of rows."""
        return self.step * self.map.row_tiles + self.turn // self.map.column_tiles

    @property
    def entry(self) -> Expr:
        """Entry of the block."""
        return self.block // ceil_div(self.work.rows, self.map.block_rows)

    @property
    def first_row(self) -> Expr:
        """First row of the block within its entry."""
        blocks = ceil_div(self.work.rows, self.map.block_rows)
        return (self.block if self.work.entries == 1 else self.block % blocks) * self.map.block_rows

    @property
    def rows(self) -> Expr:
        """Rows of the block: fewer at an entry's end, none behind the last block."""
        size, terms = self.map.block_rows, list[Expr]()
        blocks = self.map.blocks(self.work)
        if self.work.rows % size or (self.work.entries == 1 and blocks % self.map.row_tiles):
            terms.append(Const(self.work.rows) - self.first_row)
        if self.work.entries > 1 and blocks % self.map.row_tiles:
            terms.append((Const(blocks) - self.block) * size)
        return minimum(size, *terms) if terms else Const(size)

    @property
    def first_column(self) -> Expr:
        """First column of the piece."""
        size, turns = self.map.block_columns, self.map.column_tiles
        return (self.piece * turns + (self.turn % turns if turns > 1 else ZERO)) * size

    @property
    def columns(self) -> Expr:
        """Columns of the piece: fewer at the end of a row, and where the block's last row needs no more (but one)."""
        size, turns = self.map.block_columns, self.map.column_tiles
        if self.map.skips(self.work) and not self.wide:
            return minimum(size, maximum(1, self.first_row + self.rows + (self.work.columns - self.work.rows)))
        if self.map.pieces(self.work) * turns * size == self.work.columns:
            return Const(size)
        return minimum(size, Const(self.work.columns) - self.first_column)

    def box(self, stream: Stream) -> Box:
        """The part of a tensor."""
        if stream.index:
            return Box(f"{stream.name}_box", (Range(),) * len(stream.tensor))
        return Box(f"{stream.name}_box", tuple(self._outside(item, stream) for item in stream.tensor))

    def _outside(self, item: Along | int, stream: Stream) -> Range:
        if isinstance(item, int):
            return Range()
        if item.axis == "batch":
            return Range(self.entry)
        start = self.first_row if item.axis == "rows" else self.first_column
        offset = stream.offset if item.axis == "columns" else 0
        return Range(_scaled(start, item) + offset, self._length(item))

    def _length(self, item: Along) -> Expr | None:
        """Elements along a dimension; None for as many as there can be."""
        length, most = (
            (self.rows, self.map.block_rows) if item.axis == "rows" else (self.columns, self.map.block_columns)
        )
        return None if length == Const(most) else _scaled(length, item)

    def view(self, name: str, slot: Expr = ZERO, tiles: TileSet | None = None) -> View:
        """A buffer, or a part of one, as far as there are rows and columns."""
        part = next((part for part in self.work.parts if part.name == name), None)
        buffer = part.of if part else name
        ranges = [self._inside(item) for item in self.work.shape(buffer)]
        if part:
            ranges[-1] = Range(Const(part.start), Const(part.length))
        return View(
            self.work.operands[buffer].buffer,
            slot,
            () if all(item == Range() for item in ranges) else tuple(ranges),
            tiles,
        )

    def rest(self, name: str, slot: Expr) -> View:
        """The columns of a result that no row needs."""
        rows, columns = self._inside(ROWS), Range(self.columns, Const(self.map.block_columns) - self.columns)
        return View(self.work.operands[name].buffer, slot, (rows, columns))

    def _inside(self, item: Along | int) -> Range:
        if isinstance(item, int):
            return Range()
        if item.axis == "rows" and self.row is not None:
            return Range(self.row * item.times, Const(item.times))
        length = self._length(item)
        return Range() if length is None else Range(ZERO, length)


def _scaled(extent: Expr, item: Along) -> Expr:
    """Elements for so many rows or columns."""
    if isinstance(extent, Const):
        return Const(item.size(extent.value))
    return (ceiling_division(extent, item.each) if item.each > 1 else extent) * item.times
