"""`kpusim validate`: predictions held against rows that were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files, machine_files, recipe_families
from kpusim.cli.options import json_option, keep, set_option
from kpusim.cli.progress import progress

if TYPE_CHECKING:
    from kpusim.machine import Machine
    from kpusim.validate.score import Score
    from kpusim.validate.truth import Truth
    from kpusim.validate.validation import Held, Validation

__all__ = ["command"]

OUTPUT = Path("kpusim-out")
WORST = "line", "family", "row", "dtype", "recipe", "measured us", "predicted us", "error", "longest kernel"


@click.command(short_help="Hold predictions against measured rows.")
@click.argument(
    "truth", metavar="[TRUTH.csv]", required=False, type=click.Path(path_type=Path), shell_complete=files(".csv")
)
@click.option(
    "-m", "--machine", default="h200", show_default=True, metavar="NAME|FILE", shell_complete=machine_files,
    help="The machine that the rows were measured on.",
)  # fmt: skip
@set_option
@click.option(
    "--family", "families", multiple=True, metavar="NAME", shell_complete=recipe_families,
    help="Only the rows of this family. Repeatable.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes to simulate in.  [default: all cores]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.csv", shell_complete=files(".csv"),
    help="Where to write the rows with predicted_us behind them.",
)  # fmt: skip
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", shell_complete=files(".svg", ".png", ".pdf"),
    help="Where to draw predicted over measured times: .svg, .png or .pdf.",
)  # fmt: skip
@click.option("--recipes", is_flag=True, help="Instead: what rows run as, and why.")
@json_option
def command(
    truth: Path | None, machine: str, sets: tuple[str, ...], families: tuple[str, ...], jobs: int | None,
    output: Path | None, plot: Path | None, recipes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Predict every row of a file of measurements, and say how far off the predictions are.

    The file is CSV. Columns: family, params (JSON), dtype; us, measured microseconds (a row without is predicted, not
    scored); overhead_us, added to the prediction. All others are passed through. A recipe (--recipes) says which
    kernels a row runs as; each is lowered and simulated, and none knows what was measured.

    Prints a table by family, in which `all` is every family but `model`, the decoders; and the ten rows furthest off,
    with what the cycles of their longest kernel went to, in the mean over the units of a kind. Writes the rows and a
    plot (by default both into kpusim-out/). Exits with 1 if a row cannot run; the others are predicted all the same.

    \b
    JSON: machine, csv, plot, all: {rows, mape_percent, median_percent, spearman}, families: {family: {as all}},
    worst: [{as rows, and longest_kernel, breakdown: {what: share of its cycles}}], rows: [{line, family, params,
    dtype, recipe, us, predicted_us, error_percent, launches}], refused: [{line, error}]; null for what is not
    defined. With --recipes: a list of {name, family, about, reason, source}.

    \b
    Examples:
      kpusim validate h200_public.csv --family gemm --set hbm.bandwidth="640 GB/s"
      kpusim validate mine.csv -m mine.toml -o mine-predicted.csv --plot mine.png
      kpusim validate --recipes
    """
    if recipes:
        _recipes(as_json)
        return
    if truth is None:
        raise click.UsageError("Give a file of measurements, or --recipes.")
    from kpusim.machine import load_machine
    from kpusim.validate.truth import read_truth

    loaded = load_machine(machine, sets)
    output = output or OUTPUT / f"{truth.stem}.{loaded.name}.csv"
    plot = plot or OUTPUT / f"{truth.stem}.{loaded.name}.svg"
    _check(output, plot, truth, machine)
    _tell(_held(_only(read_truth(truth), families), loaded, jobs, output, plot), output, plot, as_json)


def _check(output: Path, plot: Path, truth: Path, machine: str) -> None:
    """Raises UserError where what is written would replace what is read, or is no kind of picture."""
    from kpusim.report.picture import check_picture

    keep(output, plot, truth, machine)
    keep(plot, truth, machine)
    check_picture(plot, "--plot")


