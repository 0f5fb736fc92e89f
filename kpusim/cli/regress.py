"""`kpusim regress`: compare what the cases of a suite take with what they took when that was recorded."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files
from kpusim.cli.options import json_option
from kpusim.cli.progress import progress

if TYPE_CHECKING:
    from kpusim.golden import Case, Change, Measured, Recorded, Suite

    Found = tuple[Suite, Case, Measured, tuple[Change, ...]]

__all__ = ["command"]


@click.command(short_help="Compare a suite's cycle counts with its golden ones.")
@click.argument(
    "paths", metavar="[SUITE.toml]...", nargs=-1, type=click.Path(path_type=Path), shell_complete=files(".toml")
)
@click.option("--update", is_flag=True, help="Write what the cases take into their suites.")
@click.option("--reason", metavar="TEXT", help="Why numbers moved; kept in the suite. Needed by --update if any did.")
@click.option(
    "--filter", "pattern", metavar="TEXT|GLOB", help='Only cases with TEXT in their name, or such as "mlp-*".'
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Simulate so many at once.")
@json_option
def command(
    paths: tuple[Path, ...], update: bool, reason: str | None, pattern: str | None, jobs: int, as_json: bool
) -> None:
    """Simulate the cases of suites, by default of traces/*.toml, and tell what is not as recorded in them.

    Exits with 1 if anything moved or was never recorded. What explains a change of cycles is told in cycles a unit:
    what the matrix engines (else vector engines, else DMA queues) did longer, and then those that they waited for.

    \b
    A suite; --update writes cycles and all that is recorded below each case, and a [[history]] of reasons:
      [[cases]]
      name = "qkv-prefill"
      machine = "kpu-edge"              # or a machine file
      set = ["hbm.stacks=2"]            # optional: changes of the machine
      operator = "gemm(m=512, n=1024, k=1024)"
      # or program = "mine.kasm"
      # or workload = "mine.toml", with the options run = "prefill" and symbols = { tokens = 8 }
    Paths start at the suite's folder.

    \b
    JSON keys: cases: [{suite, name, measured: {cycles, hbm_bytes, row_hits, top_stall, units, operators}, changes:
    [{operator, what, golden, now, percent, because}]}], moved (cases), new (cases without golden numbers), updated
    (suites written).

    \b
    Examples:
      kpusim regress
      kpusim regress perf/suite.toml --filter "decode-*" --jobs 4
      kpusim regress perf/suite.toml --update --reason "two HBM stacks more"
    """
    if reason is not None and not update:
        raise click.UsageError("--reason belongs to --update.")
    if reason is not None and not reason.strip():
        raise click.UsageError("--reason is empty.")
    found = _measure(_suites(paths), pattern, jobs)
    recorded = _record(found, reason or "", as_json) if update else []
    moved = sum(bool(changed) and case.golden is not None for _, case, _, changed in found)
    new = sum(case.golden is None for _, case, _, _ in found)
    if as_json:
        updated = [str(each.path) for each in recorded]
        data = {"cases": [_json(*each) for each in found], "moved": moved, "new": new, "updated": updated}
        click.echo(json.dumps(data, indent=2))
    else:
        if not update:
            _print(found)
        hint = ": run with --update" if new and not update else ""
        click.echo(f"{_cases(len(found))}, {moved} moved" + f", {new} new{hint}" * bool(new))
        for each in recorded:
            click.echo(f"{each.path}: {len(each.moved)} moved, {len(each.added)} added")
    if (moved or new) and not update:
        raise click.exceptions.Exit(1)


def _cases(number: int) -> str:
    return f"{number} case{'s' * (number != 1)}"


def _suites(paths: tuple[Path, ...]) -> list[Suite]:
    from kpusim.errors import UserError
    from kpusim.golden import load_suite

    chosen = dict.fromkeys(paths or sorted(Path("traces").glob("*.toml")))
    if not chosen:
        raise UserError("no suite is given, and there is none in traces/*.toml below the current directory")
    return [load_suite(path) for path in chosen]


def _measure(suites: list[Suite], pattern: str | None, jobs: int) -> list[Found]:
    from kpusim.errors import UserError
    from kpusim.golden import changes, measure
    from kpusim.processes import map_in_order

    names = [case.name for suite in suites for case in suite.cases]
    if not names:
        raise UserError("no cases", where=", ".join(str(suite.path) for suite in suites), allowed="[[cases]]")
    chosen = [(suite, case) for suite in suites for case in suite.cases if _matches(case.name, pattern)]
    if not chosen:
        raise UserError("no case has such a name", where="--filter", found=pattern, allowed=names)
    cases = [case for _, case in chosen]
    with progress("simulating", len(cases)) as begins:
        measured = list(map_in_order(measure, cases, jobs, lambda case: begins(case.name)))
    return [(suite, case, now, changes(case.golden, now)) for (suite, case), now in zip(chosen, measured, strict=True)]


def _matches(name: str, pattern: str | None) -> bool:
    return pattern is None or pattern in name or fnmatchcase(name, pattern)


def _record(found: list[Found], reason: str, as_json: bool) -> list[Recorded]:
    """Write new numbers into the suites, all of them or none. Raises UserError where numbers moved without a reason."""
    from kpusim.golden import record

    if not as_json:
        _print(found)
    by_path: dict[Path, list[tuple[Case, Measured]]] = {}
    for suite, case, now, _ in found:
        by_path.setdefault(suite.path, []).append((case, now))
    recorded = [record(path, measured, reason) for path, measured in by_path.items()]
    for each in recorded:
        each.write()
    return recorded


def _print(found: list[Found]) -> None:
    """Print a row for each number that moved."""
    from kpusim.report.table import print_table

    several = len({suite.path for suite, _, _, _ in found}) > 1
    rows = [
        ((suite.path.stem,) if several else ()) + (case.name, *change.cells)
        for suite, case, _, changed in found
        for change in changed
    ]
    if rows:
        columns = ("case", "what", "golden", "now", "change", "because")
        print_table("What moved", ("suite", *columns) if several else columns, rows)


def _json(suite: Suite, case: Case, now: Measured, changed: tuple[Change, ...]) -> dict[str, Any]:
    from attrs import asdict

    return {
        "suite": str(suite.path),
        "name": case.name,
        "measured": now.table(),
        "changes": [asdict(change) | {"percent": change.percent} for change in changed],
    }
