"""GEMM lowered: sections that bring A and B to the tiles, multiply, finish the sums and store, all double-buffered."""

from __future__ import annotations

from kpusim.costs import fold_sizes
from kpusim.isa.expr import Const, Expr, Name
from kpusim.isa.program import (
    Instruction,
    Loop,
    Node,
    Program,
    Range,
    Section,
    Semaphore,
    SemaphoreRef,
    Signal,
    TensorMap,
    View,
)
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.declare import buffers, full_and_free, tensors
from kpusim.operators.gemm.explain import choices, tried
from kpusim.operators.gemm.finish import load_vectors, reduce, store, vector_sections
from kpusim.operators.gemm.grid import Grid
from kpusim.operators.gemm.mapping import READY_SLOTS, Mapping
from kpusim.operators.gemm.problem import Problem, ports
from kpusim.operators.gemm.search import check_mapping, search
from kpusim.operators.gemm.streams import Stream, seat_of_columns
from kpusim.operators.seats import TILE, ZERO, Seat, loop, part, parts

__all__ = ["lower"]


def lower(
    problem: Problem,
    machine: Machine,
    layouts: Layouts = ROW_MAJOR,
    fold_instructions: bool = False,
    mapping: Mapping | None = None,
) -> Lowered:
    """The program of `mapping` (by default the best found) for tensors laid out as given, and why it was chosen.

    Raises UserError if the machine cannot run it: too little SRAM, too few tiles or DMA queues.
    """
    found = search(problem, machine) if mapping is None else check_mapping(mapping, problem, machine)
    grid = Grid(problem, found.mapping)
    program = Program(
        name="gemm",
        tensors=tensors(ports(problem), layouts),
        maps=_maps(grid),
        buffers=buffers(grid.map.buffers(problem)),
        semaphores=_semaphores(grid),
        tables=grid.tables(),
        sections=tuple(_sections(grid, machine, fold_instructions)),
    )
    return Lowered(program, choices(problem, machine, found, program), found.mapping, tried(problem, found))


def _maps(grid: Grid) -> tuple[TensorMap, ...]:
    problem, mapping = grid.problem, grid.map
    batch = (1,) if problem.batch else ()
    each_b = batch or ((1,) if problem.groups else ())
    a, b = grid.a_order(mapping.block_m, mapping.block_k), grid.b_order(mapping.block_k, mapping.block_n)
    strip = (*batch, mapping.strip_rows, mapping.block_n)
    maps = [TensorMap("a_block", "a", (*batch, *a)), TensorMap("b_block", "b", (*each_b, *b))]
    if problem.quantized:
        maps.append(TensorMap("b_scale_block", "b_scale", (*each_b, mapping.scales(problem), mapping.block_n)))
    maps += [TensorMap(f"{name}_part", name, (mapping.block_k,)) for name in problem.prologue.vectors]
    maps += [TensorMap(f"{name}_part", name, (*each_b, mapping.block_n)) for name in problem.epilogue.vectors]
    if problem.epilogue.residual:
        maps.append(TensorMap("residual_strip", "residual", strip))
    return (*maps, TensorMap("out_strip", "out", strip))


def _semaphores(grid: Grid) -> tuple[Semaphore, ...]:
    mapping, problem = grid.map, grid.problem
    tiles, slots = mapping.tiles, mapping.slots

    found = [
        Semaphore("a_full", tiles, slots),
        Semaphore("a_free", grid.planes * mapping.grid_m, slots, 1, mapping.grid_n),
        Semaphore("b_full", tiles, slots),
        Semaphore("b_free", grid.planes * mapping.grid_n, slots, 1, mapping.grid_m),
    ]
    if problem.quantized:
        found += [Semaphore("b_ready", tiles, READY_SLOTS), Semaphore("b_used", tiles, READY_SLOTS, 1)]
    elif problem.prologue.centred:
        found.append(Semaphore("b_ready", tiles, slots))
    if problem.prologue.vectors:
        plane = mapping.grid_m * mapping.grid_n
        found += [Semaphore("norm_full", tiles, slots), Semaphore("norm_free", grid.planes, slots, 1, plane)]
        found.append(Semaphore("a_ready", tiles, slots))
    if mapping.resident:
        groups = mapping.grid_m if mapping.resident == "a" else mapping.grid_n
        found += [*full_and_free("share", tiles, mapping.shares(problem)), Semaphore("share_ahead", groups, 1, slots)]
    found += full_and_free("acc", tiles, mapping.accumulators)
    if mapping.grid_k > 1:
        found += full_and_free("partial", tiles, mapping.grid_k - 1)
        found += [Semaphore("sums_free", tiles, 2, 1)] if problem.prologue.by_row else []
    if problem.epilogue.vectors:
        columns = mapping.grid_batch * mapping.grid_n
        found += [Semaphore("vectors_full", tiles, 2), Semaphore("vectors_free", columns, 2, 1, mapping.grid_m)]
    if problem.epilogue.residual:
        found.append(Semaphore("residual_full", tiles, 2))
    return (*found, *full_and_free("strip", tiles, 2))


