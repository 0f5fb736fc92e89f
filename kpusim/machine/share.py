"""Machines divided: tiles among programs that run beside each other on each, and a machine into equal parts."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from kpusim.machine.quantities import whole
from kpusim.machine.spec import Machine, SramPorts

__all__ = ["part_of", "parts_of", "shared_among"]


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


def parts_of(machine: Machine, most: int) -> int:
    """The most parts, but no more than `most`, that a machine can be divided into: see `part_of`."""
    return max(
        parts for parts in range(1, most + 1) if not (machine.tiles.columns % parts or _channels(machine, parts))
    )


def part_of(machine: Machine, parts: int) -> Machine:
    """One of so many equal parts: of the columns of tiles, of the channels of each stack, of the shared level.

    What all parts do alike takes one of them as long as the machine takes for all, but for the network between parts.
    """
    hbm, shared = machine.hbm, machine.shared
    return evolve(
        machine,
        tiles=evolve(machine.tiles, columns=machine.tiles.columns // parts),
        hbm=evolve(
            hbm, channels=hbm.channels // parts, capacity_bytes=hbm.capacity_bytes // parts,
            bytes_per_cycle=hbm.bytes_per_cycle / parts,
        ),
        shared=evolve(
            shared, capacity_bytes=shared.capacity_bytes // parts, bytes_per_cycle=shared.bytes_per_cycle / parts
        ) if shared.kind != "none" else shared,
    )  # fmt: skip


def _channels(machine: Machine, parts: int) -> int:
    """Channels of a stack that are left over."""
    return machine.hbm.channels % parts
