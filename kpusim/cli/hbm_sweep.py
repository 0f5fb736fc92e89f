"""`kpusim hbm --sweep`: all of a machine's memory, by load and by size of accesses."""

from __future__ import annotations

import json
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.options import keep, size_bytes
from kpusim.cli.progress import progress

if TYPE_CHECKING:
    from kpusim.streams.sweep import Sweep

__all__ = ["run"]

MACHINE = "kpu-datacenter"


def run(options: dict[str, Any], writes: Fraction, as_json: bool) -> None:
    """Sweeps, prints tables or JSON, and draws where there is an output. stride, span: None where not given."""
    from kpusim.files import atomic_path
    from kpusim.machine import load_machine
    from kpusim.report.picture import check_picture
    from kpusim.report.sweep import draw_sweep
    from kpusim.streams.sweep import STEPS, STRIDE, sweep

    output: Path | None = options["output"]
    keep(output, options["machine"])
    if output is not None:
        check_picture(output, "-o")
    machine = load_machine(options["machine"] or MACHINE, options["sets"])
    stride = STRIDE if options["stride"] is None else size_bytes(options["stride"], "--stride")
    span = None if options["span"] is None else size_bytes(options["span"], "--span")
    with ExitStack() as stack:
        part = None if output is None else stack.enter_context(atomic_path(output))
        with progress("sweeping", STEPS) as begins:
            found = sweep(
                machine, begins, reference=options["reference"], stride=stride, span=span, writes=writes,
                seed=options["seed"],
            )  # fmt: skip
        if output is not None and part is not None:
            draw_sweep(found, part, output.suffix.lower())
    if as_json:
        click.echo(json.dumps(_data(found), indent=2))
        return
    _print(found)
    click.echo("To see it as a plot: -o FILE.svg" if output is None else f"Plot: {output}")


def _data(sweep: Sweep) -> dict[str, Any]:
    from attrs import asdict

    def rounded(inst: type, attribute: Any, value: Any) -> Any:
        return round(value, 3) if isinstance(value, float) else value

    return asdict(sweep, value_serializer=rounded)


def _print(sweep: Sweep) -> None:
    from kpusim.cli.tables import print_table
    from kpusim.machine.quantities import SIZE, text
    from kpusim.streams.requests import PATTERNS
    from kpusim.streams.sweep import ASKED

    latencies: dict[str, list[str]] = {}
    for point in sweep.latency:
        _add(latencies, f"{point.load:.0%}", point.latency_ns, point.reference_ns)
    full = {point.pattern: point.gb_per_s / point.load for point in sweep.latency}
    latencies["100% is, GB/s"] = [f"{full[pattern]:,.1f}" for pattern in PATTERNS]
    title = f"{sweep.machine}: mean read latency of {text(ASKED, SIZE, 1)} in ns, by load"
    print_table(title, ("load", *PATTERNS), [(load, *cells) for load, cells in latencies.items()])
    bandwidths: dict[str, list[str]] = {}
    for each in sweep.bandwidth:
        _add(bandwidths, text(each.access_bytes, SIZE, 1), each.gb_per_s, each.reference_gb_per_s)
    peak, left = f"{sweep.peak_gb_per_s:,.1f}", f"{sweep.attainable_gb_per_s:,.1f}"
    title = f"{sweep.machine}: bandwidth in GB/s, by size of accesses (peak {peak}, less refresh {left})"
    print_table(title, ("access", *PATTERNS), [(size, *cells) for size, cells in bandwidths.items()])


def _add(rows: dict[str, list[str]], name: str, found: float, reference: float | None) -> None:
    """A pattern's cell, and that of the reference in a row of its own."""
    rows.setdefault(name, []).append(f"{found:,.1f}")
    if reference is not None:
        rows.setdefault(f"{name} reference", []).append(f"{reference:,.1f}")
