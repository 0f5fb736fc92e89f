"""Golden numbers written into a suite, whose comments and order stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from attrs import frozen
from tomlkit.items import AoT, Comment, Item, Table, Whitespace

from kpusim.errors import UserError
from kpusim.files import write_text_atomic
from kpusim.golden.compare import changes
from kpusim.golden.suite import NUMBERS, Case, Measured
from kpusim.tomlfile import read_toml

__all__ = ["Recorded", "record"]


@frozen
class Recorded:
    """A suite with new numbers: its text, names of the cases that moved, and of those that are new to it."""

    path: Path
    text: str
    moved: tuple[str, ...]
    added: tuple[str, ...]

    def write(self) -> None:
        """Write the file, whole or not at all; an equal one stays untouched. Raises UserError as `atomic_path`."""
        if not self.path.exists() or read_toml(self.path).text != self.text:
            write_text_atomic(self.path, self.text)


def record(path: Path, measured: Sequence[tuple[Case, Measured]], reason: str = "", header: str = "") -> Recorded:
    """The suite at `path` with what these cases take; those that are not there yet are appended. Writes nothing.

    reason: why numbers moved; it goes into the history, with them. header: comment of a file that is made.
    Raises UserError where numbers moved without a reason.
    """
    text = read_toml(path).text if path.exists() else "".join(f"# {line}\n" for line in header.splitlines())
    document = tomlkit.parse(text if text.endswith("\n") else f"{text}\n")
    moves = [(case, changes(case.golden, now)) for case, now in measured]
    moved = tuple(case.name for case, found in moves if found and case.golden is not None)
    added = tuple(case.name for case, _ in measured if case.golden is None)
    if moved and not reason:
        raise UserError(f"numbers of {', '.join(moved)} moved: say why", where=str(path), hint='--reason "..."')
    cases = _array(document, "cases", path)
    tables = {str(table["name"]): table for table in cases}
    for case, now in measured:
        if case.name not in tables:
            tables[case.name] = _append(cases, case.table(), list(document)[-1] == "cases")
        _set(tables[case.name], now.table())
    if reason and (moved or added):
        lines = [f"{case.name}: {_short(case, found)}" for case, found in moves if found]
        _append(_array(document, "history", path), {"reason": reason, "changes": lines})
    return Recorded(path, tomlkit.dumps(document), moved, added)


def _short(case: Case, found: Sequence[Any]) -> str:
    return "added" if case.golden is None else "; ".join(change.short for change in found)


def _array(document: tomlkit.TOMLDocument, key: str, path: Path) -> AoT:
    """The array of tables called `key`, made at the end where there is none."""
    if key not in document:
        if tomlkit.dumps(document)[-2:] not in ("", "\n\n"):
            document.add(tomlkit.nl())
        document[key] = tomlkit.aot()
    found = document[key]
    if not isinstance(found, AoT):
        raise UserError(f"cannot be written: {key} has to be written as tables [[{key}]]", where=str(path))
    return found


def _append(array: AoT, values: Mapping[str, Any], last: bool = True) -> Table:
    """Append a table with a blank line before it, and one behind it where it is not `last` in the file."""
    table = tomlkit.table()
    for key, value in values.items():
        table[key] = _item(value)
    if not last:
        table.add(tomlkit.nl())
    if len(array) and array[-1].value.body[-1][0] is not None:
        array[-1].add(tomlkit.nl())
    array.append(table)
    appended: Table = array[-1]
    return appended


def _set(table: Table, numbers: Mapping[str, Any]) -> None:
    """Give a case its numbers. Keys that it did not have stand before the blank lines and comments at its end."""
    for key in NUMBERS:
        if key in table and key not in numbers:
            table.remove(key)
    trailing = _take_trailing(table)
    for key, value in numbers.items():
        if key not in table or table[key] != value:
            table[key] = _item(value)
    for item in trailing:
        table.add(item)


def _take_trailing(table: Table) -> list[Comment | Whitespace]:
    """Take away the blank lines and comments behind a table's last key: they belong to what follows."""
    items: list[Comment | Whitespace] = []
    body = table.value.body
    while body and body[-1][0] is None:
        item = body.pop()[1]
        if isinstance(item, Comment | Whitespace):  # else the place of a key that was removed
            items.insert(0, item)
    return items


def _item(value: Any) -> Item:
    """A value on one line; the tables and texts of an array have a line each."""
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, entry in value.items():
            table[key] = _item(entry)
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        array.extend(_item(entry) for entry in value)
        array.multiline(True)
        return array
    item: Item = tomlkit.item(value)
    return item