def _tell(found: Validation, output: Path, plot: Path, as_json: bool) -> None:
    """Prints what was found and written. Exits with 1 where a row was refused."""
    if as_json:
        written = {"csv": str(output), "plot": str(plot)}
        click.echo(json.dumps({"machine": found.machine} | written | found.json(), indent=2))
    else:
        _print(found)
        click.echo(f"Rows: {output}\nPlot: {plot}")
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)
    for error in found.refused.values():
        click.echo(f"Error: {error}", err=True)
    if found.refused:
        raise click.exceptions.Exit(1)


def _held(rows: Truth, machine: Machine, jobs: int | None, output: Path, plot: Path) -> Validation:
    """Simulates, and writes both files."""
    from attrs import evolve

    from kpusim.files import atomic_path
    from kpusim.processes import cores
    from kpusim.validate.scatter import draw_scatter
    from kpusim.validate.truth import write_predictions
    from kpusim.validate.validation import Question, kernel_name

    question = Question.of(rows.rows, machine)
    with atomic_path(output) as table, atomic_path(plot) as drawn:
        with progress("simulating", len(question.kernels)) as begins:
            found = question.answer(jobs or cores(), lambda kernel: begins(kernel_name(kernel)))
        predicted = {each.measured.line: each.us for each in found.rows}
        with table.open("w", encoding="utf-8", newline="") as file:
            write_predictions(rows, [predicted.get(each.line) for each in rows.rows], file)
        draw_scatter(found, drawn, plot.suffix.lower())
    return evolve(found, notes=(*rows.notes, *found.notes))


def _only(truth: Truth, families: Sequence[str]) -> Truth:
    """The rows of these families; all where none is named. Raises UserError."""
    from attrs import evolve

    from kpusim.errors import UserError
    from kpusim.recipes.table import FAMILIES

    for family in families:
        if family not in FAMILIES:
            raise UserError("unknown family", where="--family", found=family, allowed=FAMILIES)
    rows = tuple(each for each in truth.rows if not families or each.row.family in families)
    if not rows:
        raise UserError("no rows of this family", where=str(truth.path), found=", ".join(families))
    return evolve(truth, rows=rows)


def _recipes(as_json: bool) -> None:
    """Print what rows run as."""
    from kpusim.cli.explain import entry_lines
    from kpusim.recipes.table import RECIPES
    from kpusim.report.glossary import recipe_entries

    if as_json:
        names = ("name", "family", "about", "reason", "source")
        click.echo(json.dumps([{name: getattr(each, name) for name in names} for each in RECIPES], indent=2))
    else:
        click.echo("\n\n".join("\n".join(entry_lines(entry)) for entry in recipe_entries()))


def _print(found: Validation) -> None:
    from kpusim.cli.tables import print_table
    from kpusim.validate.validation import DECODER_FAMILY

    families = found.families
    decoders = families.pop(DECODER_FAMILY, None)
    rows = [(name, *_score(each)) for name, each in families.items()]
    if families:
        rows.append(("all", *_score(found.all)))
    if decoders:
        rows.append((f"{DECODER_FAMILY} (decoders)", *_score(decoders)))
    if not rows:
        click.echo("No row was measured: all are predicted, none is scored.")
        return
    columns = ("family", "rows", "mean error", "median error", "rank correlation")
    print_table(f"{found.machine}: predicted against measured, absolute errors", columns, rows)
    print_table("The worst", WORST, [_worst(each) for each in found.worst])


def _score(score: Score) -> tuple[object, ...]:
    correlation = "-" if score.spearman is None else f"{score.spearman:.3f}"
    return score.rows, f"{score.mape_percent:.1f}%", f"{score.median_percent:.1f}%", correlation


def _worst(held: Held) -> tuple[Any, ...]:
    row = held.measured.row
    return (
        str(held.measured.line), row.family, " ".join(f"{name}={value}" for name, value in row.params.items()),
        row.dtype, held.prediction.recipe, held.measured.us, held.us, f"{held.error_percent:+.1f}%",
        held.spent(),
    )  # fmt: skip
