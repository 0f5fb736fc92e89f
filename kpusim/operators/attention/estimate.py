"""What an attention mapping costs by closed formulas: every engine's cycles, and the bytes from HBM."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from functools import cache
from heapq import heapify, heapreplace
from math import ceil

from attrs import frozen

from kpusim.costs import hbm_bound_cycles, matmul_timer, vector_timer
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.attention.items import band_lengths
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.attention.problem import Problem

__all__ = ["Cost", "cost", "streamed_bytes"]

EVEN = 16  # chosen: dealt the longest first, so many items a team differ in sum by less than the shortest


@frozen
class Cost:
    """Estimated cycles in all, cycles of each resource if it were alone (the team with most to do), and HBM bytes.

    blocks: of keys, that all tiles work on.
    """

    cycles: int
    parts: Dict[str, int]
    hbm_bytes: int
    blocks: int

    @property
    def longest(self) -> str:
        """What takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def cost(mapping: Mapping, problem: Problem, machine: Machine) -> Cost:
    """Of a mapping that fits.

    A block of keys takes the longer of the matrix engine, the vector engine and its way from HBM where the variant is
    pipelined, and their sum otherwise; a team does one after the other. Between two items a pipeline waits for what the
    scores of the next cannot hide; behind the last block nothing hides anything.
    """
    items, blocks = _team(mapping, problem, machine)
    matrix, drain = _matrix(mapping, problem, machine)
    vector, item = _vector(mapping, problem, machine)
    moved = streamed_bytes(mapping, problem)
    arrival = _arrival(mapping, problem, machine, matrix + vector + drain)
    step = max(matrix, vector + drain // 2) if mapping.ahead else matrix + vector + drain
    parts = {
        "matrix compute": blocks * matrix,
        "vector engine": blocks * vector + items * item,
        "DMA engine": blocks * arrival,
        "HBM": hbm_bound_cycles(machine, moved + problem.query_bytes),
    }
    between = max(drain + item + vector - matrix // 2, 0) if mapping.ahead else drain + item
    busy = max(blocks * max(step, arrival), parts["HBM"], parts["vector engine"]) + (items - 1) * between
    last = matrix + vector + drain + item
    cycles = busy + last + _ends(mapping, problem, machine, arrival)
    return Cost(cycles, parts, moved + problem.query_bytes, blocks * _tiles(mapping, problem, machine))


def streamed_bytes(mapping: Mapping, problem: Problem) -> int:
    """Bytes of keys and values that all streams read: of each band the blocks that it sees."""
    lengths = band_lengths(problem, mapping)
    whole = sum(lengths) * mapping.block_keys
    return problem.entries * min(whole, len(lengths) * max(problem.length, 1)) * problem.key_bytes


@cache
def _makespan(lengths: tuple[int, ...], entries: int, teams: int) -> tuple[int, int]:
    """(items, blocks) of the team with most blocks; where each has many items, they even out."""
    items = ceil_div(len(lengths) * entries, teams)
    if len(set(lengths)) == 1:
        return items, items * lengths[0]
    if items >= EVEN:
        return items, ceil_div(sum(lengths) * entries, teams) + lengths[0] // items
    load = [(0, 0)] * teams
    heapify(load)
    for length in sorted(lengths, reverse=True):
        for _ in range(entries):
            blocks, items = load[0]
            heapreplace(load, (blocks + length, items + 1))
    blocks, items = max(load)
    return items, blocks


def _team(mapping: Mapping, problem: Problem, machine: Machine) -> tuple[int, int]:
    """(items, blocks of keys) of a stream of the team with most to do."""
    teams = mapping.teams(problem, machine.tiles.count)
    items, blocks = _makespan(band_lengths(problem, mapping), problem.entries, teams)
    return items, ceil_div(blocks, mapping.splits)


def _matrix(mapping: Mapping, problem: Problem, machine: Machine) -> tuple[int, int]:
    """(cycles, drain) of both matmuls of a block."""
    time = matmul_timer(machine, problem.dtype)
    scores, drain = time(mapping.rows, mapping.block_keys, problem.head_dim)
    values, last = time(mapping.rows, problem.value_dim, mapping.block_keys)
    return scores + values, drain + last


def _vector(mapping: Mapping, problem: Problem, machine: Machine) -> tuple[int, int]:
    """Cycles of the vector engine for a block, and for an item beside its blocks."""
    rows, keys, value = mapping.rows, mapping.block_keys, problem.value_dim
    size = DTYPE_BITS[problem.dtype] // 8

    def time(operation: str, elements: int, moved: int) -> int:
        return vector_timer(machine, operation)(elements, moved)

    scores = rows * keys
    block = (
        time("reduce", scores, 4 * scores) + time("mul", scores, 8 * scores) + time("exp", scores, (4 + size) * scores)
    )
    block += time("reduce", scores, size * scores)
    if problem.dtype == "fp8_e4m3":
        block += time("mul", scores, 5 * scores)
    block += time("mul", rows, 8 * rows) + 2 * time("add", rows, 12 * rows) + time("exp", rows, 8 * rows)
    block += time("mul", rows, 16 * rows) + time("mul", rows * value, 12 * rows * value)
    if problem.quantized:
        for columns in (problem.head_dim, value):
            block += time("mul", keys * columns, keys * columns * (size + 1))
    if problem.rope == "qk":
        block += 5 * time("mul", keys * problem.head_dim // 2, 6 * keys * problem.head_dim)
    item = time("move", rows * value, 4 * rows * value) + time("mul", rows * value, 6 * rows * value)
    if problem.rope != "none":
        item += 5 * time("mul", rows * problem.head_dim // 2, 6 * rows * problem.head_dim)
    if mapping.splits > 1:
        parts = rows * (mapping.splits - 1)
        item += time("mul", parts * value, 8 * parts * value) + time("reduce", parts * value, 4 * parts * value)
        item += 4 * time("add", parts, 8 * parts) + 6 * time("add", rows, 8 * rows)
    return block, item


def _arrival(mapping: Mapping, problem: Problem, machine: Machine, work: int) -> int:
    """Cycles from one block of keys and values to the next, over DMA engines, SRAM ports and the latency of HBM.

    A queue sets its transfers up one by one. work: cycles for which a block is held when it is there.
    """
    dma, streams = machine.dma, mapping.teams(problem, machine.tiles.count) * mapping.splits
    size = mapping.block_keys * problem.key_bytes
    engines = machine.dma_engines
    share = ceil_div(streams, engines)
    apart = 2 if 2 * streams <= engines and not problem.shared else 1  # engines for keys and for values
    transfer = ceil(size * share / apart / dma.bytes_per_cycle)
    loads = 1 + problem.quantized + 2 * (problem.rope == "qk")
    queue = share * (loads * dma.setup_cycles + ceil(size / (1 if problem.shared else 2) / dma.bytes_per_cycle))
    latency = dma.setup_cycles + machine.hbm.closed_read_cycles + machine.sram.latency_cycles
    port = ceil(size / min(machine.sram.ports.dma, machine.noc.bytes_per_cycle))
    return max(transfer, queue, port, ceil_div(latency + transfer + work, mapping.slots))


def _tiles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """That are used."""
    return mapping.teams(problem, machine.tiles.count) * mapping.splits * mapping.stream_tiles(problem)


def _ends(mapping: Mapping, problem: Problem, machine: Machine, arrival: int) -> int:
    """Before the first block is there, and after the last."""
    latency = machine.dma.setup_cycles + machine.hbm.closed_read_cycles + machine.sram.latency_cycles
    tiles = _tiles(mapping, problem, machine)
    queries = hbm_bound_cycles(machine, tiles * mapping.rows * problem.head_dim * DTYPE_BITS[problem.dtype] // 8)
    return 2 * latency + arrival + 2 * queries
