"""The choice of a mapping: all that fit into the SRAM, weighed by what they take."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from attrs import evolve, frozen

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.machine import Machine
from kpusim.operators.base import Tried
from kpusim.operators.rowwise.estimate import Cost, cost
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.work import Work

__all__ = ["Found", "choose", "explained", "mappings"]

SHOWN = 8  # mappings in the table of --explain
NEAR = 1.005  # chosen: times the fastest is as fast; of such the mapping with the fewest instructions is taken
ROWS_AT_ONCE = 1024  # of a block at most; chosen: a block of more is long to wait for
SLOTS = (3, 2, 1)  # chosen: one that comes, one that is worked on, one between


@frozen
class Found:
    """A mapping and those that were weighed, the fastest first."""

    mapping: Mapping
    cost: Cost
    weighed: tuple[tuple[Mapping, Cost], ...]
    forced: bool = False

    def tried(self, work: Work) -> tuple[Tried, ...]:
        """The mapping found, and the fastest others."""
        shown = sorted({self.weighed.index((self.mapping, self.cost)), *range(min(SHOWN, len(self.weighed)))})
        return tuple(
            Tried(_text(mapping), cost.cycles, cost.longest, cost.hbm_bytes, self._why(mapping, cost))
            for mapping, cost in (self.weighed[number] for number in shown)
        )

    def _why(self, mapping: Mapping, cost: Cost) -> str:
        if mapping == self.mapping:
            return "forced" if self.forced else "chosen"
        if cost.cycles > self.cost.cycles:
            return f"{cost.cycles / self.cost.cycles - 1:.1%} slower"
        return f"{cost.instructions / self.cost.instructions:.1f} times the instructions"


def choose(work: Work, machine: Machine, mapping: Mapping | None = None) -> Found:
    """The best mapping, or the one given. Raises UserError where the machine cannot run it."""
    if machine.dma.queues < 2:
        raise UserError("loads and stores need a DMA queue each", found=machine.dma.queues, allowed="2 queues or more")
    if mapping is not None:
        _check(mapping, work, machine)
        found = cost(work, mapping, machine)
        return Found(mapping, found, ((mapping, found),), forced=True)
    weighed = [(each, cost(work, each, machine)) for each in dict.fromkeys(mappings(work, machine))]
    if not weighed:
        least = min(_smallest(work), key=lambda each: each.sram_bytes(work)).sram_bytes(work)
        raise UserError(
            f"the smallest blocks of a {work.name} do not fit into the SRAM of a tile", found=f"{least} bytes",
            allowed=f"{machine.tile_bytes} bytes on {machine.name}",
        )  # fmt: skip
    weighed.sort(key=lambda pair: pair[1].cycles)
    near = [pair for pair in weighed if pair[1].cycles <= NEAR * weighed[0][1].cycles]
    best = min(near, key=lambda pair: (pair[1].instructions, pair[1].cycles))
    return Found(*best, tuple(weighed))


def _check(mapping: Mapping, work: Work, machine: Machine) -> None:
    """Raises UserError for a mapping that the operator or the machine cannot follow."""
    for name, size in attrs.asdict(mapping).items():
        if size < 1:
            raise UserError("a mapping counts from 1", where=name, found=size, allowed="1 or more")
    pieces = ceil_div(work.columns, mapping.block_columns)
    limits = {
        "block_rows": (work.rows, "the rows"),
        "block_columns": (work.columns, "the columns"),
        "row_tiles": (mapping.blocks(work), "the blocks of rows"),
        "column_tiles": (pieces if work.shareable else 1, "the pieces of a row that tiles can share"),
        "column_slots": (mapping.pieces(work), "the pieces of a tile"),
    }
    for name, (most, what) in limits.items():
        if getattr(mapping, name) > most:
            raise UserError("more than there are", where=name, found=getattr(mapping, name), allowed=f"{most}, {what}")
    if mapping.block_columns % work.unit and mapping.block_columns < work.columns:
        allowed = f"multiples of {work.unit}"
        raise UserError(
            "a piece ends within a unit", where="block_columns", found=mapping.block_columns, allowed=allowed
        )
    if mapping.exchanges(work) and pieces % mapping.column_tiles:
        allowed = f"divisors of {pieces}, the pieces of a row"
        raise UserError("not as many pieces each", where="column_tiles", found=mapping.column_tiles, allowed=allowed)
    if mapping.tiles > machine.tiles.count:
        raise UserError("more tiles than the machine has", found=mapping.tiles, allowed=f"up to {machine.tiles.count}")
    if mapping.sram_bytes(work) > machine.tile_bytes:
        raise UserError(
            "the mapping does not fit into the SRAM of a tile", found=f"{mapping.sram_bytes(work)} bytes",
            allowed=f"{machine.tile_bytes} bytes",
        )  # fmt: skip


def _smallest(work: Work) -> Iterator[Mapping]:
    for width in {work.unit, work.columns}:
        yield Mapping(1, 1, 1, width, 1, 1, 1)


def mappings(work: Work, machine: Machine) -> Iterator[Mapping]:
    """Those that fit into the SRAM, of each shape of a block with as many slots as may be."""
    tiles = machine.tiles.count
    for width in _widths(work):
        for column_tiles in _column_tiles(work, ceil_div(work.columns, width), tiles):
            row_tiles = min(tiles // column_tiles, work.entries * work.rows)
            for rows in _heights(work, row_tiles):
                blocks = work.entries * ceil_div(work.rows, rows)
                bare = Mapping(min(row_tiles, blocks), column_tiles, rows, width)
                for pairs in _slots(bare, work):
                    yield from _first_that_fits(bare, work, machine, pairs)


def _slots(bare: Mapping, work: Work) -> Iterator[list[tuple[int, int]]]:
    """Slots of operands and of results, in several ways, the most first: few of each, or many that keep rows."""
    yield [(slots, min(slots, 2)) for slots in SLOTS]
    pieces = bare.pieces(work)
    if pieces > 1 and not bare.whole(work):
        yield [(2 * pieces, pieces)]
        yield [(pieces + more, 2) for more in (2, 1, 0)]


def _first_that_fits(bare: Mapping, work: Work, machine: Machine, pairs: list[tuple[int, int]]) -> Iterator[Mapping]:
    """Of slots in order; what has no rows stays if it can."""
    pieces, columns = bare.pieces(work), bool(work.of_kind("column"))
    for slots, out_slots in pairs:
        for staying in dict.fromkeys((pieces, min(2, pieces), 1)) if columns else (1,):
            each = evolve(bare, slots=slots, out_slots=out_slots, column_slots=staying)
            if each.sram_bytes(work) <= machine.tile_bytes:
                yield each
                return


def _column_tiles(work: Work, pieces: int, tiles: int) -> list[int]:
    """Tiles that share a row: as many as there are pieces, or fewer; with totals, only where rows are few."""
    if not work.shareable or pieces == 1:
        return [1]
    if not work.independent:
        few = work.entries * work.rows < tiles
        return [1, *(share for share in range(2, tiles + 1) if few and pieces % share == 0 and pieces <= 4 * share)]
    shares = {ceil_div(pieces, turns) for turns in (1, 2, 4, 8)} | {1}
    return sorted({ceil_div(pieces, ceil_div(pieces, share)) for share in shares if share <= tiles})


def _widths(work: Work) -> list[int]:
    """Columns of a piece: all of them, or a half, a quarter, ..., in whole units."""
    units, found = ceil_div(work.columns, work.unit), {work.columns}
    parts = 2
    while parts < 2 * units:
        found.add(min(ceil_div(units, parts) * work.unit, work.columns))
        parts *= 2
    return sorted(found, reverse=True)


def _heights(work: Work, tiles: int) -> list[int]:
    """Rows of a block: powers of two, and equal shares of a tile's rows."""
    most = min(work.rows, ROWS_AT_ONCE)
    share = ceil_div(work.rows * work.entries, tiles)
    found = {1 << bits for bits in range(most.bit_length())} | {ceil_div(share, turns) for turns in range(1, 17)}
    return sorted(size for size in found if size <= most)


