"""The matrix engine: queries by keys, and probabilities by values, in the order that the variant wants."""

from __future__ import annotations

from kpusim.isa.expr import Const, Expr, minimum
from kpusim.isa.program import Instruction, Loop, Node, Range, Section, Semaphore, SemaphoreRef, Signal, View
from kpusim.operators.attention.grid import ITEM, STEP, Grid, once
from kpusim.operators.attention.mapping import READY_SLOTS
from kpusim.operators.seats import TILE, ZERO

__all__ = ["multiply", "semaphores"]


def semaphores(grid: Grid) -> list[Semaphore]:
    """Between matrix and vector engine."""
    turns, tiles = 1 + grid.map.ahead, grid.tiles
    found = [Semaphore("o_full", tiles, 1), *(Semaphore(f"{name}_full", tiles, turns) for name in ("s", "p"))]
    for name in "kv":
        if grid.problem.prepared(name):
            found.append(Semaphore(f"{name}_ready", tiles, READY_SLOTS))
            found.append(Semaphore(f"{name}_used", tiles, READY_SLOTS, 1))
    if grid.problem.rope != "none":
        buffers = grid.map.query_slots
        found += [Semaphore("q_ready", tiles, buffers), Semaphore("q_used", tiles, buffers, 1)]
    return found


def multiply(grid: Grid) -> Section:
    """Scores and weighted values of every item. Pipelined, the next scores come before the values of a block."""
    count, more = grid.count(grid.stream), grid.count(grid.stream) - ITEM - 1
    seen = grid.seen(grid.stream, grid.part, ITEM)
    skipped = grid.skipped(*(name for name in "kv" if not grid.problem.prepared(name)))
    if not grid.map.ahead:
        both = Loop("j", ZERO, seen, (_scores(grid, ITEM, STEP), _values(grid, STEP)))
        item = (_take_queries(grid, ITEM), both, _drop_queries(grid), *skipped)
        return grid.section("matrix", (Loop("w", ZERO, count, item),))
    rest = Loop("j", Const(1), seen, (_scores(grid, ITEM, STEP), _values(grid, STEP - 1)))
    following = once(more, _take_queries(grid, ITEM + 1), _scores(grid, ITEM + 1, ZERO))
    last = _values(grid, seen - 1)
    tail: tuple[Node, ...] = following, last
    if skipped:  # which take as long as the others' blocks: nothing may wait for it
        idle = minimum(1, grid.steps(grid.stream, ITEM) - seen)
        tail = once(idle, last, *skipped), following, once(1 - idle, last)
    elif grid.map.launched:  # whose queries only come when the results have left
        tail = last, following
    first = _take_queries(grid, ZERO), _scores(grid, ZERO, ZERO)
    return grid.section("matrix", (*first, Loop("w", ZERO, count, (rest, _drop_queries(grid), *tail))))


def _take_queries(grid: Grid, item: Expr) -> Instruction:
    name = "q_full" if grid.problem.rope == "none" else "q_ready"
    return Instruction("sync", waits=(SemaphoreRef(name, TILE, item % grid.map.query_slots),))


def _drop_queries(grid: Grid) -> Instruction:
    name = "q_free" if grid.problem.rope == "none" else "q_used"
    return Instruction("sync", signals=(Signal(SemaphoreRef(name, TILE, ITEM % grid.map.query_slots)),))


def _scores(grid: Grid, item: Expr, step: Expr) -> Instruction:
    """s = q k^T of a block."""
    turn, key = grid.turn(item, step), grid.key(grid.stream, item, step)
    slot, full, free = grid.operand("k", item, step)
    views = (
        View("s", turn, grid.columns(key)),
        View("q_tile", item % grid.map.query_slots),
        View("k_tile", slot, grid.key_ranges(key)),
    )
    signals = [Signal(SemaphoreRef("s_full", TILE, turn))]
    if not grid.problem.shared:
        signals.insert(0, Signal(free, "read"))
    return Instruction("matmul", views, (("transpose_b", Const(1)),), (full,), tuple(signals))


def _values(grid: Grid, step: Expr) -> Instruction:
    """o = p v of a block, added to those before it."""
    problem, key = grid.problem, grid.key(grid.stream, ITEM, step)
    turn = grid.turn(ITEM, step)
    waits = [SemaphoreRef("p_full", TILE, turn)]
    slot, full, free = grid.operand("k" if problem.shared else "v", ITEM, step)
    if problem.shared:
        grains, *rest, _ = grid.key_ranges(key) or grid.whole_keys
        ranges: tuple[Range, ...] = (grains, *rest, Range(ZERO, Const(problem.value_dim)))
    else:
        ranges = grid.key_ranges(key)
        waits.append(full)
    views = (
        View("o"),
        View("p", turn, grid.columns(key)),
        View("k_tile" if problem.shared else "v_tile", slot, ranges),
    )
    signals = Signal(free, "read"), Signal(SemaphoreRef("o_full", TILE, ZERO))
    return Instruction("matmul", views, (("accumulate", minimum(1, step)),), tuple(waits), signals)
