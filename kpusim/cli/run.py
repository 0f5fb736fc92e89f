"""`kpusim run`: simulate a workload file or one operator on a machine."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files, workloads
from kpusim.cli.options import (
    chunk_bytes,
    chunk_option,
    json_option,
    keep,
    machine_option,
    mapping_option,
    operator_option,
    plain_option,
    set_option,
    symbol_option,
    symbol_values,
    whole_option,
)
from kpusim.cli.progress import progress

if TYPE_CHECKING:
    from kpusim.plan import Plan
    from kpusim.report.execute import Verification
    from kpusim.simulate.workload import PlanRun

__all__ = ["command"]

OUTPUT = Path("kpusim-out")
SLOW = 10**11  # multiply-accumulates that take about a minute on data


@click.command(short_help="Simulate a workload file or one operator on a machine.")
@click.argument("workload", metavar="[WORKLOAD.toml]", required=False, shell_complete=workloads)
@operator_option
@machine_option
@set_option
@symbol_option
@mapping_option
@click.option("--run", "runs", multiple=True, metavar="NAME", help="Only this run of the workload. Repeatable.")
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Where to write the trace (HDF5).",
    shell_complete=files(".h5"),
)  # fmt: skip
@click.option("--no-trace", is_flag=True, help="Write no trace.")
@plain_option
@whole_option
@chunk_option
@click.option("--verify", is_flag=True, help="Execute the same programs on data; compare with a float64 reference.")
@click.option("--explain", is_flag=True, help="Say why each program looks as it does, and what else was tried.")
@json_option
def command(
    workload: str | None, operator: str | None, machine: str, sets: tuple[str, ...], symbols: tuple[str, ...],
    mapping: Path | None, runs: tuple[str, ...], trace: Path | None, no_trace: bool, plain: bool, whole: bool,
    chunk: str, verify: bool, explain: bool, as_json: bool,
) -> None:  # fmt: skip
    """Simulate a workload file, or one operator, on a machine.

    Prints for each operator its cycles, rates, HBM traffic over the least that there can be ("x bound"), the roof
    (matrix engines, vector engines, HBM or shared level, whichever takes longest at the least) and the cycles over it
    ("x roof"), what it waited for most and what bounds it; and writes a trace (by default into kpusim-out/).

    \b
    JSON keys: machine, trace, runs: [{name, symbols, operators: [{operator, family, count, shape, boundary,
    start_cycle, gap_cycles, cycles, microseconds, tflops, matrix_utilisation, hbm_read_bytes, hbm_write_bytes,
    hbm_gbytes_per_second, roof, roof_cycles, roofs: {resource: cycles}, distance (cycles over roof_cycles),
    compulsory_bytes, io_bound_bytes, traffic_over_bound, top_stall: {unit, cause, share}, bound: {by, because},
    equal_shares, counters: {name: number}, units: {kind: {kind, units, busy, stalls: {cause: unit-cycles}, idle}}}],
    total: {cycles, microseconds, tflops, matrix_utilisation, hbm_read_bytes, hbm_write_bytes, hbm_gbytes_per_second,
    roof_cycles, distance, io_bound_bytes, traffic_over_bound, launches, gap_cycles, peak_hbm_bytes,
    peak_hbm_padded_bytes, hbm_capacity_bytes, peak_shared_bytes, shared_tensors}}]; with --verify also verification:
    [{operator, output, verdict: {max_abs_error, max_rel_error, tolerance, tolerance_origin, worst, passed}}]; with
    --explain also explain: {operator: [{what, value, why}]} and tried: {operator: [{mapping, cycles, longest,
    hbm_bytes, why}]}, estimates.

    \b
    Examples:
      kpusim run workloads/llama3-8b-layer.toml
      kpusim run workloads/llama3-8b-layer.toml --run prefill --symbol tokens=512
      kpusim run --op "gemm(m=2048, n=4096, k=4096)" --set hbm.stacks=8
      kpusim run --op "gemm(m=100, n=64, k=96)" -m kpu-edge --verify --no-trace
      kpusim run --op "gemm(m=32, n=4096, k=4096, b_dtype=int4, scale_group=128)" --explain
      kpusim run --op "gemm(m=2048, n=4096, k=4096)" --mapping mine.toml
    """
    if (workload is None) == (operator is None):
        raise click.UsageError("Give either a workload file or --op.")
    if trace is not None and no_trace:
        raise click.UsageError("--trace and --no-trace exclude each other.")
    keep(trace, mapping, workload)
    if operator is not None and (symbols or runs):
        raise click.UsageError("--symbol and --run belong to a workload file.")
    if mapping is not None and operator is None:
        raise click.UsageError("--mapping belongs to --op.")
    from kpusim.api import Result, plans_of, simulate_plans
    from kpusim.machine import load_machine
    from kpusim.operators import make_operator
    from kpusim.simulate.workload import Options

    options, loaded = Options(plain, chunk_bytes(chunk), whole), load_machine(machine, sets)
    what: Any = workload if operator is None else make_operator(operator)
    plans, title, text = plans_of(what, loaded, symbol_values(symbols), runs, mapping)
    path = None if no_trace else trace or OUTPUT / _file_name(title, loaded.name)
    results: list[PlanRun] = []
    steps = sum(len(plan.steps) for plan in plans)
    with (
        progress("simulating", steps) as begins,
        closing(simulate_plans(plans, title, text, options, path, begins, sets)) as simulated,  # type: ignore[type-var]
    ):
        for run in simulated:
            results.append(run)
    verdicts = _verify(plans) if verify else []
    if as_json:
        click.echo(_json(Result(tuple(results), path), verdicts, verify, explain))
    else:
        _print(Result(tuple(results), path), verdicts, explain)
    if not all(found.verdict.passed for found in verdicts):
        raise click.exceptions.Exit(1)


def _file_name(title: str, machine: str) -> str:
    words = re.findall(r"[\w.-]+", title.replace("=", ""))
    return f"{'-'.join(words)}.{machine}.h5"


def _verify(plans: tuple[Plan, ...]) -> list[Verification]:
    """Verify each distinct operator once."""
    from kpusim.report.execute import verify_step

    steps = {step.operator: (step, plan) for plan in plans for step in plan.steps}
    macs = sum(operator.macs for operator in steps)
    if macs > SLOW:
        click.echo(f"verifying {macs:.2g} multiply-accumulates takes about {macs / SLOW:,.0f} minutes", err=True)
    found = []
    with progress("verifying", len(steps)) as begins:
        for step, plan in steps.values():
            begins(step.name)
            found += verify_step(step, plan)
    return found


def _lowered(result: Any) -> dict[str, Any]:
    """The lowered program of each row of the table, by a name for it."""
    return {
        f"{run.plan.name}: {op.step.label}" if len(result.runs) > 1 else op.step.label: op.executed.lowered
        for run in result.runs
        for op in run.ops
    }


def _json(result: Any, verdicts: list[Verification], verify: bool, explain: bool) -> str:
    from attrs import asdict

    data = result.json()
    if verify:
        data["verification"] = [asdict(found) for found in verdicts]
    if explain:
        data["explain"] = {
            name: [dict(zip(("what", "value", "why"), choice, strict=True)) for choice in lowered.choices]
            for name, lowered in _lowered(result).items()
        }
        data["tried"] = {name: [asdict(each) for each in lowered.tried] for name, lowered in _lowered(result).items()}
    return json.dumps(data, indent=2)


def _print(result: Any, verdicts: list[Verification], explain: bool) -> None:
    from attrs import asdict

    from kpusim.report.table import print_choices, print_tried, verdict_text

    result.table()
    if explain:
        for name, lowered in _lowered(result).items():
            print_choices(lowered, name)
            print_tried(lowered, name)
    for found in verdicts:
        click.echo(verdict_text(asdict(found)))
    if result.trace is not None:
        click.echo(f"Trace: {result.trace}")
        click.echo(f"  kpusim trace top {result.trace}    where the cycles went, by instruction")
        click.echo(f"  silx view {result.trace}    utilisation over time (pip install 'silx[full]')")
