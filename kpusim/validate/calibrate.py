"""The calibration constants of the H200, fitted to measured rows, and what they are worth on rows left out of the fit.

`python -m kpusim.validate.calibrate TRUTH.csv -o FILE.json` simulates every row with each constant at a few values, the
others as the machine file has them, and takes a row's time to be the product of what each constant does to it. On that
surface the mean over families of their mean absolute percentage error is brought to its least, one constant after the
other, from the values that public specifications alone would give; one that no row of the fit tells of stays there.
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
from attrs import evolve, frozen

from kpusim.files import write_text_atomic
from kpusim.machine import Machine, load_machine
from kpusim.processes import cores, map_in_order
from kpusim.recipes.kernel import Kernel
from kpusim.recipes.row import Row
from kpusim.validate.constants import CONSTANTS, Constant
from kpusim.validate.predict import Timed, distinct_runs, launches_of, microseconds, simulated
from kpusim.validate.truth import read_truth

__all__ = ["Surface", "calibration", "cross_validated", "fitted"]

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
        return np.array([np.interp(value, constant.values, column) for column in table.T])


def error(predicted: Values, measured: Values, families: npt.NDArray[np.str_]) -> float:
    """Mean over families of the mean absolute percentage error of their rows."""
    off = np.abs(predicted / measured - 1) * 100
    return float(np.mean([off[families == family].mean() for family in np.unique(families)]))


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


def surface_of(rows: Sequence[Row], name: str, jobs: int) -> Surface:
    """Simulates rows on the machine `name` with each constant at each of its values."""
    everything = np.ones(len(rows), np.bool_)
    machines, chosen = [load_machine(name)], [everything]
    for constant in CONSTANTS:
        machines += [load_machine(name, constant.change(value)) for value in constant.values]
        touched = np.array([constant.matters(row) for row in rows])
        chosen += [touched] * len(constant.values)
    times = times_on(rows, machines, chosen, jobs)
    times = np.where(np.isnan(times), times[0], times)
    ends = np.cumsum([1, *(len(constant.values) for constant in CONSTANTS)]).tolist()
    base = {constant.key: constant.value_in(name) for constant in CONSTANTS}
    return Surface(CONSTANTS, base, tuple(times[start:end] for start, end in pairwise(ends)))


def times_on(
    rows: Sequence[Row], machines: Sequence[Machine], chosen: Sequence[npt.NDArray[np.bool_]], jobs: int
) -> Values:
    """Microseconds [machines, rows] of the rows chosen on each machine, nan for others; what is the same runs once."""
    idle = [evolve(each, front_end=evolve(each.front_end, launch_cycles=0, host_cycles=0)) for each in machines]
    launches = {
        (at, number): launches_of(rows[number], machine).kernels
        for at, machine in enumerate(machines)
        for number in np.flatnonzero(chosen[at]).tolist()
    }
    tasks = [(run, idle[at]) for (at, _), kernels in launches.items() for run in distinct_runs(kernels)]
    distinct = list(dict.fromkeys(tasks))
    memo = dict(zip(distinct, map_in_order(_timed, distinct, jobs, lambda task: None), strict=True))
    found = np.full((len(machines), len(rows)), np.nan)
    for (at, number), kernels in launches.items():
        timed = {run: memo[run, idle[at]] for run in distinct_runs(kernels)}
        found[at, number] = microseconds(kernels, timed, machines[at])
    return found


def _timed(task: tuple[Kernel, Machine]) -> Timed:
    return simulated(*task)


# The command ------------------------------------------------------------------------------------------------------


def calibration(truth: Path, name: str, jobs: int) -> dict[str, Any]:
    """All that there is to say of the constants of a machine, as JSON has it; errors are mean absolute, in per cent."""
    measured = [each for each in read_truth(truth).rows if each.us is not None]
    rows, us = [each.row for each in measured], np.array([each.us for each in measured])
    families = np.array([row.family for row in rows])
    surface, everything = surface_of(rows, name, jobs), np.ones(len(rows), np.bool_)
    best = fitted(surface, us, families, everything)
    public = load_machine(name, [change for constant in CONSTANTS for change in constant.change(constant.public)])
    without, with_them = times_on(rows, [public, load_machine(name)], [everything] * 2, jobs)
    return {
        "machine": name,
        "constants": [_told(constant, best[constant.key], surface.base[constant.key]) for constant in CONSTANTS],
        "without": by_fold(without, us, families),
        "with": by_fold(with_them, us, families),
        "by_size": by_fold(with_them, us, sizes(us)),
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
