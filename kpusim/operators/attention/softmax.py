"""The vector engine: online softmax over the blocks of keys, sums of weighted values, and what makes operands ready.

For each block with scores s (Milakov & Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135), n being minus the
greatest score so far:

    n' = min(n, -factor * rowmax s),  alpha = exp(n' - n),  p = exp(factor * s + n'),  l' = l alpha + rowsum p,
    o' = o alpha + p v (the product is the matrix engine's),  and at the end out = o / l

n begins at the greatest fp32, so that rows without a key, whose scores are all -inf, have p = 0, l = 0 and out = 0.
"""

from __future__ import annotations

from kpusim.isa.expr import Const, minimum
from kpusim.isa.program import Instruction, Loop, Node, Operand, Range, Section, Semaphore, SemaphoreRef, Signal, View
from kpusim.operators.attention.combine import add_parts, give_part
from kpusim.operators.attention.grid import ITEM, STEP, Grid, once
from kpusim.operators.attention.prepare import prepare, turn_queries
from kpusim.operators.declare import full_and_free
from kpusim.operators.fp32 import FP32_LEAST, FP32_MAX
from kpusim.operators.seats import TILE, ZERO

__all__ = ["SCALE_OF_FP8", "semaphores", "softmax"]

SCALE_OF_FP8 = 256.0  # of probabilities in fp8 e4m3, whose greatest is 448 (OCP): they use its range


def semaphores(grid: Grid) -> tuple[Semaphore, ...]:
    """Of results."""
    return full_and_free("result", grid.tiles, 1)


def softmax(grid: Grid) -> Section:
    """Every item from scores to results."""
    stream, part = grid.stream, grid.part
    seen, ahead = grid.seen(stream, part, ITEM), grid.map.ahead
    more = grid.count(stream) - ITEM - 1
    block: tuple[Node, ...] = _probabilities(grid)
    if ahead:
        block = (*prepare(grid, "k", ITEM, STEP + 1, seen - STEP - 1), *block)
        following: tuple[Node, ...] = (*turn_queries(grid, ITEM + 1), *prepare(grid, "k", ITEM + 1, ZERO))
        tail: tuple[Node, ...] = (once(more, *following),) if following else ()
        before = (*turn_queries(grid, ZERO), *prepare(grid, "k", ZERO, ZERO))
        begin: tuple[Node, ...] = ()
    else:
        block = (*prepare(grid, "k", ITEM, STEP), *block)
        before, begin, tail = (), turn_queries(grid, ITEM), ()
    skips = grid.skipped(*(name for name in "kv" if grid.problem.prepared(name)))
    after = (*_end(grid), *tail) if grid.map.launched else (*tail, *_end(grid))
    item = (*begin, *_begin(grid), Loop("j", ZERO, seen, block), *skips, *after)
    return grid.section("vector", (*_counts(grid), *before, Loop("w", ZERO, grid.count(stream), item)))


def _counts(grid: Grid) -> tuple[Node, ...]:
    """Once: the numbers of the keys of a block, and of the queries of a tile."""
    found: list[Node] = []
    if grid.problem.causal:
        found.append(Instruction("iota", (View("query"),), (("row_step", Const(1)),)))
    if grid.problem.causal or grid.problem.bounded:
        found.append(Instruction("iota", (View("column"),)))
    return tuple(found)


def _begin(grid: Grid) -> tuple[Node, ...]:
    """Nothing is summed up yet."""
    waits = (SemaphoreRef("sums_free", TILE, ZERO),) if grid.map.splits > 1 else ()
    first = _op("fill", View("least", grid.turn(ITEM, ZERO, 2)), FP32_MAX, waits=waits)
    return first, _op("fill", View("total"), 0.0)