def _text(mapping: Mapping) -> str:
    tiles = f"{mapping.row_tiles} x {mapping.column_tiles} tiles"
    slots = f"{mapping.slots}+{mapping.out_slots} slots"
    return f"{tiles}, blocks of {mapping.block_rows} x {mapping.block_columns}, {slots}"


def explained(work: Work, machine: Machine, found: Found) -> tuple[tuple[str, str, str], ...]:
    """(what, value, reason) rows for `--explain`."""
    mapping, cost_ = found.mapping, found.cost
    pieces, steps = mapping.pieces(work), mapping.steps(work)
    once = "loaded once" if mapping.resident(work) else f"loaded for each of {len(work.sweeps)} sweeps"
    weighed = ("nothing", "it is forced") if found.forced else (f"{len(found.weighed)} mappings", "by closed formulas")
    return (
        ("tiles", f"{mapping.row_tiles} x {mapping.column_tiles}", "along the rows x along the columns"),
        ("block", f"{mapping.block_rows} x {mapping.block_columns}", f"{steps} blocks a tile, of {pieces} pieces each"),
        ("pieces", once, "whole rows" if mapping.block_columns == work.columns else "columns in pieces"),
        ("slots", f"{mapping.slots} + {mapping.out_slots}", "of each operand + of each result"),
        ("SRAM", f"{mapping.sram_bytes(work)} bytes", f"of {machine.tile_bytes} a tile"),
        ("HBM traffic", f"{cost_.hbm_bytes} bytes", f"{cost_.parts['hbm']} cycles"),
        ("estimate", f"{cost_.cycles} cycles", f"{cost_.longest} takes longest: {cost_.parts[cost_.longest]}"),
        ("weighed", *weighed),
    )
