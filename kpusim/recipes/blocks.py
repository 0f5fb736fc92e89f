"""Blocks of rows in flight: how a library's kernel on independent rows is dealt to the tiles.

A GPU holds as many thread blocks a tile as its threads allow, and starts the next where one ends. Here a tile has as
many rows as it would have resident at once as one block, and takes block after block.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from attrs import evolve

from kpusim.machine import Machine
from kpusim.machine.share import slices_for
from kpusim.operators.rowwise import Rowwise
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.work import Work
from kpusim.recipes.kernel import Kernel, sampled

__all__ = ["THREADS", "dealt", "equal_share"]

THREADS = 2048  # resident a tile: CUDA C++ Programming Guide, technical specifications, compute capability 8.0 and 9.0
ROUNDS = 3, 12  # blocks a tile that are simulated, at least and at most; chosen: the first two differ from what follows
RUNS = 8192  # pieces of rows in so many blocks; chosen: about a second of simulation


def equal_share(rows: int, tiles: int, resident: int) -> int:
    """Rows of a block: at most `resident`, and no fewer than all blocks of a tile can have alike."""
    share = ceil(rows / tiles)
    return ceil(share / ceil(share / resident))


def dealt(
    make: Callable[[int], Rowwise], rows: int, resident: int, piece: int, machine: Machine, **options: int
) -> Kernel:
    """One launch of `make(rows)`, an operator on so many rows, with `resident` of them at once on a tile.

    piece: columns of a row that it takes at once. There are fewer of both where a tile has no room for that. options:
    of the mapping.
    """
    whole, tiles = make(rows), machine.tiles.count
    block = equal_share(rows, tiles, resident)
    mapping = _fitted(Mapping(1, 1, block, min(piece, whole.columns), **options), whole.work, machine.tile_bytes)
    blocks = ceil(rows / mapping.block_rows)
    slices = slices_for(machine, blocks)
    share, tiles = ceil(rows / slices), tiles // slices
    mapping = evolve(mapping, row_tiles=min(tiles, ceil(share / mapping.block_rows)))
    each = mapping.block_rows * mapping.row_tiles
    steps = ceil(share / each)
    least, most = ROUNDS
    most = max(least, min(most, RUNS // (each * mapping.pieces(whole.work))))
    if steps <= most:
        return Kernel(make(share), mapping, slices=slices)
    return sampled(lambda rounds: make(rounds * each), steps, most, mapping=mapping, slices=slices)


def _fitted(mapping: Mapping, work: Work, room: int) -> Mapping:
    """The mapping, or as much of it as a tile has room for: fewer rows, then none of what stays, then fewer columns."""
    while mapping.sram_bytes(work) > room:
        if mapping.block_rows > 1:
            mapping = evolve(mapping, block_rows=ceil(mapping.block_rows / 2))
        elif mapping.column_slots > 1:
            mapping = evolve(mapping, column_slots=1)
        elif mapping.block_columns > 1:
            mapping = evolve(mapping, block_columns=ceil(mapping.block_columns / 2))
        else:
            break  # which lowering tells
    return mapping
