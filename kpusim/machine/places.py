"""Where DMA engines and HBM channels attach to the network: each at the router of a tile, by row and column."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kpusim.machine.spec import Machine

__all__ = ["channel_position", "engine_count", "engine_position"]


def engine_count(machine: Machine) -> int:
    """DMA engines, by `dma.placement`."""
    rows, columns = machine.tiles.rows, machine.tiles.columns
    counts = {"row-ends": 2 * rows, "west": rows, "column-ends": 2 * columns, "corners": 4, "tile": rows * columns}
    return counts[machine.dma.placement]


def engine_position(machine: Machine, engine: int) -> tuple[int, int]:
    """Row and column of a DMA engine."""
    south, east = machine.tiles.rows - 1, machine.tiles.columns - 1
    pair, second = divmod(engine, 2)
    return {
        "row-ends": (pair, second * east),
        "west": (engine, 0),
        "column-ends": (second * south, pair),
        "corners": (pair * south, second * east),
        "tile": divmod(engine, machine.tiles.columns),
    }[machine.dma.placement]


def channel_position(machine: Machine, channel: int) -> tuple[int, int]:
    """Row and column of a channel where `hbm.attach` is "edges".

    Stacks are west and east by turns; those of an edge share its rows evenly, and so do the channels of each.
    """
    channels, rows = machine.hbm.channels, machine.tiles.rows
    stack, number = divmod(channel, channels)
    beside = (machine.hbm.stacks + 1 - stack % 2) // 2  # stacks at the same edge
    row = (2 * (stack // 2 * channels + number) + 1) * rows // (2 * beside * channels)
    return row, (machine.tiles.columns - 1) * (stack % 2)
