"""What a LayerNorm needs of B: the sums of its columns, weighted by the norm's weight and by its bias.

((a - mean) * root * weight + bias) @ b, with the mean and the root of each row, is root * ((a * weight) @ b - mean *
(weight @ b)) + bias @ b. The vector engine of each tile adds up weight @ b and bias @ b block by block, while the array
multiplies; like mean and root they are needed in the epilogue only.
"""

from __future__ import annotations

from kpusim.isa.expr import Const, Expr, Name, ceil_div
from kpusim.isa.program import Instruction, Node, Range, SemaphoreRef, Signal, View
from kpusim.machine import Machine
from kpusim.operators.gemm.grid import Grid
from kpusim.operators.gemm.mapping import READY_SLOTS, Mapping
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.seats import TILE, ZERO, loop, part
from kpusim.operators.steps import Step, elementwise_cycles

__all__ = ["add_columns", "column_cycles", "column_row", "turn_columns"]

VECTORS = "norm_weight", "norm_bias"
WEIGHTED = Step("mul", "weighted", ("b",)), Step("row_sum", "columns_part", ("weighted",))


def column_cycles(problem: Problem, mapping: Mapping, machine: Machine) -> int:
    """Cycles of the vector engine for one block of B."""
    if not problem.prologue.centred:
        return 0
    wide, deep, strip = min(mapping.block_n, problem.n), min(mapping.block_k, problem.k), mapping.weighted_rows(problem)
    high, across = (wide, deep) if problem.transpose_b else (deep, wide)
    dtypes = {"b": problem.dtype, "weighted": "fp32"}
    whole, rest = divmod(high, strip)
    cycles = 0
    for count, rows in ((whole, strip), (1, rest)):
        sums = min(rows, wide) if problem.transpose_b else wide
        cycles += count * elementwise_cycles(WEIGHTED, machine, rows * across, dtypes)
        cycles += count * elementwise_cycles((Step("add", "columns", ()),), machine, sums if rows else 0, {})
    if not problem.transpose_b:
        cycles += elementwise_cycles((Step("transpose", "across", ()),), machine, deep, {})
    return len(VECTORS) * cycles


def add_columns(grid: Grid, round_: Expr, step: Expr) -> tuple[Node, ...]:
    """Both sums of the columns of a block of B, in the slot in which it comes or is dequantised.

    They are complete before the block of A is ready, which follows in the same queue: with the sums of the array.
    """
    problem, count = grid.problem, round_ * grid.steps + step
    slot, ready = count % grid.map.slots, count % (READY_SLOTS if problem.quantized else grid.map.slots)
    plane, _, j = grid.place
    deep, wide = grid.depth(plane, step), grid.width(round_, plane, j)
    strip, high = grid.map.weighted_rows(problem), wide if problem.transpose_b else deep
    strips = ceil_div(grid.map.block_n if problem.transpose_b else grid.map.block_k, strip)
    rows = part(high, strip, Name("s") if strips > 1 else ZERO)
    across = Range(ZERO, deep if problem.transpose_b else wide)
    body = [node for number in (0, 1) for node in _weighted(grid, number, (slot, ready), rows, across, round_)]
    full, made = [SemaphoreRef("norm_full", TILE, slot)], []
    if not problem.quantized:  # else it has been waited for, and is ready
        full.append(SemaphoreRef("b_full", TILE, slot))
        made.append(Instruction("sync", signals=(Signal(SemaphoreRef("b_ready", TILE, slot)),)))
    return (
        Instruction("sync", waits=tuple(full)),
        *([] if problem.transpose_b else _turned(slot)),
        *([loop("s", strips, *body)] if strips > 1 else body),
        *made,
    )


def _turned(slot: Expr) -> list[Instruction]:
    """The norm's vectors along the rows of B."""
    return [Instruction("transpose", (View(f"{name}_across"), View(f"{name}_tile", slot))) for name in VECTORS]


def _weighted(
    grid: Grid, number: int, slots: tuple[Expr, Expr], rows: Range, across: Range, round_: Expr
) -> tuple[Instruction, ...]:
    """Sums that are weighted by the number-th vector: of some rows of a block of B as it lies."""
    name, (slot, ready), low, one = VECTORS[number], slots, Range(ZERO, rows.length), Range(Const(number), Const(1))
    if grid.problem.transpose_b:
        b = View("b_tile", ready, grid.b_ranges(across, rows))
        vector, summed = View(f"{name}_tile", slot, (Range(), across)), View("columns_part", ZERO, (low, Range()))
        total, operation = View("columns", round_ % 2, (rows, one)), "row_sum"
    else:
        b = View("b_tile", ready, (rows, across))
        vector, summed = View(f"{name}_across", ZERO, (rows, Range())), View("columns_part", ZERO, (Range(), across))
        total, operation = View("columns", round_ % 2, (one, across)), "col_sum"
    weighted = View("weighted", ZERO, (low, across))
    return (
        Instruction("mul", (weighted, b, vector)),
        Instruction(operation, (summed, weighted)),
        Instruction("add", (total, total, summed)),
    )


def turn_columns(grid: Grid, round_: Expr) -> tuple[Instruction, ...]:
    """The sums of a round as rows, where they are added up as columns."""
    if not grid.problem.transpose_b:
        return ()
    return (Instruction("transpose", (View("columns_row"), View("columns", round_ % 2))),)


def column_row(grid: Grid, round_: Expr, number: int, width: Range) -> View:
    """The number-th sums of a round, as a row."""
    ranges = Range(Const(number), Const(1)), width
    return View("columns_row", ZERO, ranges) if grid.problem.transpose_b else View("columns", round_ % 2, ranges)
