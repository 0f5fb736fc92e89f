"""Pictures: one look for all, and the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kpusim.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "check_picture", "picture"]

COLOURS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Chosen: Okabe and Ito's, told apart by the colour-blind, too."""

SUFFIXES = (".svg", ".png", ".pdf")
STYLE = {
    "svg.hashsalt": "kpusim",  # the same input, the same bytes
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
UNDATED = {".svg": {"Date": None}, ".png": {"Software": None}, ".pdf": {"CreationDate": None}}


def check_picture(path: Path, option: str) -> None:
    """Raises UserError for a file that is no kind of picture by its end."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError("not a kind of picture", where=f"{option} {path}", found=path.suffix, allowed=SUFFIXES)


@contextmanager
def picture(path: Path, suffix: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure to draw on, of so many inches, which is written to `path` as the kind of `suffix` at the end."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(path, format=suffix[1:], dpi=150, metadata=UNDATED[suffix])
