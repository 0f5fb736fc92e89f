"""The calibration constants of the H200, fitted to measured rows, and what they are worth on rows left out of the fit.

`python -m kpusim.validate.calibrate TRUTH.csv -o FILE.json` simulates every row of an operator with each constant at a
few values, the others as the machine file has them, and takes a row's time to be the product of what each constant does
to it. On that surface the mean over families of their mean absolute percentage error is brought to its least, one
constant after the other, from the values that public specifications alone would give; one that no row of the fit tells
of stays there. Whole decoders are left out: they are made of the same kernels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field, frozen

from kpusim.files import write_text_atomic
from kpusim.machine import Machine, load_machine
from kpusim.processes import cores, map_in_order
from kpusim.recipes.kernel import Kernel
from kpusim.recipes.row import Row
from kpusim.validate.constants import CONSTANTS, Constant
from kpusim.validate.predict import Timed, distinct_runs, launches_of, microseconds, simulated
from kpusim.validate.truth import read_truth
from kpusim.validate.validation import DECODER_FAMILY

__all__ = ["Simulations", "Surface", "calibration", "cross_validated", "fitted", "surface_of"]

Values = npt.NDArray[np.float64]

STEPS = 41  # values of a constant that the fit weighs
SIZES = (10.0, 50.0)  # us: bounds between short, middle and long rows, a third of the public ones each


@frozen
class Surface:
    """What constants do to rows: for each of them microseconds [values, rows] at its values, the others at `base`."""

    constants: tuple[Constant, ...]
    base: Mapping[str, float]
    tables: tuple[Values, ...]

    def us(self, values: Mapping[str, float]) -> Values:
        """Of each row, at these values of the constants by key."""
        parts = [
            self._at(constant, table, values[constant.key]) / self._at(constant, table, self.base[constant.key])
            for constant, table in zip(self.constants, self.tables, strict=True)
        ]
        first, table = self.constants[0], self.tables[0]
        return np.asarray(np.prod(parts, axis=0) * self._at(first, table, self.base[first.key]))

    @staticmethod
    def _at(constant: Constant, table: Values, value: float) -> Values:
        place = float(np.interp(value, constant.values, np.arange(len(constant.values))))
        below = min(int(place), len(constant.values) - 2)
        return np.asarray(table[below] + (place - below) * (table[below + 1] - table[below]))


def error(predicted: Values, measured: Values, families: npt.NDArray[np.str_]) -> float:
    """Mean over families of the mean absolute percentage error of their rows."""
    return float(np.mean([*by_fold(predicted, measured, families).values()]))


def fitted(
    surface: Surface, measured: Values, families: npt.NDArray[np.str_], rows: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """The values by key that bring the `error` of these rows to its least, one constant at a time until none moves."""
    values = {constant.key: constant.public for constant in surface.constants}

    def off(changed: Mapping[str, float]) -> float:
        return error(surface.us(changed)[rows], measured[rows], families[rows])

    least, moved = off(values), True
    while moved:
        moved = False
        for constant in surface.constants:
            for value in np.linspace(constant.values[0], constant.values[-1], STEPS).tolist():
                found = off(values | {constant.key: value})
                if found < least - 1e-9:
                    values, least, moved = values | {constant.key: value}, found, True
    return values


def cross_validated(
    surface: Surface, measured: Values, families: npt.NDArray[np.str_], folds: npt.NDArray[np.str_]
) -> dict[str, float]:
    """For each fold the mean absolute percentage error of its rows, with constants fitted to the rows of all others."""
    found: dict[str, float] = {}
    for fold in dict.fromkeys(folds.tolist()):
        left = folds == fold
        predicted = surface.us(fitted(surface, measured, families, ~left))
        found |= by_fold(predicted[left], measured[left], folds[left])
    return found


def sizes(measured: Values) -> npt.NDArray[np.str_]:
    """The fold of each row by its measured time in microseconds."""
    names = np.array([f"below {SIZES[0]:g} us", f"{SIZES[0]:g} to {SIZES[1]:g} us", f"above {SIZES[1]:g} us"])
    return names[np.digitize(measured, SIZES)]


# Simulation -------------------------------------------------------------------------------------------------------


@define
class Simulations:
    """Times of rows on machines that differ from `base` by a constant, in so many processes.

    memo: what every run took on the machine as it sees it; the same is simulated once.
    """

    rows: Sequence[Row]
    base: Machine
    jobs: int
    memo: dict[tuple[Kernel, Machine], Timed] = field(factory=dict)

    def us(self, machines: Sequence[Machine], constants: Sequence[Constant | None]) -> Values:
        """Microseconds [machines, rows]. constants: each machine's other one; None where it may be any."""
        launches = [[launches_of(row, machine).kernels for row in self.rows] for machine in machines]
        runs = [distinct_runs(kernel for kernels in each for kernel in kernels) for each in launches]
        wanted = [
            {run: self._where(run, machine, constant) for run in each}
            for each, machine, constant in zip(runs, machines, constants, strict=True)
        ]
        tasks = {
            _key(run, machine): (run, machine)
            for each in wanted for run, machine in each.items() if _key(run, machine) not in self.memo
        }  # fmt: skip
        found = map_in_order(_timed, list(tasks.values()), self.jobs, lambda task: None)
        self.memo.update(zip(tasks, found, strict=True))
        times = [{run: self.memo[_key(run, machine)] for run, machine in each.items()} for each in wanted]
        return np.array(
            [
                [microseconds(kernels, timed, machine) for kernels in each]
                for each, timed, machine in zip(launches, times, machines, strict=True)
            ]
        )

    def _where(self, run: Kernel, machine: Machine, constant: Constant | None) -> Machine:
        """The machine that a run is simulated on: `base` where the constant does not matter to it."""
        known = self.memo.get(_key(run, _idle(self.base)))
        same = constant is not None and known is not None and not constant.matters(run, known)
        return _idle(self.base if same else machine)


