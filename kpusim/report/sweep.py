"""A sweep of HBM as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpusim.machine.quantities import SIZE, text
from kpusim.report.picture import COLOURS, picture
from kpusim.streams.requests import PATTERNS
from kpusim.streams.sweep import ASKED, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_sweep"]

MARKS = ("o", "s", "^", "D")


def draw_sweep(sweep: Sweep, path: Path, suffix: str) -> None:
    """Draws latency against load, and bandwidth against the size of accesses, to `path`, a picture as of `suffix`.

    Lines are the simulator's own level; marks the reference, where it was asked. The same sweep gives the same bytes.
    """
    with picture(path, suffix, (9, 3.8)) as figure:
        figure.suptitle(_title(sweep), parse_math=False)
        left, right = figure.subplots(1, 2)
        _latency(left, sweep)
        _bandwidth(right, sweep)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)


def _title(sweep: Sweep) -> str:
    known = any(point.reference_ns is not None for point in sweep.latency)
    return f"HBM of {sweep.machine}" + (": the simulator's level (lines) and the reference (marks)" if known else "")


def _latency(axes: Axes, sweep: Sweep) -> None:
    for pattern, look in zip(PATTERNS, _looks(), strict=True):
        points = [point for point in sweep.latency if point.pattern == pattern]
        _line(axes, pattern, look, [(each.gb_per_s, each.latency_ns, each.reference_ns) for each in points])
    axes.axvline(sweep.attainable_gb_per_s, color="grey", linestyle="--", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("load, GB/s (dashed: the peak less refresh)")
    axes.set_ylabel(f"mean read latency of {text(ASKED, SIZE, 1)}, ns")


def _bandwidth(axes: Axes, sweep: Sweep) -> None:
    for pattern, look in zip(PATTERNS, _looks(), strict=True):
        points = [point for point in sweep.bandwidth if point.pattern == pattern]
        _line(axes, pattern, look, [(each.access_bytes, each.gb_per_s, each.reference_gb_per_s) for each in points])
    axes.axhline(sweep.attainable_gb_per_s, color="grey", linestyle="--", linewidth=1)
    sizes = sorted({point.access_bytes for point in sweep.bandwidth})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [text(size, SIZE, 1) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("contiguous bytes of an access")
    axes.set_ylabel("bandwidth reached, GB/s")


def _looks() -> list[dict[str, Any]]:
    return [{"color": colour, "marker": mark} for colour, mark in zip(COLOURS, MARKS, strict=False)]


def _line(axes: Axes, label: str, look: dict[str, Any], points: Sequence[tuple[float, float, float | None]]) -> None:
    """Points (x, y, y of the reference) of a pattern; where a reference was asked for, only it has marks."""
    xs, ys, references = zip(*points, strict=True)
    known = [(x, y) for x, y in zip(xs, references, strict=True) if y is not None]
    line = {**look, "marker": "None"} if known else {**look, "markersize": 3}
    axes.plot(xs, ys, linewidth=1.5, label=label, **line)
    if known:
        axes.plot(*zip(*known, strict=True), linestyle="None", markersize=5, **look)
