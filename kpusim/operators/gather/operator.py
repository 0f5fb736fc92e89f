"""The row gathers: sizes, traffic and reference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping as Names
from math import prod
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import per_byte
from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Array, Example, Layouts, Lowered, Port, Unmultiplied, Wide
from kpusim.operators.gather.draw import draw_rows
from kpusim.operators.gather.listed import coordinates, leading_sizes, listed
from kpusim.operators.gather.lowering import lower_gather
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection, burst_bytes
from kpusim.operators.parameters import count, positive

__all__ = ["Gather", "GatherNd", "Listed", "RowGather", "Selecting"]


@frozen(kw_only=True)
class Selecting(Unmultiplied):
    """What all operators by index have in common: rows of `dtype`, by a list that a tensor of `index_dtype` holds."""

    family: ClassVar[str]

    error_origin: ClassVar[str] = "rows are moved as they are"
    mapping_type: ClassVar[type | None] = Mapping

    dtype: str = field(default="bf16", validator=validators.in_(DTYPE_GROUPS["any"]))
    index_dtype: str = field(default="int32", validator=validators.in_(DTYPE_GROUPS["index"]))

    @property
    @abstractmethod
    def selection(self) -> Selection:
        """What is selected. Raises UserError for impossible indices."""

    @property
    def vector_work(self) -> Names[str, int]:
        """None that could be the roof."""
        return {}

    def check(self) -> None:
        """Raises UserError for impossible indices, and a row that ends within a byte."""
        packed, width = per_byte(self.dtype), self.selection.width
        if width % packed:
            problem = f"a row of {self.dtype} ends within a byte"
            raise UserError(problem, found=f"width={width}", allowed=f"multiples of {packed}")


@frozen
class Listed(Selecting):
    """There is one list, of rows of one table.

    indices: "uniform", "zipf 1.2", "sorted", "sequential", "duplicates", "permutation" (drawn with `seed`), or numbers
    such as "3 0 5".
    """

    indices: str = field(default="uniform", validator=validators.instance_of(str), kw_only=True)
    seed: int = field(default=0, validator=count, kw_only=True)
    entries: int = field(validator=positive)
    width: int = field(validator=positive)
    count: int = field(validator=positive)

    @property
    def dimensions(self) -> Names[str, int]:
        """Rows of the table, their width, and how many are listed."""
        return {"entries": self.entries, "width": self.width, "count": self.count}

    @property
    def rows(self) -> tuple[int, ...]:
        """The list as it is drawn."""
        return listed(self.indices, self.count, self.entries, self.seed, self.index_dtype)


@frozen
class RowGather(Selecting):
    """Listed rows of a table, in the order of the list."""

    @property
    @abstractmethod
    def ports(self) -> tuple[Port, ...]:
        """table, indices and out."""

    @property
    def compulsory_bytes(self) -> int:
        """Each row that is asked for once, however often, the indices and the output."""
        selection = self.selection
        asked = len(set(selection.rows)) * selection.row_bytes
        return asked + selection.count * (selection.index_bytes + selection.row_bytes)

    def io_bound_bytes(self, machine: Machine) -> int:
        """The same in whole accesses: narrow rows fetch more than they are."""
        selection, access = self.selection, machine.hbm.access_bytes
        dense = (selection.count * each for each in (selection.index_bytes, selection.row_bytes))
        return burst_bytes(selection.rows, selection.row_bytes, access) + sum(
            ceil_div(size, access) * access for size in dense
        )

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Mapping | None = None,
        fold_instructions: bool = False,
    ) -> Lowered:  # fmt: skip
        """Lanes of a DMA engine and a tile each, between HBM and HBM."""
        return lower_gather(self.family, self.selection, machine, layouts, mapping)

    def reference(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """The listed rows."""
        table, _, out = self.ports
        return {out.name: inputs[table.name][list(self.selection.rows)].astype(np.float64)}

    def error_bound(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """None."""
        out = self.ports[2]
        return {out.name: np.zeros(out.shape)}


@frozen
class Gather(Listed, RowGather):
    """out[i] = table[indices[i]]: an embedding lookup."""

    family: ClassVar[str] = "gather"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("gather(entries=1000, width=512, count=64)", "an embedding lookup"),
        Example('gather(entries=5000, width=8, count=200, indices="zipf 1.2")', "narrow rows: whole accesses for each"),
        Example("gather(entries=500, width=64, count=300, indices=sorted, index_dtype=int64)", "sorted"),
        Example('gather(entries=16, width=256, count=4, indices="3 0 5 5")', "a list of one's own"),
    )

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any list of rows of any width."""
        entries, width, count, options = draw_rows(random, DTYPE_GROUPS["any"])
        return cls(entries, width, count, **options)

    @property
    def ports(self) -> tuple[Port, ...]:
        """table, indices and out."""
        return (
            Port("table", "in", ("entries", "width"), (self.entries, self.width), self.dtype),
            Port("indices", "in", ("count",), (self.count,), self.index_dtype),
            Port("out", "out", ("count", "width"), (self.count, self.width), self.dtype),
        )

    @property
    def selection(self) -> Selection:
        """The list as it is drawn."""
        table, index, out = self.ports
        return Selection(table, index, out, self.rows, self.rows)


@frozen
class GatherNd(RowGather):
    """out[i] = tensor[indices[i, 0], indices[i, 1], ...]: rows of a tensor of several leading dimensions.

    sizes: of those, two or three, such as "8 16"; the tensor lies in HBM as a table [8 * 16, width]. Numbers of rows
    are computed on the vector engine. Given `indices` are `count` times as many numbers as there are sizes.
    """

    family: ClassVar[str] = "gather_nd"
    examples: ClassVar[tuple[Example, ...]] = (
        Example('gather_nd(sizes="8 16", width=256, count=40)', "blocks of keys by head and position"),
        Example('gather_nd(sizes="4 4 8", width=64, count=30, index_dtype=int64)', "three coordinates of 8 bytes"),
    )

    indices: str = field(default="uniform", validator=validators.instance_of(str), kw_only=True)
    seed: int = field(default=0, validator=count, kw_only=True)
    width: int = field(validator=positive)
    count: int = field(validator=positive)
    sizes: str = field(validator=validators.instance_of(str), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Two or three dimensions."""
        _, width, count, options = draw_rows(random, DTYPE_GROUPS["any"])
        sizes = [random.randint(1, 9) for _ in range(random.choice((2, 3)))]
        return cls(width, count, sizes=" ".join(map(str, sizes)), **options)

    @property
    def leading(self) -> tuple[int, ...]:
        """The leading dimensions. Raises UserError for a text that says none."""
        return leading_sizes(self.sizes)

    @property
    def dimensions(self) -> Names[str, int]:
        """Rows of all leading dimensions, their width, and how many are asked for."""
        return {"entries": prod(self.leading), "width": self.width, "count": self.count}

    @property
    def ports(self) -> tuple[Port, ...]:
        """table, indices and out."""
        return (
            Port("table", "in", ("", "width"), (prod(self.leading), self.width), self.dtype),
            Port("indices", "in", ("count", ""), (self.count, len(self.leading)), self.index_dtype),
            Port("out", "out", ("count", "width"), (self.count, self.width), self.dtype),
        )

    @property
    def selection(self) -> Selection:
        """The list as it is drawn."""
        rows, indices = coordinates(self.indices, self.count, self.leading, self.seed)
        table, index, out = self.ports
        return Selection(table, index, out, rows, indices, self.leading)