def surface_of(simulations: Simulations, constants: Sequence[Constant], name: str) -> Surface:
    """Times of rows with each constant at each of its values, and at that of the machine `name`."""
    base = {constant.key: constant.value_in(name) for constant in constants}
    constants = [evolve(each, values=tuple(sorted({*each.values, base[each.key]}))) for each in constants]
    simulations.us([simulations.base], [None])
    trials = [(constant, value) for constant in constants for value in constant.values]
    machines = [
        simulations.base if value == base[constant.key] else load_machine(name, constant.change(value))
        for constant, value in trials
    ]
    times = simulations.us(machines, [constant for constant, _ in trials])
    ends = np.cumsum([0, *(len(constant.values) for constant in constants)]).tolist()
    return Surface(tuple(constants), base, tuple(times[start:end] for start, end in pairwise(ends)))


def _key(run: Kernel, machine: Machine) -> tuple[Kernel, Machine]:
    return run, run.seen(machine)


def _idle(machine: Machine) -> Machine:
    """It, without what is told beside the simulation."""
    front_end = evolve(machine.front_end, launch_cycles=0, load_cycles=0, host_cycles=0)
    return evolve(machine, front_end=front_end)


def _timed(task: tuple[Kernel, Machine]) -> Timed:
    return simulated(*task)


# The command ------------------------------------------------------------------------------------------------------


def calibration(truth: Path, name: str, jobs: int) -> dict[str, Any]:
    """All that there is to say of the constants of a machine, as JSON has it; errors are mean absolute, in per cent."""
    measured = [each for each in read_truth(truth).rows if each.us is not None]
    ours = [each for each in measured if each.row.family != DECODER_FAMILY]
    us, families = np.array([each.us for each in ours]), np.array([each.row.family for each in ours])
    given = load_machine(name)
    simulations = Simulations([each.row for each in ours], given, jobs)
    surface = surface_of(simulations, CONSTANTS, name)
    best = fitted(surface, us, families, np.ones(len(ours), np.bool_))
    public = load_machine(name, [change for constant in CONSTANTS for change in constant.change(constant.public)])
    simulations.rows = [each.row for each in measured]
    without, with_them = simulations.us([public, given], [None, None])
    all_us, all_families = np.array([each.us for each in measured]), np.array([each.row.family for each in measured])
    return {
        "machine": name,
        "constants": [_told(constant, best[constant.key], surface.base[constant.key]) for constant in CONSTANTS],
        "without": by_fold(without, all_us, all_families),
        "with": by_fold(with_them, all_us, all_families),
        "by_size": by_fold(with_them[all_families != DECODER_FAMILY], us, sizes(us)),
        "left_out": {
            "family": cross_validated(surface, us, families, families),
            "size": cross_validated(surface, us, families, sizes(us)),
        },
    }


def _told(constant: Constant, best: float, known: float) -> dict[str, Any]:
    """A constant as JSON has it, its values as a machine file does. known: that of the file."""
    values = {"public": constant.public, "fitted": best, "file": known}
    return {"keys": constant.keys, "why": constant.why} | {
        name: constant.text_of(each) for name, each in values.items()
    }


def by_fold(predicted: Values, measured: Values, folds: npt.NDArray[np.str_]) -> dict[str, float]:
    """The mean absolute percentage error of each fold."""
    off = np.abs(predicted / measured - 1) * 100
    return {fold: float(off[folds == fold].mean()) for fold in dict.fromkeys(folds.tolist())}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the calibration constants of a machine to measured rows.")
    parser.add_argument("truth", type=Path, help="measured rows, as `kpusim validate` takes them")
    parser.add_argument("-m", "--machine", default="h200", help="whose file has the constants")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("-j", "--jobs", type=int, default=cores(), help="processes")
    options = parser.parse_args()
    found = calibration(options.truth, options.machine, options.jobs)
    write_text_atomic(options.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
