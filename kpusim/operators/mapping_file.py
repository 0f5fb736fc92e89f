"""Mappings of operators as TOML files, one key a field of the family's `mapping_type`, and as text of one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from kpusim.errors import UserError
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered, Operator, parts_of
from kpusim.operators.registry import text_of
from kpusim.structured import BadValue, exactly, telling_error
from kpusim.tomlfile import Key, TomlFile, parse_toml, read_toml

__all__ = ["load_mapping", "lower_as", "mapping_text", "mapping_toml", "parse_mapping"]


_NUMBER = re.compile(r"-?\d+")


def lower_as(
    operator: Operator, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Any = None,
    fold_instructions: bool = False,
) -> Lowered:  # fmt: skip
    """The program of an operator, lowered as `mapping` says: a value of its `mapping_type`, a file, or None.

    Raises UserError as `load_mapping` and `Operator.lower` do, with the name of the file, and for a composite.
    """
    if parts_of(operator):
        texts = " or ".join(text_of(part.operator) for part in parts_of(operator))
        raise UserError("several programs", where=operator.family, allowed=f"one of its parts: {texts}")
    if not isinstance(mapping, str | Path):
        return operator.lower(machine, layouts, mapping=mapping, fold_instructions=fold_instructions)
    loaded = load_mapping(mapping, operator)
    try:
        return operator.lower(machine, layouts, mapping=loaded, fold_instructions=fold_instructions)
    except UserError as error:
        raise UserError(str(error), where=str(mapping)) from error


def load_mapping(path: str | Path, operator: Operator) -> Any:
    """The mapping in a file, a value of the operator's `mapping_type`.

    Raises UserError, naming file, line and key, for a file that is missing, misspelt or describes something else.
    """
    return _structured(lambda: read_toml(Path(path)), str(path), operator)


def parse_mapping(text: str, operator: Operator, where: str) -> Any:
    """The mapping that a line such as "block=64,kept=a" tells. Raises UserError as `load_mapping`, with `where`."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    lines = (f"{name.strip()} = {value if _NUMBER.fullmatch(value) else json.dumps(value)}" for name, _, value in pairs)
    return _structured(lambda: parse_toml("\n".join(lines), where), where, operator)


def mapping_text(mapping: Any) -> str:
    """The line that `parse_mapping` reads back as an equal mapping."""
    return ",".join(f"{name}={value}" for name, value in attrs.asdict(mapping).items())


def mapping_toml(mapping: Any, title: str) -> str:
    """TOML text that `load_mapping` reads back as an equal mapping; `title` is told in a comment."""
    shown = "".join(letter if letter.isprintable() else " " for letter in title)
    return f"# {shown}\n" + "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in attrs.asdict(mapping).items()
    )


def _structured(read: Callable[[], TomlFile], where: str, operator: Operator) -> Any:
    kind = operator.mapping_type
    if kind is None:
        raise UserError(f"there is no mapping of a {operator.family} to force", where=where)
    file = read()
    try:
        return _converter().structure(file.table, kind)
    except cattrs.ClassValidationError as group:
        key, error = telling_error(group)
        raise _user_error(file, key, error, kind) from None


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def table_hook(cls: type) -> Callable[[Any, Any], Any]:
        return cast(Callable[[Any, Any], Any], make_dict_structure_fn(cls, converter))

    converter.register_structure_hook_factory(attrs.has, table_hook)
    for kind in (int, str):
        converter.register_structure_hook(kind, exactly)
    return converter


def _user_error(file: TomlFile, path: tuple[Key, ...], error: BaseException, kind: type) -> UserError:
    """The message for one error of structuring."""
    keys = [attribute.name for attribute in attrs.fields(kind)]
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        extra = next(key for key in file.table if key in error.extra_fields)
        return UserError("unknown key", where=file.where((extra,)), found=extra, allowed=keys)
    if isinstance(error, KeyError):
        needed = [attribute.name for attribute in attrs.fields(kind) if attribute.default is attrs.NOTHING]
        return UserError("missing", where=file.where(path), allowed=f"a mapping has {', '.join(needed)}")
    assert isinstance(error, BadValue)
    return UserError(error.problem, where=file.where(path), found=file.table[str(path[0])], allowed=error.allowed)
