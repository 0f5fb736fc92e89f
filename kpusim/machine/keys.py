"""The keys of machine files: what each is, what it measures, and what may stand there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs
from attrs import frozen

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine.check import VECTOR_CLASSES, KeyPath, toml_key
from kpusim.machine.quantities import COUNT, Dimension
from kpusim.machine.spec import Machine

__all__ = ["MachineKey", "entries_of", "machine_keys", "machine_tables"]

ENTRIES: Mapping[str, tuple[str, ...]] = {
    "matrix.macs_per_cell": DTYPE_GROUPS["factor"],
    "matrix.sustained": DTYPE_GROUPS["factor"],
    "vector.lane_cycles": VECTOR_CLASSES,
    "vector.fused": VECTOR_CLASSES,
}
"""What may stand in a value that is a table."""


@frozen
class MachineKey:
    """A key such as "hbm.row_activate". `takes`: what it measures, with an example. choices: what may stand there.

    attributes: the way to its value in a Machine.
    """

    name: str
    about: str
    takes: str
    choices: tuple[str, ...]
    attributes: KeyPath


@cache
def machine_keys() -> Mapping[str, MachineKey]:
    """Every key by its dotted name, in the order of a machine file."""
    return {key.name: key for key in _keys(Machine, (), ())}


@cache
def machine_tables() -> Mapping[str, str]:
    """What each table of a machine file is, by dotted name, in the order of a machine file."""
    return dict(_tables(Machine, ()))


def entries_of(key: MachineKey) -> tuple[str, ...]:
    """The dotted names below a key whose value is a table, such as "vector.lane_cycles.exp"; none for other keys."""
    return tuple(f"{key.name}.{entry}" for entry in ENTRIES.get(key.name, ()))


def _tables(cls: type, path: KeyPath) -> Iterator[tuple[str, str]]:
    for attribute in attrs.fields(cls):
        kind: Any = attribute.type
        if attrs.has(kind):
            at = (*path, attribute.name)
            yield ".".join(at), str(kind.__doc__).partition("\n")[0]
            yield from _tables(kind, at)


def _keys(cls: type, path: KeyPath, attributes: KeyPath) -> Iterator[MachineKey]:
    for attribute in attrs.fields(cls):
        kind: Any = attribute.type
        at, way = (*path, toml_key(attribute)), (*attributes, attribute.name)
        if attrs.has(kind):
            yield from _keys(kind, at, way)
        else:
            name = ".".join(at)
            entries = f"a table of {', '.join(ENTRIES[name])}, each " if name in ENTRIES else ""
            takes = entries + _takes(get_args(kind)[1] if entries else kind)
            yield MachineKey(name, attribute.metadata["about"], takes, _choices(kind), way)


def _takes(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        dimension: Dimension = kind.__metadata__[0]
        return "a whole number" if dimension is COUNT else f'a {dimension.name} such as "{dimension.example}"'
    if get_origin(kind) is tuple:
        return "an array of whole numbers such as [1, 0, 0, 0]"
    if choices := _choices(kind):
        return " or ".join(choices if kind is bool else [f'"{choice}"' for choice in choices])
    return "a text"


def _choices(kind: Any) -> tuple[str, ...]:
    if kind is bool:
        return ("true", "false")
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
