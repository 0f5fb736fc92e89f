"""`kpusim diff`: where the cycles went between two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files
from kpusim.cli.options import json_option
from kpusim.cli.tables import print_table

if TYPE_CHECKING:
    from kpusim.report.diff import Diff, Move, OpDiff

__all__ = ["command"]

_trace = click.Path(path_type=Path)


@click.command(short_help="Say where the cycles went between two runs.")
@click.argument("a", metavar="A.h5", type=_trace, shell_complete=files(".h5"))
@click.argument("b", metavar="B.h5", type=_trace, shell_complete=files(".h5"))
@click.option(
    "-n", "count", type=click.IntRange(1), default=3, show_default=True, help="Causes to show, a kind of unit."
)
@json_option
def command(a: Path, b: Path, count: int, as_json: bool) -> None:
    """Say where the cycles went between two traces: by operator, and by what its units did.

    Operators are matched by name and turn. What the units of a kind did is told in cycles a unit, so that machines of
    other sizes compare; over each kind the parts add up to the operator's change, and what explains most of it stands
    first. It reports and judges nothing: the exit code is 0 whether or not the runs differ (`kpusim regress` checks).

    \b
    JSON keys: a, b: {file, title, cycles, microseconds, gap_cycles, hbm_bytes}; equal, change (cycles), settings:
    [{what (machine, option, workload, kpusim), key, a, b}], operators: [{operator, count, change (cycles of all
    executions), a, b: {cycles, hbm_bytes, units: {kind: number}} or null where the operator is not there, moves:
    [{unit, what (busy, idle or a stall cause), a, b, change (cycles a unit), part (of the change, or null)}]}].

    \b
    Examples:
      kpusim run --op "gemm(m=512, n=512, k=512)" --trace a.h5
      kpusim run --op "gemm(m=512, n=512, k=512)" --trace b.h5 --set hbm.stacks=3
      kpusim diff a.h5 b.h5
    """
    from kpusim.errors import UserError
    from kpusim.report.diff import diff_traces
    from kpusim.trace.reader import open_trace

    with open_trace(a) as one, open_trace(b) as other:
        if a.samefile(b):
            raise UserError("both are the same file", where=f"{a} and {b}", hint="give two traces")
        found, titles = diff_traces(one, other), (one.meta.title, other.meta.title)
    if as_json:
        click.echo(json.dumps(_json(found, (a, b), titles), indent=2))
        return
    for number, (name, path, title) in enumerate(zip("AB", (a, b), titles, strict=True)):
        click.echo(f"{name}: {path}: {title}, {found.cycles[number]:,} cycles = {found.seconds[number] * 1e6:,.2f} us")
    if found.settings:
        settings = [[what, key, "" if a is None else a, "" if b is None else b] for what, key, a, b in found.settings]
        print_table("What differs", ("of", "key", "in A", "in B"), settings)
    if found.equal:
        click.echo("A and B are equal: every operator has the same cycles and HBM bytes, and its units did the same.")
        return
    _print(found, count)


def _json(found: Diff, paths: tuple[Path, Path], titles: tuple[str, str]) -> dict[str, Any]:
    from attrs import asdict

    def side(number: int) -> dict[str, Any]:
        return {
            "file": str(paths[number]), "title": titles[number], "cycles": found.cycles[number],
            "microseconds": found.seconds[number] * 1e6, "gap_cycles": found.gaps[number],
            "hbm_bytes": found.hbm_bytes[number],
        }  # fmt: skip

    def operator(op: OpDiff) -> dict[str, Any]:
        moves = [asdict(move) | {"change": move.change} for move in op.moves]
        return asdict(op) | {"change": op.change, "moves": moves}

    return {
        "a": side(0), "b": side(1), "equal": found.equal, "change": found.cycles[1] - found.cycles[0],
        "settings": [dict(zip(("what", "key", "a", "b"), setting, strict=True)) for setting in found.settings],
        "operators": [operator(op) for op in found.operators],
    }  # fmt: skip


def _print(found: Diff, count: int) -> None:
    rows = list(map(_row, found.operators))
    gaps, total = found.gaps, found.cycles
    rows.append(("launches and barriers", *gaps, *_change(gaps[1] - gaps[0], gaps[0]), "", ""))
    rows.append(("total", *total, *_change(total[1] - total[0], total[0]), *found.hbm_bytes))
    columns = ("operator", "cycles in A", "in B", "change", "%", "HBM bytes in A", "in B")
    print_table("All executions", columns, rows)
    causes = [row for op in found.operators for row in _causes(op, count)]
    if causes:
        print_table(
            "Why: cycles a unit of one execution",
            ("operator", "units", "do", "in A", "in B", "change", "explains"),
            causes,
        )


def _label(op: OpDiff) -> str:
    where = "" if op.a and op.b else ", only in A" if op.a else ", only in B"
    return op.operator + f" x{op.count}" * (op.count > 1) + where


def _row(op: OpDiff) -> tuple[object, ...]:
    """Cycles and HBM bytes of all executions; a side is empty where the operator is not there."""
    sides = op.a, op.b
    cycles = ("" if side is None else op.count * side.cycles for side in sides)
    moved = ("" if side is None else op.count * side.hbm_bytes for side in sides)
    base = op.count * op.a.cycles if op.a and op.b else 0
    return _label(op), *cycles, *_change(op.change, base), *moved


def _change(change: int, base: int) -> tuple[str, str]:
    """Cycles with their sign, and as a part of `base`."""
    return f"{change:+,}" if change else "0", f"{change / base:+.1%}" if base and change else ""


def _causes(op: OpDiff, count: int) -> Iterator[tuple[str, ...]]:
    """The moves that explain an operator's change best, kind by kind of unit, and how many more there are."""
    label = _label(op)
    for kind in dict.fromkeys(move.unit for move in op.moves):
        moves, units = [move for move in op.moves if move.unit == kind], _units(op, kind)
        for move in moves[:count]:
            part = "" if move.part is None else f"{move.part:.0%}"
            yield label, units, _does(move), *map(_cycles, (move.a, move.b)), _signed(move), part
            label = units = ""
        if len(moves) > count:
            yield "", "", f"and {len(moves) - count} more", "", "", "", ""


def _units(op: OpDiff, kind: str) -> str:
    """How many units of that kind: "256 matrix", or "64 and 100 dma" where they differ."""
    numbers = {str(side.units.get(kind, 0)): None for side in (op.a, op.b) if side}
    return f"{' and '.join(numbers)} {kind}"


def _does(move: Move) -> str:
    return move.what if move.what in ("busy", "idle") else f"wait for {move.what}"


def _cycles(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _signed(move: Move) -> str:
    return ("+" if move.change > 0 else "-") + _cycles(abs(move.change))
