"""From sums to results: partial sums joined on chip, the epilogue on the vector engine, and the way to HBM."""

from __future__ import annotations

from kpusim.isa.expr import Const, Expr, Name, minimum
from kpusim.isa.program import Box, Instruction, Loop, Node, Range, Section, SemaphoreRef, Signal, TileSet, View
from kpusim.machine import Machine
from kpusim.operators.gemm.columns import add_columns, column_row, turn_columns
from kpusim.operators.gemm.epilogue import STRIP, chain
from kpusim.operators.gemm.grid import Grid
from kpusim.operators.gemm.mapping import READY_SLOTS
from kpusim.operators.gemm.prologue import FIRST, SECOND, clear_sums, normalize, root, sums_of
from kpusim.operators.gemm.streams import PASS_QUEUE, STORE_QUEUE, dequantize
from kpusim.operators.seats import DST, TILE, ZERO, Seat, loop, part
from kpusim.operators.steps import Step

__all__ = ["load_vectors", "reduce", "store", "vector_sections"]


def _view(buffer: str, slot: Expr, *ranges: Range, tiles: TileSet | None = None) -> View:
    """A view, its ranges left out where they are all of a slot."""
    return View(buffer, slot, () if all(item == Range() for item in ranges) else ranges, tiles)


def _part_of(length: Expr, whole: int) -> Range:
    """The first `length` of `whole` elements."""
    return Range() if length == Const(whole) else Range(ZERO, length)


def _existing(grid: Grid, round_: Expr, plane: Expr, row: Expr, column: Expr) -> tuple[Range, Range]:
    """The part of a tile's block of results that exists."""
    height, width = grid.height(round_, plane, row), grid.width(round_, plane, column)
    return _part_of(height, grid.map.block_m), _part_of(width, grid.map.block_n)


