"""Blocks of rows in flight: how a library's kernel on independent rows is dealt to the tiles.

A GPU holds as many thread blocks a tile as its threads allow, and starts the next where one ends. Here a tile has as
many rows as it would have resident at once as one block, and takes block after block.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from attrs import evolve

from kpusim.machine import Machine
from kpusim.operators.rowwise import Rowwise
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.recipes.kernel import Kernel, sampled

__all__ = ["THREADS", "dealt", "equal_share"]

THREADS = (
    2048  # threads resident a tile: CUDA C++ Programming Guide, technical specifications, compute capability 8.0, 9.0
)
ROUNDS = 12  # blocks a tile that are simulated at most; chosen: the first two or three differ from all that follow


def equal_share(rows: int, tiles: int, resident: int) -> int:
    """Rows of a block: at most `resident`, and no fewer than all blocks of a tile can have alike."""
    share = ceil(rows / tiles)
    return ceil(share / ceil(share / resident))


def dealt(
    make: Callable[[int], Rowwise], rows: int, resident: int, piece: int, machine: Machine, **options: Any
) -> Kernel:
    """One launch of `make(rows)`, an operator on so many rows, with `resident` of them at once on a tile.

    piece: columns of a row that it takes at once; less where the tile has no room for that. options: of the mapping.
    """
    whole = make(rows)
    block = equal_share(rows, machine.tiles.count, resident)
    piece = min(piece, whole.columns)
    mapping = Mapping(1, 1, block, piece, **options)
    while mapping.sram_bytes(whole.work) > machine.tile_bytes and mapping.block_columns > 1:
        mapping = evolve(mapping, block_columns=ceil(mapping.block_columns / 2))
    pieces = ceil(whole.columns / mapping.block_columns)
    mapping = evolve(mapping, column_slots=min(mapping.column_slots, pieces))
    steps = ceil(rows / (block * machine.tiles.count))
    if steps <= ROUNDS:
        tiles = min(machine.tiles.count, ceil(rows / block))
        return Kernel(whole, evolve(mapping, row_tiles=tiles))
    mapping = evolve(mapping, row_tiles=machine.tiles.count)
    return sampled(lambda rounds: make(rounds * block * machine.tiles.count), steps, ROUNDS, mapping=mapping)
