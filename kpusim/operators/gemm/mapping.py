"""GEMM mappings: how the output is spread over tiles and time, and what a mapping costs by the closed formulas.

The tiles form a logical grid. In one round, tile (im, in) keeps a block of `block_m` x `block_n` results in its SRAM
and works through K in steps of `block_k`; each block of A goes to the `grid_n` tiles of its grid row at once, each
block of B to the `grid_m` tiles of its grid column. Rounds follow each other until all of the output is done, rows
outermost. With `resident`, a whole row of rounds keeps its A on chip: every tile of a grid row holds a share of A's K
range and hands it to its row by tile-to-tile multicast, so that HBM delivers A once however often the row comes back
to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from attrs import frozen

from kpusim.costs import matmul_timer, vector_timer
from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine

__all__ = ["QUEUES", "Cost", "Mapping", "Problem", "choose", "cost", "mappings", "weigh"]

ACCUMULATOR_BYTES = 4
QUEUES = 3  # of a DMA engine: A, B and the output; one more to pass on a resident A
STRIP_ELEMENTS = 16384  # results that one cast and one store handle at most: large blocks overlap the two
PROMISING = 30  # output blockings that are weighed in every depth
DEPTHS = 4  # steps along K that are weighed for each, from the longest that fits


@frozen
class Problem:
    """Sizes in elements, and how B lies in HBM."""

    m: int
    n: int
    k: int
    dtype: str
    out_dtype: str
    transpose_b: bool

    @property
    def factor_bytes(self) -> int:
        """Bytes of one element of A or B."""
        return DTYPE_BITS[self.dtype] // 8

    @property
    def out_bytes(self) -> int:
        """Bytes of one result in HBM."""
        return DTYPE_BITS[self.out_dtype] // 8


@frozen
class Mapping:
    """One way to run a GEMM; see the module."""

    grid_m: int
    grid_n: int
    block_m: int
    block_n: int
    block_k: int
    slots: int
    accumulators: int
    resident: bool

    def rounds(self, problem: Problem) -> tuple[int, int]:
        """Rounds along M and along N."""
        return ceil_div(problem.m, self.grid_m * self.block_m), ceil_div(problem.n, self.grid_n * self.block_n)

    def steps(self, problem: Problem) -> int:
        """Steps along K in one round."""
        return ceil_div(problem.k, self.block_k)

    def shares(self, problem: Problem) -> int:
        """K blocks of A that each tile of a grid row holds, when resident."""
        return ceil_div(self.steps(problem), self.grid_n)

    def instructions(self, problem: Problem) -> int:
        """Instructions in proportion: rounds times steps, twice where A is also passed on."""
        along_m, along_n = self.rounds(problem)
        return along_m * along_n * self.steps(problem) * (2 if self.resident else 1)

    @property
    def strip_rows(self) -> int:
        """Rows of results that one cast and one store handle."""
        return max(1, min(self.block_m, STRIP_ELEMENTS // self.block_n))

    def sram_bytes(self, problem: Problem) -> int:
        """SRAM of a tile: slots of A and B, accumulators, two output strips, and the resident share of A."""
        a = self.block_m * self.block_k * problem.factor_bytes
        b = self.block_n * self.block_k * problem.factor_bytes
        accumulators = self.accumulators * self.block_m * self.block_n * ACCUMULATOR_BYTES
        strips = 2 * self.strip_rows * self.block_n * problem.out_bytes
        resident = self.shares(problem) * a if self.resident else 0
        sizes = [self.slots * a, self.slots * b, accumulators, strips, resident]
        return sum(-(-size // 64) * 64 for size in sizes)

    def row_openings(self, problem: Problem) -> int:
        """Runs of HBM addresses, each of which opens a row."""
        rounds_m, rounds_n = self.rounds(problem)
        a = problem.m * self.steps(problem) * (1 if self.resident else rounds_n)
        b = problem.n * self.steps(problem) if problem.transpose_b else problem.k * rounds_n * self.grid_n
        return a + b * rounds_m + problem.m * rounds_n * self.grid_n

    def hbm_bytes(self, problem: Problem, access: int) -> int:
        """HBM traffic in whole accesses, of which a run that starts or ends within one takes all."""
        rounds_m, rounds_n = self.rounds(problem)
        m, n, k = (problem.m, self.block_m), (problem.n, self.block_n), (problem.k, self.block_k)
        a = _fetched(m, k, problem.factor_bytes, access) * (1 if self.resident else rounds_n)
        b = _fetched(*((n, k) if problem.transpose_b else (k, n)), problem.factor_bytes, access)
        out = _fetched((problem.m, self.strip_rows), n, problem.out_bytes, access)
        return a + b * rounds_m + out


def _fetched(down: tuple[int, int], across: tuple[int, int], element: int, access: int) -> int:
    """Bytes accessed for a matrix that is moved block by block: (rows, rows of a block), the same for columns.

    Exact where rows and blocks are whole accesses, else the average over runs that start anywhere alike.
    """
    (rows, high), (columns, wide) = down, across
    if wide >= columns:  # rows follow each other: one long row, in blocks of `high` of them
        rows, columns, wide = 1, rows * columns, min(high, rows) * columns
    start = gcd(wide * element, columns * element if rows > 1 else 0, access)  # what all runs start at a multiple of
    full, rest = divmod(columns, wide)
    aligned = [-(-size * element // start) * start for size in (wide, rest)]
    return rows * (full * (aligned[0] + access - start) + (aligned[1] + access - start if rest else 0))


@frozen
class Cost:
    """Estimated cycles by what they are spent on: the four parts overlap, and what comes before and after does not.

    `lead` is before the first multiplication, `step` behind the last load, `tail` behind the last multiplication.
    """

    matrix: int
    hbm: int
    dma: int
    noc: int
    lead: int
    step: int
    tail: int
    hbm_bytes: int

    @property
    def cycles(self) -> int:
        """What mappings are ranked by: either the engines wait for the first data, or the data ends with a step."""
        return max(self.matrix + self.lead + self.tail, max(self.hbm, self.dma, self.noc) + self.step)


def cost(mapping: Mapping, problem: Problem, machine: Machine) -> Cost:
    """The cost of `mapping` in closed form (cycles, launch not included)."""
    rounds_m, rounds_n = mapping.rounds(problem)
    steps = rounds_m * rounds_n * mapping.steps(problem)
    matrix, step, behind = _matrix_cycles(mapping, problem, machine)
    traffic = mapping.hbm_bytes(problem, machine.hbm.access_bytes)
    rate = machine.hbm.attainable_bytes_per_cycle
    hbm = max(int(traffic / rate), _activation_cycles(mapping, problem, machine))
    a_step = mapping.block_m * mapping.block_k * problem.factor_bytes
    b_step = mapping.block_n * mapping.block_k * problem.factor_bytes
    dma = _dma_cycles(mapping, a_step, b_step, machine)
    noc = _noc_cycles(mapping, a_step, b_step, machine)
    first = min(mapping.grid_m * a_step + mapping.grid_n * b_step, traffic)
    last = min(problem.m, mapping.grid_m * mapping.block_m) * min(problem.n, mapping.grid_n * mapping.block_n)
    latency = machine.hbm.read_cycles + machine.hbm.controller_cycles + machine.dma.setup_cycles
    lead = latency + max(int(first / rate), dma)
    strips = ceil_div(mapping.block_m, mapping.strip_rows)
    queued = strips * ceil_div(mapping.grid_m * mapping.grid_n, machine.dma_engines)  # at the busiest engine
    stores = behind + latency + queued * machine.dma.setup_cycles
    tail = max(int(last * problem.out_bytes / rate), stores)
    return Cost(matrix, hbm, steps * dma, steps * noc, lead, latency + step + stores, tail, traffic)


def _matrix_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> tuple[int, int, int]:
    """Cycles of a tile's matrix engine with the casts that hold it up, of one step, and of the cast behind the last."""
    rounds_m, rounds_n = mapping.rounds(problem)
    rounds, steps = rounds_m * rounds_n, mapping.steps(problem)
    block_m, block_n = min(mapping.block_m, problem.m), min(mapping.block_n, problem.n)
    multiply = matmul_timer(machine, problem.dtype, accumulate=True)
    occupancy, drain = multiply(block_m, block_n, min(mapping.block_k, problem.k))
    results = block_m * block_n
    startup = (ceil_div(block_m, mapping.strip_rows) - 1) * machine.vector.startup_cycles
    cast = vector_timer(machine, "move")(results, results * (ACCUMULATOR_BYTES + problem.out_bytes)) + startup
    if mapping.accumulators > 1:
        return rounds * max(steps * occupancy, cast), occupancy, drain + cast
    return (rounds - 1) * (drain + cast) + rounds * steps * occupancy, occupancy, drain + cast


