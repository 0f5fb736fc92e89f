"""TOML files that remember where each key stands, so that a message can point at its line."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from kpusim.errors import UserError

__all__ = ["TomlFile", "parse_toml", "read_text", "read_toml"]

Key = str | int  # an int counts the elements of an array of tables

_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_KEY = rf"\s*((?:{_PART.pattern})(?:\s*\.\s*(?:{_PART.pattern}))*)\s*"
_HEADER = re.compile(rf"\s*(\[\[?){_KEY}\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"{_KEY}=")


@frozen
class TomlFile:
    """A TOML file: the name that messages give it, its text, and its content."""

    name: str
    text: str
    table: dict[str, Any]

    def where(self, path: Sequence[Key]) -> str:
        """The place of a key, such as "my.toml:7: [hbm] stacks"; for a missing key, the line of its table."""
        return f"{self.line(path)}: {key_text(path)}" if path else self.line(path)

    def line(self, path: Sequence[Key]) -> str:
        """The line of a key, such as "my.toml:7"; for a missing key, that of its table."""
        found = [(len(key), -line) for line, key in _keys(self.text) if tuple(path[: len(key)]) == key]
        return f"{self.name}:{-max(found)[1]}" if found else self.name


def key_text(path: Sequence[Key]) -> str:
    """A key as messages show it: "clock", "[hbm] stacks", "[operators.1] name"."""
    *tables, last = map(str, path)
    return f"[{'.'.join(tables)}] {last}" if tables else last


def _keys(text: str) -> Iterator[tuple[int, tuple[Key, ...]]]:
    """Line number and full path of each table header and each assignment."""
    counts: dict[tuple[Key, ...], int] = {}
    table: tuple[Key, ...] = ()
    for line, content in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(content):
            table = _inside_arrays(_split(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield line, table
        elif assignment := _ASSIGNMENT.match(content):
            yield line, (*table, *_split(assignment[1]))


def _split(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(key))


def _inside_arrays(key: tuple[str, ...], counts: dict[tuple[Key, ...], int]) -> tuple[Key, ...]:
    """The path of table `key`, with the current index after each part (but the last) that is an array."""
    path: tuple[Key, ...] = ()
    for number, part in enumerate(key, start=1):
        path = (*path, part)
        if path in counts and number < len(key):
            path = (*path, counts[path])
    return path


def parse_toml(text: str, name: str) -> TomlFile:
    """TOML text, called `name` in messages. Raises UserError with the line where the syntax is broken."""
    try:
        return TomlFile(name, text, tomllib.loads(text))
    except RecursionError as error:
        raise UserError("not valid TOML: too deeply nested", where=name) from error
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", place)
        where = f"{name}:{line[1]}" if line else name
        raise UserError(f"not valid TOML: {problem[:1].lower()}{problem[1:]}", where=where) from error


def read_toml(path: Path) -> TomlFile:
    """Read a TOML file. Raises UserError if it is missing, unreadable, not UTF-8 or not TOML."""
    return parse_toml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError if it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError("not a text file in UTF-8", where=str(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
