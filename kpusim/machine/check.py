"""What no machine can be: ranges of every quantity, and how quantities must fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import attrs

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine.quantities import Dimension
from kpusim.machine.shared import Shared
from kpusim.tomlfile import key_text

if TYPE_CHECKING:
    from kpusim.machine.hbm import Hbm
    from kpusim.machine.spec import Machine

__all__ = ["VECTOR_CLASSES", "Impossible", "KeyPath", "check", "toml_key"]

VECTOR_CLASSES = ("add", "mul", "exp", "rsqrt", "reduce", "move")
BLOCK_RANGE = 4096, 65536  # bytes of a cache's block; chosen: from a page of virtual memory to sixteen
MAX_UNITS = 1 << 16  # unit ids have 16 bits in a trace

KeyPath = tuple[str, ...]


class Impossible(UserError):
    """A machine that cannot be.

    keys: the TOML keys that contradict each other, the most telling one first. wrong_key: the (first) key itself is
    wrong, not its value.
    """

    def __init__(
        self, problem: str, *keys: KeyPath, allowed: Sequence[str] | str | None = None, wrong_key: bool = False
    ) -> None:
        super().__init__(problem, where=key_text(keys[0]), allowed=allowed)
        self.problem = problem
        self.keys = keys
        self.allowed = allowed
        self.wrong_key = wrong_key


def toml_key(attribute: attrs.Attribute[Any]) -> str:
    """An attribute's key in a machine file: its name without the unit, which a quantity carries in its value."""
    if get_origin(attribute.type) is not Annotated:
        return attribute.name
    name = re.sub("bytes_per_cycle$", "bandwidth", attribute.name)
    return re.sub("_(bytes|hz|cycles|per_cycle)$", "", name)


def check(machine: Machine) -> None:
    """Raise Impossible, a UserError, for the first thing about a machine that cannot be."""
    for problem in chain(_shared_needs(machine.shared), _ranges(machine, ()), _contradictions(machine)):
        raise problem


def _ranges(value: Any, path: KeyPath) -> Iterator[Impossible]:
    """Every quantity against the least value of its dimension."""
    for attribute in attrs.fields(type(value)):
        child, at = getattr(value, attribute.name), (*path, toml_key(attribute))
        if isinstance(child, Shared) and child.kind == "none":
            continue  # what is not there has no size
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
    yield from _sram(machine)
    if machine.shared.kind == "cache":
        yield from _cache(machine)
    hbm = machine.hbm
    yield from _multiple("hbm", "interleave", hbm.interleave_bytes, "access", hbm.access_bytes)
    yield from _multiple("hbm", "row", hbm.row_bytes, "interleave", hbm.interleave_bytes)
    yield from _banks(hbm)
    if hbm.refresh_interval_cycles <= hbm.refresh_cycles:
        keys = ("hbm", "refresh_interval"), ("hbm", "refresh")
        yield Impossible("no time is left between refreshes", *keys, allowed="hbm.refresh < hbm.refresh_interval")


def _engines(machine: Machine) -> Iterator[Impossible]:
    if machine.chips != 1:
        yield Impossible("several chips cannot be simulated", ("chips",), allowed="1")
    macs, lanes = machine.matrix.macs_per_cell, machine.vector.lane_cycles
    yield from _keys(macs, DTYPE_GROUPS["factor"], ("matrix", "macs_per_cell"))
    yield from _keys(machine.matrix.sustained, [*macs], ("matrix", "sustained"))
    yield from _keys(lanes, VECTOR_CLASSES, ("vector", "lane_cycles"))
    yield from _keys(machine.vector.fused, VECTOR_CLASSES, ("vector", "fused"))
    if not macs:
        yield Impossible("no dtype can be multiplied", ("matrix", "macs_per_cell"), allowed=DTYPE_GROUPS["factor"])
    for name in VECTOR_CLASSES:
        if name not in lanes:
            yield Impossible("missing", ("vector", "lane_cycles", name))
    priorities, queues = machine.dma.priorities, machine.dma.queues
    if priorities and len(priorities) != queues:
        problem = f"{len(priorities)} priorities for {queues} queues"
        yield Impossible(problem, ("dma", "priorities"), ("dma", "queues"), allowed="one for each queue, or none: []")
    units = 2 * machine.tiles.count + machine.dma_engines * machine.dma.queues
    if units > MAX_UNITS:
        keys = ("tiles", "rows"), ("tiles", "columns"), ("dma", "queues")
        yield Impossible(f"{units} units are too many", *keys, allowed=f"{MAX_UNITS} engines and DMA queues in all")


