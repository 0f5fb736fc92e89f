"""`kpusim trace`: look into a trace file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files
from kpusim.cli.options import keep
from kpusim.cli.tables import print_table

if TYPE_CHECKING:
    from kpusim.trace.reader import Trace

_file = click.argument("file", type=click.Path(path_type=Path), shell_complete=files(".h5"))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys told above.")


@click.group(short_help="Look into a trace file.")
def command() -> None:
    """Look into a trace file.

    A trace is HDF5 (NeXus): `silx view FILE` and https://myhdf5.hdfgroup.org open it with the utilization plot,
    `h5dump` and h5py read it.

    \b
    Examples:
      kpusim trace info run.h5
      kpusim trace stalls run.h5 --units 'chip0.tile3.*'
      kpusim trace top run.h5 --by stalls -n 5
      kpusim trace events run.h5 --unit '*.dma0.*' --from 2000 --to 3000
      kpusim trace export run.h5 -o run.json.gz
    """


@command.command()
@_file
@_json
def info(file: Path, as_json: bool) -> None:
    """What ran, and how long its operators took.

    \b
    JSON keys: title, program_name, version, start_time, clock_hz, total_cycles, units (number by kind), events,
    file_bytes, options, ops: [{name, type, start_cycle, end_cycle, cycles, launch_cycles, block, events, flops,
    macs, hbm_read_bytes, hbm_write_bytes, busy_cycles, stall_cycles: {cause: unit-cycles}, top_stall, counters}].

    \b
    Example:
      kpusim trace info run.h5 --json
    """
    from collections import Counter

    from kpusim.trace.reader import open_trace
    from kpusim.trace.schema import unit_kind

    with open_trace(file) as trace:
        meta = trace.meta
        data: dict[str, Any] = {
            **{key: getattr(meta, key) for key in ("title", "program_name", "version", "start_time", "clock_hz")},
            "total_cycles": trace.total_cycles,
            "units": dict(Counter(unit_kind(name) for name in meta.unit_names)),
            "events": trace.event_count,
            "file_bytes": file.stat().st_size,
            "options": dict(meta.options),
            "ops": [_op(op) for op in trace.ops],
        }
    if as_json:
        _print_json(data)
        return
    click.echo(f"{data['title']}\n{meta.program_name} {meta.version}, {meta.clock_hz / 1e9:g} GHz")
    click.echo(f"{data['total_cycles']:,} cycles = {data['total_cycles'] / meta.clock_hz * 1e6:,.2f} us")
    click.echo("units: " + ", ".join(f"{count} {kind}" for kind, count in data["units"].items()))
    click.echo(f"{data['events']:,} events in {data['file_bytes']:,} bytes")
    for key, value in data["options"].items():
        click.echo(f"{key} = {value}")
    rows = [
        (op["name"], op["type"], op["start_cycle"], op["cycles"], op["cycles"] / meta.clock_hz * 1e6, op["flops"],
         op["hbm_read_bytes"] + op["hbm_write_bytes"], op["top_stall"])
        for op in data["ops"]
    ]  # fmt: skip
    print_table("Operators", ("operator", "type", "start", "cycles", "us", "flop", "HBM bytes", "top stall"), rows)


@command.command()
@_file
@click.option("--by", type=click.Choice(("busy", "stalls", "bytes")), default="busy", help="Order; default: busy.")
@click.option("-n", "count", type=click.IntRange(1), default=20, help="Instructions to show; default: 20.")
@_json
def top(file: Path, by: str, count: int, as_json: bool) -> None:
    """The instructions that cost most, each with its line of the program.

    Busy and stall cycles are summed over all units and all runs of a program.

    \b
    JSON: a list of {block, pc, opcode, count, busy_cycles, stall_cycles: {cause: unit-cycles}, stalled, top_stall,
    bytes, ops: [names], source}.

    \b
    Example:
      kpusim trace top run.h5 --by stalls -n 5
    """
    from attrs import asdict

    from kpusim.trace.hotspots import Hotspot, hotspots
    from kpusim.trace.reader import open_trace

    def weight(spot: Hotspot) -> int:
        return {"busy": spot.busy_cycles, "stalls": spot.stalled, "bytes": spot.bytes}[by]

    with open_trace(file) as trace:
        spots = sorted(hotspots(trace), key=weight, reverse=True)[:count]
    if as_json:
        _print_json([asdict(spot) | {"stalled": spot.stalled, "top_stall": spot.top_stall} for spot in spots])
        return
    rows = [
        (spot.block, spot.pc, spot.opcode, spot.count, spot.busy_cycles, spot.stalled, spot.top_stall, spot.bytes,
         spot.source)
        for spot in spots
    ]  # fmt: skip
    columns = ("block", "pc", "opcode", "count", "busy", "stalled", "top stall", "bytes", "source")
    print_table(f"Instructions by {by} (unit-cycles)", columns, rows)


@command.command()
@_file
@click.option("--units", "pattern", help="Show each unit whose name matches, such as 'chip0.tile3.*' or '*'.")
@_json
def stalls(file: Path, pattern: str | None, as_json: bool) -> None:
    """What every unit did with its cycles: busy, waiting by cause, idle.

    For each unit busy + stalls + idle = total cycles. Without --units only the sums by kind of unit are printed.

    \b
    JSON keys: total_cycles, kinds: {kind: {units, busy, CAUSE..., idle, total}}, units: {name: {busy, CAUSE...,
    idle}} (all units, or those that match); the causes are those that `kpusim explain` lists.

    \b
    Examples:
      kpusim trace stalls run.h5
      kpusim trace stalls run.h5 --units 'chip0.tile3.*'
    """
    from kpusim.trace.hotspots import accounts_by_kind
    from kpusim.trace.reader import open_trace

    with open_trace(file) as trace:
        kinds = accounts_by_kind(trace)
        accounts, total = trace.accounts(), trace.total_cycles
        chosen = _units(trace, pattern or ("*" if as_json else ""))
        units = {trace.meta.unit_names[unit]: {key: int(accounts[key][unit]) for key in accounts} for unit in chosen}
    if as_json:
        _print_json({"total_cycles": total, "kinds": kinds, "units": units})
        return
    by_kind = [(f"{kind} ({sums['units']})", sums["total"], sums) for kind, sums in kinds.items()]
    print_table("Unit-cycles by kind (number) of unit", ("", *accounts, "total"), _shares(by_kind, accounts))
    if units:
        by_unit = [(name, total, sums) for name, sums in units.items()]
        print_table("Cycles by unit", ("", *accounts, "total"), _shares(by_unit, accounts))


@command.command()
@_file
@click.option("--unit", "pattern", default="*", help="Only units whose name matches; default: all.")
@click.option("--from", "first", type=click.IntRange(0), default=0, help="First cycle; default: 0.")
@click.option("--to", "end", type=click.IntRange(0), help="Cycle behind the last; default: 1000 after the first.")
@_json
def events(file: Path, pattern: str, first: int, end: int | None, as_json: bool) -> None:
    """The events that overlap a window of time, in order of start.

    Cycles count from the start of the run. `released by` is the event, as operator:row, that ended the last wait.

    \b
    JSON: a list of {op, row, unit, opcode, pc, iteration, start_cycle, end_cycle, done_cycle, bytes, released_by (row
    of the same operator, or null), stall_CAUSE...}.

    \b
    Example:
      kpusim trace events run.h5 --unit 'chip0.dma0.*' --from 2000 --to 3000
    """
    from kpusim.errors import UserError
    from kpusim.simulate.spans import NO_SPAN
    from kpusim.trace.reader import open_trace

    if end is not None and end < first:
        raise UserError(
            "the window ends before it begins", where="--to", found=end, allowed=f"from {first} on (--from)"
        )
    with open_trace(file) as trace:
        found = trace.window(first, first + 1000 if end is None else end, _units(trace, pattern))
        meta = trace.meta
    keys = list(found)
    records = [dict(zip(keys, row, strict=True)) for row in zip(*(found[key].tolist() for key in keys), strict=True)]
    for record in records:
        record["unit"] = meta.unit_names[record["unit"]]
        record["opcode"] = meta.opcode_names.get(record["opcode"], str(record["opcode"]))
        record["released_by"] = None if record["released_by"] == NO_SPAN else record["released_by"]
    if as_json:
        _print_json(records)
        return
    plain = ("start_cycle", "end_cycle", "done_cycle", "unit", "opcode", "pc", "iteration", "bytes")
    rows = [(*(record[key] for key in plain), *_event_notes(record)) for record in records]
    columns = ("start", "end", "done", "unit", "opcode", "pc", "iteration", "bytes", "event", "released by", "waited")
    print_table(f"{len(rows)} events", columns, rows)


@command.command()
@_file
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write: X.json.gz")
@_json
def export(file: Path, output: Path, as_json: bool) -> None:
    """Export for Perfetto: gzipped Chrome JSON, to open at https://ui.perfetto.dev.

    \b
    JSON keys: output, slices.

    \b
    Example:
      kpusim trace export run.h5 -o run.json.gz
    """
    keep(output, file)
    from kpusim.trace.export import export_perfetto
    from kpusim.trace.reader import open_trace

    with open_trace(file) as trace:
        length = sum(op.events for op in trace.ops)
        with click.progressbar(length=length, label="exporting", file=sys.stderr) as bar:
            slices = export_perfetto(trace, output, bar.update)
    if as_json:
        _print_json({"output": str(output), "slices": slices})
    else:
        click.echo(f"{slices:,} slices in {output}; open it at https://ui.perfetto.dev")


def _op(op: Any) -> dict[str, Any]:
    from attrs import asdict

    return asdict(op) | {"cycles": op.cycles}


def _units(trace: Trace, pattern: str) -> tuple[int, ...]:
    """The units whose names match. Raises UserError if none does (and there is a pattern)."""
    from kpusim.errors import UserError

    found = tuple(unit for unit, name in enumerate(trace.meta.unit_names) if fnmatchcase(name, pattern))
    if pattern and not found:
        names = trace.meta.unit_names
        raise UserError("no unit matches", found=pattern, allowed=f"patterns over {names[0]} ... {names[-1]}")
    return found


def _shares(rows: list[tuple[str, int, dict[str, int]]], keys: Iterable[str]) -> list[tuple[object, ...]]:
    """Rows of a table of cycles, each number with its share of the total."""
    return [
        (name, *(f"{sums[key]:,} {100 * sums[key] / max(total, 1):5.1f}%" for key in keys), total)
        for name, total, sums in rows
    ]


def _event_notes(record: dict[str, Any]) -> tuple[str, str, str]:
    """An event's own name, the name of the event that released it, and what it waited for."""
    prefix = "stall_"
    waits = [f"{key.removeprefix(prefix)} {record[key]}" for key in record if key.startswith(prefix) and record[key]]
    released = "" if record["released_by"] is None else f"{record['op']}:{record['released_by']}"
    return f"{record['op']}:{record['row']}", released, ", ".join(waits)


def _print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2))
