"""The Python API: what the command line does, as a few functions and values.

>>> import kpusim
>>> machine = kpusim.get_machine("kpu-tiny")
>>> gemm = kpusim.gemm(m=8, n=8, k=16)
>>> result = kpusim.run(gemm, machine)
>>> result.rows[0].shape
{'m': 8, 'n': 8, 'k': 16}
>>> result.cycles == 100 + result.rows[0].cycles  # the launch takes 100 cycles
True
>>> result.arrays()["busy"].shape  # operators, units
(1, 24)
>>> kpusim.verify(gemm, machine)[0].verdict.passed
True
>>> from attrs import evolve
>>> one_tile = evolve(gemm.lower(machine).mapping, grid_m=1, grid_n=1)
>>> kpusim.run(gemm, machine, mapping=one_tile).cycles > result.cycles
True
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.errors import UserError
from kpusim.machine import Machine, load_machine
from kpusim.operators import Operator, build_operator, make_operator
from kpusim.plan import Plan, WorkloadFile, load_workload, operator_plan, plan_workload
from kpusim.report.rows import Row, result_json, rows_of
from kpusim.simulate.run import CHUNK_BYTES
from kpusim.simulate.workload import Options, PlanRun, run_plans

__all__ = ["Result", "gemm", "get_machine", "op", "plans_of", "run", "simulate_plans", "verify"]

What = Operator | WorkloadFile | str | Path


def get_machine(name: str | Path = "kpu-datacenter", sets: Mapping[str, object] | None = None) -> Machine:
    """The machine of that name or file, with changes such as {"hbm.stacks": 8}. Raises UserError as `load_machine`."""
    return load_machine(name, [f"{key}={_toml(value)}" for key, value in (sets or {}).items()])


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def op(text: str) -> Operator:
    """The operator that text such as "gemm(m=2048, n=4096, k=4096)" calls. Raises UserError."""
    return make_operator(text, "op")


def gemm(**params: object) -> Operator:
    """A GEMM: m, n, k, and what else text such as "gemm(m=8, n=8, k=16, dtype=int8)" can say. Raises UserError."""
    return build_operator("gemm", params, "gemm")


@frozen(eq=False)
class Result:
    """What was simulated: a PlanRun for each run of a workload, one after the other. trace: the file written."""

    runs: tuple[PlanRun, ...]
    trace: Path | None = None

    @property
    def cycles(self) -> int:
        """Of all runs together."""
        return sum(run.cycles for run in self.runs)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table, of all runs."""
        return [row for run in self.runs for row in rows_of(run)]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By operator execution, in order of time: name, start_cycle and cycles [n], busy [n, units] and
        stalls [n, units, causes] in cycles, and each counter [n]."""
        ops = [op for run in self.runs for op in run.ops]
        counters = sorted({name for op in ops for name in op.executed.run.counters})
        return {
            "name": np.array([op.step.name for op in ops]),
            "start_cycle": np.array([op.start for op in ops]),
            "cycles": np.array([op.executed.run.cycles for op in ops]),
            "busy": np.array([op.executed.run.busy for op in ops]),
            "stalls": np.array([op.executed.run.stalls for op in ops]),
            **{name: np.array([op.executed.run.counters.get(name, 0) for op in ops]) for name in counters},
        }

    def table(self) -> None:
        """Print the table and what bounds each operator."""
        from kpusim.report.table import print_run

        for run in self.runs:
            print_run(run)

    def json(self) -> dict[str, Any]:
        """What `kpusim run --json` prints."""
        return {
            "machine": self.runs[0].plan.machine.name,
            "trace": None if self.trace is None else str(self.trace),
            "runs": [result_json(run) for run in self.runs],
        }


def plans_of(
    what: What, machine: Machine, symbols: Mapping[str, int | str] | None = None, runs: Sequence[str] = (),
    mapping: Any = None,
) -> tuple[tuple[Plan, ...], str, str]:  # fmt: skip
    """(plans, title, text) of an operator, an operator's text, or a workload or its file. Raises UserError."""
    if isinstance(what, str) and "(" in what:
        what = op(what)
    if isinstance(what, str | Path):
        what = load_workload(what)
    if isinstance(what, WorkloadFile):
        if mapping is not None:
            raise UserError("a mapping is forced on one operator, not on a workload", where=what.file.name)
        return plan_workload(what, machine, symbols, runs), what.workload.name, what.file.text
    what.check()
    sizes = ", ".join(f"{name}={size}" for name, size in what.dimensions.items())
    text = f"{what.family}({sizes})"
    return (operator_plan(what, machine, mapping=mapping),), text, text


def simulate_plans(
    plans: tuple[Plan, ...], title: str, text: str, options: Options, trace: Path | None = None,
    begins: Callable[[str], object] | None = None, sets: Sequence[str] = (),
) -> Iterator[PlanRun]:  # fmt: skip
    """`run_plans` with a trace written to `trace`; it is there, whole, when the last run has been yielded."""
    with ExitStack() as stack:
        listener = None
        if trace is not None:
            from kpusim.trace.record import Recorder, trace_meta

            machine = plans[0].machine
            stored = {"chunk_bytes": str(options.chunk_bytes), "plain": str(options.plain).lower()}
            stored |= {"whole": "true"} if options.whole else {}
            stored |= {key: value for key, _, value in (change.partition("=") for change in sets)}
            dtype = plans[0].steps[0].operator.math_dtype
            meta = trace_meta(machine, f"{title} on {machine.name}", text, stored, dtype)
            listener = stack.enter_context(Recorder(trace, meta))
        yield from run_plans(plans, options, listener, begins)


def run(
    what: What,
    machine: Machine | str | Path = "kpu-datacenter",
    *,
    symbols: Mapping[str, int | str] | None = None,
    runs: Sequence[str] = (),
    trace: str | Path | None = None,
    plain: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    whole: bool = False,
    mapping: Any = None,
) -> Result:
    """Simulate an operator ("gemm(m=2048, n=4096, k=4096)" as text will do) or a workload (file) on a machine.

    symbols, runs: as `plan_workload` takes them. trace: the HDF5 file to write. plain: every instruction an event.
    chunk_bytes: what a DMA engine asks for at once. whole: simulate also what is equal to a part.
    mapping: forces one on an operator, a value as `Lowered.mapping` or a TOML file of one.
    Raises UserError for bad input.
    """  # fmt: skip
    loaded = machine if isinstance(machine, Machine) else load_machine(machine)
    plans, title, text = plans_of(what, loaded, symbols, runs, mapping)
    path = None if trace is None else Path(trace)
    return Result(tuple(simulate_plans(plans, title, text, Options(plain, chunk_bytes, whole), path)), path)


def verify(what: What, machine: Machine | str | Path = "kpu-datacenter", **symbols: int | str) -> list[Any]:
    """Execute each distinct operator on data and compare with its float64 reference: a Verification an output."""
    from kpusim.report.execute import verify_step

    loaded = machine if isinstance(machine, Machine) else load_machine(machine)
    plans, _, _ = plans_of(what, loaded, symbols)
    steps = {step.operator: (step, plan) for plan in plans for step in plan.steps}
    return [found for step, plan in steps.values() for found in verify_step(step, plan)]
