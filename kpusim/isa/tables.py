"""The instruction and dtype tables of `isa/`, read and checked: what the machine can do, as data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from attrs import frozen

from kpusim.data import data_dir

__all__ = ["DTYPE_BITS", "DTYPE_GROUPS", "FAMILIES", "OperandRow", "Row", "instruction_rows", "row_of_opcode"]

FAMILIES = ("control", "dma", "matrix", "vector")
DEFAULT_TIMING = (
    "`costs.vector_cycles`: start-up, then elements of the largest operand times lane-cycles of the class over "
    "lanes, but not less than the bytes of all operands over the SRAM port."
)


@frozen
class OperandRow:
    """One operand of an instruction: which kinds may stand there, who reads or writes it, which dtypes."""

    name: str
    kinds: tuple[str, ...]  # of view, box, list, scalar
    tiles: str  # "": the executing tile; "tile": one named tile; "tiles": one or several (multicast)
    access: str  # read, write or readwrite
    dtypes: tuple[str, ...]
    optional: bool


@frozen
class Row:
    """One instruction as `isa/*.toml` declares it."""

    name: str
    opcode: int
    family: str
    unit: str  # dma, matrix, vector or any
    operands: tuple[OperandRow, ...]
    options: Mapping[str, int]  # name -> default
    same: tuple[tuple[str, ...], ...]  # groups of operands that share one dtype
    timing_class: str
    passes: int | str
    summary: str
    semantics: str
    timing: str


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads((data_dir("isa") / f"{name}.toml").read_text(encoding="utf-8"))


_DTYPES = _load("dtypes")
DTYPE_BITS: Mapping[str, int] = MappingProxyType(_DTYPES["bits"])
DTYPE_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({k: tuple(v) for k, v in _DTYPES["groups"].items()})


def _operand(text: str) -> OperandRow:
    """`name: kind|kind[?] [tile|tiles] access [dtype group]`."""
    name, rest = text.split(":")
    words = rest.split()
    kinds = words.pop(0)
    tiles = words.pop(0) if words[0] in ("tile", "tiles") else ""
    access = words.pop(0)
    dtypes = DTYPE_GROUPS[words.pop(0)] if words else ()
    return OperandRow(name, tuple(kinds.rstrip("?").split("|")), tiles, access, dtypes, kinds.endswith("?"))


def _option(text: str) -> tuple[str, int]:
    name, default = text.split("=")
    return name.strip(), int(default)


@cache
def instruction_rows() -> Mapping[str, Row]:
    """Every instruction by mnemonic, in order of opcode."""
    rows = [
        Row(
            name=name,
            opcode=row["opcode"],
            family=family,
            unit=row["unit"],
            operands=tuple(_operand(text) for text in row.get("operands", ())),
            options=MappingProxyType(dict(_option(text) for text in row.get("options", ()))),
            same=tuple(tuple(group) for group in row.get("same", ())),
            timing_class=row["class"],
            passes=row.get("passes", 1),
            summary=row["summary"],
            semantics=row["semantics"],
            timing=row.get("timing", DEFAULT_TIMING),
        )
        for family in FAMILIES
        for name, row in _load(family).items()
    ]
    return MappingProxyType({row.name: row for row in sorted(rows, key=lambda row: row.opcode)})


@cache
def row_of_opcode(opcode: int) -> Row:
    """The instruction with that opcode. Raises KeyError."""
    for row in instruction_rows().values():
        if row.opcode == opcode:
            return row
    raise KeyError(opcode)
