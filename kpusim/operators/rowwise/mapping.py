"""Mappings of rowwise operators: how rows and columns are spread over tiles and time.

`row_tiles` x `column_tiles` tiles work at once. A tile takes blocks of `block_rows` rows, and of each the pieces of
`block_columns` columns that are its own: by turns, so that tiles side by side read what lies side by side in HBM. The
pieces of one operand that are under way share `slots` buffers. Where a row has several sweeps and all its pieces fit
into the slots, they are loaded once; else once for each sweep.
"""

from __future__ import annotations

from collections.abc import Mapping as Table

from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.operators.declare import sram_bytes
from kpusim.operators.rowwise.work import Along, Stream, Sweep, Temporary, Work, all_of, part_of
from kpusim.operators.steps import Step

__all__ = ["ROW_SLOTS", "Mapping"]

ROW_SLOTS = 2  # of operands with some numbers a row, which are small


@frozen
class Mapping:
    """One way to run a rowwise operator; see the module.

    out_slots: buffers of each result. column_slots: of each operand that has columns but no rows: one for each piece of
    a tile, and it stays; fewer, and it comes again with each block.
    """

    row_tiles: int
    column_tiles: int
    block_rows: int
    block_columns: int
    slots: int = 2
    out_slots: int = 2
    column_slots: int = 1

    @property
    def tiles(self) -> int:
        """All that are used."""
        return self.row_tiles * self.column_tiles

    def blocks(self, work: Work) -> int:
        """Blocks of rows; none crosses the edge of an entry."""
        return work.entries * ceil_div(work.rows, self.block_rows)

    def steps(self, work: Work) -> int:
        """Blocks of rows that a tile takes."""
        return ceil_div(self.blocks(work), self.row_tiles)

    def pieces(self, work: Work) -> int:
        """Pieces of a block that a tile takes."""
        return ceil_div(ceil_div(work.columns, self.block_columns), self.column_tiles)

    def whole(self, work: Work) -> bool:
        """Whether a tile has all of a row at once, or needs no more of it than a piece."""
        return self.pieces(work) * self.column_tiles == 1 or work.independent

    def resident(self, work: Work) -> bool:
        """Whether the pieces of a block are loaded once for all sweeps."""
        return self.whole(work) or self.slots >= self.pieces(work)

    def skips(self, work: Work) -> bool:
        """Whether columns that no row of a block needs are neither loaded nor worked on."""
        return work.causal and self.block_columns == work.columns

    def exchanges(self, work: Work) -> bool:
        """Whether tiles share rows whose totals they exchange."""
        return self.column_tiles > 1 and not work.independent

    def row_by_row(self, work: Work) -> bool:
        """Whether a tile has room for all pieces of a row, and of the next one: rows come and go in one go."""
        pieces = self.pieces(work)
        return self.column_tiles == 1 and self.slots >= 2 * pieces and self.out_slots >= pieces

    def stays(self, work: Work) -> bool:
        """Whether operands without rows are loaded once for all blocks."""
        return self.column_slots >= self.pieces(work)

    def sweeps(self, work: Work) -> tuple[Sweep, ...]:
        """The ways over the pieces of a block."""
        return (Sweep(work.whole),) if self.whole(work) else work.sweeps

    def loads(self, work: Work, stream: Stream) -> list[int]:
        """The sweeps with which an operand is loaded."""
        sweeps = [work.touched((*self.before(work, sweep), *sweep.each)) for sweep in self.sweeps(work)]
        used = [number for number, touched in enumerate(sweeps) if stream.name in touched]
        return used[:1] if self.resident(work) and stream.kind == "block" else used

    def before(self, work: Work, sweep: Sweep) -> tuple[Step, ...]:
        """What precedes each piece of a sweep: the prelude, where the sweep needs it and it does not stay."""
        needed = any(item.kept and item.name in work.touched(sweep.each) for item in work.temporaries)
        return work.prelude if needed and not self.stays(work) else ()

    def count(self, work: Work, item: Stream | Temporary) -> int:
        """Slots of a buffer."""
        if isinstance(item, Temporary):
            if item.held and not self.whole(work):
                return self.pieces(work)
            return self.column_slots if item.kept and self.stays(work) else 1
        if item.kind == "row":
            return ROW_SLOTS
        if item.kind == "column":
            return self.column_slots
        return self.slots if item.role == "in" else self.out_slots

    def buffers(self, work: Work) -> Table[str, tuple[str, int, tuple[int, ...]]]:
        """(dtype, slots, shape) of each buffer of a tile, by name."""
        steps = [step for sweep in self.sweeps(work) for step in (*sweep.before, *sweep.each, *sweep.after)]
        used = work.touched((*work.prelude, *steps)) | {name for name, _ in work.indices}
        if not self.whole(work):
            used |= {part_of(total) for sweep in work.sweeps for total in work.totals(sweep)}
        found = {
            item.buffer: (item.dtype, self.count(work, item), self.shape(item.shape))
            for name, item in work.operands.items()
            if name in used
        }
        totals = [total for sweep in self.sweeps(work) for total in work.totals(sweep)]
        if self.exchanges(work):
            found |= {all_of(total): ("fp32", 1, (self.block_rows, self.column_tiles)) for total in totals}
        return found

    def shape(self, shape: tuple[Along | int, ...]) -> tuple[int, ...]:
        """Of a buffer, or a box."""
        extents = {"batch": 1, "rows": self.block_rows, "columns": self.block_columns}
        return tuple(item.size(extents[item.axis]) if isinstance(item, Along) else item for item in shape)

    def sram_bytes(self, work: Work) -> int:
        """SRAM of a tile."""
        return sram_bytes(self.buffers(work))
