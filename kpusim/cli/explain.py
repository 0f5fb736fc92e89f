"""`kpusim explain`: what a word of operators, machine files, programs and reports means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from kpusim.cli.complete import explained_words, machine_files
from kpusim.cli.options import json_option

if TYPE_CHECKING:
    from kpusim.report.glossary import Entry

__all__ = ["command", "entry_lines"]


@click.command(short_help="Say what an operator, a stall, an instruction or a machine key is.")
@click.argument("word", metavar="[OPERATOR|STALL|KEY|...]", required=False, shell_complete=explained_words)
@click.option(
    "-m", "--machine", metavar="NAME|FILE", help="Show the values on this machine, too.", shell_complete=machine_files
)
@json_option
def command(word: str | None, machine: str | None, as_json: bool) -> None:
    """Say what a word means: an operator, a stall cause, an instruction, a class of timing, a dtype, a table or key of
    machines.

    A word that names several things gets all of them; without a word, everything that can be asked is listed. The
    reference pages docs/operators.md, docs/isa.md and docs/machine.md are made from the same.

    \b
    JSON: a list of {name, kind, text, facts: {what: value}}; without a word {kind: [words]}.

    \b
    Examples:
      kpusim explain gemm
      kpusim explain memory
      kpusim explain matmul
      kpusim explain matrix.dataflow -m kpu-edge
    """
    if word is None and machine is not None:
        raise click.UsageError("--machine needs a word to explain.")
    if word is None:
        _list(as_json)
        return
    from kpusim.report.glossary import explain

    found = explain(word, machine)
    if as_json:
        data = [{"name": e.name, "kind": e.kind, "text": e.text, "facts": dict(e.facts)} for e in found]
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join("\n".join(entry_lines(entry)) for entry in found))


def _list(as_json: bool) -> None:
    """Print the words that can be asked, by kind."""
    from kpusim.report.glossary import entries

    by_kind: dict[str, list[str]] = {}
    for entry in entries():
        by_kind.setdefault(entry.kind, []).append(entry.name)
    if as_json:
        click.echo(json.dumps(by_kind, indent=2))
        return
    width = _width()
    for kind, names in by_kind.items():
        click.echo(f"{kind}:")
        click.echo(click.wrap_text(", ".join(names), width, "  ", "  "))


def entry_lines(entry: Entry) -> Iterator[str]:
    """One entry as text, in lines as wide as the terminal."""
    width = _width()
    yield f"{entry.name}: {entry.kind}"
    yield click.wrap_text(entry.text, width, "  ", "  ", preserve_paragraphs=True)
    indent = max((len(what) for what, _ in entry.facts), default=0) + 4
    for what, value in entry.facts:
        first = f"  {what}".ljust(indent)
        yield click.wrap_text(value, width, first, " " * indent)


def _width() -> int:
    from shutil import get_terminal_size

    return min(get_terminal_size().columns, 120)
