"""Attention lowered: queries stay, keys and values stream past them, softmax runs along (flash, or pipelined)."""

from __future__ import annotations

from kpusim.isa.expr import Const, Expr, maximum, minimum
from kpusim.isa.program import (
    Box,
    Instruction,
    Node,
    Program,
    Range,
    Section,
    SemaphoreRef,
    Signal,
    TensorMap,
    TileSet,
    View,
)
from kpusim.machine import Machine
from kpusim.operators.attention import combine, loads, multiply, softmax
from kpusim.operators.attention.equal import equal_team
from kpusim.operators.attention.explain import choices, tried
from kpusim.operators.attention.grid import Grid, once
from kpusim.operators.attention.mapping import Mapping, wanted
from kpusim.operators.attention.problem import Problem, ports
from kpusim.operators.attention.search import search
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.declare import buffers, tensors
from kpusim.operators.seats import ZERO, Seat, loop

__all__ = ["lower"]

STORE_QUEUE = 3


def lower(
    problem: Problem, machine: Machine, layouts: Layouts = ROW_MAJOR, mapping: Mapping | None = None,
    variant: str = "auto",
) -> Lowered:  # fmt: skip
    """The program of `mapping`, or of the best found of that variant ("auto": of any).

    Raises UserError if the machine cannot run it: too little SRAM, too few DMA queues.
    """
    found = search(problem, machine, variant, mapping)
    grid = Grid(problem, found.mapping, machine)
    seats = Seat(grid.streams, machine.dma_engines, 0), Seat(grid.streams, machine.dma_engines, 1)
    each = Seat(grid.tiles, machine.dma_engines, 0)
    sections = [
        *loads.key_sections(grid, seats),
        loads.query_section(grid, each),
        multiply.multiply(grid),
        softmax.softmax(grid),
        _results(grid, each),
    ]
    out = TensorMap("out_block", "out", loads.query_box(problem, grid.map, problem.value_dim))
    semaphores = [*loads.semaphores(grid), *multiply.semaphores(grid), *softmax.semaphores(grid)]
    if grid.map.splits > 1:
        semaphores += combine.semaphores(grid)
    program = Program(
        name="attention",
        tensors=tensors(ports(problem), layouts),
        maps=(*loads.load_maps(problem, grid.map), out),
        buffers=buffers({**wanted(problem, grid.map), **loads.indices(problem, grid.map)}),
        semaphores=tuple(semaphores),
        tables=(*grid.tables.values(), *grid.list_table()),
        sections=tuple(sections),
    )
    equal = equal_team(grid, program, found.cost, seats[0], each)
    return Lowered(program, choices(problem, machine, found), found.mapping, tried(problem, found), equal)


def _results(grid: Grid, seat: Seat) -> Section:
    """Results of every item to HBM; of split keys, first the parts to the tiles that add them up. `seat`: of tiles."""
    splits = grid.map.splits

    def send(tile: Expr) -> tuple[Node, ...]:
        stream = tile // grid.width
        return grid.existing(stream, once(stream % splits, *combine.send_part(grid, tile)))

    def store(tile: Expr) -> tuple[Node, ...]:
        stream, stored = tile // grid.width, _store(grid, tile)
        return grid.existing(stream, stored if splits == 1 else once(1 - stream % splits, stored))

    parts = seat.each(send) if splits > 1 else ()
    return seat.section(STORE_QUEUE, (loop("w", grid.schedule.longest, *parts, *seat.each(store)),))


def _store(grid: Grid, tile: Expr) -> Instruction:
    problem, stream, place = grid.problem, tile // grid.width, tile % grid.width
    ranges: tuple[Range, ...] = ()
    length: Expr | None = None
    if problem.tokens_first and problem.queries % grid.map.band:
        length = maximum(0, minimum(grid.map.tokens, Const(problem.queries) - grid.token(stream, place)))
        narrowed = Range(ZERO, length)
        first = grid.map.tokens_first(problem)
        ranges = (narrowed, Range(), Range()) if first else (Range(), narrowed, Range())
    box = Box("out_block", grid.query_ranges(stream, place, problem.value_dim, length))
    full, free = SemaphoreRef("result_full", tile, ZERO), SemaphoreRef("result_free", tile, ZERO)
    view = View("result", ZERO, ranges, TileSet(tile))
    signals: tuple[Signal, ...] = (Signal(free, "read"),)
    if grid.map.launched:
        signals += (Signal(SemaphoreRef("ended", tile, ZERO), "read"),)
    return Instruction("store", (box, view), (), (full,), signals)
