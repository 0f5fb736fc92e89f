"""A normalised on its way to the array, by the vector engine of each tile that gets it, so that it is streamed once.

- rmsnorm: (a * rsqrt(mean of a^2 + eps) * weight) @ b is rsqrt(...) * ((a * weight) @ b), since the root is one for a
  whole row. Each block of A is multiplied by the weight in its slot while the squares of its rows are added up; their
  root is known after the last block, and is a factor of the sums in the epilogue. Values of A times the weight are
  rounded to A's dtype.
- layernorm: likewise, with the sums of rows and, of B, of columns beside; see `columns.py`.
- batchnorm: (a - mean) / sqrt(variance + eps) * weight + bias is a * factor + term, both of them one a column of A and
  made for each step anew. They could as well be multiplied into B and its bias before all (as in SLAB,
  arXiv:2405.11582), which leaves a GEMM without a prologue.
"""

from __future__ import annotations

from attrs import evolve

from kpusim.isa.expr import Const, Expr, Name, ceil_div
from kpusim.isa.program import Instruction, Node, Range, SemaphoreRef, Signal, View
from kpusim.machine import Machine
from kpusim.operators.gemm.grid import Grid
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.seats import TILE, ZERO, loop, part
from kpusim.operators.steps import Step, elementwise_cycles

__all__ = ["FIRST", "SECOND", "block_cycles", "clear_sums", "normalize", "root", "row_cycles", "sums_of"]

FIRST, SECOND = Range(ZERO, Const(1)), Range(Const(1), Const(1))  # of a row: squares, or their root; the mean

BLOCK = {
    "rmsnorm": Step("mul", "a", ("a", "norm_weight")),
    "layernorm": Step("mul", "a", ("a", "norm_weight")),
    "batchnorm": Step("fma", "a", ("a", "norm_factor", "norm_term")),
}
FACTORS = (
    Step("max", "norm_factor", ("norm_variance", 0.0)),
    Step("add", "norm_factor", ("norm_factor", "eps")),
    Step("rsqrt", "norm_factor", ("norm_factor",)),
    Step("mul", "norm_factor", ("norm_factor", "norm_weight")),
    Step("mul", "norm_term", ("norm_mean", "norm_factor")),
    Step("sub", "norm_term", ("norm_bias", "norm_term")),
)
SQUARES = Step("mul", "squares", ("a", "a")), Step("row_sum", "norm_part", ("squares",))
SUM = (Step("row_sum", "norm_part", ("a",)),)


def block_cycles(problem: Problem, mapping: Mapping, machine: Machine) -> int:
    """Cycles of the vector engine for one block of A."""
    if problem.prologue.kind == "none":
        return 0
    rows, deep = min(mapping.block_m, problem.longest), min(mapping.block_k, problem.k)
    dtypes = {"a": problem.dtype, "squares": "fp32"}
    cycles = elementwise_cycles((BLOCK[problem.prologue.kind],), machine, rows * deep, dtypes)
    if not problem.prologue.by_row:
        return cycles + elementwise_cycles(FACTORS, machine, deep, {})
    whole, rest = divmod(rows, mapping.norm_rows)
    steps = (*SQUARES, *(SUM if problem.prologue.centred else ()))
    for count, high in ((whole, mapping.norm_rows), (1, rest)):
        cycles += count * elementwise_cycles(steps, machine, high * deep, dtypes)
    sums = rows * (2 if problem.prologue.centred else 1)
    return cycles + elementwise_cycles((Step("add", "norm_sum", ("norm_sum", "norm_part")),), machine, sums, {})


def row_cycles(problem: Problem, mapping: Mapping, machine: Machine) -> int:
    """Cycles of the vector engine for the factors of a block's rows, once a round."""
    if not problem.prologue.by_row:
        return 0
    steps = [Step("fma", "norm_sum", ("norm_sum",)), Step("rsqrt", "norm_sum", ("norm_sum",))]
    steps += [Step("mul", "norm_sum", ("norm_sum",))] * (5 if problem.prologue.centred else 0)  # or as cheap
    steps += [Step("add", "norm_sum", ("norm_sum", "norm_sum_partial"))] * (mapping.grid_k - 1)
    return elementwise_cycles(tuple(steps), machine, min(mapping.block_m, problem.longest), {})


def clear_sums(grid: Grid, round_: Expr) -> tuple[Instruction, ...]:
    """The sums of a round are 0."""
    return tuple(Instruction("fill", (View(name, round_ % 2), 0.0)) for name in sums_of(grid))


