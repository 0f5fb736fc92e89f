"""Reports as text: tables as wide as they need, and one line an operator about its bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpusim.operators import Lowered
from kpusim.report.rows import Row, Total, rows_of, total_of
from kpusim.simulate.workload import PlanRun

__all__ = ["bytes_text", "number", "print_choices", "print_run", "print_table", "print_tried", "verdict_text"]

COLUMNS = (
    "operator", "shape", "cycles", "us", "TFLOP/s", "matrix", "HBM bytes", "x bound", "GB/s",
    "roof", "roof cycles", "x roof", "top stall",
)  # fmt: skip
TRIED_COLUMNS = 100  # of a terminal in which the table of mappings is readable
MAPPING_COLUMNS = 42  # of these


def print_run(run: PlanRun, console: Console | None = None) -> None:
    """Print a run: a row an operator, the total, and what bounds each operator."""
    console = console or Console(highlight=False)
    rows, total = rows_of(run), total_of(run)
    table = _table(run.plan.name)
    for name in COLUMNS:
        left = name in ("operator", "shape", "roof", "top stall")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    table.add_section()
    table.add_row(*map(Text, _total_cells(total)))
    print_wide(table, console)
    for row in rows:
        console.print(Text(f"{row.operator} is bound by {row.bound.by} because {row.bound.because}."), soft_wrap=True)
        if row.equal_shares > 1:
            text = f"{row.operator}: one of {row.equal_shares} equal shares was simulated; --whole simulates all of it."
            console.print(Text(text), soft_wrap=True)
        if "shared.hits" in row.counters:
            console.print(Text(_cache(row)), soft_wrap=True)
    console.print(Text(_memory(total)), soft_wrap=True)


def _cells(row: Row) -> Sequence[str]:
    stall = row.top_stall
    return (
        row.operator + f" x{row.count}" * (row.count > 1),
        " ".join(f"{name}={size}" for name, size in row.shape.items()),
        f"{row.cycles:,}",
        f"{row.microseconds:,.2f}",
        number(row.tflops),
        f"{row.matrix_utilisation:.1%}",
        bytes_text(row.hbm_bytes),
        f"{row.traffic_over_bound:.2f}",
        number(row.hbm_gbytes_per_second),
        row.roof.split()[0],
        f"{row.roof_cycles:,}",
        f"{row.distance:.2f}",
        f"{stall.unit} for {stall.cause} {stall.share:.0%}" if stall.unit else "none",
    )


def _total_cells(total: Total) -> Sequence[str]:
    return (
        "total", f"{total.launches} launch{'es' * (total.launches != 1)}", f"{total.cycles:,}",
        f"{total.microseconds:,.2f}", number(total.tflops), f"{total.matrix_utilisation:.1%}",
        bytes_text(total.hbm_read_bytes + total.hbm_write_bytes), f"{total.traffic_over_bound:.2f}",
        number(total.hbm_gbytes_per_second),
        "", f"{total.roof_cycles:,}", f"{total.distance:.2f}", "",
    )  # fmt: skip


def number(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def bytes_text(size: int) -> str:
    """Bytes with a prefix: "369 MB"."""
    scaled, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if scaled < 1000:
            break
        scaled, unit = scaled / 1000, larger
    return f"{number(scaled)} {unit}"


def _memory(total: Total) -> str:
    padded, capacity = total.peak_hbm_padded_bytes, total.hbm_capacity_bytes
    return (
        f"Peak of HBM: {total.peak_hbm_bytes:,} bytes, {padded:,} with padding, {padded / capacity:.2%} of "
        f"{capacity:,}.{_buffer(total)} Launches and barriers cost {total.gap_cycles:,} cycles."
    )


def _buffer(total: Total) -> str:
    """What is in the shared buffer."""
    if not total.shared_tensors:
        return ""
    return f" In the shared buffer: {', '.join(total.shared_tensors)}; {total.peak_shared_bytes:,} bytes at its peak."


def _cache(row: Row) -> str:
    """What the shared cache does for an operator."""
    hits, misses = row.counters["shared.hits"], row.counters["shared.misses"]
    written_back = bytes_text(row.counters["shared.writeback_bytes"])
    rate = f"{hits / (hits + misses):.1%} of {hits + misses:,}" if hits + misses else "none"
    return f"{row.operator} finds {rate} lines in the shared cache, which writes back {written_back}."


def print_choices(lowered: Lowered, title: str, *, to_stderr: bool = False) -> None:
    """Print why a program looks as it does."""
    console = Console(highlight=False, stderr=to_stderr)
    print_table(f"How {title} is lowered", ("what", "value", "why"), lowered.choices, console)


def print_tried(lowered: Lowered, title: str, *, to_stderr: bool = False) -> None:
    """Print which mappings were weighed, in 100 columns where the terminal has no more."""
    if not lowered.tried:
        return
    table = _table(f"Mappings tried for {title}; cycles are estimates")
    for name in ("mapping", "cycles", "longest", "HBM bytes", "why"):
        justify: Literal["left", "right"] = "right" if name in ("cycles", "HBM bytes") else "left"
        table.add_column(name, justify=justify, no_wrap=name != "why")
    for each in lowered.tried:
        cells = _folded(each.mapping), f"{each.cycles:,}", each.longest, bytes_text(each.hbm_bytes), each.why
        table.add_row(*map(Text, cells))
    console = Console(highlight=False, stderr=to_stderr)
    console.width = max(console.width, TRIED_COLUMNS)
    console.print(table)


def _folded(text: str) -> str:
    """`text` in lines of MAPPING_COLUMNS, broken at its commas only."""
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) <= MAPPING_COLUMNS or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(part)
    return ",\n".join(lines)


def verdict_text(found: Mapping[str, Any]) -> str:
    """A Verification, as a mapping, in one line."""
    verdict = found["verdict"]
    agrees = "agrees with" if verdict["passed"] else "DIFFERS FROM"
    return (
        f"{found['operator']}: {found['output']} {agrees} its float64 reference: the greatest error is "
        f"{verdict['max_abs_error']:.3g} (relative {verdict['max_rel_error']:.3g}); at {list(verdict['worst'])}, "
        f"nearest to its tolerance, {verdict['tolerance']:.3g} is allowed: {verdict['tolerance_origin']}"
    )


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], console: Console | None = None
) -> None:
    """Print a table of text as wide as it needs."""
    table = _table(title)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    print_wide(table, console or Console(highlight=False))


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def print_wide(table: Table, console: Console) -> None:
    """Print a table without folding its cells: the console becomes as wide as it needs."""
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
