"""The time of measured rows as the simulator predicts it: every distinct kernel simulated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from attrs import evolve, frozen

from kpusim.engines.stalls import CAUSES
from kpusim.machine import Machine
from kpusim.operators import Operator
from kpusim.plan import operator_plan
from kpusim.processes import map_in_order
from kpusim.recipes.kernel import Kernel
from kpusim.recipes.row import Row
from kpusim.recipes.table import recipe_of
from kpusim.simulate.run import Run
from kpusim.simulate.workload import Options, run_plans

__all__ = ["CHUNK_BYTES", "Prediction", "Timed", "predict", "time_kernel"]

CHUNK_BYTES = 16384

Breakdown = Mapping[str, float]
"""Share of a kernel's cycles by unit and what it did or waited for, such as "dma memory", over the units used."""


@frozen
class Timed:
    """A kernel simulated: cycles from its first instruction, launch not included, and what they went to."""

    cycles: Fraction
    breakdown: Breakdown


@frozen
class Prediction:
    """A row's time in microseconds, by which recipe, the kernels launched, and what the longest of them waited for."""

    recipe: str
    us: float
    launches: int
    longest: Kernel
    breakdown: Breakdown


def predict(
    rows: Sequence[Row], machine: Machine, jobs: int = 1, begins: Callable[[Kernel], object] = lambda kernel: None
) -> list[Prediction]:
    """A prediction for each row, from so many processes; `begins` is called with each kernel when its turn comes.

    Raises UserError for a row that no recipe applies to, or that the machine cannot run.
    """
    found = [(recipe_of(row), row) for row in rows]
    kernels = [(recipe, tuple(recipe.kernels(row, machine))) for recipe, row in found]
    distinct = list(dict.fromkeys(evolve(kernel, times=1) for _, each in kernels for kernel in each))
    timed = map_in_order(_Timer(machine), distinct, jobs, begins)
    memo = dict(zip(distinct, timed, strict=True))
    return [_prediction(recipe.name, each, memo, machine) for recipe, each in kernels]


@frozen
class _Timer:
    """`time_kernel` on one machine, as processes take it."""

    machine: Machine

    def __call__(self, kernel: Kernel) -> Timed:
        return time_kernel(kernel, self.machine)


def time_kernel(kernel: Kernel, machine: Machine) -> Timed:
    """Simulates one launch of a kernel. Raises UserError where the machine cannot run it."""
    if kernel.operator is None:
        return Timed(Fraction(0), {})
    seen = machine.synchronous if kernel.synchronous else machine
    first = _cycles(kernel.operator, kernel, seen)
    if kernel.longer is None:
        return Timed(Fraction(sum(run.cycles for run in first)), _breakdown(first))
    longer = _cycles(kernel.longer, kernel, seen)
    short, long = (sum(run.cycles for run in runs) for runs in (first, longer))
    return Timed(short + kernel.rounds * (long - short), _breakdown(longer))


def _cycles(operator: Operator, kernel: Kernel, machine: Machine) -> list[Run]:
    plan = operator_plan(operator, machine, mapping=kernel.mapping)
    (run,) = run_plans((plan,), Options(chunk_bytes=CHUNK_BYTES))
    return [op.executed.run for op in run.ops]


def _breakdown(runs: Iterable[Run]) -> Breakdown:
    """By kind of unit, of those that did something: busy, each stall, and idle."""
    total: dict[str, float] = {}
    cycles = 0
    for run in runs:
        cycles += run.cycles
        kinds = np.array([name.rpartition(".")[2].rstrip("0123456789") for name in run.machine.unit_names])
        for kind, shown in ("matrix", "matrix"), ("vector", "vector"), ("q", "dma"):
            used = (kinds == kind) & ((run.busy > 0) | (run.stalls.sum(axis=1) > 0))
            if not used.any():
                continue
            parts = {"busy": run.busy, **dict(zip(CAUSES, run.stalls.T, strict=True)), "idle": run.idle}
            for name, each in parts.items():
                if mean := float(each[used].mean()):
                    total[f"{shown} {name}"] = total.get(f"{shown} {name}", 0.0) + mean
    return {name: each / cycles for name, each in total.items()}


def _prediction(recipe: str, kernels: tuple[Kernel, ...], memo: Mapping[Kernel, Timed], machine: Machine) -> Prediction:
    def cycles(kernel: Kernel) -> Fraction:
        start = machine.front_end.host_cycles if kernel.eager else machine.front_end.launch_cycles
        return kernel.times * (start + memo[evolve(kernel, times=1)].cycles)

    longest = max(kernels, key=cycles)
    us = float(sum(map(cycles, kernels)) / machine.clock_hz * 10**6)
    launches = sum(kernel.times for kernel in kernels)
    return Prediction(recipe, us, launches, longest, memo[evolve(longest, times=1)].breakdown)