def _activation_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Cycles that opening rows takes, spread over all channels."""
    return mapping.row_openings(problem) * machine.hbm.activate_gap_cycles // machine.hbm.channel_count


def _dma_cycles(mapping: Mapping, a_step: int, b_step: int, machine: Machine) -> int:
    """Cycles a step of the busiest DMA queue, engine or SRAM port."""
    a, b = _queue_cycles(mapping.grid_m, a_step, machine), _queue_cycles(mapping.grid_n, b_step, machine)
    apart = 2 * max(mapping.grid_m, mapping.grid_n) <= machine.dma_engines  # A and B have engines of their own
    return max(a, b, 0 if apart else a + b, int((a_step + b_step) / machine.sram.ports.dma))


def _queue_cycles(groups: int, size: int, machine: Machine) -> int:
    """Cycles a step of the busiest DMA queue that loads `size` bytes for each of `groups`."""
    return ceil_div(groups, machine.dma_engines) * (machine.dma.setup_cycles + int(size / machine.dma.bytes_per_cycle))


def _noc_cycles(mapping: Mapping, a_step: int, b_step: int, machine: Machine) -> int:
    """Cycles a step of the busiest links: columns pass on B, and rows A from the tile that keeps it."""
    tile_rows = ceil_div(mapping.grid_n, machine.tiles.columns)  # of one row of the grid
    down = (tile_rows * b_step if mapping.grid_m > 1 else 0) + (a_step if tile_rows > 1 else 0)
    along = a_step + b_step if mapping.resident else a_step
    return int(max(down, along) / machine.noc.bytes_per_cycle)


def mappings(problem: Problem, machine: Machine) -> Iterator[Mapping]:
    """Mappings worth weighing, all of which fit into the SRAM: the most promising blockings, in every depth."""
    whole = machine.matrix.rows, machine.matrix.columns, max(8, machine.hbm.access_bytes // problem.factor_bytes)
    outlines = _outlines(problem, machine, whole)
    if not outlines:  # not even one fold of the array fits
        whole = 1, 1, 1
        outlines = _outlines(problem, machine, whole)
    for _, _, outline in sorted(outlines)[:PROMISING]:
        yield from _depths(outline, problem, machine, whole[2])


Outline = tuple[int, int, int, int]
"""The grid and the block of results, of a mapping."""


def _outlines(problem: Problem, machine: Machine, whole: tuple[int, int, int]) -> list[tuple[int, int, Outline]]:
    """(estimated cycles, bytes loaded, outline) of all that fit into the SRAM in some depth.

    whole: blocks along M, N and K need not be smaller than that.
    """
    rate, shallowest = machine.hbm.attainable_bytes_per_cycle, _k_blocks(problem, whole[2])[-1]
    outlines: list[tuple[int, int, Outline]] = []
    for grid_m, grid_n in _grids(problem, machine):
        for block_m in _blocks(ceil_div(problem.m, grid_m), whole[0]):
            for block_n in _blocks(ceil_div(problem.n, grid_n), whole[1]):
                outline = grid_m, grid_n, block_m, block_n
                least = Mapping(*outline, shallowest, 2, 1, False)
                if least.sram_bytes(problem) <= machine.sram.capacity_bytes:
                    work, loads = _outline_cost(outline, problem, machine)
                    outlines.append((max(work, int(loads / rate)), loads, outline))
    return outlines


def _outline_cost(outline: Outline, problem: Problem, machine: Machine) -> tuple[int, int]:
    """(cycles of the matrix engine, bytes loaded) of an output blocking, whatever its depth."""
    grid_m, grid_n, block_m, block_n = outline
    rounds_m, rounds_n = ceil_div(problem.m, grid_m * block_m), ceil_div(problem.n, grid_n * block_n)
    folds = ceil_div(block_m, machine.matrix.rows) * ceil_div(block_n, machine.matrix.columns)
    share = block_m * ceil_div(problem.k, grid_n) * problem.factor_bytes
    kept = share + block_m * block_n * ACCUMULATOR_BYTES <= machine.sram.capacity_bytes
    a, b = problem.m * problem.k * (1 if kept else rounds_n), problem.n * problem.k * rounds_m
    return rounds_m * rounds_n * folds * problem.k, (a + b) * problem.factor_bytes


def _depths(outline: Outline, problem: Problem, machine: Machine, least: int) -> Iterator[Mapping]:
    """The mappings of one output blocking that fit, for every way to spend the rest of the SRAM."""
    grid_n, block_n = outline[1], outline[3]
    several = grid_n * block_n < problem.n
    keeps = several and grid_n > 1 and machine.dma.queues > QUEUES
    for resident in (False, True) if keeps else (False,):
        for accumulators in (1, 2):
            found = 0
            for block_k in _k_blocks(problem, least):
                for slots in (4, 3, 2):
                    mapping = Mapping(*outline, block_k, slots, accumulators, resident)
                    if mapping.sram_bytes(problem) <= machine.sram.capacity_bytes:
                        yield mapping
                        found += 1
                        break
                if found == DEPTHS:
                    break


def _grids(problem: Problem, machine: Machine) -> Iterator[tuple[int, int]]:
    """Logical grids: tiles spread over M by powers of two, all others over N."""
    tiles = machine.tiles.count
    grid_m = 1
    while grid_m <= tiles and grid_m < 2 * problem.m:
        yield grid_m, min(tiles // grid_m, problem.n)
        grid_m *= 2


def _blocks(extent: int, array: int) -> list[int]:
    """Block sizes along one dimension: the extent in equal parts, and these in whole folds of the array."""
    sizes: dict[int, None] = {}
    parts = 1
    while True:
        block = ceil_div(extent, parts)
        sizes[block] = None
        if block <= array:
            return list(sizes)
        sizes[ceil_div(block, array) * array] = None
        parts += max(1, parts // 3)


def _k_blocks(problem: Problem, least: int) -> list[int]:
    """Steps along K, longest first: powers of two times `least` (a whole HBM access), or all of a short K."""
    sizes = [least << i for i in range(6, -1, -1)]
    return [problem.k, *(size for size in sizes if size < problem.k)] if problem.k <= sizes[0] else sizes


def weigh(problem: Problem, machine: Machine) -> list[tuple[Mapping, Cost]]:
    """All mappings that fit, each with its cost, the fastest first. Raises UserError if not even one fits."""
    weighed = [(mapping, cost(mapping, problem, machine)) for mapping in mappings(problem, machine)]
    if not weighed:
        raise UserError(
            "no block of this GEMM fits into the SRAM of a tile", where=machine.name,
            found=f"{machine.sram.capacity_bytes} bytes", allowed="at least 256 bytes",
        )  # fmt: skip
    return sorted(weighed, key=lambda item: item[1].cycles)


def choose(weighed: list[tuple[Mapping, Cost]], problem: Problem) -> Mapping:
    """The mapping to use, of all those weighed, which come fastest first.

    Up to 3 % of the cycles are given for less HBM traffic (in steps of 5 %), and for not copying A on chip; of what
    remains within 0.5 % of the fastest, the fewest instructions win.
    """
    near = _within(weighed, 1.03)
    least = min(cost.hbm_bytes for _, cost in near)
    lean = [item for item in near if item[1].hbm_bytes <= least * 1.05]
    simple = [item for item in lean if not item[0].resident] or lean
    return min(_within(simple, 1.005), key=lambda item: (item[0].instructions(problem), item[1].cycles))[0]


def _within(weighed: list[tuple[Mapping, Cost]], factor: float) -> list[tuple[Mapping, Cost]]:
    """Those that take at most `factor` times the cycles of the first."""
    return [item for item in weighed if item[1].cycles <= weighed[0][1].cycles * factor]
