"""Variants of a machine side by side: which there are, and what one workload takes on each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TypeVar

from attrs import evolve, field, frozen

from kpusim.errors import UserError
from kpusim.machine import Machine, load_machine
from kpusim.operators import make_operator
from kpusim.plan import Plan, load_workload, operator_plan, plan_workload
from kpusim.processes import map_in_order
from kpusim.report.rows import Stall, rows_of, total_of
from kpusim.simulate.workload import PlanRun, run_plans

__all__ = ["Compared", "Task", "Variant", "compare", "variants"]

_VALUE = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^]]*\]|\{[^}]*\}|[^,])+""")  # commas in quotes and brackets belong to it

Key = TypeVar("Key")


@frozen
class Variant:
    """A machine by name or file, and changes of it, key by key. name: only what is not alike in all variants."""

    name: str
    machine: str
    sets: Mapping[str, str]

    @property
    def changes(self) -> list[str]:
        """As `load_machine` takes them."""
        return [f"{key}={value}" for key, value in self.sets.items()]


@frozen
class Task:
    """What to simulate on one variant: an operator's text, or a workload (file) with symbols and names of runs.

    mapping: the file of one that is forced on the operator.
    """

    variant: Variant
    operator: str | None = None
    workload: str = ""
    symbols: Mapping[str, str] = field(factory=dict)
    runs: tuple[str, ...] = ()
    mapping: Path | None = None

    def plans(self) -> tuple[Plan, ...]:
        """What is to be simulated. Raises UserError, naming the variant where that is what is wrong."""
        if self.operator is not None:
            operator = make_operator(self.operator)
            with self.naming():
                return (operator_plan(operator, self._machine(), mapping=self.mapping),)
        workload = load_workload(self.workload)
        with self.naming():
            return plan_workload(workload, self._machine(), self.symbols, self.runs)

    def _machine(self) -> Machine:
        return load_machine(self.variant.machine, self.variant.changes)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Has a UserError inside name the variant."""
        try:
            yield
        except UserError as error:
            raise UserError(str(error), where=f"variant {self.variant.name}") from error


@frozen
class BoundShare:
    """What bounds most of a run: the operators that it bounds take `share` of all operators' cycles."""

    by: str
    share: float


@frozen(kw_only=True)
class Compared:
    """One run on one variant, from its first launch to its end.

    times_baseline: its time over that of the same run on the first variant. top_stall: as of the operators' reports,
    the one that most cycles of all operators together went to.
    """

    variant: str
    machine: str
    sets: Mapping[str, str]
    run: str
    cycles: int
    microseconds: float
    times_baseline: float = 1.0
    tflops: float
    matrix_utilisation: float
    hbm_bytes: int
    hbm_gbytes_per_second: float
    top_stall: Stall
    bound: BoundShare


def variants(machines: Sequence[str], sets: Sequence[str]) -> tuple[Variant, ...]:
    """Every machine with every combination of changes such as "hbm.stacks=4,6,8"; the last key changes fastest.

    Keys with commas between them take each value together: "matrix.rows,matrix.columns=16,32" are two variants.
    Raises UserError for what is no change, or a key given twice.
    """
    keys, seen = [_choices(change) for change in sets], set[str]()
    for names, _ in keys:
        for name in names:
            if name in seen:
                raise UserError("given twice", where=f"--set {name}", hint=f"write its values as {name}=VALUE,VALUE")
            seen.add(name)
    found = []
    for machine, *values in product(machines, *(values for _, values in keys)):
        chosen = list(zip(keys, values, strict=True))
        words = [machine] if len(machines) > 1 else []
        words += [f"{','.join(names)}={value}" for (names, all_values), value in chosen if len(all_values) > 1]
        changes = {name: value for (names, _), value in chosen for name in names}
        found.append(Variant(" ".join(words) or machine, machine, changes))
    return tuple(found)


def _choices(change: str) -> tuple[list[str], list[str]]:
    """The keys and the values of one --set."""
    names, equals, text = change.partition("=")
    keys, values = [name.strip() for name in names.split(",")], [value.strip() for value in _VALUE.findall(text)]
    if not (equals and all(keys) and all(values) and ",".join(_VALUE.findall(text)) == text and values):
        allowed = 'table.key=value,value, such as "hbm.stacks=4,6,8"'
        raise UserError("not a change with its values", where=f"--set {change}", allowed=allowed)
    return keys, values


def compare(tasks: Sequence[Task], jobs: int, begins: Callable[[str], object]) -> Iterator[Compared]:
    """One for each task and run, in their order, in so many processes; the first task is the baseline.

    begins: called with the name of each variant when its turn comes. Raises UserError, before anything is simulated,
    for machines and workloads that cannot be; and for an operator that cannot be lowered on a variant.
    """
    for task in tasks:
        task.plans()
    base: dict[str, float] = {}
    for found in map_in_order(_measure, tasks, jobs, lambda task: begins(task.variant.name)):
        for each in found:
            baseline = base.setdefault(each.run, each.microseconds)
            yield evolve(each, times_baseline=each.microseconds / baseline)


def _measure(task: Task) -> list[Compared]:
    plans = task.plans()
    with task.naming():
        return [_compared(task.variant, run) for run in run_plans(plans)]


def _compared(variant: Variant, run: PlanRun) -> Compared:
    total, rows = total_of(run), rows_of(run)
    cycles = sum(row.count * row.cycles for row in rows)
    bound, bound_cycles = _most((row.bound.by, row.count * row.cycles) for row in rows)
    stall, stalled = _most(
        ((row.top_stall.unit, row.top_stall.cause), row.count * row.cycles * row.top_stall.share) for row in rows
    )
    return Compared(
        variant=variant.name, machine=run.plan.machine.name, sets=variant.sets, run=run.plan.name,
        cycles=total.cycles, microseconds=total.microseconds, tflops=total.tflops,
        matrix_utilisation=total.matrix_utilisation, hbm_bytes=total.hbm_read_bytes + total.hbm_write_bytes,
        hbm_gbytes_per_second=total.hbm_gbytes_per_second, top_stall=Stall(*stall, stalled / max(cycles, 1)),
        bound=BoundShare(bound, bound_cycles / max(cycles, 1)),
    )  # fmt: skip


def _most(weights: Iterable[tuple[Key, float]]) -> tuple[Key, float]:
    """What has the greatest sum of weights, and that sum."""
    sums: dict[Key, float] = {}
    for key, weight in weights:
        sums[key] = sums.get(key, 0) + weight
    return max(sums.items(), key=lambda item: item[1])
