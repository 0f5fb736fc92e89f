"""The page `docs/trust.md`, "How far to trust it", and its plots, from a checkout.

`python -m kpusim.validate.page` simulates all there is to hold against something, in some minutes, and writes them. A
section is a function that gives its lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kpusim.files import atomic_path, write_text_atomic
from kpusim.machine import load_machine
from kpusim.processes import cores
from kpusim.recipes.row import Row
from kpusim.recipes.table import RECIPES
from kpusim.validate import prose
from kpusim.validate.markdown import table
from kpusim.validate.predict import predict
from kpusim.validate.scatter import draw_scatter
from kpusim.validate.score import Score, error_percent
from kpusim.validate.simulators import channels, matmuls
from kpusim.validate.truth import read_truth
from kpusim.validate.validation import DECODER_FAMILY, Held, Question, Validation

__all__ = ["page", "validated"]

ROOT = Path(__file__).parents[2]
DATA, DOCS = ROOT / "tests" / "data", ROOT / "docs"
MACHINE, SECOND = "h200", "a100-80gb"
PLOT = "trust-h200.svg"
LENGTHS = {"below 10 us": (0.0, 10.0), "10 to 100 us": (10.0, 100.0), "above 100 us": (100.0, float("inf"))}


def _op(family: str, **params: object) -> Row:
    return Row(family, params, "fp16", f"{family} {params}")


SQUARES, TALL = (512, 1024, 2048, 4096, 8192), ((1, 12288, 12288), (16, 12288, 12288), (2048, 12288, 12288))
WIDTHS = ((2048, 1024), (2048, 4096), (4096, 12288), (65536, 1024))
SECOND_ROWS = (
    *(_op("gemm", M=m, N=n, K=k) for m, n, k in (*((size, size, size) for size in SQUARES), *TALL)),
    *(_op("norm", kind=kind, rows=rows, dim=dim) for kind in ("softmax", "layernorm") for rows, dim in WIDTHS),
    *(_op("eltwise", kind="gelu", rows=rows, dim=dim) for rows, dim in WIDTHS),
)
"""Chosen: squares, a projection of a GPT-3 of 175 G parameters for 1, 16 and 2048 tokens, and rows of common widths."""


def validated(jobs: int) -> Validation:
    """The public rows on the machine that they were measured on."""
    return Question.of(read_truth(DATA / "h200_public.csv").rows, load_machine(MACHINE)).answer(jobs)


def page(found: Validation, jobs: int) -> str:
    """The page as Markdown. found: of `validated`."""
    sections = (
        _held_against(found), _scores(found), _calibration(DOCS / "calibration.json"), _origins(found), _worst(found),
        (prose.MODELLED,), _recipes(), _second_machine(jobs), _systolic(), _memory(jobs),
    )  # fmt: skip
    return "\n".join([prose.HEAD, *(line for section in sections for line in section)]).rstrip() + "\n"


def _held_against(found: Validation) -> Iterator[str]:
    """Which rows, and how they become predictions."""
    yield prose.HELD.format(rows=len(found.rows) + len(found.refused))


def _scores(found: Validation) -> Iterator[str]:
    """The scores by family, and the plot."""
    families = found.families
    decoders = families.pop(DECODER_FAMILY, None)
    rows = [*families.items(), ("**all operators**", found.all), *([("decoders", decoders)] if decoders else [])]
    yield prose.SCORES
    yield table(
        ("family", ">rows", ">mean", ">median", ">rank correlation"), [(name, *_cells(it)) for name, it in rows]
    )
    yield f"\n![Predicted over measured times, by family]({PLOT})\n"


def _cells(score: Score) -> tuple[str, ...]:
    correlation = "" if score.spearman is None else f"{score.spearman:.3f}"
    return str(score.rows), f"{score.mape_percent:.1f} %", f"{score.median_percent:.1f} %", correlation


def _calibration(file: Path) -> Iterator[str]:
    """The constants, and what they are worth. file: of `calibrate`."""
    known = json.loads(file.read_text(encoding="utf-8"))
    yield prose.CALIBRATION.format(count=len(known["constants"]))
    rows = [
        (", ".join(f"`{key}`" for key in each["keys"]), each["public"], each["why"], each["fitted"], each["file"])
        for each in known["constants"]
    ]
    yield table(("constant", ">public", "which is", ">fitted", ">in the file"), rows)
    yield prose.LEFT_OUT
    left, sizes = known["left_out"]["family"], known["left_out"]["size"]
    errors = known["without"], known["with"], left
    folds = [(fold, *(f"{each[fold]:.1f} %" if fold in each else "" for each in errors)) for fold in known["with"]]
    folds += [(fold, "", f"{known['by_size'][fold]:.1f} %", f"{error:.1f} %") for fold, error in sizes.items()]
    yield table(("rows", ">without", ">with", ">left out"), folds)
    yield ""


def _origins(found: Validation) -> Iterator[str]:
    """Errors with their sign, by family and by how long a row takes."""
    yield prose.ORIGINS
    rows = []
    for family in found.families:
        mine = [each for each in found.scored if each.measured.row.family == family]
        rows.append((family, *(_mean(mine, low, high) for low, high in LENGTHS.values())))
    yield table(("family", *(f">{name}" for name in LENGTHS)), rows)
    yield ""


def _mean(rows: Sequence[Held], low: float, high: float) -> str:
    errors = [
        error_percent(each.measured.us, each.us) for each in rows if each.measured.us and low <= each.measured.us < high
    ]
    return f"{sum(errors) / len(errors):+.1f} % ({len(errors)})" if errors else ""


def _worst(found: Validation) -> Iterator[str]:
    """The rows that are furthest off, and what their longest kernel waits for."""
    yield prose.WORST
    rows = []
    for each in found.worst:
        rows.append(
            (each.measured.row.family, _short(each.measured.row), each.measured.row.dtype, each.prediction.recipe,
             f"{each.measured.us:,.1f}", f"{each.us:,.1f}", f"{each.error_percent:+.1f} %", each.spent())
        )  # fmt: skip
    columns = ("family", "row", "dtype", "recipe", ">measured us", ">predicted us", ">error", "longest kernel")
    yield table(columns, rows)
    yield ""


def _short(row: Row) -> str:
    return " ".join(f"{name}={value}" for name, value in row.params.items())


def _recipes() -> Iterator[str]:
    """What rows run as."""
    yield prose.RECIPES
    rows = [(each.family, f"`{each.name}`", each.about, each.reason, each.source) for each in RECIPES]
    yield table(("family", "recipe", "runs as", "because", "source"), rows)
    yield ""


def _second_machine(jobs: int) -> Iterator[str]:
    """Predictions on a machine that nothing was fitted to."""
    machine = load_machine(SECOND)
    yield prose.SECOND.format(name=SECOND, description=machine.description)
    rows = [
        (each.recipe, _short(row), f"{each.us:,.1f}")
        for row, each in zip(SECOND_ROWS, predict(SECOND_ROWS, machine, jobs), strict=True)
    ]
    yield table(("recipe", "row", ">us"), rows)
    yield ""


def _systolic() -> Iterator[str]:
    """Cycles of one matmul, against closed forms and what SCALE-Sim reports."""
    yield prose.SYSTOLIC
    rows = [
        ("x".join(map(str, each.array)), " x ".join(map(str, each.sizes)), each.dataflow, f"{each.simulated:,}",
         f"{each.closed:,}", "" if each.reported is None else f"{each.reported:,}")
        for each in matmuls(DATA / "scale_sim.csv")
    ]  # fmt: skip
    yield table(("array", "M x N x K", "dataflow", ">simulated", ">closed form", ">SCALE-Sim reports"), rows)
    yield ""


def _memory(jobs: int) -> Iterator[str]:
    """Cycles of one channel of DRAM, against Ramulator 2's."""
    yield prose.MEMORY
    rows = []
    for each in channels(DATA / "ramulator2.csv", jobs):
        given = each.row
        cycles = int(given["dram_cycles"])
        rows.append(
            (given["dram"], given["pattern"], given["mapper"], given["queue_depth"], f"{each.gb_per_s:.2f}",
             f"{each.cycles:,}", f"{cycles:,}", f"{each.cycles - cycles:+,}" if each.cycles - cycles else "0")
        )  # fmt: skip
    columns = ("DRAM", "pattern", "mapper", ">queue", ">GB/s", ">cycles here", ">Ramulator's", ">difference")
    yield table(columns, rows)
    yield f"\n{prose.LEVEL}"


def main() -> None:
    """Writes the page and its plot."""
    jobs = cores()
    found = validated(jobs)
    for error in found.refused.values():
        print(f"not predicted: {error}", file=sys.stderr)
    with atomic_path(DOCS / PLOT) as part:
        draw_scatter(found, part, ".svg")
    write_text_atomic(DOCS / "trust.md", page(found, jobs))


if __name__ == "__main__":
    main()