def load_vectors(grid: Grid, seat: Seat, round_: Expr) -> tuple[Node, ...]:
    """Column scales and bias of a round, each to all tiles of a grid column that finish results; `seat`: of B."""
    names, slot = grid.problem.epilogue.vectors, round_ % 2

    def load(group: Expr) -> tuple[Node, ...]:
        plane, place = grid.side("n", group)
        ranges = grid.within(grid.entry(round_, plane), (Range(grid.column(round_, plane, place)),), grouped=True)
        free = SemaphoreRef("vectors_free", group // grid.map.grid_k, slot)
        full = Signal(SemaphoreRef("vectors_full", DST, slot))
        loads = tuple(
            Instruction(
                "load",
                (View(f"{name}_tile", slot, (), grid.tiles_of("n", group)), Box(f"{name}_part", ranges)),
                waits=(free,) if name == names[0] else (),
                signals=(full,) if name == names[-1] else (),
            )
            for name in names
        )
        if grid.map.grid_k == 1:
            return loads
        others = minimum(1, group % grid.map.grid_k)  # 0 where the group's tiles finish results
        return (Loop("v", others, Const(1), loads),)

    return seat.each(load)


def reduce(grid: Grid, machine: Machine) -> Section:
    """Partial sums to the tile that finishes them, each to a place of its own."""
    seat, round_ = Seat(grid.map.base_tiles, machine.dma_engines, 0), Name("w")
    acc = round_ % grid.map.accumulators
    number = Name("x")

    def copy(base: Expr) -> tuple[Node, ...]:
        tile = grid.base_tile(base)
        source = tile + number + 1
        ranges = _existing(grid, round_, grid.plane_of(tile), grid.row_of(tile), grid.column_of(tile))
        target = _view("partial", number, *ranges, tiles=TileSet(tile))
        waits = SemaphoreRef("acc_full", source, acc), SemaphoreRef("partial_free", tile, number)
        signals = (
            Signal(SemaphoreRef("partial_full", DST, number)),
            Signal(SemaphoreRef("acc_free", source, acc), "read"),
        )
        views = target, _view("acc", acc, *ranges, tiles=TileSet(source))
        names = sums_of(grid)
        if not names:
            return (Instruction("copy", views, (), waits, signals),)
        taken = (Signal(SemaphoreRef("sums_free", source, round_ % 2), "read"),)
        sums = [
            Instruction(
                "copy",
                (View(f"{name}_partial", number, (), TileSet(tile)), View(name, round_ % 2, (), TileSet(source))),
                waits=waits if name == names[0] else (),
                signals=taken if name == names[-1] else (),
            )
            for name in names
        ]
        return *sums, Instruction("copy", views, (), (), signals)

    body = loop("w", grid.rounds, loop("x", grid.map.grid_k - 1, *seat.each(copy)))
    return seat.section(PASS_QUEUE, (body,))


def vector_sections(grid: Grid) -> list[Section]:
    """The vector engines: factors made ready a few steps ahead of the epilogue of the round before."""
    parts, round_, problem = grid.map.grid_k, Name("w"), grid.problem
    factors = _factors(grid, round_, Name("k"))
    if not factors:
        return [grid.tile_section("vector", 0, parts, loop("w", grid.rounds, *epilogue(grid, round_)))]
    slots = ([READY_SLOTS] if problem.quantized else []) + ([grid.map.slots] if problem.prologue.vectors else [])
    ahead = min(*slots, grid.steps)  # more would wait for the epilogue that follows
    left = Const(grid.rounds) - round_  # 0 in the last turn, which has only the epilogue

    def steps(low: int, high: int) -> Node:
        return Loop("k", Const(low), minimum(high, left * high), factors)

    before = Loop("e", ZERO, minimum(1, round_), epilogue(grid, round_ - 1))
    rest = [steps(ahead, grid.steps)] if ahead < grid.steps else []
    clear, taken = [], []
    if problem.prologue.by_row:
        clear = [Loop("z", ZERO, minimum(1, left), clear_sums(grid, round_))]
        taken = [Instruction("sync", waits=(SemaphoreRef("sums_free", TILE, round_ % 2),)), *clear_sums(grid, round_)]
    finishing = loop("w", grid.rounds + 1, *clear, steps(0, ahead), before, *rest)
    others = loop("w", grid.rounds, *taken, loop("k", grid.steps, *factors))
    return [grid.tile_section("vector", part, parts, others if part else finishing) for part in range(parts)]


def _factors(grid: Grid, round_: Expr, step: Expr) -> tuple[Node, ...]:
    """What makes the factors of a step ready: () where they are as they come."""
    quantized, normalized = grid.problem.quantized, bool(grid.problem.prologue.vectors)
    dequantized = dequantize(grid, round_, step) if quantized else ()
    columns = add_columns(grid, round_, step) if grid.problem.prologue.centred else ()
    return *dequantized, *columns, *(normalize(grid, round_, step) if normalized else ())


def epilogue(grid: Grid, round_: Expr) -> tuple[Node, ...]:
    """The results of a round: partial sums added up, then strip by strip through the chain."""
    acc, vectors = round_ % grid.map.accumulators, grid.problem.epilogue.vectors
    full = [SemaphoreRef("acc_full", TILE, acc), *([SemaphoreRef("vectors_full", TILE, round_ % 2)] if vectors else [])]
    free = [Signal(SemaphoreRef("acc_free", TILE, acc))]
    if vectors:
        free.append(Signal(SemaphoreRef("vectors_free", grid.own_group("n") // grid.map.grid_k, round_ % 2), "read"))
    strips = loop("t", grid.map.strips, *_strip(grid, round_, Name("t")))
    added = [loop("x", grid.map.grid_k - 1, *_add_partial(grid, round_))] if grid.map.grid_k > 1 else []
    prologue = grid.problem.prologue
    roots = (*root(grid, round_), *(turn_columns(grid, round_) if prologue.centred else ())) if prologue.by_row else ()
    return Instruction("sync", waits=tuple(full)), *added, *roots, strips, Instruction("sync", signals=tuple(free))


def _add_partial(grid: Grid, round_: Expr) -> tuple[Instruction, ...]:
    number, ranges = Name("x"), _existing(grid, round_, *grid.place)
    acc = _view("acc", round_ % grid.map.accumulators, *ranges)
    full = (SemaphoreRef("partial_full", TILE, number),)
    free = (Signal(SemaphoreRef("partial_free", TILE, number), "read"),)
    operands = acc, acc, _view("partial", number, *ranges)
    names = sums_of(grid)
    if not names:
        return (Instruction("add", operands, (), full, free),)
    sums = [(View(name, round_ % 2), View(name, round_ % 2), View(f"{name}_partial", number)) for name in names]
    added = [Instruction("add", each, (), () if count else full) for count, each in enumerate(sums)]
    return *added, Instruction("add", operands, (), (), free)


def _strip(grid: Grid, round_: Expr, strip: Expr) -> tuple[Instruction, ...]:
    """One strip of results; the last instruction of the chain writes what is stored."""
    plane, i, j = grid.place
    rows = part(grid.height(round_, plane, i), grid.map.strip_rows, strip)
    width = Range(ZERO, grid.width(round_, plane, j))
    number = round_ * grid.map.strips + strip
    ranges = Range(ZERO, rows.length), width
    views = {
        "acc": View("acc", round_ % grid.map.accumulators, (rows, width)),
        STRIP: View(STRIP, number % 2, ranges),
        "residual": View("residual_tile", number % 2, ranges),
        **{name: View(name, ZERO, ranges) for name in ("work", "temp")},
        **{name: View(f"{name}_tile", round_ % 2, (Range(), width)) for name in ("scale", "bias")},
        "norm": View("norm_sum", round_ % 2, (rows, FIRST)),
        "less": View("norm_sum", round_ % 2, (rows, SECOND)),
        **{name: column_row(grid, round_, row, width) for row, name in enumerate(("column", "shift"))},
    }

    def instruction(step: Step) -> Instruction:
        waits = [SemaphoreRef("residual_full", TILE, number % 2)] if "residual" in step.sources else []
        signals = []
        if step.target == STRIP:
            waits.append(SemaphoreRef("strip_free", TILE, number % 2))
            signals.append(Signal(SemaphoreRef("strip_full", TILE, number % 2)))
        operands = [views[source] if isinstance(source, str) else source for source in step.sources]
        return Instruction(step.op, (views[step.target], *operands), (), tuple(waits), tuple(signals))

    return tuple(instruction(step) for step in chain(grid.problem))


def store(grid: Grid, machine: Machine) -> Section:
    """Strips to HBM, by the engine nearest to the tile; strips of the residual the other way, two ahead."""
    seat = Seat(grid.map.base_tiles, machine.dma_engines, 0)
    total, number = grid.rounds * grid.map.strips, Name("t")

    def stored(round_: Expr, strip: Expr) -> tuple[Node, ...]:
        return seat.each(lambda base: (_store(grid, round_, strip, grid.base_tile(base)),))

    if not grid.problem.epilogue.residual:
        round_ = Name("w")
        several = grid.map.strips > 1
        strips = (loop("t", grid.map.strips, *stored(round_, number)),) if several else stored(round_, ZERO)
        return seat.section(STORE_QUEUE, (loop("w", grid.rounds, *strips),))

    def loads(count: Expr) -> tuple[Node, ...]:
        round_, strip = count // grid.map.strips, count % grid.map.strips
        return seat.each(lambda base: (_load_residual(grid, round_, strip, grid.base_tile(base)),))

    first = loop("t", min(2, total), *loads(number))
    ahead = Loop("r", ZERO, minimum(1, Const(total - 2) - number), loads(number + 2))
    turns = stored(number // grid.map.strips, number % grid.map.strips)
    return seat.section(STORE_QUEUE, (first, loop("t", total, *turns, ahead)))


def _strip_in_hbm(grid: Grid, round_: Expr, strip: Expr, tile: Expr, buffer: str) -> tuple[Box, View]:
    """A strip's place in HBM, and in its tile."""
    plane, row, column = grid.plane_of(tile), grid.row_of(tile), grid.column_of(tile)
    inside = grid.height(round_, plane, row) if grid.problem.groups else Const(grid.map.block_m)
    rows = part(inside, grid.map.strip_rows, strip)
    whole = rows.length == Const(grid.map.strip_rows)
    top = Range(grid.row(round_, plane, row) + rows.start, None if whole else rows.length)
    box = grid.within(grid.entry(round_, plane), (top, Range(grid.column(round_, plane, column))), grouped=False)
    slot = (round_ * grid.map.strips + strip) % 2
    view = View(buffer, slot, () if whole else (Range(ZERO, rows.length), Range()), TileSet(tile))
    return Box("out_strip" if buffer == STRIP else "residual_strip", box), view


def _store(grid: Grid, round_: Expr, strip: Expr, tile: Expr) -> Instruction:
    box, view = _strip_in_hbm(grid, round_, strip, tile, STRIP)
    full = SemaphoreRef("strip_full", tile, view.slot)
    return Instruction(
        "store", (box, view), (), (full,), (Signal(SemaphoreRef("strip_free", tile, view.slot), "read"),)
    )


def _load_residual(grid: Grid, round_: Expr, strip: Expr, tile: Expr) -> Instruction:
    """The slot is free: the same queue has just stored, or waited for, the strip two before."""
    box, view = _strip_in_hbm(grid, round_, strip, tile, "residual_tile")
    return Instruction("load", (view, box), (), (), (Signal(SemaphoreRef("residual_full", tile, view.slot)),))
