"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a column whose name begins with ">" is aligned right."""
    names = [name.removeprefix(">") for name in columns]
    dashes = ["---:" if name.startswith(">") else "---" for name in columns]
    return "\n".join(_line(cells) for cells in (names, dashes, *rows))


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
