"""Building a rowwise operator's work, instruction by instruction."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from attrs import define, field

from kpusim.dtypes import greatest, integer_range, is_integer
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators import draw
from kpusim.operators.base import Wide
from kpusim.operators.parameters import FP8
from kpusim.operators.rowwise.work import COLUMNS, ROWS, Dimension, Part, Stream, Sweep, Temporary, Work
from kpusim.operators.steps import Step

__all__ = ["BLOCK", "COLUMN", "DTYPES", "ROW", "Chain", "draw_size", "saturated"]

Shape = tuple[Dimension, ...]
BLOCK: Shape = (ROWS, COLUMNS)
ROW: Shape = (ROWS, 1)
COLUMN: Shape = (1, COLUMNS)
DTYPES = (*DTYPE_GROUPS["number"], *FP8)
MOST = 70  # rows or columns of a random operator: several blocks and pieces on kpu-tiny


@define
class Chain:
    """Streams, temporaries and steps of a work that is being built; its methods give names of buffers."""

    name: str
    rows: int
    columns: int
    options: dict[str, Any] = field(factory=dict)  # of the work
    streams: list[Stream] = field(factory=list)
    temporaries: list[Temporary] = field(factory=list)
    parts: list[Part] = field(factory=list)
    steps: list[Step] = field(factory=list)
    prelude: list[Step] = field(factory=list)

    def load(
        self, name: str, dtype: str, shape: Shape = BLOCK, tensor: Shape = BLOCK, *, port: str = "", offset: int = 0,
        index: str = "", stored: bool = False,
    ) -> str:  # fmt: skip
        """An input; what the vector engine cannot compute with is converted to fp32, unless it is wanted as stored."""
        self.streams.append(Stream(name, port or name, "in", dtype, tensor, shape, offset, index))
        if stored or dtype in DTYPE_GROUPS["number"]:
            return name
        wide = self.temporary(f"{name}_wide", shape)
        (self.prelude if 1 in shape[:1] else self.steps).append(Step("dequantize", wide, (name, 1.0, 0.0)))
        return wide

    def index(self, name: str, numbers: tuple[int, ...]) -> str:
        """An input that says which rows of others are wanted."""
        self.options["indices"] = (*self.options.get("indices", ()), (name, numbers))
        return self.load(name, "int32", (ROWS,), (ROWS,))

    def column(self, name: str, dtype: str) -> str:
        """An input with one element a column."""
        return self.load(name, dtype, COLUMN, (COLUMNS,))

    def store(self, name: str, dtype: str, shape: Shape = BLOCK, tensor: Shape = BLOCK) -> str:
        """An output."""
        self.streams.append(Stream(name, name, "out", dtype, tensor, shape))
        return name

    def temporary(self, name: str, shape: Shape = BLOCK, dtype: str = "fp32", *, held: bool = False) -> str:
        """A buffer of its own; the same for the same name."""
        if all(item.name != name for item in self.temporaries):
            self.temporaries.append(Temporary(name, dtype, shape, held))
        return name

    def part(self, of: str, name: str, start: int, length: int) -> str:
        """Elements of the last dimension of a buffer."""
        self.parts.append(Part(name, of, start, length))
        return name

    def then(self, op: str, target: str, *sources: str | float) -> str:
        """One more step."""
        self.steps.append(Step(op, target, sources))
        return target

    def to(self, out: str, op: str, *sources: str | float) -> None:
        """The last step, whose result is an output: fp8 by way of fp32."""
        stream = next(stream for stream in self.streams if stream.name == out)
        if stream.dtype in DTYPE_GROUPS["number"]:
            self.then(op, out, *sources)
        elif op == "cast":
            self.then("quantize", out, *sources, 1.0, 0.0)
        else:
            self.then(op, self.temporary(f"{out}_wide", stream.shape), *sources)
            self.then("quantize", out, f"{out}_wide", 1.0, 0.0)

    def extend(self, steps: tuple[Step, ...], out: str) -> None:
        """Steps in place, the last of them to an output."""
        self.steps += steps[:-1]
        self.to(out, steps[-1].op, *steps[-1].sources)

    def since(self, first: int = 0) -> tuple[Step, ...]:
        """The steps from the first-th on."""
        return tuple(self.steps[first:])

    @property
    def mark(self) -> int:
        """How many steps there are so far."""
        return len(self.steps)

    def work(self, *sweeps: Sweep) -> Work:
        """The work: its steps, and where a row comes in pieces, these sweeps."""
        return Work(
            self.name, self.rows, self.columns, tuple(self.streams), tuple(self.temporaries), tuple(self.steps),
            sweeps, prelude=tuple(self.prelude), parts=tuple(self.parts), **self.options,
        )  # fmt: skip


def saturated(values: Wide, dtype: str) -> Wide:
    """Values as the narrow dtypes keep them: within their range, integers truncated."""
    if is_integer(dtype):
        return np.clip(np.trunc(values), *integer_range(dtype))
    if dtype.startswith("fp8"):
        return np.clip(values, -greatest(dtype), greatest(dtype))
    return values


def draw_size(random: Random, steps: int = 1) -> int:
    """Rows or columns for tests, a multiple of `steps`."""
    return draw.draw_size(random, MOST, steps)
