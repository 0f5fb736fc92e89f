"""Tables of numbers and words on the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["print_table"]

_NUMBER = re.compile(r"[+-]?[\d,.]*(%| [kMGT]?B)?")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as wide as it needs; numbers are aligned right, with thousands separated."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        numeric = all(_NUMBER.fullmatch(row[position]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    console = Console()
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
