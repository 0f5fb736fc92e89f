"""What no machine can be: ranges of every quantity, and how quantities must fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import attrs

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine.quantities import Dimension

if TYPE_CHECKING:
    from kpusim.machine.spec import Machine

__all__ = ["Impossible", "KeyPath", "check", "toml_key"]

MAX_UNITS = 1 << 16  # unit ids have 16 bits in a trace

KeyPath = tuple[str, ...]


class Impossible(UserError):
    """A machine that cannot be. `keys`: the TOML keys that contradict each other, the most telling one first."""

    def __init__(self, problem: str, *keys: KeyPath, allowed: Sequence[str] | str) -> None:
        super().__init__(problem, where=".".join(keys[0]), allowed=allowed)
        self.problem = problem
        self.keys = keys
        self.allowed = allowed


def toml_key(attribute: attrs.Attribute[Any]) -> str:
    """An attribute's key in a machine file: its name without the unit, which a quantity carries in its value."""
    if get_origin(attribute.type) is not Annotated:
        return attribute.name
    if attribute.name == "bytes_per_cycle":
        return "bandwidth"
    return re.sub("_(bytes|hz|cycles|per_cycle)$", "", attribute.name)


def check(machine: Machine) -> None:
    """Raise Impossible, a UserError, for the first thing about a machine that cannot be."""
    for problem in (*_ranges(machine, ()), *_contradictions(machine)):
        raise problem


def _ranges(value: Any, path: KeyPath) -> Iterator[Impossible]:
    """Every quantity against the least value of its dimension."""
    for attribute in attrs.fields(type(value)):
        child, at = getattr(value, attribute.name), (*path, toml_key(attribute))
        if attrs.has(type(child)):
            yield from _ranges(child, at)
        elif isinstance(child, Mapping):
            for key, entry in child.items():
                yield from _range(entry, get_args(attribute.type)[1], (*at, key))
        else:
            yield from _range(child, attribute.type, at)


def _range(value: Any, kind: Any, path: KeyPath) -> Iterator[Impossible]:
    if get_origin(kind) is not Annotated:
        return
    dimension: Dimension = kind.__metadata__[0]
    if dimension.positive and value <= 0:
        yield Impossible("must be more than 0", path, allowed=f'such as "{dimension.example}"')
    elif value < dimension.least:
        unit = f" {dimension.units[0]}" if dimension.units else ""
        yield Impossible("too small", path, allowed=f"at least {dimension.least}{unit}")


def _contradictions(machine: Machine) -> Iterator[Impossible]:
    """What is wrong between quantities that are right by themselves."""
    yield from _engines(machine)
    hbm = machine.hbm
    yield from _multiple("hbm", "interleave", hbm.interleave_bytes, "access", hbm.access_bytes)
    yield from _multiple("hbm", "row", hbm.row_bytes, "interleave", hbm.interleave_bytes)
    if hbm.refresh_interval_cycles <= hbm.refresh_cycles:
        keys = ("hbm", "refresh_interval"), ("hbm", "refresh")
        yield Impossible("no time is left between refreshes", *keys, allowed="more than hbm.refresh")


def _engines(machine: Machine) -> Iterator[Impossible]:
    if machine.chips != 1:
        yield Impossible("several chips cannot be simulated", ("chips",), allowed="1")
    factors = DTYPE_GROUPS["factor"]
    macs = machine.matrix.macs_per_cell
    if not macs:
        yield Impossible("no dtype can be multiplied", ("matrix", "macs_per_cell"), allowed=factors)
    for dtype in macs:
        if dtype not in factors:
            yield Impossible("not a dtype of factors", ("matrix", "macs_per_cell", dtype), allowed=factors)
    classes = get_args(get_args(attrs.fields(type(machine.vector)).lane_cycles.type)[0])
    for name in classes:
        if name not in machine.vector.lane_cycles:
            yield Impossible(f"{name!r} is missing", ("vector", "lane_cycles"), allowed=f"each of {', '.join(classes)}")
    units = 2 * machine.tiles.count + machine.dma_engines * machine.dma.queues
    if units > MAX_UNITS:
        keys = ("tiles", "rows"), ("tiles", "columns"), ("dma", "queues")
        yield Impossible(f"{units} units are too many", *keys, allowed=f"{MAX_UNITS} engines and DMA queues in all")


def _multiple(table: str, key: str, value: int, of: str, step: int) -> Iterator[Impossible]:
    if value % step:
        keys = (table, key), (table, of)
        yield Impossible(f"not a multiple of {table}.{of}", *keys, allowed=f"a multiple of {step} B")
