"""A rowwise operator lowered: blocks of rows streamed through the tiles; loads, vector engines, stores overlap."""

from __future__ import annotations

from kpusim.isa.program import Program, Semaphore, Table, TensorMap
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.declare import buffers, full_and_free, tensors
from kpusim.operators.rowwise.choose import choose, explained
from kpusim.operators.rowwise.exchange import Exchange
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.transfers import Traffic, share_of
from kpusim.operators.rowwise.vector import Vector
from kpusim.operators.rowwise.work import Stream, Work

__all__ = ["lower"]


def lower(work: Work, machine: Machine, layouts: Layouts = ROW_MAJOR, mapping: Mapping | None = None) -> Lowered:
    """The program of `mapping` (by default the best found) for tensors laid out as given, and why it was chosen.

    Raises UserError if the machine cannot run it: too little SRAM, too few tiles or DMA queues.
    """
    found = choose(work, machine, mapping)
    program = Program(
        name=work.name,
        tensors=tensors(work.ports, layouts),
        maps=tuple(_box(stream, found.mapping) for stream in work.streams),
        buffers=buffers(found.mapping.buffers(work)),
        semaphores=(
            *(semaphore for stream in work.streams for semaphore in _pair(stream, work, found.mapping)),
            *Exchange(work, found.mapping).semaphores(),
        ),
        tables=tuple(Table(f"{name}_list", numbers, name) for name, numbers in work.indices),
        sections=(
            *Traffic(work, found.mapping, machine).sections(),
            Vector(work, found.mapping, share_of(work, found.mapping, machine)).section(),
        ),
    )
    return Lowered(program, explained(work, machine, found), found.mapping, found.tried(work))


def _box(stream: Stream, mapping: Mapping) -> TensorMap:
    box = mapping.shape(stream.tensor)
    return TensorMap(f"{stream.name}_box", stream.port, (1, *box[1:]) if stream.index else box)


def _pair(stream: Stream, work: Work, mapping: Mapping) -> tuple[Semaphore, ...]:
    slots = mapping.count(work, stream)
    pair = full_and_free(stream.name, mapping.tiles, slots)
    return pair[:1] if stream.kind == "column" and mapping.stays(work) else pair
