"""`kpusim fuzz`: random operators on random machines, checked for values and time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

import click

from kpusim.cli.complete import families, machine_files
from kpusim.cli.options import chunk_bytes, json_option, operator_option, set_option
from kpusim.cli.progress import progress

if TYPE_CHECKING:
    from kpusim.fuzz import Case, Result, Summary

__all__ = ["command"]

MACHINE = "kpu-datacenter"  # as of every command
REASON = 60  # characters of it in the table


@click.command(short_help="Check random operators on random machines, values and time.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=60, show_default=True,
    help="No new case begins after so long; the last one ends when it does.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same cases.")
@click.option("--case", "number", type=click.IntRange(0), metavar="N", help="Only the N-th case of the seed.")
@click.option(
    "--family", "names", multiple=True, metavar="NAME", shell_complete=families, help="Only this family. Repeatable."
)
@click.option(
    "-m", "--machine", "machines", multiple=True, metavar="NAME|FILE", shell_complete=machine_files,
    help="Only this machine, and changes of it. Repeatable.",
)  # fmt: skip
@set_option
@operator_option
@click.option("--map", "mapping", default="", metavar="NAME=VALUE,...", help="With --op: the mapping to force.")
@click.option("--chunk", metavar="SIZE", help="With --op: what a DMA engine asks for at once, by default 16 KiB.")
@json_option
def command(
    seconds: float, seed: int, number: int | None, names: tuple[str, ...], machines: tuple[str, ...],
    sets: tuple[str, ...], operator: str | None, mapping: str, chunk: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Draw operators, machines and mappings at random, and check what must hold of each.

    That is: its results agree with float64, without a hazard; the plain mode and the local clocks agree in every span;
    for each unit busy, stalls and idle add up to all cycles; what is moved is at least inputs and outputs, and what
    is computed at least the operator's work; programs, mappings and operators are read back from their texts.

    The first failure of each kind is made as small as it goes; the line that runs it again is printed, and the exit
    code is 1. Refused are cases that an operator or a machine cannot be, told in a message. With --op nothing is drawn.

    \b
    JSON keys: seed, seconds, passed, refused, failed, families: {name: {passed, refused, failed}},
    refusals: {name: {why: how often}}, failures: [{line, why, found (so often), operator, machine, sets, mapping,
    chunk_bytes}], one of a kind.

    \b
    Examples:
      kpusim fuzz --seconds 60
      kpusim fuzz --family gemm -m kpu-tiny --seed 7
      kpusim fuzz --op "gemm(m=5, n=7, k=9)" -m kpu-tiny --set sram.capacity=2KiB
    """
    if operator is None and (mapping or chunk):
        raise click.UsageError("--map and --chunk belong to --op.")
    if operator is not None and (names or number is not None):
        raise click.UsageError("--op excludes --family and --case: nothing is drawn.")
    from kpusim.fuzz import Case, Summary, drawn, numbers

    _check(names, machines, sets, operator, mapping)
    cases: Iterable[Case]
    if operator is not None:
        size = chunk_bytes(chunk or "16 KiB")
        cases = [Case(operator, machine, sets, mapping, size) for machine in machines or (MACHINE,)]
    else:
        which = numbers(seconds) if number is None else [number]
        cases = drawn(seed, which, names, machines, sets)
    summary, start, asked = Summary(), monotonic(), number is not None or operator is not None
    try:
        with progress("fuzzing", None) as begins:
            for case in cases:
                begins(case.operator)
                result = summary.examine(case, shrink=not asked)
                if not as_json and (asked or result.is_news):
                    _tell(result)
    finally:  # interrupted, too
        if as_json or not asked:
            _print(summary, {"seed": seed, "seconds": round(monotonic() - start, 1)}, as_json)
    if summary.failures:
        raise click.exceptions.Exit(1)


def _check(
    names: tuple[str, ...], machines: tuple[str, ...], sets: tuple[str, ...], operator: str | None, mapping: str
) -> None:
    """Raises UserError for what is misspelt."""
    from kpusim.errors import UserError
    from kpusim.machine import load_machine
    from kpusim.operators import FAMILIES, make_operator, parse_mapping

    for name in names:
        if name not in FAMILIES:
            raise UserError("unknown operator", where="--family", found=name, allowed=[*FAMILIES])
    for machine in machines or (MACHINE,):
        load_machine(machine, sets)
    if operator is not None:
        made = make_operator(operator)
        if mapping:
            parse_mapping(mapping, made, "--map")


def _tell(result: Result) -> None:
    """Print what came of a case, and the line that runs it again."""
    outcome = result.outcome
    click.echo(f"{outcome.verdict}{': ' if outcome.why else ''}{outcome.why}\n  {result.case.line}")


def _print(summary: Summary, about: dict[str, float], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(about | summary.json(), indent=2))
        return
    from kpusim.report.table import print_table

    totals, seed, seconds = summary.totals, about["seed"], about["seconds"]
    columns = ("family", *totals, *(["refused most because"] if summary.refusals else []))
    rows = [
        (name, *(f"{count:,}" for count in counts.values()), *_mostly(summary, name))
        for name, counts in sorted(summary.families.items())
    ]
    print_table(f"{sum(totals.values()):,} cases of seed {seed} in {seconds} s", columns, rows)


def _mostly(summary: Summary, family: str) -> tuple[str, ...]:
    """A cell with the reason for which most cases of a family were refused; no cell where none was of any."""
    if family not in summary.refusals:
        return ("",) if summary.refusals else ()
    ((reason, count),) = summary.refusals[family].most_common(1)
    return (f"{reason if len(reason) <= REASON else reason[: REASON - 3] + '...'} ({count:,})",)