def _sections(grid: Grid, machine: Machine, folds: bool) -> list[Section]:
    seat_a = Seat(grid.planes * grid.map.grid_m, machine.dma_engines, 0)
    seat_b = seat_of_columns(grid, machine)
    vectors = (lambda round_: load_vectors(grid, seat_b, round_)) if grid.problem.epilogue.vectors else None
    return [
        *Stream(grid, "a", seat_a).sections(),
        *Stream(grid, "b", seat_b).sections(vectors),
        _multiply(grid, machine, folds),
        *([reduce(grid, machine)] if grid.map.grid_k > 1 else []),
        *vector_sections(grid),
        store(grid, machine),
    ]


def _multiply(grid: Grid, machine: Machine, folds: bool) -> Section:
    """Each tile accumulates its block over all steps of a round."""
    mapping, round_, step = grid.map, Name("w"), Name("k")
    count = round_ * grid.steps + step
    slot, acc = count % mapping.slots, round_ % mapping.accumulators
    plane, i, j = grid.place
    a, b = ("a_tile", slot), ("b_tile", slot)
    ready, used = SemaphoreRef("b_full", TILE, slot), SemaphoreRef("b_free", grid.own_group("n"), slot)
    if grid.problem.prologue.centred:
        ready = SemaphoreRef("b_ready", TILE, slot)
    if grid.problem.quantized:
        slot_b = count % READY_SLOTS
        b = "b_tile", slot_b
        ready, used = SemaphoreRef("b_ready", TILE, slot_b), SemaphoreRef("b_used", TILE, slot_b)
    waits = SemaphoreRef("a_ready" if grid.problem.prologue.vectors else "a_full", TILE, slot), ready
    signals = Signal(SemaphoreRef("a_free", grid.own_group("m"), slot), "read"), Signal(used, "read")
    sizes = grid.height(round_, plane, i), grid.width(round_, plane, j), grid.depth(plane, step)
    if folds:
        fold = _each_fold(grid, machine, acc, (a, b), sizes)
        block: tuple[Node, ...] = Instruction("sync", waits=waits), fold, Instruction("sync", signals=signals)
    else:
        whole = tuple(Range(ZERO, size) for size in sizes)
        block = (_matmul(grid, acc, (a, b), whole, step, waits, signals),)
    body = loop(
        "w",
        grid.rounds,
        Instruction("sync", waits=(SemaphoreRef("acc_free", TILE, acc),)),
        loop("k", grid.steps, *block),
        Instruction("sync", signals=(Signal(SemaphoreRef("acc_full", TILE, acc)),)),
    )
    return grid.tile_section("matrix", 0, 1, body)


Slot = tuple[str, Expr]


def _each_fold(grid: Grid, machine: Machine, acc: Expr, factors: tuple[Slot, Slot], sizes: tuple[Expr, ...]) -> Node:
    """One matmul for each fold of the array in a block, along the dimensions that have several."""
    blocks = grid.map.block_m, grid.map.block_n, grid.map.block_k
    covered = zip("mnk", fold_sizes(machine, grid.problem.dtype), blocks, strict=True)
    fold = {axis: size for axis, size, block in covered if size < block}
    whole = [Range(ZERO, size) for size in sizes]
    counters = {axis: Name(f"f{axis}") for axis in fold}
    ranges = [
        part(size, fold[axis], counters[axis]) if axis in fold else all_of
        for axis, size, all_of in zip("mnk", sizes, whole, strict=True)
    ]
    step: Expr = Name("k") + (counters["k"] if "k" in fold else 0)
    node: Node = _matmul(grid, acc, factors, tuple(ranges), step, (), ())
    for axis, size in zip("knm", reversed(sizes), strict=False):
        if axis in fold:
            node = Loop(counters[axis].id, ZERO, parts(size, fold[axis]), (node,))
    return node


def _matmul(
    grid: Grid,
    acc: Expr,
    factors: tuple[Slot, Slot],
    ranges: tuple[Range, ...],
    accumulate: Expr,
    waits: tuple[SemaphoreRef, ...],
    signals: tuple[Signal, ...],
) -> Instruction:
    (m, n, k), (a, b) = ranges, factors
    options: list[tuple[str, Expr]] = [("accumulate", accumulate)]
    for name, swapped in (("transpose_a", grid.problem.transpose_a), ("transpose_b", grid.problem.transpose_b)):
        options += [(name, Const(1))] if swapped else []
    views = View("acc", acc, (m, n)), View(*a, grid.a_order(m, k)), View(*b, grid.b_ranges(k, n))
    return Instruction("matmul", views, tuple(options), waits, signals)