def _probabilities(grid: Grid) -> tuple[Node, ...]:
    """p, n, alpha and l of a block."""
    problem, factor = grid.problem, grid.problem.factor
    turn, pair = grid.turn(ITEM, STEP), grid.turn(ITEM, STEP, 2)
    columns = grid.columns(grid.key(grid.stream, ITEM, STEP))
    s, p = View("s", turn, columns), View("p", turn, columns)
    old, new = View("least", pair), View("least", (grid.turn(ITEM, STEP, 2) + 1) % 2)
    alpha, row, total, o = View("alpha"), View("reduced"), View("total"), View("o")
    ready = SemaphoreRef("s_full", TILE, turn)
    hidden = _hide(grid, s)
    head = (Instruction("sync", waits=(ready,)), *hidden) if hidden else ()
    eight = problem.dtype == "fp8_e4m3"
    exponentials = (_op("exp", s, s), _op("quantize", p, s, 1 / SCALE_OF_FP8, 0.0)) if eight else (_op("exp", p, s),)
    return (
        *head,
        _op("row_max", row, s, waits=() if hidden else (ready,)),
        _op("mul", row, row, -factor),
        _op("min", new, old, row),
        _op("sub", alpha, new, old),
        _op("exp", alpha, alpha),
        _op("fma", s, s, factor, new),
        *exponentials,
        _op("row_sum", row, s if eight else p),
        *prepare(grid, "v", ITEM, STEP),
        Loop("x", ZERO, minimum(1, STEP), (_op("mul", o, o, alpha, waits=(SemaphoreRef("o_full", TILE, ZERO),)),)),
        _op("fma", total, total, alpha, row, signals=(Signal(SemaphoreRef("p_full", TILE, turn)),)),
    )


def _hide(grid: Grid, s: View) -> tuple[Node, ...]:
    """-inf where a query does not see a key, in blocks that have such."""
    problem, size = grid.problem, grid.map.block_keys
    key = grid.key(grid.stream, ITEM, STEP)
    columns = s.ranges[-1:] or (Range(),)
    found: list[Node] = []

    def seen_of(name: str) -> View:
        return View(name, ZERO, (Range(), Range(), *columns))

    limit, hidden, sink = View("limit"), seen_of("hidden"), seen_of("sink")
    if problem.causal:
        first = grid.token(grid.stream, TILE % grid.width) + problem.offset
        later = (
            _op("add", limit, View("query"), first - key),
            _op("le", hidden, seen_of("column"), limit),
            _op("select", s, hidden, s, float("-inf")),
        )
        found.append(once(key + (size - 1) - first, *later))
        if problem.window:
            earlier: list[Node] = [
                _op("add", limit, View("query"), first - key - problem.window),
                _op("le", hidden, seen_of("column"), limit),
            ]
            if problem.sinks:
                earlier.append(_op("lt", sink, seen_of("column"), Const(problem.sinks) - key))
                earlier.append(_op("select", hidden, sink, Const(0), hidden))
            earlier.append(_op("select", s, hidden, float("-inf"), s))
            found.append(once(first + (grid.map.tokens - problem.window) - key, *earlier))
    elif problem.length % problem.grain:
        inside = _op("lt", sink, seen_of("column"), Const(problem.length) - key)
        found.append(once(key + (size - problem.length), inside, _op("select", s, sink, s, float("-inf"))))
    return tuple(found)


def _end(grid: Grid) -> tuple[Node, ...]:
    """The sums of an item to its results; with several parts, of all of them."""
    total = View("total")
    last = grid.turn(ITEM, grid.seen(grid.stream, grid.part, ITEM), 2)
    finish: list[Node] = [_op("max", total, total, FP32_LEAST), _op("reciprocal", total, total)]  # of none: 0
    if grid.problem.dtype == "fp8_e4m3":
        finish.append(_op("mul", total, total, 1 / SCALE_OF_FP8))
    free, full = (SemaphoreRef(f"result_{state}", TILE, ZERO) for state in ("free", "full"))
    finish.append(_op("mul", View("result"), View("o"), total, waits=(free,), signals=(Signal(full),)))
    summed = Instruction("sync", waits=(SemaphoreRef("o_full", TILE, ZERO),))
    if grid.map.splits == 1:
        return (summed, *finish)
    other = grid.stream % grid.map.splits
    return (
        summed,
        once(1 - other, *add_parts(grid, last), *finish, Instruction("sync", signals=_sums_free())),
        once(other, *give_part(grid, last)),
    )


def _sums_free() -> tuple[Signal, ...]:
    return (Signal(SemaphoreRef("sums_free", TILE, ZERO)),)


def _op(
    op: str, *operands: Operand, waits: tuple[SemaphoreRef, ...] = (), signals: tuple[Signal, ...] = ()
) -> Instruction:
    return Instruction(op, operands, (), waits, signals)