def _sram(machine: Machine) -> Iterator[Impossible]:
    sram = machine.sram
    if sram.sharing == "shared" and sram.banks * sram.interleave_bytes > sram.capacity_bytes:
        keys = ("sram", "interleave"), ("sram", "banks"), ("sram", "capacity"), ("sram", "sharing")
        problem = f"some of {sram.banks} banks would hold nothing, interleaved by {sram.interleave_bytes} B"
        yield Impossible(problem, *keys, allowed=f"sram.banks * sram.interleave <= {sram.capacity_bytes} B")


def _shared_needs(shared: Shared) -> Iterator[Impossible]:
    """What a shared level cannot be without."""
    for key, value, example in (
        ("capacity", shared.capacity_bytes, "32 MiB"),
        ("bandwidth", shared.bytes_per_cycle, "4096 B/cycle"),
    ):
        if shared.kind != "none" and not value:
            yield Impossible(f"a {shared.kind} needs it", ("shared", key), allowed=f'such as "{example}"')


def _cache(machine: Machine) -> Iterator[Impossible]:
    shared, interleave = machine.shared, machine.hbm.interleave_bytes
    least, most = BLOCK_RANGE
    if not least <= shared.block_bytes <= most:
        allowed = f"{least // 1024} KiB to {most // 1024} KiB"
        yield Impossible("too large or too small a block", ("shared", "block"), allowed=allowed)
    yield from _multiple("shared", "line", shared.line_bytes, "access", machine.hbm.access_bytes, of_table="hbm")
    yield from _multiple("shared", "block", shared.block_bytes, "line", shared.line_bytes)
    if shared.block_bytes % interleave and interleave % shared.block_bytes:
        problem = f"neither of shared.block ({shared.block_bytes} B) and hbm.interleave ({interleave} B) is a multiple"
        yield Impossible(f"{problem} of the other", ("shared", "block"), ("hbm", "interleave"))
    size = shared.block_bytes * shared.ways
    if shared.capacity_bytes % size:
        keys = ("shared", "capacity"), ("shared", "block"), ("shared", "ways")
        problem = "not all ways of a cache hold a whole number of blocks"
        yield Impossible(problem, *keys, allowed=f"multiples of shared.block * ways = {size} B")


def _keys(mapping: Mapping[str, object], allowed: Sequence[str], path: KeyPath) -> Iterator[Impossible]:
    for key in mapping:
        if key not in allowed:
            yield Impossible("unknown key", (*path, key), allowed=allowed, wrong_key=True)


def _banks(hbm: Hbm) -> Iterator[Impossible]:
    yield from _multiple("hbm", "bank_interleave", hbm.bank_interleave_bytes, "access", hbm.access_bytes)
    yield from _multiple("hbm", "row", hbm.row_bytes, "bank_interleave", hbm.bank_interleave_bytes)
    for key, groups in ("banks", "bank_groups"), ("bank_groups", "alternating_groups"):
        have, of = getattr(hbm, key), getattr(hbm, groups)
        if have % of:
            problem = f"hbm.{key} ({have}) is not a multiple of hbm.{groups} ({of})"
            yield Impossible(problem, ("hbm", key), ("hbm", groups))
    if hbm.hash == "xor":
        for key, count in ("channels", hbm.channels), ("banks", hbm.separate_banks):
            if count & (count - 1):
                allowed = "a power of two (banks: over alternating_groups), or another hash"
                yield Impossible(f"{count} cannot be XORed with bits", ("hbm", key), ("hbm", "hash"), allowed=allowed)


def _multiple(table: str, key: str, value: int, of: str, step: int, of_table: str = "") -> Iterator[Impossible]:
    if value % step:
        other = of_table or table
        problem = f"{table}.{key} ({value} B) is not a multiple of {other}.{of} ({step} B)"
        yield Impossible(problem, (table, key), (other, of))
