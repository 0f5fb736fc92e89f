"""Recipes of family gather: rows of a table by a list of their numbers."""

from __future__ import annotations

from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.gather import Gather
from kpusim.operators.gather.mapping import Mapping
from kpusim.recipes.kernel import Kernel, Recipe, sampled

__all__ = ["RECIPES", "gather_kernels"]

BLOCK_BYTES = 8192  # of rows that a tile asks for at once; chosen: 512 threads of 16 bytes, a vectorised access
BLOCK_ROWS = 128  # and most of them; chosen: so that all blocks under way keep every bank of the HBM at work
BLOCKS = 4  # under way in a tile: 2048 threads, the most that it holds (CUDA C++ Programming Guide, compute capability)
ROUNDS = 8  # of blocks that are simulated; chosen: those that fill the pipeline, and as many that go through it


def gather_kernels(n: int, width: int, table_rows: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """out[i, :] = table[index[i], :] for n int64 indices, uniformly random, of rows of `width` elements.

    Tiles work at blocks of rows. Threads do not know rows: one longer than a block is several, each listed by itself.
    """
    pieces = ceil_div(width * DTYPE_BITS[dtype], BLOCK_BYTES * 8)
    columns = ceil_div(width, pieces)
    rows = min(BLOCK_BYTES * 8 // (columns * DTYPE_BITS[dtype]), BLOCK_ROWS)
    lanes = min(machine.tiles.count, ceil_div(n * pieces, rows))

    def make(count: int) -> Gather:
        return Gather(table_rows * pieces, columns, count, dtype=dtype, index_dtype="int64")

    return (sampled(make, n * pieces, ROUNDS * rows * lanes, mapping=Mapping(lanes, rows, columns, BLOCKS)),)


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "gather-plain", "gather", "one kernel, each thread copies an element of a row",
        "blocks of threads are dealt to tiles; each loads its indices, then the rows, and stores these in order",
        "shared truth: kind `plain`",
        lambda row: row.word("kind", ("plain",)) == "plain",
        lambda row, machine: gather_kernels(
            row.size("n"), row.size("width"), row.size("table_rows"), row.dtype, machine
        ),
    ),
)  # fmt: skip
