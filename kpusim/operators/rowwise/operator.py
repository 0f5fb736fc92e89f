"""What all families of rowwise operators offer alike: their work says the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from attrs import field, frozen

from kpusim.isa.tables import instruction_rows
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Array, Layouts, Lowered, Port, Unmultiplied, Wide
from kpusim.operators.parameters import positive
from kpusim.operators.rowwise.lowering import lower
from kpusim.operators.rowwise.mapping import Mapping as RowwiseMapping
from kpusim.operators.rowwise.work import Work

__all__ = ["Rowwise", "Streamed"]


@frozen
class Streamed(Unmultiplied):
    """An operator whose blocks of rows stream through the tiles, without matmuls."""

    family: ClassVar[str]
    error_origin: ClassVar[str]
    mapping_type: ClassVar[type | None] = RowwiseMapping

    @property
    @abstractmethod
    def work(self) -> Work:
        """What it does."""

    @property
    @abstractmethod
    def ports(self) -> tuple[Port, ...]:
        """The tensors that it reads, then those that it writes."""

    @property
    def compulsory_bytes(self) -> int:
        """Every input and output once."""
        return sum(port.size_bytes for port in self.ports)

    def io_bound_bytes(self, machine: Machine) -> int:
        """Every input and output once."""
        return self.compulsory_bytes

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: RowwiseMapping | None = None,
        fold_instructions: bool = False,
    ) -> Lowered:  # fmt: skip
        """The program of the best mapping found, or of the one given. There are no matmuls to fold."""
        return lower(self.work, machine, layouts, mapping)


@frozen
class Rowwise(Streamed):
    """An operator on `rows` of `columns`."""

    rows: int = field(validator=positive)
    columns: int = field(validator=positive)

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """(reference, error bound) of each output, from inputs in float64."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises UserError where parameters contradict each other."""

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Rows and columns, and how many entries have them."""
        entries = self.work.entries
        return ({"batch": entries} if entries > 1 else {}) | {"rows": self.rows, "columns": self.columns}

    @property
    def ports(self) -> tuple[Port, ...]:
        """The tensors that it reads, then those that it writes."""
        return self.work.ports

    @property
    def vector_work(self) -> Mapping[str, int]:
        """Elements by class of instruction, where a tile has whole rows, of those that are needed."""
        work, found = self.work, Counter[str]()
        for step in work.whole:
            count = work.entries * work.elements(step, work.rows, work.columns)
            needed = count * work.needed // (work.rows * work.columns)
            found[instruction_rows()[step.op].timing_class] += needed
        return dict(found)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """The outputs in float64."""
        return {name: value for name, (value, _) in self.judged(_wide(inputs)).items()}

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """How far fp32 may be off."""
        return {name: bound for name, (_, bound) in self.judged(_wide(inputs)).items()}


def _wide(inputs: Mapping[str, Array]) -> dict[str, Wide]:
    return {name: values.astype(np.float64) for name, values in inputs.items()}
