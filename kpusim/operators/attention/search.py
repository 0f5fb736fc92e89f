"""Which mappings of an attention are worth weighing, and which of them is used."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from attrs import asdict, evolve, frozen

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.machine import Machine
from kpusim.operators.attention.estimate import Cost, cost, streamed_bytes
from kpusim.operators.attention.items import band_lengths
from kpusim.operators.attention.loads import indices
from kpusim.operators.attention.mapping import ORDERS, Mapping, wanted
from kpusim.operators.attention.problem import Problem
from kpusim.operators.declare import sram_bytes

__all__ = ["QUEUES", "VARIANTS", "Found", "io_bound", "mappings", "search"]

QUEUES = 4  # of a DMA engine: keys, values, queries, results
VARIANTS = ("pipelined", "flash")
SPARE = 0.04  # of the cycles are given for less HBM traffic (chosen: what a mapping's estimate is right to)
LEAN = 1.05  # times the least traffic is as little (chosen: what bands differ by at their ends)
NEAR = 0.01  # of what the engines take, and a quarter as much of HBM's, is given for fewer instructions (chosen)
ROWS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)  # of queries in a tile; chosen: powers of two
SLOTS = (2, 3, 4)  # chosen: one that is used, one that comes, and more where latency is long
KEYS = (512, 256, 128, 64, 32, 16, 8, 4)  # of a block; chosen: powers of two


@frozen
class Found:
    """A mapping, its estimated cost, and all that were weighed, the fastest first. forced: none but it was."""

    mapping: Mapping
    cost: Cost
    weighed: tuple[tuple[Mapping, Cost], ...]
    forced: bool = False


def search(problem: Problem, machine: Machine, variant: str = "auto", mapping: Mapping | None = None) -> Found:
    """The mapping to use, of one variant or ("auto") any. Raises UserError where it cannot run."""
    if machine.dma.queues < QUEUES:
        raise UserError(
            "attention needs queues for queries, keys, values and results on every DMA engine", where=machine.name,
            found=f"dma.queues = {machine.dma.queues}", allowed=f"at least {QUEUES}",
        )  # fmt: skip
    return _best(problem, machine, variant) if mapping is None else _forced(mapping, problem, machine)


@cache
def _best(problem: Problem, machine: Machine, variant: str) -> Found:
    chosen = VARIANTS if variant == "auto" else (variant,)
    weighed = [
        (each, cost(each, problem, machine))
        for outline in mappings(problem, machine)
        for each in (evolve(outline, variant=name) for name in chosen)
        if _fits(each, problem, machine)
    ]
    if not weighed:
        raise UserError(
            "no block of this attention fits into the SRAM of a tile", where=machine.name,
            found=f"{machine.tile_bytes} bytes",
        )  # fmt: skip
    weighed.sort(key=lambda item: item[1].cycles)
    near = [item for item in weighed if item[1].cycles <= weighed[0][1].cycles * (1 + SPARE)]
    least = min(estimate.hbm_bytes for _, estimate in near)
    lean = [item for item in near if item[1].hbm_bytes <= least * LEAN]
    parts = lean[0][1].parts
    slack = NEAR * (max(parts["matrix compute"], parts["vector engine"]) + parts["HBM"] / 4)
    simple = [item for item in lean if item[1].cycles <= lean[0][1].cycles + slack]
    best, estimate = min(simple, key=lambda item: (item[1].blocks, -item[0].slots, item[1].cycles))
    return Found(best, estimate, tuple(weighed))


def io_bound(problem: Problem, machine: Machine, variant: str = "auto") -> int:
    """Bytes of queries, results, and keys and values once for each band of queries that shares a stream of them.

    The band is that of the mapping that `search` finds (design.md: Q + O + (K + V) * ceil(N / Br)).
    """
    found = search(problem, machine, "auto" if variant == "unfused" else variant)
    return problem.query_bytes + streamed_bytes(found.mapping, problem)


def _forced(mapping: Mapping, problem: Problem, machine: Machine) -> Found:
    for problem_found, found, allowed in _contradictions(mapping, problem, machine):
        raise UserError(f"this mapping cannot run: {problem_found}", where=machine.name, found=found, allowed=allowed)
    estimate = cost(mapping, problem, machine)
    return Found(mapping, estimate, ((mapping, estimate),), forced=True)


def _contradictions(
    mapping: Mapping, problem: Problem, machine: Machine
) -> Iterator[tuple[str, object, list[str] | str]]:
    """(problem, found, allowed) of whatever is wrong."""
    if mapping.variant not in VARIANTS:
        yield "no such variant", mapping.variant, list(VARIANTS)
    if mapping.order not in ORDERS:
        yield "no such order", mapping.order, list(ORDERS)
    for name, value in asdict(mapping).items():
        least = 2 if name == "slots" and problem.shared else 1
        if isinstance(value, int) and value < least:
            yield f"{name} is too small", value, f"at least {least}"
            return
    if problem.group % mapping.heads:
        yield "heads of a tile do not divide those that share keys", mapping.heads, f"divisors of {problem.group}"
    if mapping.block_keys % problem.grain:
        yield "block_keys is no multiple of what comes together", mapping.block_keys, f"multiples of {problem.grain}"
    if problem.block and (mapping.block_keys != problem.block or problem.block % mapping.band):
        yield "a block of chosen keys is one step, and bands divide it", mapping.band, f"divisors of {problem.block}"
    tiles = mapping.stream_tiles(problem) * mapping.splits
    if tiles > machine.tiles.count:
        yield "a team has more tiles than the machine", tiles, f"at most {machine.tiles.count}"
    if mapping.launched and tiles > 1:
        yield "items are launched in single tiles", f"{tiles} tiles a team", "1"
    if mapping.splits > 1 and not (mapping.tokens == 1 or mapping.heads == 1):
        yield "split keys want one query or one head in a tile", f"{mapping.heads} heads", "1"
    if mapping.splits > min(band_lengths(problem, mapping)):
        yield "more splits than blocks of keys", mapping.splits, f"at most {min(band_lengths(problem, mapping))}"
    if not _fits(mapping, problem, machine):
        yield (
            "its buffers do not fit into a tile's SRAM",
            mapping.sram_bytes(problem),
            f"{machine.tile_bytes} bytes",
        )


def _fits(mapping: Mapping, problem: Problem, machine: Machine) -> bool:
    needed = sram_bytes({**wanted(problem, mapping), **indices(problem, mapping)})
    return needed <= machine.tile_bytes


def mappings(problem: Problem, machine: Machine) -> Iterator[Mapping]:
    """Mappings that may be fast and do not contradict problem or machine, but may be too large for an SRAM."""
    for heads in _divisors(problem.group):
        for tokens in _tokens(problem, machine, heads):
            for keys in _block_keys(problem):
                yield from _spread(problem, machine, heads, tokens, keys)


def _divisors(group: int) -> list[int]:
    return [each for each in range(1, group + 1) if group % each == 0]


def _tokens(problem: Problem, machine: Machine, heads: int) -> list[int]:
    """Queries of a head in a tile: such that rows fill half of the array or more, or all queries."""
    found = {min(max(rows // heads, 1), problem.queries) for rows in ROWS if rows * 2 >= machine.matrix.rows}
    if problem.block:
        found = {tokens for tokens in found if problem.block % tokens == 0} | {1}
    return sorted(found)


def _block_keys(problem: Problem) -> list[int]:
    """Keys of a block: multiples of the grain."""
    if problem.block:
        return [problem.block]
    grain, whole = problem.grain, ceil_div(problem.length, problem.grain) * problem.grain
    return sorted({min(max(keys // grain, 1) * grain, whole) for keys in KEYS})


def _spread(problem: Problem, machine: Machine, heads: int, tokens: int, keys: int) -> Iterator[Mapping]:
    """Tiles along the queries, splits of the keys, and buffers."""
    tiles, head_tiles = machine.tiles.count, problem.group // heads
    along = 1
    while along * head_tiles <= tiles:
        outline = Mapping(VARIANTS[0], tokens, heads, along, keys)
        if not problem.block or problem.block % outline.band == 0:
            items = problem.entries * ceil_div(problem.queries, outline.band)
            room = tiles // (along * head_tiles * min(items, tiles))
            most = min(max(room, 1), min(band_lengths(problem, outline)))
            splits = {1, most} if tokens == 1 or heads == 1 else {1}
            for each in sorted(splits):
                yield from (evolve(outline, splits=each, slots=slots) for slots in SLOTS)
        if along * tokens >= problem.queries:
            break
        along *= 2
