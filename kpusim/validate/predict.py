"""The time of measured rows as the simulator predicts it: every distinct kernel simulated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from attrs import frozen

from kpusim.engines.stalls import CAUSES
from kpusim.errors import UserError
from kpusim.machine import Machine
from kpusim.plan import operator_plan
from kpusim.processes import map_in_order
from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row
from kpusim.recipes.table import recipe_of
from kpusim.simulate.run import Run
from kpusim.simulate.workload import Options, run_plans

__all__ = [
    "CHUNK_BYTES", "Launches", "Prediction", "Timed", "distinct_runs", "launches_of", "microseconds", "predict",
    "predictions", "simulated", "time_kernel",
]  # fmt: skip

CHUNK_BYTES = (
    16384  # of a transfer, simulated as one; chosen: as `shared.block` of GPUs, what an engine asks for at once
)

Breakdown = Mapping[str, float]
"""Share of a kernel's cycles by unit and what it did or waited for, such as "dma memory", over the units used."""


@frozen
class Timed:
    """A run, or a launch as its runs tell it: cycles from its first instruction on, and what they went to."""

    cycles: Fraction | int
    breakdown: Breakdown


@frozen
class Prediction:
    """A row's time in microseconds, by which recipe, the kernels launched, and what the longest of them waited for."""

    recipe: str
    us: float
    launches: int
    longest: Kernel
    breakdown: Breakdown


@frozen
class Launches:
    """What a row of measurements runs as: kernels of a recipe, one behind the other."""

    recipe: Recipe
    kernels: tuple[Kernel, ...]


def launches_of(row: Row, machine: Machine) -> Launches:
    """By the first recipe that applies. Raises UserError, naming the row, where none does or it is impossible."""
    try:
        recipe = recipe_of(row)
        return Launches(recipe, tuple(recipe.kernels(row, machine)))
    except UserError as error:
        raise row.refused(error) from error


def distinct_runs(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Each that must be simulated, once."""
    return list(dict.fromkeys(run for kernel in kernels for run in kernel.runs))


def predictions(
    launches: Sequence[Launches], machine: Machine, jobs: int, begins: Callable[[Kernel], object]
) -> list[Prediction | UserError]:
    """A prediction for each, from so many processes; an error where the machine cannot run one of the kernels.

    begins: called with each of the `distinct_runs` when its turn comes.
    """
    distinct = distinct_runs(kernel for each in launches for kernel in each.kernels)
    timed = dict(zip(distinct, map_in_order(_Timer(machine), distinct, jobs, begins), strict=True))
    known = {run: each for run, each in timed.items() if isinstance(each, Timed)}
    found: list[Prediction | UserError] = []
    for each in launches:
        results = (timed[run] for kernel in each.kernels for run in kernel.runs)
        refused = next((error for error in results if isinstance(error, UserError)), None)
        found.append(refused or _prediction(each.recipe.name, each.kernels, known, machine))
    return found


def predict(rows: Sequence[Row], machine: Machine, jobs: int = 1) -> list[Prediction]:
    """A prediction for each row. Raises UserError for one that no recipe applies to, or that the machine cannot run."""
    found = predictions([launches_of(row, machine) for row in rows], machine, jobs, lambda kernel: None)
    for row, each in zip(rows, found, strict=True):
        if isinstance(each, UserError):
            raise row.refused(each)
    return [each for each in found if isinstance(each, Prediction)]


@frozen
class _Timer:
    """`simulated` on one machine, as processes take it; its UserError is returned."""

    machine: Machine

    def __call__(self, run: Kernel) -> Timed | UserError:
        try:
            return simulated(run, self.machine)
        except UserError as error:
            return error


def simulated(run: Kernel, machine: Machine) -> Timed:
    """Simulates one of the `runs` of a kernel. Raises UserError where the machine cannot run it."""
    assert run.operator is not None
    plan = operator_plan(run.operator, run.seen(machine), mapping=run.mapping)
    (planned,) = run_plans((plan,), Options(chunk_bytes=CHUNK_BYTES))
    found = [op.executed.run for op in planned.ops]
    return Timed(sum(each.cycles for each in found), _breakdown(found))


def time_kernel(kernel: Kernel, machine: Machine) -> Timed:
    """One launch of a kernel. Raises UserError where the machine cannot run it."""
    runs = [simulated(run, machine) for run in kernel.runs]
    return Timed(kernel.cycles([run.cycles for run in runs]), runs[-1].breakdown if runs else {})


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
            spent = {"busy": run.busy, **dict(zip(CAUSES, run.stalls.T, strict=True)), "idle": run.idle}
            for name, each in spent.items():
                if mean := float(each[used].mean()):
                    total[f"{shown} {name}"] = total.get(f"{shown} {name}", 0.0) + mean
    return {name: each / cycles for name, each in total.items()}


def microseconds(kernels: Sequence[Kernel], timed: Mapping[Kernel, Timed], machine: Machine) -> float:
    """What kernels take one behind the other, and then from the first again; their launches included.

    timed: each of their runs.
    """
    before = (kernels[-1], *kernels[:-1])
    loads = sum(kernel.times for last, kernel in zip(before, kernels, strict=True) if last.runs != kernel.runs)
    cycles = sum(_launched(kernel, timed, machine) for kernel in kernels) + loads * machine.front_end.load_cycles
    return float(cycles / machine.clock_hz * 10**6)


def _launched(kernel: Kernel, timed: Mapping[Kernel, Timed], machine: Machine) -> Fraction:
    """Cycles of a kernel as often as it is launched."""
    start = machine.front_end.host_cycles if kernel.eager else machine.front_end.launch_cycles
    return kernel.times * (start + kernel.cycles([timed[run].cycles for run in kernel.runs]))


def _prediction(
    recipe: str, kernels: tuple[Kernel, ...], timed: Mapping[Kernel, Timed], machine: Machine
) -> Prediction:
    longest = max(kernels, key=lambda kernel: _launched(kernel, timed, machine))
    us = microseconds(kernels, timed, machine)
    launches = sum(kernel.times for kernel in kernels)
    breakdown = timed[longest.runs[-1]].breakdown if longest.runs else {}
    return Prediction(recipe, us, launches, longest, breakdown)
