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

BLOCKS = 4  # under way in a tile: 2048 threads, the most that it holds (CUDA C++ Programming Guide), are 4 of 512
BLOCK_BYTES = 8192  # of the rows of a block: 512 threads of 16 bytes, the widest access (CUDA C++ Programming Guide)
BLOCK_ROWS = 64  # at most; chosen: what the HBM needs under way, several times, as more would only wait there
ROUNDS = 20  # of blocks that are simulated; chosen: half of them have filled the queues of the HBM


def gather_kernels(n: int, width: int, table_rows: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """out[i, :] = table[index[i], :] for n int64 indices, uniformly random, of rows of `width` elements.

    Threads do not know rows: one longer than a block is several, each listed by itself.
    """
    bits = DTYPE_BITS[dtype]
    pieces = ceil(width * bits / (BLOCK_BYTES * 8))
    columns = ceil(width / pieces)
    rows = min(BLOCK_BYTES * 8 // (columns * bits), BLOCK_ROWS)
    blocks, listed = ceil(n * pieces / rows), n * pieces
    slices = slices_for(machine, blocks)
    lanes = min(slice_of(machine, slices).tiles.count, blocks)

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
