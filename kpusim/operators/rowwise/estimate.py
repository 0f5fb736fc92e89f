"""What a mapping of a rowwise operator takes, by the closed cycle formulas."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from attrs import frozen

from kpusim.costs import vector_timer
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS, instruction_rows
from kpusim.machine import Machine
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.work import Dimension, Stream, Work, elements
from kpusim.operators.steps import Step

__all__ = ["Cost", "cost", "traffic"]

OPENED = 1.5  # HBM rows that are opened anew for each stretch; of 4 to 32 KiB, measured on kpu-datacenter
BETWEEN = 0.15  # the same for each transfer, where they follow each other in memory


@frozen
class Cost:
    """What a mapping takes, in cycles by part, the HBM bytes it moves, and its instructions in proportion.

    filling: cycles before a part begins and after it ends.
    """

    parts: dict[str, int]
    hbm_bytes: int
    instructions: int
    filling: dict[str, int]

    @property
    def longest(self) -> str:
        """The part that takes longest, with what comes before and after it."""
        return max(self.parts, key=lambda name: self.parts[name] + self.filling[name])

    @property
    def cycles(self) -> int:
        """How long that is."""
        return self.parts[self.longest] + self.filling[self.longest]


def cost(work: Work, mapping: Mapping, machine: Machine) -> Cost:
    """What a mapping takes, by the closed formulas."""
    rows = mapping.steps(work) * mapping.pieces(work)
    moved = transfers = 0
    for stream in work.streams:
        slots, each = _times(work, mapping, stream)
        moved += slots * _bytes(work, mapping, stream, machine)
        transfers += each
    engines, dma = min(mapping.tiles, machine.dma_engines), machine.dma
    engine = ceil(moved / engines / dma.bytes_per_cycle)
    queues = min(max(dma.queues // 2, 1), len(work.streams))
    setups = transfers * ceil_div(mapping.tiles, machine.dma_engines) * dma.setup_cycles
    parts = {
        "vector": _vector(work, mapping, machine) * rows,
        "hbm": ceil(moved / machine.hbm.attainable_bytes_per_cycle),
        "dma": max(engine, (engine + setups) // queues),
    }
    filling = _filling(work, mapping, machine)
    if min(mapping.slots, mapping.out_slots) == 1:  # nothing overlaps
        filling = {name: cycles + sum(parts.values()) - parts[name] for name, cycles in filling.items()}
    return Cost(
        parts, traffic(work, mapping), mapping.tiles * rows * (len(work.whole) + 2 * len(work.streams)), filling
    )


def _filling(work: Work, mapping: Mapping, machine: Machine) -> dict[str, int]:
    """Cycles before a part begins and after it ends: the ways of the first block and of the last."""
    hbm, dma = machine.hbm, machine.dma
    blocks = {"in": 0, "out": 0}
    for stream in work.streams:
        if stream.kind == "block":
            blocks[stream.role] += _bytes(work, mapping, stream, machine)
    link = min(dma.bytes_per_cycle, machine.noc.bytes_per_cycle)
    way_in = dma.setup_cycles + hbm.closed_read_cycles + ceil(blocks["in"] / link)
    way_out = dma.setup_cycles + hbm.controller_cycles + ceil(blocks["out"] / link)
    ways = way_in + way_out
    first = ceil(blocks["in"] * mapping.tiles / hbm.attainable_bytes_per_cycle)
    vector, sweeps = _vector(work, mapping, machine), len(mapping.sweeps(work))
    if sweeps > 1:  # all but the first follow when all of a row is there
        vector = vector // sweeps * ((sweeps - 1) * mapping.pieces(work) + 1)
    if mapping.exchanges(work):  # each waits for all
        totals = sum(len(work.totals(sweep)) for sweep in work.sweeps)
        turns = ceil_div(mapping.tiles, machine.dma_engines) + 1
        ways += mapping.steps(work) * totals * (turns * dma.setup_cycles + mapping.column_tiles)
    return {"vector": ways + first, "hbm": ways + vector, "dma": ways + vector}


def traffic(work: Work, mapping: Mapping) -> int:
    """HBM bytes, but for accesses at the ends of pieces."""
    total = 0
    for stream in work.streams:
        size = elements(stream.moved, work.rows, work.columns) * DTYPE_BITS[stream.dtype] // 8
        if stream.kind == "block" and stream.role == "in" and mapping.skips(work):
            size = work.needed * DTYPE_BITS[stream.dtype] // 8
        loads = len(mapping.loads(work, stream)) if stream.role == "in" and stream.kind != "row" else 1
        if stream.kind == "column":
            total += size * (1 if mapping.stays(work) else loads * mapping.blocks(work))
        else:
            total += size * work.entries * (loads if stream.kind == "block" else mapping.column_tiles)
    return total


def _times(work: Work, mapping: Mapping, stream: Stream) -> tuple[int, int]:
    """(slots that move between HBM and all tiles, transfers of one tile)."""
    blocks, pieces = mapping.steps(work) * mapping.row_tiles, mapping.pieces(work)
    if stream.kind == "row":
        return blocks * mapping.column_tiles, mapping.steps(work)
    loads = len(mapping.loads(work, stream)) if stream.role == "in" else 1
    if stream.kind == "column" and mapping.stays(work):
        return pieces * mapping.column_tiles, 0
    return blocks * pieces * mapping.column_tiles * loads, mapping.steps(work) * pieces * loads


def _bytes(work: Work, mapping: Mapping, stream: Stream, machine: Machine) -> int:
    """HBM bytes of one slot, and so many more as would move while rows are opened anew."""
    size = ceil_div(elements(stream.moved, mapping.block_rows, mapping.block_columns) * DTYPE_BITS[stream.dtype], 8)
    if stream.kind != "block":
        return size
    if stream.role == "in" and mapping.skips(work):
        size = ceil(size * work.needed / (work.rows * work.columns))  # in the mean
    if mapping.block_columns == work.columns or mapping.row_by_row(work):
        return size + ceil(BETWEEN * machine.hbm.row_bytes)
    run = size * mapping.column_tiles // mapping.block_rows
    return size + ceil(size * OPENED * machine.hbm.row_bytes / max(run, 1))


def _vector(work: Work, mapping: Mapping, machine: Machine) -> int:
    """Cycles of the vector engine for one piece, all sweeps together."""
    rows, times = (1, mapping.block_rows) if work.by_row else (mapping.block_rows, 1)
    steps = [step for sweep in mapping.sweeps(work) for step in (*sweep.each, *sweep.after)]
    columns = ceil_div(work.needed, work.rows) if mapping.skips(work) else mapping.block_columns
    return times * sum(_cycles(work, step, rows, columns, machine) for step in steps)


@lru_cache(1024)
def _sizes(work: Work, step: Step) -> tuple[tuple[int, tuple[Dimension, ...]], ...]:
    """(bits, dimensions) of a step's operands."""
    operands = work.operands
    return tuple(
        (DTYPE_BITS[operands[work.buffer(name)].dtype], work.shape(name))
        for name in step.buffers
        if work.buffer(name) in operands
    )


def _cycles(work: Work, step: Step, rows: int, columns: int, machine: Machine) -> int:
    """Cycles of one instruction."""
    sizes = [(bits, elements(shape, rows, columns)) for bits, shape in _sizes(work, step)]
    timing = vector_timer(machine, instruction_rows()[step.op].timing_class)
    return timing(max(count for _, count in sizes), sum(bits * count for bits, count in sizes) // 8)
