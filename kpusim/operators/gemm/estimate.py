"""What a mapping costs by the closed formulas: cycles by what they are spent on, and HBM traffic."""

from __future__ import annotations

from math import gcd

from attrs import frozen

from kpusim.costs import matmul_timer, vector_timer
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.gemm.epilogue import chain_cycles
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import Problem

__all__ = ["Cost", "cost", "fold_sizes", "hbm_bytes"]


def fold_sizes(machine: Machine, dtype: str) -> dict[str, int]:
    """What one fold of the array covers of the two dimensions that its dataflow keeps in place: m, n or k -> elements."""
    engine = machine.matrix
    deep = engine.rows * max(1, int(engine.macs_per_cell.get(dtype, 1)))
    if engine.dataflow == "output-stationary":
        return {"m": engine.rows, "n": engine.columns}
    return {"k": deep, "n" if engine.dataflow == "weight-stationary" else "m": engine.columns}


@frozen
class Cost:
    """Estimated cycles by what they are spent on: the parts overlap, and what comes before and after does not.

    `lead` is before the first multiplication, `step` behind the last load, `tail` behind the last multiplication.
    """

    matrix: int
    vector: int
    hbm: int
    dma: int
    noc: int
    lead: int
    step: int
    tail: int
    hbm_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """The parts that overlap, by name."""
        return {"matrix": self.matrix, "vector": self.vector, "HBM": self.hbm, "DMA": self.dma, "NoC": self.noc}

    @property
    def cycles(self) -> int:
        """What mappings are ranked by: either the engines wait for the first data, or the data ends with a step."""
        engines = max(self.matrix, self.vector) + self.lead + self.tail
        return max(engines, max(self.hbm, self.dma, self.noc) + self.step)


def hbm_bytes(mapping: Mapping, problem: Problem, access: int) -> int:
    """HBM traffic in whole accesses, of which a run that starts or ends within one takes all."""
    _, rounds_n = mapping.rounds(problem)
    lanes, copies = problem.lanes(mapping.grid_m * mapping.block_m), max(problem.batch, 1)
    m, n, k = (problem.m, mapping.block_m), (problem.n, mapping.block_n), (problem.k, mapping.block_k)
    bits = {port: DTYPE_BITS[dtype] for port, dtype in (("a", problem.dtype), ("b", problem.stored_dtype))}
    a = _fetched(*((k, m) if problem.transpose_a else (m, k)), bits["a"], access) * copies
    b = _fetched(*((n, k) if problem.transpose_b else (k, n)), bits["b"], access)
    rows = problem.m, mapping.strip_rows
    out = _fetched(rows, n, DTYPE_BITS[problem.out_dtype], access) * copies
    if problem.epilogue.residual:
        out += _fetched(rows, n, DTYPE_BITS[problem.model_dtype], access) * copies
    if problem.quantized:
        count = mapping.steps(problem) * mapping.grid_k * mapping.scales(problem)
        b += _fetched((count, 1), n, DTYPE_BITS[problem.dtype], access)
    vectors = len(problem.epilogue.vectors) * _fetched((1, 1), n, 32, access)
    return a * (1 if mapping.resident == "a" else rounds_n) + (b if mapping.resident == "b" else b * lanes) + out + (
        vectors * lanes
    )


