"""GEMMs of few rows, which read their weight once: how near to an ideal stream of reads."""

from __future__ import annotations

from kpusim.bench.measure import Pairs, timed
from kpusim.isa.expr import Const, Lookup, Name
from kpusim.isa.program import (
    Box,
    Buffer,
    Instruction,
    Loop,
    Program,
    Range,
    Section,
    Table,
    Tensor,
    TensorMap,
    TileSet,
    View,
)
from kpusim.machine import Machine, load_machine
from kpusim.operators.gemm import Gemm
from kpusim.simulate.run import simulate

__all__ = ["WEIGHT", "decode1", "decode32", "stream_program"]

WEIGHT = 14336, 4096  # outputs and inputs


def decode1() -> Pairs:
    """One row times a weight, against an ideal read stream."""
    yield from _decode(1)


def decode32() -> Pairs:
    """32 rows times a weight, against an ideal read stream."""
    yield from _decode(32)


def _decode(m: int) -> Pairs:
    """Both bandwidths are bytes that must move over cycles after the first byte; the launch is in neither."""
    machine = load_machine("kpu-datacenter")
    n, k = WEIGHT
    operator = Gemm(m, n, k, transpose_b=True)
    program = operator.lower(machine).program
    wall, run = timed(lambda: simulate(program, machine), 3)
    first = simulate(stream_program(machine, machine.hbm.access_bytes), machine).cycles
    size = n * k * 2
    stream = size / (simulate(stream_program(machine, size), machine).cycles - first)
    reached = operator.compulsory_bytes / (run.cycles - first)
    yield f"decode{m}.wall_in_timeouts", wall
    yield f"decode{m}.cycles", run.cycles
    yield f"decode{m}.launch_cycles", machine.front_end.launch_cycles
    yield f"decode{m}.first_byte_cycles", first
    yield f"decode{m}.bytes_per_cycle", reached
    yield f"decode{m}.ideal_bytes_per_cycle", stream
    yield f"decode{m}.bandwidth_over_ideal", reached / stream
    yield f"decode{m}.ideal_over_attainable", stream / float(machine.hbm.attainable_bytes_per_cycle)


def stream_program(machine: Machine, size: int, piece: int = 16384) -> Program:
    """A program that does nothing but read `size` bytes in order, `piece` at a time, on all DMA queues by turns."""
    piece = min(piece, size)
    pieces, dma = -(-size // piece), machine.dma
    lanes = machine.dma_engines * dma.queues
    engine = Name("engine")
    positions = (machine.dma_position(number) for number in range(machine.dma_engines))
    nearest = Table("nearest", tuple(row * machine.tiles.columns + column for row, column in positions))

    def section(queue: int) -> Section:
        number = Name("i") * lanes + engine * dma.queues + queue
        box = Box("piece", (Range(number * piece),))
        load = Instruction("load", (View("landing", Const(0), (), TileSet(Lookup("nearest", engine))), box))
        loop = Loop("i", Const(0), Const(-(-pieces // lanes)), (load,))
        return Section("dma", 0, machine.dma_engines, 1, queue, (), (loop,))

    return Program(
        name="stream",
        tables=(nearest,),
        tensors=(Tensor("data", "int8", (size,), "in"),),
        maps=(TensorMap("piece", "data", (piece,)),),
        buffers=(Buffer("landing", "int8", 1, (piece,), 0),),
        sections=tuple(section(queue) for queue in range(dma.queues)),
    )
