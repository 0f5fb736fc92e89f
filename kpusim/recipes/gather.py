"""Recipes of family gather: rows of a table by a list of their numbers."""

from __future__ import annotations

from math import ceil

from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.machine.share import slice_of, slices_for
from kpusim.operators.gather import Gather
from kpusim.operators.gather.mapping import Mapping
from kpusim.recipes.kernel import Kernel, Recipe, sampled
from kpusim.recipes.row import Row

__all__ = ["RECIPES", "gather_kernels"]

BLOCKS = 4  # under way in a tile; chosen: some are read while others are written
BLOCK_ROWS = 64  # at most; chosen: twice as many take twice as long to simulate, and short rows go 10 to 13 % faster
ROUNDS = 20  # of blocks that are simulated; chosen: half of them have filled the queues of the HBM


def gather_kernels(n: int, width: int, table_rows: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """out[i, :] = table[index[i], :] for n int64 indices, uniformly random, of rows of `width` elements.

    Threads do not know rows: one longer than a block is several, each listed by itself. Blocks are as large as the
    loads of a tile may be, half of its `outstanding` bytes, as what is loaded is stored, too.
    """
    room = max(1, machine.dma.outstanding_bytes // (2 * BLOCKS) * 8 // DTYPE_BITS[dtype])  # elements of a block
    pieces = ceil(width / room)
    columns = ceil(width / pieces)
    rows = min(room // columns, BLOCK_ROWS)
    blocks, listed = ceil(n * pieces / rows), n * pieces
    slices = slices_for(machine, blocks)
    lanes = min(slice_of(machine, slices).tiles.count, ceil(blocks / slices))

    def make(count: int) -> Gather:
        return Gather(ceil(table_rows * pieces / slices), columns, count, dtype=dtype, index_dtype="int64")

    mapping = Mapping(lanes, rows, columns, BLOCKS)
    return (sampled(make, ceil(listed / slices), ROUNDS * rows * lanes, mapping=mapping, slices=slices),)


def _kernels(row: Row, machine: Machine) -> tuple[Kernel, ...]:
    return gather_kernels(row.size("n"), row.size("width"), row.size("table_rows"), row.dtype, machine)


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "gather-plain", "gather", "one kernel, each thread copies an element of a row",
        "blocks of threads are dealt to tiles; each loads its indices, then the rows, and stores these in order",
        "tests/data/README.md: kind plain",
        lambda row: row.word("kind", ("plain",)) == "plain", _kernels,
    ),
)  # fmt: skip
