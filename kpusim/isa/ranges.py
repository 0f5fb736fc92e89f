"""What is known of a program's numbers before it runs: the closed range of every name at every place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kpusim.isa.expr import Const, Expr, bounds
from kpusim.isa.program import Buffer, Loop, Range, Section, View

__all__ = ["Ranges", "inner_ranges", "section_ranges", "view_ranges"]

Ranges = Mapping[str, tuple[int, int]]
Tables = Mapping[str, Sequence[int]]


def section_ranges(section: Section, tables: Tables) -> dict[str, tuple[int, int]]:
    """The ranges of `tile` (or `engine`) and of the section's lets."""
    ranges = {section.place_name: (section.places[0], section.places[-1])}
    for name, value in section.lets:
        ranges[name] = bounds(value, ranges, tables)
    return ranges


def inner_ranges(loop: Loop, ranges: Ranges, tables: Tables) -> dict[str, tuple[int, int]]:
    """`ranges` with the loop's counter (as if the loop ran, where it is not sure to)."""
    low, high = bounds(loop.low, ranges, tables)[0], bounds(loop.high, ranges, tables)[1] - 1
    return {**ranges, loop.counter: (low, max(low, high))}


def view_ranges(view: View, buffer: Buffer) -> list[tuple[Expr, Expr]]:
    """(start, length) of every dimension of a view, as expressions."""
    whole = (Range(),) * len(buffer.shape)
    return [
        (item.start, Const(extent) if item.length is None else item.length)
        for item, extent in zip(view.ranges or whole, buffer.shape, strict=True)
    ]
