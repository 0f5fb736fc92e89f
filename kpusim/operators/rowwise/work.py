"""What a rowwise operator does, whatever the machine: tensors of rows and columns, and vector instructions on blocks.

A block is some rows by a piece of the columns. Operators whose rows are independent of each other, and whose columns
meet in a few numbers a row at most (a mean, a greatest magnitude), differ in nothing but such a description.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.operators.base import Port
from kpusim.operators.steps import Step

__all__ = [
    "COLUMNS",
    "ENTRIES",
    "REDUCTIONS",
    "ROWS",
    "Along",
    "Dimension",
    "Part",
    "Stream",
    "Sweep",
    "Temporary",
    "Work",
    "all_of",
    "elements",
    "part_of",
]

REDUCTIONS = {"row_sum": ("add", 0.0), "row_max": ("max", float("-inf")), "row_min": ("min", float("inf"))}
"""Reduction -> (what joins the results of two pieces, what it makes of nothing)."""


@frozen
class Along:
    """A dimension that lies along an axis: `times` elements for each of its rows or columns, or one for `each` of them.

    spread: the whole tensor has so many times as much as this operand takes of it.
    """

    axis: str
    each: int = 1
    times: int = 1
    spread: int = 1

    def size(self, extent: int) -> int:
        """Elements for so many rows or columns."""
        return ceil_div(extent, self.each) * self.times


ENTRIES, ROWS, COLUMNS = Along("batch"), Along("rows"), Along("columns")
Dimension = Along | int


def _axes(shape: tuple[Dimension, ...]) -> set[str]:
    return {dimension.axis for dimension in shape if isinstance(dimension, Along)}


@frozen
class Stream:
    """An operand that moves between HBM (`tensor`, its dimensions) and SRAM (`shape`, those of the buffer).

    offset: columns of the tensor before its first. index: the operand that says which rows of the tensor they are.
    """

    name: str
    port: str
    role: str
    dtype: str
    tensor: tuple[Dimension, ...]
    shape: tuple[Dimension, ...]
    offset: int = 0
    index: str = ""

    @property
    def buffer(self) -> str:
        """Its buffer in a program, where tensors have names, too."""
        return f"{self.name}_tile"

    @property
    def moved(self) -> tuple[Dimension, ...]:
        """What is taken of the tensor: rows where an index says which."""
        return (ROWS, *self.tensor[1:]) if self.index else self.tensor

    @property
    def kind(self) -> str:
        """How often it moves: "block", with each piece; "row", with each block's rows; "column", it stays."""
        axes = _axes(self.moved)
        if "columns" not in axes:
            return "row"
        return "block" if "rows" in axes else "column"


