"""Side tables of a lowered program: tensors as they lie in HBM, buffers one behind the other in SRAM, semaphores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from kpusim.isa.expr import ceil_div
from kpusim.isa.layout import DENSE
from kpusim.isa.program import Buffer, Semaphore, Tensor
from kpusim.isa.tables import DTYPE_BITS
from kpusim.operators.base import Layouts, Port

__all__ = ["SRAM_ALIGNMENT", "Wanted", "buffers", "full_and_free", "sram_bytes", "tensors"]

SRAM_ALIGNMENT = 64  # bytes

Wanted = Mapping[str, tuple[str, int, tuple[int, ...]]]
"""(dtype, slots, shape of one) of buffers, by name."""


def tensors(ports: Iterable[Port], layouts: Layouts) -> tuple[Tensor, ...]:
    """The tensors behind `ports`, laid out as given."""
    return tuple(
        Tensor(port.name, port.dtype, port.shape, port.role, layout.block, layout.pitch)
        for port in ports
        for layout in [layouts.get(port.name, DENSE)]
    )


def buffers(wanted: Wanted) -> tuple[Buffer, ...]:
    """The buffers in order, each at the next multiple of the alignment."""
    found: list[Buffer] = []
    for name, (dtype, slots, shape) in wanted.items():
        offset = ceil_div(found[-1].end, SRAM_ALIGNMENT) * SRAM_ALIGNMENT if found else 0
        found.append(Buffer(name, dtype, slots, shape, offset))
    return tuple(found)


def sram_bytes(wanted: Wanted) -> int:
    """SRAM of a tile that `buffers` takes, its end aligned."""
    return sum(
        ceil_div(slots * ceil_div(prod(shape) * DTYPE_BITS[dtype], 8), SRAM_ALIGNMENT) * SRAM_ALIGNMENT
        for dtype, slots, shape in wanted.values()
    )


def full_and_free(name: str, instances: int, slots: int) -> tuple[Semaphore, Semaphore]:
    """Of a buffer that one fills and one empties: each slot is full, each is free, as all are at first."""
    return Semaphore(f"{name}_full", instances, slots), Semaphore(f"{name}_free", instances, slots, 1)
