"""What a machine offers a program, in the words of the instruction set's check."""

from kpusim.isa.check import Limits
from kpusim.machine.spec import Machine

__all__ = ["limits_of"]


def limits_of(machine: Machine) -> Limits:
    """Tiles, DMA engines, queues of each and bytes of SRAM, for `isa.check.check_program`."""
    return Limits(machine.tiles.count, machine.dma_engines, machine.dma.queues, machine.tile_bytes)
