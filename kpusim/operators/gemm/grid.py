"""Where a tile stands in the logical grid, and where a round and a step stand in the problem, as index expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from attrs import frozen

from kpusim.isa.expr import Const, Expr, Lookup, Name, ceil_div, minimum
from kpusim.isa.program import Node, Range, Section, Table, TileSet
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.seats import TILE

__all__ = ["Grid"]

T = TypeVar("T")


def _tables(names: tuple[str, ...], rows: Sequence[tuple[int, ...]]) -> tuple[Table, ...]:
    """The columns of `rows`, a table each."""
    return tuple(Table(name, values) for name, values in zip(names, zip(*rows, strict=True), strict=True))


@frozen
class Grid:
    """The index arithmetic of one mapping of one problem.

    Tiles are numbered by band of rows worked on at once, grid row, grid column, and part of K: those whose sums are
    added up are neighbours. A *plane* is the grid of one band and one part of K; a *lane* a band of `grid_m` *
    `block_m` rows of one entry.
    """

    problem: Problem
    map: Mapping

    @property
    def rounds(self) -> int:
        """In all."""
        along_m, along_n = self.map.rounds(self.problem)
        return along_m * along_n

    @property
    def steps(self) -> int:
        """Along K in a round."""
        return self.map.steps(self.problem)

    @property
    def planes(self) -> int:
        """Grids side by side."""
        return self.map.grid_k * self.map.grid_batch

    # Tiles ----------------------------------------------------------------------------------------------------------

    def row_of(self, tile: Expr) -> Expr:
        """Grid row of a tile."""
        row = tile // (self.map.grid_n * self.map.grid_k)
        return row % self.map.grid_m if self.map.grid_batch > 1 else row

    def column_of(self, tile: Expr) -> Expr:
        """Grid column of a tile."""
        column = tile // self.map.grid_k
        return column % self.map.grid_n if self.map.grid_m * self.map.grid_batch > 1 else column

    def plane_of(self, tile: Expr) -> Expr:
        """Plane of a tile: by band, then by part of K."""
        band = tile // (self.map.tiles // self.map.grid_batch) if self.map.grid_batch > 1 else Const(0)
        return band * self.map.grid_k + tile % self.map.grid_k

    def side(self, axis: str, group: Expr) -> tuple[Expr, Expr]:
        """(plane, grid row or column) of a group of tiles that get the same block of A ("m") or of B ("n").

        Groups are numbered as tiles are: by band, grid row or column, and part of K.
        """
        size, parts = (self.map.grid_m if axis == "m" else self.map.grid_n), self.map.grid_k
        places = group // parts
        if self.map.grid_batch == 1:
            return group % parts, places
        return places // size * parts + group % parts, places % size

    def tiles_of(self, axis: str, group: Expr) -> TileSet:
        """The tiles of such a group."""
        grid_m, grid_n, parts = self.map.grid_m, self.map.grid_n, self.map.grid_k
        plane, place = self.side(axis, group)
        band = plane // parts if self.map.grid_batch > 1 else Const(0)
        if axis == "m":
            return TileSet((band * grid_m + place) * (grid_n * parts) + group % parts, Const(grid_n), parts)
        return TileSet((band * (grid_m * grid_n) + place) * parts + group % parts, Const(grid_m), grid_n * parts)

    def tiles_of_plane(self, plane: Expr) -> TileSet:
        """All tiles of a plane."""
        parts, count = self.map.grid_k, self.map.grid_m * self.map.grid_n
        first = plane // parts * (count * parts) + plane % parts if self.map.grid_batch > 1 else plane
        return TileSet(first, Const(count), parts)

    def base_tile(self, number: Expr) -> Expr:
        """The number-th of the tiles that finish results."""
        return number * self.map.grid_k

    def own_group(self, axis: str) -> Expr:
        """The group of the executing tile."""
        plane, row, column = self.place
        size, place = (self.map.grid_m, row) if axis == "m" else (self.map.grid_n, column)
        return (plane // self.map.grid_k * size + place) * self.map.grid_k + plane % self.map.grid_k

    # Rounds ---------------------------------------------------------------------------------------------------------

    def _down(self, round_: Expr) -> Expr:
        """Number of a round along M."""
        along_m, along_n = self.map.rounds(self.problem)
        return round_ % along_m if self.map.resident == "b" else round_ // along_n

    def _across(self, round_: Expr) -> Expr:
        """Number of a round along N."""
        along_m, along_n = self.map.rounds(self.problem)
        return round_ // along_m if self.map.resident == "b" else round_ % along_n

    def _lane(self, round_: Expr, plane: Expr) -> Expr:
        if self.map.raster:
            return Lookup("lane_of", self._turn(round_, plane))
        return self._turn(self._down(round_), plane)

    def _turn(self, turn: Expr, plane: Expr) -> Expr:
        """What a band of grids gets of what is dealt to all by turns."""
        return turn * self.map.grid_batch + (plane // self.map.grid_k if self.map.grid_batch > 1 else Const(0))

    @property
    def _band(self) -> int:
        return self.map.grid_m * self.map.block_m

    @property
    def _bands(self) -> int:
        """Lanes of an entry, where all have the same."""
        return -(-self.problem.m // self._band)

    def entry(self, round_: Expr, plane: Expr) -> Expr:
        """Which B is multiplied."""
        lane = self._lane(round_, plane)
        return Lookup("entry_of", lane) if self.problem.groups else lane // self._bands

    def row(self, round_: Expr, plane: Expr, grid_row: Expr) -> Expr:
        """First row of a block: of its entry, or of all where entries are groups."""
        lane = self._lane(round_, plane)
        if self.problem.groups:
            return Lookup("row_of", lane) + grid_row * self.map.block_m
        if self.problem.batch:
            lane = lane % self._bands
        return (lane * self.map.grid_m + grid_row) * self.map.block_m

    def column(self, round_: Expr, plane: Expr, grid_column: Expr) -> Expr:
        """First column of a block."""
        across = Lookup("across_of", self._turn(round_, plane)) if self.map.raster else self._across(round_)
        return (across * self.map.grid_n + grid_column) * self.map.block_n

    def height(self, round_: Expr, plane: Expr, grid_row: Expr) -> Expr:
        """Rows of a block that exist."""
        row, block = self.row(round_, plane, grid_row), self.map.block_m
        if self.problem.groups:
            return minimum(block, Lookup("end_of", self._lane(round_, plane)) - row)
        limits = [] if self.problem.m % self._band == 0 else [Const(self.problem.m) - row]
        if not self.map.raster and self.problem.lanes(self._band) % self.map.grid_batch:
            limits.append((Const(self.problem.entries) - self.entry(round_, plane)) * block)
        return minimum(block, *limits) if limits else Const(block)

    def width(self, round_: Expr, plane: Expr, grid_column: Expr) -> Expr:
        """Columns of a block that exist."""
        column, block = self.column(round_, plane, grid_column), self.map.block_n
        if self._spare:
            return minimum(block, Const(self.problem.n) - column)
        return self._inside(self.problem.n, column, block, self.map.grid_n)

    def along_k(self, plane: Expr, step: Expr) -> Expr:
        """First element along K of a step."""
        part = plane % self.map.grid_k
        return (part * self.steps + step) * self.map.block_k

    def depth(self, plane: Expr, step: Expr) -> Expr:
        """Elements along K of a step that exist."""
        spread = self.steps * self.map.grid_k if self.map.grid_k > 1 else 1
        return self._inside(self.problem.k, self.along_k(plane, step), self.map.block_k, spread)

    @staticmethod
    def _inside(extent: int, start: Expr, block: int, spread: int) -> Expr:
        """How much of a block lies inside the problem."""
        return Const(block) if extent % (block * spread) == 0 else minimum(block, Const(extent) - start)

    def tables(self) -> tuple[Table, ...]:
        """Entry, first row and end of each lane of ragged groups, lane and place along N of each block that is dealt.

        What is left of the last round is empty.
        """
        dealt = _tables(("lane_of", "across_of"), self._dealt()) if self.map.raster else ()
        if not self.problem.groups:
            return dealt
        lanes, start = [], 0
        for number, rows in enumerate(self.problem.groups):
            lanes += [(number, row, start + rows) for row in range(start, start + rows, self._band)]
            start += rows
        spare = min(self._spare, 1) if self.map.raster else -len(lanes) % self.map.grid_batch
        lanes += [(len(self.problem.groups), start, start)] * spare
        return (
            Table("group_rows", self.problem.groups, "rows"),
            *_tables(("entry_of", "row_of", "end_of"), lanes),
            *dealt,
        )

    @property
    def _spare(self) -> int:
        """Blocks of the last round that there are not, where they are dealt."""
        blocks = self.problem.lanes(self._band) * self.map.columns(self.problem)
        return -blocks % self.map.grid_batch if self.map.raster else 0

    def _dealt(self) -> list[tuple[int, int]]:
        """(lane, place along N) of each block, in the order in which they are dealt; bands end with an entry."""
        columns, found, lanes = self.map.columns(self.problem), [], 0
        for rows in self.problem.groups or (self.problem.m,) * self.problem.entries:
            end = lanes + ceil_div(rows, self._band)
            for first in range(lanes, end, self.map.raster):
                band = range(first, min(first + self.map.raster, end))
                found += [(lane, column) for column in range(columns) for lane in band]
            lanes = end
        return found + [(lanes, columns)] * self._spare

    # Operands and sections ------------------------------------------------------------------------------------------

    def a_order(self, along_m: T, along_k: T) -> tuple[T, T]:
        """The two in the order of A's dimensions."""
        return (along_k, along_m) if self.problem.transpose_a else (along_m, along_k)

    def b_order(self, along_k: T, along_n: T) -> tuple[T, T]:
        """The two in the order of B's dimensions."""
        return (along_n, along_k) if self.problem.transpose_b else (along_k, along_n)

    def b_ranges(self, along_k: Range, along_n: Range) -> tuple[Range, ...]:
        """Ranges of B in SRAM, which has one dimension more where several scales are spread along its columns."""
        deep = self.problem.transpose_b and self.problem.quantized and self.map.scales(self.problem) > 1
        return (*((Range(),) if deep else ()), *self.b_order(along_k, along_n))

    def within(self, entry: Expr, ranges: tuple[Range, ...], *, grouped: bool) -> tuple[Range, ...]:
        """Coordinates of a box in its entry, where the tensor has a dimension for entries."""
        has = bool(self.problem.batch) or (grouped and bool(self.problem.groups))
        return (Range(entry), *ranges) if has else ranges

    def tile_section(self, unit: str, first: int, step: int, *body: Node) -> Section:
        """A section of the tiles first, first + step, ... in which i, j and p are grid row, grid column and plane."""
        lets = [("i", self.row_of(TILE)), ("j", self.column_of(TILE)), ("p", self.plane_of(TILE))]
        used = tuple(lets[: 3 if self.planes > 1 else 2])
        last = first + (self.map.tiles - first - 1) // step * step + 1
        return Section(unit, first, last, step, lets=used, body=body)

    @property
    def place(self) -> tuple[Expr, Expr, Expr]:
        """Plane, grid row and grid column of the executing tile."""
        return Name("p") if self.planes > 1 else Const(0), Name("i"), Name("j")