@frozen
class Temporary:
    """A buffer that never leaves the SRAM. held: of each piece of a block, from one sweep to the next."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    held: bool = False

    @property
    def buffer(self) -> str:
        """Its buffer in a program."""
        return self.name

    @property
    def kept(self) -> bool:
        """Whether it holds something of every piece for the whole program: it has columns but no rows."""
        return _axes(self.shape) == {"columns"}


@frozen
class Part:
    """`length` elements from `start` on of the last dimension of the buffer `of`, by a name of its own."""

    name: str
    of: str
    start: int
    length: int


@frozen
class Sweep:
    """One way over the pieces of a block: `before` the first, `each` on every piece, `after` the last.

    joined: a row_sum, row_max or row_min in `each` to a buffer without columns is over all pieces, else over one.
    """

    each: tuple[Step, ...]
    after: tuple[Step, ...] = ()
    before: tuple[Step, ...] = ()
    joined: bool = True


@frozen(eq=False)
class Work:
    """One operator: `rows` of `columns` for each of `entries`.

    prelude: on what has columns but no rows, once. whole: on blocks of whole rows. sweeps: the same where a row comes
    in pieces, each of a multiple of `unit` columns; one sweep without totals: pieces are independent.
    by_row: instructions take one row of a block at a time. indices: numbers of the operands that are an index.
    causal: the last row needs all columns, each before it one less; results are 0 in the columns that are not needed.
    """

    name: str
    rows: int
    columns: int
    streams: tuple[Stream, ...]
    temporaries: tuple[Temporary, ...]
    whole: tuple[Step, ...]
    sweeps: tuple[Sweep, ...] = ()
    prelude: tuple[Step, ...] = ()
    parts: tuple[Part, ...] = ()
    entries: int = 1
    unit: int = 1
    by_row: bool = False
    causal: bool = False
    indices: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def independent(self) -> bool:
        """Whether no piece of a row needs to know of the others."""
        return not self.sweeps

    @property
    def needed(self) -> int:
        """Elements of an entry's rows that are needed."""
        if not self.causal:
            return self.rows * self.columns
        last, first = self.columns, max(self.columns - self.rows + 1, 1)
        return (first + last) * (last - first + 1) // 2

    @property
    def shareable(self) -> bool:
        """Whether tiles can share rows: they need nothing of each other but totals, and no result is a row's."""
        totals = all(sweep.joined for sweep in self.sweeps)
        return totals and not any(stream.kind == "row" and stream.role == "out" for stream in self.streams)

    def of_kind(self, kind: str) -> tuple[Stream | Temporary, ...]:
        """Its buffers with a piece of each block, some elements of each row, or some of each column."""
        kept = tuple(item for item in self.temporaries if kind == "column" and item.kept)
        return *(stream for stream in self.streams if stream.kind == kind), *kept

    @cached_property
    def operands(self) -> dict[str, Stream | Temporary]:
        """All buffers by name, with those for what is found in one piece, to be joined in a total."""
        found: dict[str, Stream | Temporary] = {stream.name: stream for stream in self.streams}
        found |= {item.name: item for item in self.temporaries}
        for sweep in self.sweeps:
            for step in sweep.each:
                item = found[self.buffer(step.target)]
                if sweep.joined and step.op in REDUCTIONS and "columns" not in _axes(item.shape):
                    found[part_of(item.name)] = Temporary(part_of(item.name), "fp32", item.shape)
        return found

    @property
    def ports(self) -> tuple[Port, ...]:
        """The tensors behind the streams, in order."""
        return tuple({stream.port: self._port(stream) for stream in reversed(self.streams)}.values())[::-1]

    def _port(self, stream: Stream) -> Port:
        extents = {"batch": self.entries, "rows": self.rows, "columns": self.columns}
        plain = (ENTRIES, ROWS, COLUMNS)
        return Port(
            stream.port,
            stream.role,
            tuple(item.axis if isinstance(item, Along) and item in plain else "" for item in stream.tensor),
            tuple(
                item.size(extents[item.axis]) * item.spread if isinstance(item, Along) else item
                for item in stream.tensor
            ),
            stream.dtype,
        )

    def shape(self, name: str) -> tuple[Dimension, ...]:
        """Of a buffer or a part of one; () for what is none."""
        for part in self.parts:
            if part.name == name:
                return (*self.operands[part.of].shape[:-1], part.length)
        return self.operands[name].shape if name in self.operands else ()

    def buffer(self, name: str) -> str:
        """The buffer behind a name."""
        return next((part.of for part in self.parts if part.name == name), name)

    def touched(self, steps: Iterable[Step]) -> set[str]:
        """Buffers that steps use."""
        return {self.buffer(name) for step in steps for name in step.buffers} & {*self.operands}

    def totals(self, sweep: Sweep) -> dict[str, str]:
        """Buffers in which a sweep joins what it finds in the pieces -> the reduction."""
        return {
            step.target: step.op
            for step in sweep.each
            if sweep.joined and step.op in REDUCTIONS and "columns" not in _axes(self.shape(step.target))
        }

    def elements(self, step: Step, rows: int, columns: int) -> int:
        """Elements of the largest operand of a step on so many rows and columns."""
        return max(elements(self.shape(name), rows, columns) for name in step.buffers)


def part_of(total: str) -> str:
    """The buffer for what is found in one piece."""
    return f"{total}_part"


def all_of(total: str) -> str:
    """The buffer for what all tiles that share rows have found."""
    return f"{total}_all"


def elements(shape: tuple[Dimension, ...], rows: int, columns: int) -> int:
    """Elements of a buffer of that shape for so many rows and columns."""
    extents, count = {"batch": 1, "rows": rows, "columns": columns}, 1
    for item in shape:
        count *= item.size(extents[item.axis]) if isinstance(item, Along) else item
    return count
