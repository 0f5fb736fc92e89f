"""Scatter and scatter-add: rows written, or added, to a table by index."""

from __future__ import annotations

from collections.abc import Mapping as Names
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import smallest, unit_roundoff
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Array, Example, Layouts, Lowered, Port, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.gather.draw import draw_rows
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.operator import Listed
from kpusim.operators.gather.problem import Selection, burst_bytes
from kpusim.operators.gather.scatter import Addition, lower_scatter

__all__ = ["Scatter", "ScatterAdd"]


@frozen
class RowUpdate(Listed):
    """What scatter and scatter-add have in common."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """rows, indices, and the table, which keeps what is not written."""
        return (
            Port("rows", "in", ("count", "width"), (self.count, self.width), self.dtype),
            Port("indices", "in", ("count",), (self.count,), self.index_dtype),
            Port("table", "inout", ("entries", "width"), (self.entries, self.width), self.dtype),
        )

    @property
    def selection(self) -> Selection:
        """The list as it is drawn."""
        written, index, table = self.ports
        return Selection(table, index, written, self.rows, self.rows)

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Mapping | None = None,
        fold_instructions: bool = False,
    ) -> Lowered:  # fmt: skip
        """Lanes of a DMA engine and a tile each, no two of which write the same row."""
        return lower_scatter(self.family, self.selection, machine, layouts, mapping)


@frozen
class Scatter(RowUpdate):
    """table[indices[i]] = rows[i]: of duplicates the last stays.

    Which are the last is known with the list, as a sort of it beforehand tells: the others are not even read.
    """

    family: ClassVar[str] = "scatter"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("scatter(entries=1000, width=128, count=64)", "rows of a cache written by slot"),
        Example('scatter(entries=16, width=64, count=5, indices="3 0 5 5 3")', "the last of duplicates stays"),
    )

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any list of rows of any width."""
        entries, width, count, options = draw_rows(random, DTYPE_GROUPS["any"])
        return cls(entries=entries, width=width, count=count, **options)

    @property
    def compulsory_bytes(self) -> int:
        """Each row that stays, read and written once, with its index."""
        selection = self.selection
        return len(set(selection.rows)) * (2 * selection.row_bytes + selection.index_bytes)

    def io_bound_bytes(self, machine: Machine) -> int:
        """The same in whole accesses."""
        selection, access = self.selection, machine.hbm.access_bytes
        last = list({row: position for position, row in enumerate(selection.rows)}.values())
        return sum(
            burst_bytes(rows, size, access)
            for rows, size in (
                (last, selection.row_bytes), (selection.rows, selection.row_bytes), (last, selection.index_bytes)
            )
        )  # fmt: skip

    def reference(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """The table as it is afterwards."""
        table, rows = (inputs[name].astype(np.float64) for name in ("table", "rows"))
        last = {row: position for position, row in enumerate(self.selection.rows)}
        table[list(last)] = rows[list(last.values())]
        return {"table": table}

    def error_bound(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """None."""
        return {"table": np.zeros((self.entries, self.width))}


@frozen
class ScatterAdd(RowUpdate):
    """table[indices[i]] += rows[i]: all duplicates are added, in fp32.

    A sum is rounded to the table's dtype after each addition; rows with very many duplicates are summed in fp32 first.
    """

    family: ClassVar[str] = "scatter_add"
    error_origin: ClassVar[str] = "a rounding to fp32 and one to the table's dtype for each row that is added"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("scatter_add(entries=1000, width=128, count=64, dtype=fp32)", "gradients of an embedding"),
        Example('scatter_add(entries=100, width=64, count=300, indices="zipf 1.2")', "many duplicates"),
    )

    dtype: str = field(default="bf16", validator=validators.in_(DTYPE_GROUPS["real"]), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Rows of floating point numbers."""
        entries, width, count, options = draw_rows(random, DTYPE_GROUPS["real"])
        return cls(entries=entries, width=width, count=count, **options)

    @property
    def selection(self) -> Selection:
        """The list as it is drawn; where it has duplicates, they are added up."""
        found = super().selection
        several = len(set(found.rows)) < found.count
        return Addition(found.table, found.index, found.listed, found.rows, found.indices) if several else found

    @property
    def compulsory_bytes(self) -> int:
        """All rows, and each row of the table that is added to, with an index of it, read and written once."""
        selection = self.selection
        distinct = len(set(selection.rows))
        return (selection.count + 2 * distinct) * selection.row_bytes + distinct * selection.index_bytes

    def io_bound_bytes(self, machine: Machine) -> int:
        """The same in whole accesses."""
        selection, access, row_bytes = self.selection, machine.hbm.access_bytes, self.selection.row_bytes
        first = list({row: i for i, row in reversed([*enumerate(selection.rows)])}.values())
        indices = burst_bytes(first, selection.index_bytes, access)
        added = burst_bytes(range(selection.count), row_bytes, access)
        return added + indices + 2 * burst_bytes(selection.rows, row_bytes, access)

    def reference(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """The sums."""
        table = inputs["table"].astype(np.float64)
        np.add.at(table, list(self.selection.rows), inputs["rows"].astype(np.float64))
        return {"table": table}

    def error_bound(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """((1 + u)(1 + u32))^m - 1 of the sum of magnitudes, where m rows are added (Higham 2002, section 4.2)."""
        magnitude = np.abs(inputs["table"].astype(np.float64))
        np.add.at(magnitude, list(self.selection.rows), np.abs(inputs["rows"].astype(np.float64)))
        added = np.bincount(self.selection.rows, minlength=self.entries)[:, None]
        each = (1 + unit_roundoff(self.dtype)) * (1 + U)
        return {"table": (each**added - 1) * magnitude + added * smallest(self.dtype)}
