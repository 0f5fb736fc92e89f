"""Workload files: TOML to `Workload`, with messages that point at the line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import cattrs
from attrs import frozen
from cattrs.gen import make_dict_structure_fn

from kpusim.data import data_dir
from kpusim.errors import UserError
from kpusim.isa.layout import Layout
from kpusim.isa.tables import DTYPE_BITS
from kpusim.plan.spec import OperatorSpec, RepeatSpec, Size, TensorName, Workload
from kpusim.structured import BadValue, array_hook, at, choice, exactly, expect, has_origin, telling_error
from kpusim.tomlfile import Key, TomlFile, parse_toml, read_toml

__all__ = ["WorkloadFile", "load_workload", "parse_workload", "workload_names"]

_LAYOUT = re.compile(r"row-major(?:\s+pitch\s+(\d{1,18}))?|blocked\s*\[\s*(\d{1,18})\s*,\s*(\d{1,18})\s*\]")
_LAYOUTS = '"row-major", "row-major pitch 4160" or "blocked [32, 32]"'


@frozen
class WorkloadFile:
    """A workload and the file it came from."""

    workload: Workload
    file: TomlFile

    def where(self, *path: Key) -> str:
        """The place of a key in the file, for messages."""
        return self.file.where(path)


def workload_names() -> tuple[str, ...]:
    """Names of the workloads that come with kpusim, sorted."""
    return tuple(sorted(path.stem for path in data_dir("workloads").glob("*.toml")))


def load_workload(name_or_path: str | Path) -> WorkloadFile:
    """The workload in the TOML file at that path, or the one of that name that comes with kpusim.

    Raises UserError, naming file, line and key, for a file that is missing, misspelt or contradicts itself.
    """
    path = Path(name_or_path)
    shipped = data_dir("workloads") / f"{path.stem}.toml"
    if not path.exists() and shipped.exists():  # also "workloads/NAME.toml", wherever one is
        path = shipped
    if path.suffix != ".toml" and not path.exists():
        options = [*workload_names(), "a path to a .toml file"]
        raise UserError("unknown workload", found=str(name_or_path), allowed=options)
    return _structure(read_toml(path))


def parse_workload(toml: str, name: str = "workload") -> WorkloadFile:
    """The workload that TOML text describes; `name` stands for the file in messages. Raises as `load_workload`."""
    return _structure(parse_toml(toml, name))


def _structure(file: TomlFile) -> WorkloadFile:
    try:
        workload: Workload = _converter().structure(file.table, Workload)
    except cattrs.ClassValidationError as group:
        path, error = telling_error(group)
        raise _user_error(file, path, error) from None
    loaded = WorkloadFile(workload, file)
    _check(loaded)
    return loaded


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def table_hook(cls: type) -> Callable[[Any, Any], Any]:
        structure: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter)

        def from_table(found: object, kind: Any) -> object:
            return structure(expect(found, dict, f"a table with {', '.join(_keys(cls))}"), kind)

        return from_table

    def entry(found: object, _: Any) -> object:
        repeats = isinstance(found, dict) and "repeat" in found
        return converter.structure(found, RepeatSpec if repeats else OperatorSpec)

    converter.register_structure_hook_factory(attrs.has, table_hook)
    converter.register_structure_hook_func(lambda kind: kind == OperatorSpec | RepeatSpec, entry)
    converter.register_structure_hook(Layout, _layout)
    converter.register_structure_hook_func(has_origin(tuple), array_hook(converter))
    converter.register_structure_hook_func(has_origin(Annotated), _annotated)
    converter.register_structure_hook_func(has_origin(Literal), choice)
    converter.register_structure_hook_func(lambda kind: kind in (str, int), exactly)
    return converter


def _keys(cls: type) -> list[str]:
    return [attribute.name for attribute in attrs.fields(cls)]


def _annotated(found: object, kind: Any) -> object:
    if kind == TensorName:
        return exactly(found, str)
    if kind == Size:
        if type(found) not in (int, str):
            raise BadValue("wrong type", "a whole number or an expression in quotes")
        return found
    if kind.__metadata__ == ("dtype",):
        if found not in DTYPE_BITS:
            raise BadValue("unknown", tuple(DTYPE_BITS))
        return found
    if not isinstance(found, int | float | str):
        raise BadValue("wrong type", "a number, text, true or false")
    return found


def _layout(found: object, _: Any) -> Layout:
    match = _LAYOUT.fullmatch(expect(found, str, _LAYOUTS).strip())
    sizes = [int(size) for size in match.groups() if size is not None] if match else [0]
    if 0 in sizes:
        raise BadValue("unknown layout", _LAYOUTS)
    return Layout(pitch=sizes[0]) if len(sizes) == 1 else Layout(tuple(sizes))


def _user_error(file: TomlFile, path: tuple[Key, ...], error: BaseException) -> UserError:
    """The message for one error of structuring."""
    table = at(file.table, path)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        extra = next(key for key in table if key in error.extra_fields)
        return UserError("unknown key", where=file.where((*path, extra)), found=extra, allowed=_keys(error.cl))
    if isinstance(error, KeyError):
        return UserError("missing", where=file.where(path))
    problem, allowed = (error.problem, error.allowed) if isinstance(error, BadValue) else ("wrong type", "a table")
    return UserError(problem, where=file.where(path), found=table, allowed=allowed)


def _check(loaded: WorkloadFile) -> None:
    """What is wrong between keys that are right by themselves. Raises UserError for the first such thing."""
    workload, seen = loaded.workload, set[str]()
    for path, _, operator in workload.entries():
        if operator.name in seen:
            raise UserError("a second operator of this name", where=loaded.where(*path, "name"), found=operator.name)
        seen.add(operator.name)
    repeats = {entry.name for entry in workload.operators if isinstance(entry, RepeatSpec)}
    for name, tensor in workload.tensors.items():
        if tensor.per and tensor.per not in repeats:
            where = loaded.where("tensors", name, "per")
            raise UserError("no such repeat block", where=where, found=tensor.per, allowed=sorted(repeats) or "none")
        if tensor.seed < 0:
            where = loaded.where("tensors", name, "seed")
            raise UserError("a seed cannot be negative", where=where, found=tensor.seed)
    if not workload.operators:
        raise UserError("no operators", where=loaded.where("operators"))
