"""Predictions against measurements as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kpusim.report.picture import COLOURS, picture
from kpusim.validate.validation import Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_scatter"]

BAND = 0.1  # on either side of the diagonal
ROOM = 2.0  # from the least and the greatest time to the edges: a factor
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def draw_scatter(found: Validation, path: Path, suffix: str) -> None:
    """Draws predicted over measured microseconds, a mark a row, to `path`, a picture as of `suffix`.

    The line is where both are equal, the band 10 % around it. The same rows give the same bytes.
    """
    with picture(path, suffix, (6.4, 6)) as figure:
        axes = figure.subplots()
        axes.set_title(f"{found.machine}: predicted and measured", parse_math=False)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured, us")
        axes.set_ylabel("predicted, us (band: 10 % off)")
        _rows(axes, found)


def _rows(axes: Axes, found: Validation) -> None:
    points = [(each.measured.row.family, each.measured.us, each.us) for each in found.scored if each.measured.us]
    if not points:
        return
    times = [time for _, measured, predicted in points for time in (measured, predicted)]
    ends = [min(times) / ROOM, max(times) * ROOM]
    axes.plot(ends, ends, color="grey", linewidth=1)
    low, high = ([end * (1 + side) for end in ends] for side in (-BAND, BAND))
    axes.fill_between(ends, low, high, color="grey", alpha=0.15, linewidth=0)
    for number, (family, score) in enumerate(found.families.items()):
        xs, ys = zip(*((x, y) for name, x, y in points if name == family), strict=True)
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        label = f"{family}: {score.mape_percent:.1f} %, {score.rows} row{'s' * (score.rows > 1)}"
        axes.plot(xs, ys, linestyle="None", marker=mark, markersize=4, alpha=0.8, color=colour, label=label)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.legend(title="mean absolute error", loc="upper left", frameon=False)
