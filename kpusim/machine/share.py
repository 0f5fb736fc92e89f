"""Machines divided: tiles among programs that run beside each other on each, and a machine into equal slices."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from kpusim.machine.quantities import whole
from kpusim.machine.spec import Machine, SramPorts

__all__ = ["shared_among", "slice_of", "slices_for"]

SLICES = 4  # at most; chosen: of fewer tiles the last thread blocks weigh too much, and channels wait no turns


def shared_among(machine: Machine, resident: int) -> Machine:
    """A machine of `resident` times as many tiles, each with an equal share of what a tile of `machine` has.

    Thread blocks that are resident beside each other have such shares, whether or not the others are there. An array
    and lanes of as many cells are slower; SRAM is smaller; DMA engines and links of each tile are narrower. What
    serves all tiles stays as it is.
    """
    matrix, vector, sram, dma, noc = machine.matrix, machine.vector, machine.sram, machine.dma, machine.noc
    rates = {dtype: whole(Fraction(rate) / resident) for dtype, rate in matrix.macs_per_cell.items()}
    ports = SramPorts(*(each / resident for each in (sram.ports.dma, sram.ports.matrix, sram.ports.vector)))
    each_tile = dma.placement == "tile"
    return evolve(
        machine,
        tiles=evolve(machine.tiles, rows=machine.tiles.rows * resident),
        matrix=evolve(matrix, macs_per_cell=rates, accumulators_bytes=matrix.accumulators_bytes // resident),
        vector=evolve(vector, lane_cycles={name: resident * cycles for name, cycles in vector.lane_cycles.items()}),
        sram=evolve(sram, capacity_bytes=sram.capacity_bytes // resident, ports=ports),
        dma=evolve(
            dma, bytes_per_cycle=dma.bytes_per_cycle / resident, outstanding_bytes=dma.outstanding_bytes // resident
        ) if each_tile else dma,
        noc=evolve(noc, bytes_per_cycle=noc.bytes_per_cycle / resident) if each_tile else noc,
    )  # fmt: skip


def slices_for(machine: Machine, blocks: int) -> int:
    """Equal slices of a machine, of which one tells the time of all with its share of so many thread blocks alike.

    One where half of the tiles or more have no block: of so few, a share that is rounded up is too large a one.
    """
    if 2 * blocks <= machine.tiles.count:
        return 1
    columns, channels = machine.tiles.columns, machine.hbm.channels
    return max(slices for slices in range(1, SLICES + 1) if not (columns % slices or channels % slices))


def slice_of(machine: Machine, slices: int) -> Machine:
    """One of so many equal slices: of the columns of tiles, of the channels of each stack, of the shared level.

    What all slices do alike takes one of them as long as the machine takes for all, but for the network between them.
    """
    hbm, shared = machine.hbm, machine.shared
    return evolve(
        machine,
        tiles=evolve(machine.tiles, columns=machine.tiles.columns // slices),
        hbm=evolve(
            hbm, channels=hbm.channels // slices, capacity_bytes=hbm.capacity_bytes // slices,
            bytes_per_cycle=hbm.bytes_per_cycle / slices,
        ),
        shared=evolve(
            shared, capacity_bytes=shared.capacity_bytes // slices, bytes_per_cycle=shared.bytes_per_cycle / slices
        ) if shared.kind != "none" else shared,
    )  # fmt: skip
