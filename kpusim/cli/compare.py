"""`kpusim compare`: one workload on variants of machines, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files, machine_lists, variant_sets, workloads
from kpusim.cli.options import json_option, mapping_option, operator_option, symbol_option, symbol_values
from kpusim.cli.progress import progress
from kpusim.cli.tables import print_table

if TYPE_CHECKING:
    from kpusim.report.compare import Compared, Variant

__all__ = ["command"]


@click.command(short_help="Compare variants of machines on one workload or operator.")
@click.argument("workload", metavar="[WORKLOAD.toml]", required=False, shell_complete=workloads)
@operator_option
@click.option(
    "-m", "--machines", multiple=True, default=("kpu-datacenter",), show_default=True, metavar="NAME|FILE,...",
    shell_complete=machine_lists, help="Machines, with commas between them. Repeatable.",
)  # fmt: skip
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE,...", shell_complete=variant_sets,
    help="Values of a key of the machine: a variant each, and each combination of several --set.",
)  # fmt: skip
@symbol_option
@click.option("--run", "runs", multiple=True, metavar="NAME", help="Only this run of the workload. Repeatable.")
@mapping_option
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes to simulate in.")
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), metavar="FILE.csv", help="Write the rows to a file, too.",
    shell_complete=files(".csv"),
)  # fmt: skip
@json_option
def command(
    workload: str | None, operator: str | None, machines: tuple[str, ...], sets: tuple[str, ...],
    symbols: tuple[str, ...], runs: tuple[str, ...], mapping: Path | None, jobs: int, table: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Simulate a workload file, or one operator, on variants of machines: one row a variant (and run).

    Variants are all machines with all combinations of the values of every --set; keys with commas between them take
    each value together, a value with commas stands in quotes or brackets. The first variant is the baseline.
    Times are those of the whole run, launches included; a stall and a bound stand with the part of the operators'
    cycles that they take.

    \b
    JSON: a list of {variant, machine, sets: {key: value}, run, cycles, microseconds, times_baseline, tflops,
    matrix_utilisation, hbm_bytes, hbm_gbytes_per_second, top_stall: {unit, cause, share}, bound: {by, share}}.

    \b
    Examples:
      kpusim compare --op "gemm(m=2048, n=4096, k=4096)" --set hbm.stacks=4,6,8
      kpusim compare workloads/llama3-8b-layer.toml -m kpu-datacenter,kpu-edge --run decode-1
      kpusim compare --op "gemm(m=512, n=512, k=512)" --set tiles.rows,tiles.columns=8,16 --set clock="1 GHz,2 GHz"
    """
    if (workload is None) == (operator is None):
        raise click.UsageError("Give either a workload file or --op.")
    if operator is not None and (symbols or runs):
        raise click.UsageError("--symbol and --run belong to a workload file.")
    if mapping is not None and operator is None:
        raise click.UsageError("--mapping belongs to --op.")
    from attrs import asdict

    from kpusim.files import atomic_path
    from kpusim.report.compare import Task, compare, variants

    names = [name.strip() for given in machines for name in given.split(",")]
    found = variants(names, sets)
    values = symbol_values(symbols)
    tasks = [Task(variant, operator, workload or "", values, runs, mapping) for variant in found]
    with ExitStack() as stack:
        part = None if table is None else stack.enter_context(atomic_path(table))
        with progress("simulating", len(tasks)) as begins:
            rows = list(compare(tasks, jobs, begins))
        if part is not None:
            part.write_text(_csv(rows), encoding="utf-8")
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    _print(_title(operator or str(workload), names, found), rows)
    if table is not None:
        click.echo(f"Rows: {table}")


def _title(what: str, machines: Sequence[str], found: Sequence[Variant]) -> str:
    """What all variants have in common."""
    first = found[0].sets
    alike = [f"{key}={value}" for key, value in first.items() if all(each.sets[key] == value for each in found)]
    return " ".join([what, *([f"on {machines[0]}"] if len(machines) == 1 else []), *alike])


def _print(title: str, rows: Sequence[Compared]) -> None:
    from kpusim.report.table import bytes_text, number

    runs = len({row.run for row in rows}) > 1
    columns = ("cycles", "us", "x baseline", "TFLOP/s", "matrix", "HBM bytes", "GB/s", "top stall", "bound by")
    cells = []
    for row in rows:
        stall, bound = row.top_stall, row.bound
        waits = f"{stall.unit} for {stall.cause} {stall.share:.0%}" if stall.unit else "none"
        part = f" {bound.share:.0%}" if bound.share < 1 else ""
        cells.append(
            (row.variant, *([row.run] if runs else []), row.cycles, row.microseconds, row.times_baseline,
             number(row.tflops), f"{row.matrix_utilisation:.1%}", bytes_text(row.hbm_bytes),
             number(row.hbm_gbytes_per_second), waits, bound.by + part)
        )  # fmt: skip
    print_table(title, ("variant", *(["run"] if runs else []), *columns), cells)


def _csv(rows: Sequence[Compared]) -> str:
    """The rows as of --json, what is nested under names such as set.hbm.stacks and top_stall.cause."""
    from csv import DictWriter
    from io import StringIO

    from attrs import asdict

    records = [_flat({"set" if key == "sets" else key: value for key, value in asdict(row).items()}) for row in rows]
    text = StringIO()
    writer = DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat
