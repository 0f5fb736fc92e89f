"""What the vector engine does with each strip of sums: a chain of instructions that ends in the output's dtype."""

from __future__ import annotations

from functools import cache
from math import pi, sqrt

from attrs import frozen

from kpusim.costs import vector_timer
from kpusim.isa.tables import DTYPE_BITS, instruction_rows
from kpusim.machine import Machine
from kpusim.operators.gemm.problem import Problem

__all__ = ["STRIP", "Step", "chain", "chain_cycles", "temporaries"]

STRIP = "strip"
TANH_FACTOR = sqrt(2 / pi)  # of the tanh form of GELU, with 0.044715: Hendrycks & Gimpel, arXiv:1606.08415
TANH_CUBE = 0.044715


@frozen
class Step:
    """One vector instruction: what it writes and reads are buffers, or numbers."""

    op: str
    target: str
    sources: tuple[str | float, ...]

    @property
    def buffers(self) -> tuple[str, ...]:
        """Those that it touches."""
        return (self.target, *(source for source in self.sources if isinstance(source, str)))


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

    scales: list[str | float] = [epilogue.alpha] if epilogue.alpha != 1.0 else []
    if epilogue.column_scale:
        scales.append("scale")
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
        steps += _activation(epilogue.activation, home)
    if epilogue.residual:
        then("add", at, "residual")
    if problem.out_dtype.startswith("fp8"):
        then("quantize", at, 1.0, 0.0)
    if not steps:
        then("cast", at)
    return (*steps[:-1], Step(steps[-1].op, STRIP, steps[-1].sources))


def _activation(name: str, x: str) -> list[Step]:
    """x = activation(x), with "temp" beside it."""
    if name == "relu":
        return [Step("max", x, (x, 0.0))]
    t = "temp"
    gates = {
        "gelu": [Step("mul", t, (x, sqrt(0.5))), Step("erf", t, (t,)), Step("fma", t, (t, 0.5, 0.5))],
        "gelu_tanh": [
            Step("mul", t, (x, x)),
            Step("fma", t, (t, TANH_FACTOR * TANH_CUBE, TANH_FACTOR)),
            Step("mul", t, (t, x)),
            Step("tanh", t, (t,)),
            Step("fma", t, (t, 0.5, 0.5)),
        ],
        "silu": [Step("neg", t, (x,)), Step("exp", t, (t,)), Step("add", t, (t, 1.0)), Step("reciprocal", t, (t,))],
    }
    return [*gates[name], Step("mul", x, (x, t))]


@cache
def temporaries(problem: Problem) -> tuple[str, ...]:
    """The fp32 buffers of one strip that the chain needs beside accumulators, operands and the strip."""
    used = {buffer for step in chain(problem) for buffer in step.buffers}
    return tuple(name for name in ("work", "temp") if name in used)


def chain_cycles(problem: Problem, machine: Machine, rows: int, columns: int) -> int:
    """Cycles of the vector engine for one strip."""
    bits = {STRIP: DTYPE_BITS[problem.out_dtype], "residual": DTYPE_BITS[problem.model_dtype]}
    total = 0
    for step in chain(problem):
        wide = [name for name in step.buffers if name not in ("scale", "bias")]
        size = rows * columns * sum(bits.get(name, 32) for name in wide) // 8
        total += vector_timer(machine, instruction_rows()[step.op].timing_class)(rows * columns, size)
    return total