def _fetched(down: tuple[int, int], across: tuple[int, int], bits: int, access: int) -> int:
    """Bytes accessed for a matrix that is moved block by block: (rows, rows of a block), the same for columns.

    Exact where rows and blocks are whole accesses, else the average over runs that start anywhere alike.
    """
    (rows, high), (columns, wide) = down, across
    if wide >= columns:  # rows follow each other: one long row, in blocks of `high` of them
        rows, columns, wide = 1, rows * columns, min(high, rows) * columns
    start = gcd(wide * bits // 8, columns * bits // 8 if rows > 1 else 0, access)  # what all runs start at a multiple of
    full, rest = divmod(columns, wide)
    aligned = [-(-size * bits // 8 // start) * start for size in (wide, rest)]
    return rows * (full * (aligned[0] + access - start) + (aligned[1] + access - start if rest else 0))


def _row_openings(mapping: Mapping, problem: Problem) -> int:
    """Runs of HBM addresses, each of which opens a row."""
    lanes, (_, rounds_n) = problem.lanes(mapping.grid_m * mapping.block_m), mapping.rounds(problem)
    copies, steps = max(problem.batch, 1), mapping.steps(problem) * mapping.grid_k
    blocks_m, blocks_n = ceil_div(problem.m, mapping.block_m), rounds_n * mapping.grid_n
    a = (problem.k * blocks_m if problem.transpose_a else problem.m * steps) * copies
    b = problem.n * steps if problem.transpose_b else problem.k * blocks_n
    return (
        a * (1 if mapping.resident == "a" else rounds_n)
        + b * (1 if mapping.resident == "b" else lanes)
        + problem.m * copies * blocks_n
    )


def cost(mapping: Mapping, problem: Problem, machine: Machine) -> Cost:
    """The cost of `mapping` in closed form (cycles, launch not included)."""
    steps = mapping.rounds(problem)[0] * mapping.rounds(problem)[1] * mapping.steps(problem)
    matrix, vector, step, behind = _engine_cycles(mapping, problem, machine)
    traffic = hbm_bytes(mapping, problem, machine.hbm.access_bytes)
    rate = machine.hbm.attainable_bytes_per_cycle
    activation = _row_openings(mapping, problem) * machine.hbm.activate_gap_cycles // machine.hbm.channel_count
    a_step = problem.a_bytes(mapping.block_m * mapping.block_k)
    b_step = problem.b_bytes(mapping.block_n * mapping.block_k)
    dma, noc = _dma_cycles(mapping, problem, a_step, b_step, machine), _noc_cycles(mapping, a_step, b_step, machine)
    planes = mapping.grid_batch * mapping.grid_k
    loaded = planes * (mapping.grid_m * a_step + mapping.grid_n * b_step)
    latency = machine.hbm.read_cycles + machine.hbm.controller_cycles + machine.dma.setup_cycles
    lead = latency + max(int(min(loaded, traffic) / rate), dma)
    in_flight = min(loaded * mapping.slots, machine.dma_engines * machine.dma.outstanding_bytes)
    waiting = steps * loaded * latency // max(in_flight, 1)
    last = max(problem.batch, 1) * problem.m * problem.n
    last = min(last, mapping.base_tiles * mapping.block_m * mapping.block_n)
    queued = mapping.strips * ceil_div(mapping.base_tiles, machine.dma_engines)  # at the busiest engine
    out = max(int(last * problem.out_bytes / rate), queued * machine.dma.setup_cycles)
    return Cost(
        matrix=matrix,
        vector=vector,
        hbm=max(int(traffic / rate), activation, waiting),
        dma=steps * dma,
        noc=steps * noc,
        lead=lead,
        step=step + behind + latency,
        tail=behind + latency + out,
        hbm_bytes=traffic,
    )


def _engine_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> tuple[int, int, int, int]:
    """Cycles of the matrix and of the vector engine of a tile, of one step, and behind the last multiplication."""
    rounds_m, rounds_n = mapping.rounds(problem)
    rounds, steps = rounds_m * rounds_n, mapping.steps(problem)
    block_m, block_n = min(mapping.block_m, problem.m), min(mapping.block_n, problem.n)
    depth = min(mapping.block_k, problem.k)
    occupancy, drain = matmul_timer(machine, problem.dtype, accumulate=True)(block_m, block_n, depth)
    strip = chain_cycles(problem, machine, min(block_m, mapping.strip_rows), block_n)
    finish = ceil_div(block_m, mapping.strip_rows) * strip
    if mapping.grid_k > 1:
        results = block_m * block_n
        finish += (mapping.grid_k - 1) * vector_timer(machine, "add")(results, 3 * 4 * results)
    unpack = _dequantize_cycles(mapping, problem, machine)
    vector = rounds * (finish + steps * unpack)
    if mapping.accumulators > 1:
        return rounds * steps * occupancy, vector, occupancy + unpack, drain + finish
    return (rounds - 1) * (drain + finish) + rounds * steps * occupancy, vector, occupancy + unpack, drain + finish


def _dequantize_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Cycles of the vector engine for one block of B."""
    if not problem.quantized:
        return 0
    scales, elements = mapping.scales(problem), mapping.block_k * mapping.block_n
    each = elements // scales
    size = problem.b_bytes(each) + problem.a_bytes(each)
    return scales * vector_timer(machine, "mul")(each, size)


def _dma_cycles(mapping: Mapping, problem: Problem, a_step: int, b_step: int, machine: Machine) -> int:
    """Cycles a step of the busiest DMA queue, engine or SRAM port."""
    planes = mapping.grid_batch * mapping.grid_k
    groups_a, groups_b = planes * mapping.grid_m, planes * mapping.grid_n
    a = _queue_cycles(groups_a, 1, a_step, machine)
    b = _queue_cycles(groups_b, 1 + (mapping.scales(problem) if problem.quantized else 0), b_step, machine)
    apart = 2 * max(groups_a, groups_b) <= machine.dma_engines  # A and B have engines of their own
    return max(a, b, 0 if apart else a + b, int((a_step + b_step) / machine.sram.ports.dma))


def _queue_cycles(groups: int, loads: int, size: int, machine: Machine) -> int:
    """Cycles a step of the busiest DMA queue that loads `size` bytes, in so many loads, for each of `groups`."""
    each = loads * machine.dma.setup_cycles + int(size / machine.dma.bytes_per_cycle)
    return ceil_div(groups, machine.dma_engines) * each


def _noc_cycles(mapping: Mapping, a_step: int, b_step: int, machine: Machine) -> int:
    """Cycles a step of the busiest links: columns pass on B, and rows A from the tile that keeps it."""
    tile_rows = ceil_div(mapping.grid_n, machine.tiles.columns)  # of one row of the grid
    down = (tile_rows * b_step if mapping.grid_m > 1 else 0) + (a_step if tile_rows > 1 else 0)
    along = a_step + b_step if mapping.resident else a_step
    return int(max(down, along) / machine.noc.bytes_per_cycle)
