"""What the vector engine does with each strip of sums: a chain of instructions that ends in the output's dtype."""

from __future__ import annotations

from functools import cache

from kpusim.machine import Machine
from kpusim.operators.activations import activation_steps
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.steps import Step, elementwise_cycles

__all__ = ["STRIP", "chain", "chain_cycles", "temporaries"]

STRIP = "strip"


@cache
def chain(problem: Problem) -> tuple[Step, ...]:
    """The instructions for one strip, from the buffer "acc" to "strip".

    Where the sums are fp32 they are worked on in place; else, or for an intermediate result, in "work" and "temp".
    """
    epilogue = problem.epilogue
    home = "acc" if problem.accumulator == "fp32" else "work"
    steps: list[Step] = []
    at = "acc"

    def then(op: str, *sources: str | float) -> None:
        nonlocal at
        steps.append(Step(op, home, sources))
        at = home

    if problem.prologue.centred:
        then("fma", "less", "column", at)
        then("fma", at, "norm", "shift")
    scales = _scales(problem)
    fused = scales.pop() if scales and epilogue.bias and home == "acc" else None
    for scale in scales:
        then("mul", at, scale)
    if fused is not None:
        then("fma", at, fused, "bias")
    elif epilogue.bias:
        then("add", at, "bias")
    if epilogue.activation != "none":
        if at != home:
            then("cast", at)
        steps += activation_steps(epilogue.activation, home, "temp")
    if epilogue.residual:
        then("add", at, "residual")
    if problem.out_dtype.startswith("fp8"):
        if at != home:
            then("cast", at)
        then("quantize", at, 1.0, 0.0)
    if not steps:
        then("cast", at)
    return (*steps[:-1], Step(steps[-1].op, STRIP, steps[-1].sources))


def _scales(problem: Problem) -> list[str | float]:
    """What the sums are multiplied by: a number, one for each row, one for each column."""
    prologue, epilogue = problem.prologue, problem.epilogue
    rows: list[str | float] = ["norm"] if prologue.by_row and not prologue.centred else []
    return [*([epilogue.alpha] if epilogue.alpha != 1.0 else []), *rows, *(["scale"] if epilogue.column_scale else [])]


@cache
def temporaries(problem: Problem) -> tuple[str, ...]:
    """The fp32 buffers of one strip that the chain needs beside accumulators, operands and the strip."""
    used = {buffer for step in chain(problem) for buffer in step.buffers}
    return tuple(name for name in ("work", "temp") if name in used)


def chain_cycles(problem: Problem, machine: Machine, rows: int, columns: int) -> int:
    """Cycles of the vector engine for one strip."""
    wide = {"acc": problem.accumulator, "work": "fp32", "temp": "fp32", "residual": problem.model_dtype}
    return elementwise_cycles(chain(problem), machine, rows * columns, wide | {STRIP: problem.out_dtype})
