"""Split keys: the parts of a team's streams added up in the tiles of its first (Flash-Decoding, Dao et al. 2023).

With n, l and o of each part (see `softmax`), n* the least n: l = sum of exp(n* - n) l, and o likewise.
"""

from __future__ import annotations

from kpusim.isa.expr import Const, Expr, Name
from kpusim.isa.program import Instruction, Loop, Node, Range, Semaphore, SemaphoreRef, Signal, TileSet, View
from kpusim.operators.attention.grid import Grid
from kpusim.operators.declare import full_and_free
from kpusim.operators.seats import TILE, ZERO, loop

__all__ = ["add_parts", "give_part", "semaphores", "send_part"]

ONE = Const(1)
SUM, LEAST = Range(ZERO, ONE), Range(ONE, ONE)  # columns of `sums`: l and n


def semaphores(grid: Grid) -> list[Semaphore]:
    """Of parts."""
    others, tiles = grid.map.splits - 1, grid.tiles
    return [
        Semaphore("sums_free", tiles, 1, 1),
        Semaphore("part_ready", tiles, 1),
        *full_and_free("part", tiles, others),
    ]


def give_part(grid: Grid, last: Expr) -> tuple[Node, ...]:
    """A part that is complete, l and n beside each other; `last`: the slot of n."""
    ready = (Signal(SemaphoreRef("part_ready", TILE, ZERO)),)
    return (
        Instruction("move", (_sums(SUM), View("total"))),
        Instruction("move", (_sums(LEAST), View("least", last)), signals=ready),
    )


def send_part(grid: Grid, tile: Expr) -> tuple[Node, ...]:
    """The part of a tile to that in its place in the first stream of the team."""
    part = (tile // grid.width) % grid.map.splits
    root, number = tile - part * grid.width, part - 1
    ready, free = SemaphoreRef("part_ready", tile, ZERO), SemaphoreRef("part_free", root, number)
    full = Signal(SemaphoreRef("part_full", root, number))
    given = Signal(SemaphoreRef("sums_free", tile, ZERO), "read"), full

    def into(buffer: str) -> View:
        return View(buffer, ZERO, (Range(), Range(number, ONE), Range()), TileSet(root))

    return (
        Instruction("copy", (into("part_o"), View("o", ZERO, (), TileSet(tile))), (), (ready, free)),
        Instruction("copy", (into("part_sums"), View("sums", ZERO, (), TileSet(tile))), (), (), given),
    )


def add_parts(grid: Grid, last: Expr) -> tuple[Node, ...]:
    """All other parts to o and l, in the first stream's tiles."""
    others, number = grid.map.splits - 1, Name("y")
    wait = Instruction("sync", waits=(SemaphoreRef("part_full", TILE, number),))
    free = Instruction("sync", signals=(Signal(SemaphoreRef("part_free", TILE, number)),))
    n, o, total, row, alpha = View("least", last), View("o"), View("total"), View("reduced"), View("alpha", ZERO)
    sums, least = (View("part_sums", ZERO, (Range(), Range(), column)) for column in (SUM, LEAST))
    steps: tuple[tuple[str, tuple[View, ...]], ...] = (
        ("col_min", (row, least)),
        ("min", (row, row, n)),
        ("sub", (alpha, row, n)),
        ("exp", (alpha, alpha)),
        ("sub", (least, least, row)),
        ("neg", (least, least)),
        ("exp", (least, least)),
        ("mul", (sums, sums, least)),
        ("col_sum", (row, sums)),
        ("fma", (total, total, alpha, row)),
        ("mul", (View("part_o"), View("part_o"), least)),
        ("col_sum", (View("weighted"), View("part_o"))),
        ("fma", (o, o, alpha, View("weighted"))),
    )
    chain = [Instruction(op, views) for op, views in steps]
    return loop("y", others, wait), *chain, Loop("y", ZERO, Const(others), (free,))


def _sums(column: Range) -> View:
    return View("sums", ZERO, (Range(), Range(), column))
