"""What cases take now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import evolve

from kpusim.errors import UserError
from kpusim.golden.suite import KINDS, Case, Measured
from kpusim.isa import read_program
from kpusim.machine import Machine, load_machine, machine_names
from kpusim.operators import make_operator
from kpusim.operators.given import Given
from kpusim.plan import Plan, load_workload, operator_plan, plan_workload
from kpusim.simulate.run import Run
from kpusim.simulate.shares import shares, top_stall
from kpusim.simulate.workload import Executed, PlanRun, run_plans

__all__ = ["measure"]


def measure(case: Case) -> Measured:
    """What one case takes, on local clocks. Raises UserError, naming the case, where it cannot run."""
    try:
        _check(case)
        machine = load_machine(_machine(case), case.set)
        runs = tuple(run_plans(_plans(case, machine)))
    except UserError as error:
        raise UserError(str(error), where=case.where) from error
    except OverflowError as error:
        raise UserError(f"a quantity is too large or too small to simulate: {error}", where=case.where) from error
    several = case.workload or len(runs[0].ops) > 1  # of an operator that is several programs
    return _workload(runs) if several else _executed(runs[0].ops[0].executed)


def _check(case: Case) -> None:
    given = [kind for kind in KINDS if getattr(case, kind)]
    if len(given) != 1:
        raise UserError("one thing to run is needed", found=" and ".join(given) or "none", allowed=KINDS)
    for key in ("run", "symbols"):
        if getattr(case, key) and not case.workload:
            raise UserError(f"{key!r} belongs to a workload", found=given[0])


def _machine(case: Case) -> str:
    return case.machine if case.machine in machine_names() else _file(case.machine, case.folder)


def _file(name: str, folder: Path) -> str:
    """The path of the file called `name` in the suite's folder; without one there, `name` as it is."""
    beside = os.path.join(folder, name)
    return beside if os.path.isfile(beside) else name


def _plans(case: Case, machine: Machine) -> tuple[Plan, ...]:
    if case.operator:
        return (operator_plan(make_operator(case.operator, "operator"), machine),)
    if case.program:
        path = Path(_file(case.program, case.folder))
        given = Given(read_program(path), str(path))
        return (operator_plan(given, machine, given.program.name),)
    loaded = load_workload(_file(case.workload, case.folder))
    return plan_workload(loaded, machine, case.symbols, [case.run] if case.run else [])


def _workload(runs: Sequence[PlanRun]) -> Measured:
    operators = tuple(_operators(runs))
    return Measured(
        cycles=sum(run.cycles for run in runs),
        hbm_bytes=sum(each.count * each.hbm_bytes for each in operators),
        row_hits=sum(each.count * each.row_hits for each in operators),
        operators=operators,
    )


def _operators(runs: Sequence[PlanRun]) -> Iterator[Measured]:
    """One for each operator of the file, by run where there are several; one that is not always equal has a number."""
    for run in runs:
        counts: dict[str, dict[Executed, int]] = {}
        for op in run.ops:
            found = counts.setdefault(op.step.label, {})
            found[op.executed] = found.get(op.executed, 0) + 1
        for label, found in counts.items():
            for number, (executed, count) in enumerate(found.items(), start=1):
                name = label if len(runs) == 1 else f"{run.plan.name}: {label}"
                yield evolve(_executed(executed), name=name if number == 1 else f"{name} #{number}", count=count)


def _executed(executed: Executed) -> Measured:
    run = executed.run
    unit, cause, _ = top_stall(run)
    return Measured(
        cycles=run.cycles,
        hbm_bytes=run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"],
        row_hits=run.counters["hbm.row_hits"],
        top_stall=f"{unit} for {cause}" if unit else "",
        units=_accounts(run),
    )


def _accounts(run: Run) -> dict[str, dict[str, int]]:
    """By kind of unit: how many, and their unit-cycles busy and by cause."""
    accounts = {}
    for kind, share in shares(run).items():
        spent = {"busy": share.busy, **share.stalls}
        accounts[kind] = {"units": share.units} | {name: cycles for name, cycles in spent.items() if cycles}
    return accounts