def sums_of(grid: Grid) -> tuple[str, ...]:
    """The buffers of what is added up beside the results, and over the parts of K: of rows, and of columns."""
    names = "norm_sum", "columns"
    return names if grid.problem.prologue.centred else names[:1] if grid.problem.prologue.by_row else ()


def normalize(grid: Grid, round_: Expr, step: Expr) -> tuple[Node, ...]:
    """A block of A in its slot; where rows have a factor of their own, their squares are added up first."""
    mapping, prologue = grid.map, grid.problem.prologue
    slot = (round_ * grid.steps + step) % mapping.slots
    plane, i, _ = grid.place
    height, deep = grid.height(round_, plane, i), Range(ZERO, grid.depth(plane, step))
    rows = Range(ZERO, height)
    views = {"a": View("a_tile", slot, (rows, deep))}
    views |= {name: View(f"{name}_tile", slot, (Range(), deep)) for name in prologue.vectors}
    full: tuple[SemaphoreRef, ...] = (SemaphoreRef("a_full", TILE, slot),)
    if not prologue.centred:  # else the columns of B have waited for it
        full = *full, SemaphoreRef("norm_full", TILE, slot)
    ready = Signal(SemaphoreRef("a_ready", TILE, slot)), Signal(SemaphoreRef("norm_free", plane, slot), "read")
    block = BLOCK[prologue.kind]
    if not prologue.by_row:
        views |= {name: View(name, ZERO, (Range(), deep)) for name in ("norm_factor", "norm_term")}
        steps = (*FACTORS, block)
        made = [_instruction(each, views, prologue.eps) for each in steps]
        return evolve(made[0], waits=full), *made[1:-1], evolve(made[-1], signals=ready)
    strips = ceil_div(mapping.block_m, mapping.norm_rows)
    number = Name("s") if strips > 1 else ZERO
    squares: tuple[Node, ...] = _squares(grid, slot, part(height, mapping.norm_rows, number), deep)
    sums, more = View("norm_sum", round_ % 2, (rows, Range())), View("norm_part", ZERO, (rows, Range()))
    return (
        Instruction("sync", waits=full),
        *((loop("s", strips, *squares),) if strips > 1 else squares),
        Instruction("add", (sums, sums, more)),
        evolve(_instruction(block, views, prologue.eps), signals=ready),
    )


def _instruction(step: Step, views: dict[str, View], eps: float) -> Instruction:
    """A step on views of its buffers; "eps" is the number."""
    values: dict[str, View | float] = {**views, "eps": eps}
    sources = (values[source] if isinstance(source, str) else source for source in step.sources)
    return Instruction(step.op, (views[step.target], *sources))


def _squares(grid: Grid, slot: Expr, rows: Range, deep: Range) -> tuple[Instruction, ...]:
    """The sums of squares of some rows of a block; of a LayerNorm, also the sums of the rows themselves."""
    a = View("a_tile", slot, (rows, deep))
    squares = View("squares", ZERO, (Range(ZERO, rows.length), deep))
    squared, summed = (View("norm_part", ZERO, (rows, column)) for column in (FIRST, SECOND))
    added = Instruction("mul", (squares, a, a)), Instruction("row_sum", (squared, squares))
    return (*added, Instruction("row_sum", (summed, a))) if grid.problem.prologue.centred else added


def root(grid: Grid, round_: Expr) -> tuple[Instruction, ...]:
    """The factor of each row of a round, in place of its sum of squares; of a LayerNorm, also what it is less."""
    plane, i, _ = grid.place
    rows, prologue, each = Range(ZERO, grid.height(round_, plane, i)), grid.problem.prologue, 1 / grid.problem.k
    factor, mean = (View("norm_sum", round_ % 2, (rows, column)) for column in (FIRST, SECOND))
    squares, square = Instruction("fma", (factor, factor, each, prologue.eps)), View("norm_part", ZERO, (rows, FIRST))
    if not prologue.centred:
        return squares, Instruction("rsqrt", (factor, factor))
    return (
        squares,
        Instruction("mul", (mean, mean, -each)),
        Instruction("mul", (square, mean, mean)),
        Instruction("sub", (factor, factor, square)),
        Instruction("max", (factor, factor, prologue.eps)),  # where rounding leaves less
        Instruction("rsqrt", (factor, factor)),
    )
