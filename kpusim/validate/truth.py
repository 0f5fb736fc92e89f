"""Files of measured rows (CSV): read, checked, and written again with what was predicted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import IO, NoReturn

from attrs import frozen

from kpusim.errors import UserError, nearest
from kpusim.isa.tables import DTYPE_BITS
from kpusim.recipes.row import Row
from kpusim.recipes.table import FAMILIES

__all__ = ["PREDICTED", "Measured", "Truth", "read_truth", "write_predictions"]

NEEDED = ("family", "params", "dtype")
SPELT = 0.75  # share of letters in common; chosen: "overhead" is meant for overhead_us, "launches" is not
US, OVERHEAD, PREDICTED = "us", "overhead_us", "predicted_us"
DTYPES = ("fp8", *DTYPE_BITS)  # files of measurements say fp8 without its kind

Cells = Mapping[str, str]


@frozen
class Measured:
    """A row of a file, at `line`. us: microseconds measured, or None. overhead_us: what a prediction does not know."""

    line: int
    row: Row
    us: float | None
    overhead_us: float
    cells: tuple[str, ...]


@frozen
class Truth:
    """A file of measured rows. columns: as in its first line, those that nobody here knows included."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Measured, ...]

    @property
    def notes(self) -> list[str]:
        """What is to be said of columns that are passed on but look like those that are read."""
        read = [name for name in (US, OVERHEAD) if name not in self.columns]
        near = ((column, _meant(column, read)) for column in self.columns)
        return [f"{self.path}: column {column!r} is not read; did you mean {name!r}?" for column, name in near if name]


def read_truth(path: Path) -> Truth:
    """The rows of a CSV file with the columns family, params (JSON), dtype and, where measured, us.

    Raises UserError, with file, line and column, for whatever is not such a file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            (line, columns), *records = _records(path, file)
        _check_columns(f"{path}:{line}", columns)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError("is no text in UTF-8", where=str(path), allowed="a CSV file") from error
    rows = tuple(_measured(path, line, columns, cells) for line, cells in records)
    if not rows:
        raise UserError("has a header, but no rows", where=str(path))
    return Truth(path, columns, rows)


def write_predictions(truth: Truth, predicted: Sequence[float | None], file: IO[str]) -> None:
    """Writes the rows with their columns in order and, behind them, microseconds predicted; empty for None.

    A column of that name that was there already is left out.
    """
    writer = csv.writer(file, lineterminator="\n")
    kept = [place for place, name in enumerate(truth.columns) if name != PREDICTED]
    writer.writerow([*(truth.columns[place] for place in kept), PREDICTED])
    for each, us in zip(truth.rows, predicted, strict=True):
        writer.writerow([*(each.cells[place] for place in kept), "" if us is None else f"{us:.4f}"])


def _records(path: Path, file: IO[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Cells of each record that is not empty, with its first line. Raises UserError for a file without any."""
    reader, line, seen = csv.reader(file, strict=True), 1, False
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                seen = True
                yield line, tuple(cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"is no CSV: {error}", where=f"{path}:{line}") from error
    if not seen:
        raise UserError("is empty", where=str(path), allowed=f"a header with {', '.join((*NEEDED, US))}, and rows")


def _meant(column: str, names: Sequence[str]) -> str | None:
    """The name that a column is spelt almost like: other letter case or signs, or, of a long one, another letter."""
    bare = "".join(filter(str.isalnum, column)).lower()
    for name in names:
        plain = name.replace("_", "")
        if bare == plain or (len(plain) > 5 and SequenceMatcher(None, bare, plain).ratio() > SPELT):
            return name
    return None


def _check_columns(where: str, columns: Sequence[str]) -> None:
    for name in NEEDED:
        if name not in columns:
            near = nearest(name, (column for column in columns if column not in NEEDED))
            hint = f"is {near!r} meant for it?" if near else "the first line names the columns, with commas between"
            raise UserError(f"no column {name!r}", where=where, found=", ".join(columns), hint=hint)
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise UserError("there are two columns of one name", where=where, found=twice)


def _measured(path: Path, line: int, columns: Sequence[str], cells: tuple[str, ...]) -> Measured:
    where = f"{path}:{line}"
    if len(cells) > len(columns):
        raise UserError("more cells than columns", where=where, found=len(cells), allowed=f"at most {len(columns)}")
    filled = (*cells, *[""] * (len(columns) - len(cells)))
    named = {name: cell.strip() for name, cell in zip(columns, filled, strict=True)}
    for name in NEEDED:
        if not named[name]:
            raise UserError("empty", where=f"{where}: {name}")
    for name, allowed in ("family", FAMILIES), ("dtype", DTYPES):
        if named[name] not in allowed:
            raise UserError(f"unknown {name}", where=f"{where}: {name}", found=named[name], allowed=allowed)
    row = Row(named["family"], _params(f"{where}: params", named["params"]), named["dtype"], where)
    us = _number(where, US, named) if named.get(US) else None
    if us == 0:
        raise UserError("cannot be", where=f"{where}: {US}", found=named[US], allowed="more than 0")
    return Measured(line, row, us, _number(where, OVERHEAD, named) if named.get(OVERHEAD) else 0.0, filled)


def _number(where: str, name: str, cells: Cells) -> float:
    """Microseconds, 0 or more. Raises UserError."""
    try:
        value = float(cells[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError("not a time", where=f"{where}: {name}", found=cells[name], allowed="microseconds, such as 12.5")
    return value


def _params(where: str, text: str) -> dict[str, object]:
    """An object of JSON. Raises UserError."""

    def refuse(constant: str) -> NoReturn:
        raise UserError("not a parameter", where=where, found=constant, allowed="numbers and words")

    allowed = 'an object such as {"M": 256, "N": 256, "K": 256}'
    try:
        found = json.loads(text, parse_constant=refuse, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"not JSON ({reason})", where=where, found=text, allowed=allowed) from error
    if not isinstance(found, dict):
        raise UserError("not JSON's object", where=where, found=text, allowed=allowed)
    return found


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON. Raises ValueError for a name that stands there twice."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found
