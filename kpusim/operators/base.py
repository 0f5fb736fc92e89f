"""What every operator family offers: dimensions, work and traffic, a numpy reference, and a lowering."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.isa.layout import DENSE, Layout
from kpusim.isa.program import Program
from kpusim.machine import Machine

__all__ = [
    "ROW_MAJOR",
    "Equal",
    "Example",
    "Family",
    "Layouts",
    "Lowered",
    "Operator",
    "Part",
    "Port",
    "Tried",
    "Unmultiplied",
    "Wide",
    "origin_of",
    "parts_of",
]

Array = npt.NDArray[np.generic]
Wide = npt.NDArray[np.float64]

Layouts = Mapping[str, Layout]
"""How tensors lie in HBM, by port; a port that is not there is dense row-major, as is `DENSE`."""

ROW_MAJOR: Layouts = MappingProxyType({})


@frozen
class Port:
    """A tensor that an operator reads or writes: `axes` say which dimension each axis is.

    role: in, out, or inout for what is changed in place.
    """

    name: str
    role: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return DENSE.size_bytes(self.shape, self.dtype)


@frozen
class Tried:
    """A mapping that was weighed: its estimated cycles, the part that takes longest, HBM bytes, and why (not) it."""

    mapping: str
    cycles: int
    longest: str
    hbm_bytes: int
    why: str


@frozen
class Equal:
    """One of `copies` equal shares of a program, on tiles and DMA engines of its own, that hardly meet."""

    program: Program
    copies: int


@frozen
class Lowered:
    """A program and why it looks as it does.

    choices: (what, value, reason) rows for `--explain`. mapping: the one that it follows, a value of the family's
    `mapping_type`. tried: the best of those weighed, the fastest first. equal: where a part of the program tells its
    time, that part.
    """

    program: Program
    choices: tuple[tuple[str, str, str], ...]
    mapping: Any = None
    tried: tuple[Tried, ...] = ()
    equal: Equal | None = None


class Operator(Protocol):
    """One operator with its dimensions. Families are attrs classes found by `family` in `operators.FAMILIES`."""

    family: ClassVar[str]
    error_origin: ClassVar[str]
    """Where `error_bound` comes from, in words."""
    mapping_type: ClassVar[type | None]
    """What a file that forces a mapping describes (attrs, of numbers and words); None: there is nothing to force."""

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Name -> size, in the order in which a table shows them."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """Its tensors; the lowered program's tensors have the same names and order."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates on the matrix engine."""

    @property
    def flops(self) -> int:
        """Floating point operations, two a multiply-accumulate."""

    @property
    def math_dtype(self) -> str:
        """Dtype of the factors of its matmuls, for the compute roof."""

    @property
    def vector_work(self) -> Mapping[str, int]:
        """Elements that the vector engine must work on by class of instruction, however it is lowered: for the roof."""

    @property
    def compulsory_bytes(self) -> int:
        """Every input and output once."""

    def check(self) -> None:
        """Raises UserError where parameters contradict each other."""

    def io_bound_bytes(self, machine: Machine) -> int:
        """The least HBM traffic on that machine (design.md's bound), in bytes."""

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Any = None, fold_instructions: bool = False
    ) -> Lowered:
        """The program for tensors laid out as given, of the mapping given (by default the best that is found).

        fold_instructions: one matmul for each fold of the array instead of one an SRAM tile. Raises UserError where the
        machine cannot run it at all, or not with this mapping.
        """

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """The outputs in float64 from the inputs as the machine has them (already rounded to their dtypes)."""

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """For each output, how far fp32 arithmetic may be off, elementwise, before rounding to the output's dtype."""


@frozen
class Unmultiplied:
    """What operators without matmuls answer alike."""

    @property
    def macs(self) -> int:
        """None."""
        return 0

    @property
    def flops(self) -> int:
        """None that the matrix engines do."""
        return 0

    @property
    def math_dtype(self) -> str:
        """Of a matmul that it does not have."""
        return "bf16"


@frozen
class Part:
    """An operator of those that a composite one consists of.

    ports: at each of its ports a tensor, a port of the composite or what another part writes: the same bytes, dense
    row-major, whatever shape it has there.
    """

    name: str
    operator: Operator
    ports: Mapping[str, str]


def parts_of(operator: Operator) -> tuple[Part, ...]:
    """The parts of an operator that has them, in order of time; none: it is one program."""
    parts: tuple[Part, ...] = getattr(operator, "parts", ())
    return parts


def origin_of(operator: Operator, port: str) -> str:
    """Where the error bound of an output comes from: `error_origin`, or what `other_origins` of the operator say."""
    others: Mapping[str, str] = getattr(operator, "other_origins", {})
    return others.get(port, operator.error_origin)


@frozen
class Example:
    """A line of the catalogue: an operator as text, and what it shows."""

    text: str
    shows: str


class Family(Operator, Protocol):
    """What the class of a family offers beside its operators."""

    examples: ClassVar[tuple[Example, ...]]
    """Small enough for a second each on any machine; together they show every variant."""

    @classmethod
    def draw(cls, random: Random) -> Self:
        """A small operator for tests: any variant, dtype and odd sizes, 1s too; `check` may still refuse it."""
