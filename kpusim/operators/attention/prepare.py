"""What the vector engine makes ready before it is multiplied: keys and values dequantised, queries and keys rotated."""

from __future__ import annotations

from kpusim.isa.expr import Const, Expr
from kpusim.isa.program import Instruction, Node, Range, SemaphoreRef, Signal, View
from kpusim.operators.attention.grid import Grid, once
from kpusim.operators.attention.mapping import READY_SLOTS
from kpusim.operators.seats import TILE, ZERO

__all__ = ["prepare", "turn_queries"]


def prepare(grid: Grid, name: str, item: Expr, step: Expr, condition: Expr | None = None) -> tuple[Node, ...]:
    """Keys ("k") or values ("v") of a block as they are multiplied; nothing where they come so."""
    problem = grid.problem
    if not problem.prepared(name):
        return ()
    slot, turn, key = grid.slot(item, step), grid.turn(item, step, READY_SLOTS), grid.key(grid.stream, item, step)
    ranges = grid.key_ranges(key)
    stored, ready = View(f"{name}_stored", slot, ranges), View(f"{name}_tile", turn, ranges)
    full, used = SemaphoreRef(f"{name}_full", TILE, slot), SemaphoreRef(f"{name}_used", TILE, turn)
    free, given = SemaphoreRef(f"{name}_free", grid.stream, slot), SemaphoreRef(f"{name}_ready", TILE, turn)
    signals = Signal(free, "read"), Signal(given)
    if problem.quantized:
        scale = View(f"{name}_scale_tile", slot, _scales(grid, name, key))
        nodes: tuple[Node, ...] = (Instruction("dequantize", (ready, stored, scale, 0.0), (), (full, used), signals),)
    else:
        rows = ranges[:1] or (Range(),)
        angles = tuple(View(f"k_{angle}", slot, (*rows, Range())) for angle in ("cos", "sin"))
        nodes = _turned(
            problem.head_dim // 2,
            stored,
            ready,
            rows,
            (*angles, View("k_turned", ZERO, (*rows, Range()))),
            (full, used),
            signals,
        )
    return nodes if condition is None else (once(condition, *nodes),)


def _scales(grid: Grid, name: str, key: Expr) -> tuple[Range, ...]:
    """The scales of a block's grains."""
    grains = grid.grains_range(key)
    if grains == Range():
        return ()
    return (grains, Range(), Range()) if grid.problem.grained else (grains, Range())


def turn_queries(grid: Grid, item: Expr) -> tuple[Node, ...]:
    """Queries of an item, rotated by their positions."""
    if grid.problem.rope == "none":
        return ()
    slot = item % grid.map.query_slots
    waits = SemaphoreRef("q_full", TILE, slot), SemaphoreRef("q_used", TILE, slot)
    signals = Signal(SemaphoreRef("q_free", TILE, slot), "read"), Signal(SemaphoreRef("q_ready", TILE, slot))
    angles = View("q_cos", slot), View("q_sin", slot), View("turned")
    return _turned(
        grid.problem.head_dim // 2,
        View("q_stored", slot),
        View("q_tile", slot),
        (Range(), Range()),
        angles,
        waits,
        signals,
    )


def _turned(
    half: int, source: View, target: View, rows: tuple[Range, ...], angles: tuple[View, ...],
    waits: tuple[SemaphoreRef, ...], signals: tuple[Signal, ...],
) -> tuple[Node, ...]:  # fmt: skip
    """target = (x cos - y sin, y cos + x sin), x and y being the halves of source (Su et al., arXiv:2104.09864)."""
    cos, sin, temp = angles

    def halves(view: View) -> tuple[View, View]:
        low, high = Range(ZERO, Const(half)), Range(Const(half), Const(half))
        return View(view.buffer, view.slot, (*rows, low)), View(view.buffer, view.slot, (*rows, high))

    (x, y), (first, second) = halves(source), halves(target)
    return (
        Instruction("mul", (temp, y, sin), (), waits),
        Instruction("neg", (temp, temp)),
        Instruction("fma", (first, x, cos, temp)),
        Instruction("mul", (temp, x, sin)),
        Instruction("fma", (second, y, cos, temp), (), (), signals),
    )
