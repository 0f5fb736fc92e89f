"""Which mappings are worth weighing, and which of them is used."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import asdict, frozen

from kpusim.costs import Timer, fold_sizes, matmul_timer
from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.gemm.estimate import Cost, cost
from kpusim.operators.gemm.mapping import ACCUMULATOR_BYTES, Mapping
from kpusim.operators.gemm.problem import Problem

__all__ = ["QUEUES", "Found", "check_mapping", "mappings", "search"]

QUEUES = 3  # of a DMA engine: A, B and the output; one more to pass on what is resident, or partial sums
PROMISING = 20  # output blockings that are weighed in every depth; more where none of them divides K as it must be
DEPTHS = 3  # steps along K that are weighed for each, from the longest that fits
SHORTEST = 8  # step along K, elements


@frozen
class Found:
    """A mapping, its estimated cost, and all that were weighed, the fastest first. forced: none but it was."""

    mapping: Mapping
    cost: Cost
    weighed: tuple[tuple[Mapping, Cost], ...]
    forced: bool = False


Outline = tuple[int, int, int, int, int, int]
"""grid_batch, grid_k, grid_m, grid_n, block_m and block_n of a mapping."""


def search(problem: Problem, machine: Machine) -> Found:
    """The mapping to use. Raises UserError if the machine can run none."""
    if machine.dma.queues < QUEUES:
        raise UserError(
            "a GEMM needs a queue each for A, B and the output on every DMA engine", where=machine.name,
            found=f"dma.queues = {machine.dma.queues}", allowed=f"at least {QUEUES}",
        )  # fmt: skip
    weighed = [(mapping, cost(mapping, problem, machine)) for mapping in mappings(problem, machine)]
    if not weighed:
        raise UserError(
            "no block of this GEMM fits into the SRAM of a tile", where=machine.name,
            found=f"{machine.tile_bytes} bytes", allowed="at least 256 bytes",
        )  # fmt: skip
    weighed.sort(key=lambda item: item[1].cycles)
    best, estimate = _choose(weighed, problem)
    return Found(best, estimate, tuple(weighed))


def check_mapping(mapping: Mapping, problem: Problem, machine: Machine) -> Found:
    """A mapping that somebody else chose, with its cost. Raises UserError for the first reason why it cannot run."""
    for problem_found, found, allowed in _contradictions(mapping, problem, machine):
        raise UserError(f"this mapping cannot run: {problem_found}", where=machine.name, found=found, allowed=allowed)
    estimate = cost(mapping, problem, machine)
    return Found(mapping, estimate, ((mapping, estimate),), forced=True)


def _contradictions(mapping: Mapping, problem: Problem, machine: Machine) -> Iterator[tuple[str, object, str]]:
    """(problem, found, allowed) of whatever is wrong."""
    sizes = {name: value for name, value in asdict(mapping).items() if name != "resident"}
    for name, value in sizes.items():
        least = 0 if name == "raster" else 1
        if value < least:
            yield f"{name} is too small", value, f"at least {least}"
            return
    if mapping.tiles > machine.tiles.count:
        yield "the grid has more tiles than the machine", mapping.tiles, f"at most {machine.tiles.count}"
    needed = mapping.sram_bytes(problem)
    if needed > machine.tile_bytes:
        yield "its buffers do not fit into a tile's SRAM", f"{needed} bytes", f"at most {machine.tile_bytes}"
    queues = QUEUES + bool(mapping.resident or mapping.grid_k > 1)
    if machine.dma.queues < queues:
        yield "DMA engines have too few queues", f"dma.queues = {machine.dma.queues}", f"at least {queues}"
    blocks = problem.lanes(mapping.grid_m * mapping.block_m) * mapping.columns(problem)
    most, things = (blocks, "blocks") if mapping.raster else (problem.entries, "entries")
    if mapping.grid_batch > most:
        yield f"grid_batch is more than there are {things}", mapping.grid_batch, f"at most {most}"
    if mapping.raster and mapping.resident:
        yield "no operand is resident where blocks are dealt", mapping.resident, "''"
    if not _covers(mapping, problem):
        yield "block_k leaves parts of K empty, or scales in parts", mapping.block_k, "another block_k or grid_k"
    for block in (mapping.block_n, mapping.block_k):
        if (whole := _whole_bytes(block, problem)) != block:
            yield "a block of packed B ends within a byte", block, f"such as {whole}"
    outline = mapping.grid_batch, mapping.grid_k, mapping.grid_m, mapping.grid_n, mapping.block_m, mapping.block_n
    residents = _residents(outline, problem, machine)
    if mapping.resident not in residents:
        allowed = " or ".join(repr(name) for name in residents)
        yield "this operand cannot be resident here", mapping.resident, f"{allowed} with this grid and GEMM"


def mappings(problem: Problem, machine: Machine) -> Iterator[Mapping]:
    """Mappings worth weighing, all of which fit into the SRAM: the most promising blockings, in every depth."""
    deepest = max(SHORTEST, machine.hbm.access_bytes * 8 // DTYPE_BITS[problem.dtype], machine.matrix.rows)
    sizes = zip("mnk", fold_sizes(machine, problem.dtype), strict=True)
    fold = {axis: min(size, deepest if axis == "k" else machine.matrix.rows) for axis, size in sizes}
    outlines = _outlines(problem, machine, fold)
    if not outlines:  # not even one fold of the array fits
        fold = dict.fromkeys("mnk", 1)
        outlines = _outlines(problem, machine, fold)
    found = False
    for number, (_, _, outline) in enumerate(sorted(outlines)):
        if found and number >= PROMISING:
            return
        for mapping in _depths(outline, problem, machine, fold["k"]):
            found = True
            yield mapping


def _outlines(problem: Problem, machine: Machine, fold: dict[str, int]) -> list[tuple[int, int, Outline]]:
    """(estimated cycles, bytes loaded, outline) of all that fit into the SRAM in some depth.

    fold: blocks along M, N and K need not be smaller than that.
    """
    rate, shallowest = float(machine.hbm.attainable_bytes_per_cycle), _k_blocks(problem, 1, fold["k"])[-1]
    timer = matmul_timer(machine, problem.dtype)
    outlines: list[tuple[int, int, Outline]] = []
    for grid_batch, grid_k, grid_m, grid_n in _grids(problem, machine):
        for block_m in _blocks(ceil_div(problem.longest, grid_m), fold["m"]):
            for block_n in _blocks(ceil_div(problem.n, grid_n), fold["n"]):
                outline = grid_batch, grid_k, grid_m, grid_n, block_m, _whole_bytes(block_n, problem)
                if _mapping(outline, shallowest).sram_bytes(problem) <= machine.tile_bytes:
                    work, loads = _outline_cost(outline, problem, machine, timer)
                    outlines.append((max(work, int(loads / rate)), loads, outline))
    return outlines


def _mapping(outline: Outline, block_k: int, slots: int = 2, accumulators: int = 1, resident: str = "") -> Mapping:
    grid_batch, grid_k, grid_m, grid_n, block_m, block_n = outline
    return Mapping(grid_m, grid_n, block_m, block_n, block_k, slots, accumulators, resident, grid_batch, grid_k)


def _whole_bytes(size: int, problem: Problem) -> int:
    """`size` rounded up so that a row of packed data ends with a whole byte."""
    return ceil_div(size, problem.packed) * problem.packed


def _outline_cost(outline: Outline, problem: Problem, machine: Machine, work: Timer) -> tuple[int, int]:
    """(cycles of the matrix engine, bytes loaded) of an output blocking, whatever its depth."""
    _, grid_k, grid_m, grid_n, block_m, block_n = outline
    rounds_m, rounds_n = _mapping(outline, problem.k).rounds(problem)
    share = problem.a_bytes(block_m * ceil_div(problem.k, grid_n))
    kept = share + block_m * block_n * ACCUMULATOR_BYTES <= machine.tile_bytes
    a = problem.a_bytes(max(problem.batch, 1) * problem.m * problem.k) * (1 if kept else rounds_n)
    b = problem.b_bytes(problem.n * problem.k) * problem.lanes(grid_m * block_m)
    return rounds_m * rounds_n * work(block_m, block_n, ceil_div(problem.k, grid_k))[0], a + b


def _depths(outline: Outline, problem: Problem, machine: Machine, least: int) -> Iterator[Mapping]:
    """The mappings of one output blocking that fit, for every way to spend the rest of the SRAM."""
    for resident in _residents(outline, problem, machine):
        rounds_m, rounds_n = _mapping(outline, problem.k).rounds(problem)
        for accumulators in (1, 2) if rounds_m * rounds_n > 1 else (1,):
            found = set()
            for block_k in _k_blocks(problem, outline[1], least):
                for slots in (4, 3, 2):
                    mapping = _mapping(outline, block_k, slots, accumulators, resident)
                    if mapping.sram_bytes(problem) <= machine.tile_bytes and _covers(mapping, problem):
                        yield mapping
                        found.add(block_k)
                if len(found) == DEPTHS:
                    break


def _covers(mapping: Mapping, problem: Problem) -> bool:
    """Whether each part of K has something to do, and blocks of B whole scales; one, where columns are summed."""
    if (mapping.grid_k - 1) * mapping.steps(problem) * mapping.block_k >= problem.k:
        return False
    group = problem.group_k
    if problem.prologue.centred and problem.transpose_b and mapping.scales(problem) > 1:
        return False
    return not problem.quantized or group == problem.k or not mapping.block_k % group or not group % mapping.block_k


def _residents(outline: Outline, problem: Problem, machine: Machine) -> list[str]:
    """Operands that may stay on chip: "" for none."""
    grid_batch, grid_k, grid_m, grid_n, block_m, block_n = outline
    if grid_batch * grid_k > 1 or problem.batch or problem.groups or machine.dma.queues <= QUEUES:
        return [""]
    found = [""]
    if grid_n > 1 and grid_n * block_n < problem.n:
        found.append("a")
    if grid_m > 1 and grid_m * block_m < problem.m and not problem.quantized and not problem.epilogue.vectors:
        found.append("b")
    return found


def _grids(problem: Problem, machine: Machine) -> Iterator[tuple[int, int, int, int]]:
    """(grid_batch, grid_k, grid_m, grid_n): powers of two, but for N, which gets all tiles that are left."""
    tiles, longest = machine.tiles.count, problem.longest
    cells = machine.matrix.rows * machine.matrix.columns
    for grid_batch in _powers(min(problem.entries, tiles)):
        for grid_k in _powers(_parts_of_k(problem, tiles // grid_batch, cells) if machine.dma.queues > QUEUES else 1):
            left = tiles // (grid_batch * grid_k)
            for grid_m in _powers(min(left, 2 * longest - 1)):
                yield grid_batch, grid_k, grid_m, min(left // grid_m, problem.n)


def _parts_of_k(problem: Problem, tiles: int, cells: int) -> int:
    """Into how many parts K may be split: as long as the tiles do not have whole arrays full of results each."""
    results = problem.m * problem.n * problem.entries
    return max(1, min(tiles, 2 * tiles * cells // results, problem.k // SHORTEST))


def _powers(most: int) -> list[int]:
    """Powers of two up to `most`."""
    return [1 << i for i in range(most.bit_length())]


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


def _k_blocks(problem: Problem, grid_k: int, least: int) -> list[int]:
    """Steps along K, longest first: all of a part of K, powers of two times `least`, and of whole scale groups."""
    part = _whole_bytes(ceil_div(problem.k, grid_k), problem)
    sizes = {least << i for i in range(7)}
    if problem.quantized and problem.group_k < problem.k:
        sizes |= {_whole_bytes(problem.group_k << i, problem) for i in range(5)}
    return [part, *sorted((size for size in sizes if size < part), reverse=True)]


def _choose(weighed: list[tuple[Mapping, Cost]], problem: Problem) -> tuple[Mapping, Cost]:
    """The mapping to use, of all those weighed, which come fastest first.

    Up to 3 % of the cycles of the longest part are given for less HBM traffic (in steps of 5 %), and for not copying on
    chip; up to 5 % for a third less traffic. Of what remains within 0.5 % of the fastest, the fewest instructions win,
    and the most slots; where HBM takes longest the fewest, as what is under way beyond its latency only opens more
    rows at once. Where a GEMM is so small that it takes mostly latencies, there is next to nothing to give.
    """
    spare = max(weighed[0][1].parts.values())
    near, far = _within(weighed, 0.03 * spare), _within(weighed, 0.05 * spare)
    if 1.5 * _least(far) <= _least(near):
        near = far
    lean = [item for item in near if item[1].hbm_bytes <= _least(near) * 1.05]
    simple = [item for item in lean if not item[0].resident] or lean
    simplest = _within(simple, 0.005 * spare)

    def last(item: tuple[Mapping, Cost]) -> tuple[int, int, int]:
        mapping, cost = item
        slots = mapping.slots if cost.hbm == max(cost.parts.values()) else -mapping.slots
        return mapping.instructions(problem), cost.cycles, slots

    return min(simplest, key=last)


def _least(weighed: list[tuple[Mapping, Cost]]) -> int:
    """The least HBM traffic, in bytes."""
    return min(cost.hbm_bytes for _, cost in weighed)


def _within(weighed: list[tuple[Mapping, Cost]], spare: float) -> list[tuple[Mapping, Cost]]:
    """Those that take at most so many cycles more than the first."""
    return [item for item in weighed if item[1].cycles <= weighed[0][1].cycles + spare]
