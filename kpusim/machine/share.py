"""Tiles divided: what one of several programs has that run beside each other on every tile, each on its own data."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from kpusim.machine.quantities import whole
from kpusim.machine.spec import Machine, SramPorts

__all__ = ["shared_among"]


def shared_among(machine: Machine, parts: int) -> Machine:
    """A machine of `parts` times as many tiles, each with an equal share of what a tile of `machine` has.

    Thread blocks that are resident beside each other have such shares, whether or not the others are there. An array
    and lanes of as many cells are slower; SRAM is smaller; DMA engines and links of each tile are narrower. What
    serves all tiles stays as it is.
    """
    matrix, vector, sram, dma, noc = machine.matrix, machine.vector, machine.sram, machine.dma, machine.noc
    rates = {dtype: whole(Fraction(rate) / parts) for dtype, rate in matrix.macs_per_cell.items()}
    ports = SramPorts(*(each / parts for each in (sram.ports.dma, sram.ports.matrix, sram.ports.vector)))
    each_tile = dma.placement == "tile"
    return evolve(
        machine,
        tiles=evolve(machine.tiles, rows=machine.tiles.rows * parts),
        matrix=evolve(matrix, macs_per_cell=rates, accumulators_bytes=matrix.accumulators_bytes // parts),
        vector=evolve(vector, lane_cycles={name: parts * cycles for name, cycles in vector.lane_cycles.items()}),
        sram=evolve(sram, capacity_bytes=sram.capacity_bytes // parts, ports=ports),
        dma=evolve(
            dma, bytes_per_cycle=dma.bytes_per_cycle / parts, outstanding_bytes=dma.outstanding_bytes // parts
        ) if each_tile else dma,
        noc=evolve(noc, bytes_per_cycle=noc.bytes_per_cycle / parts) if each_tile else noc,
    )  # fmt: skip
