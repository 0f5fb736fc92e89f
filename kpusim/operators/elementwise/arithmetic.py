"""Sums and products of two tensors."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import is_integer
from kpusim.errors import UserError
from kpusim.operators.base import Example, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.parameters import FLOATS
from kpusim.operators.rowwise.chain import DTYPES, Chain, draw_size, saturated
from kpusim.operators.rowwise.operator import Rowwise
from kpusim.operators.rowwise.work import Work

__all__ = ["Add", "Mul"]

INTEGERS = tuple(dtype for dtype in DTYPES if is_integer(dtype))


@frozen
class Arithmetic(Rowwise):
    """A result for each pair of elements of a and b, in fp32; of integers in int32, saturated."""

    error_origin: ClassVar[str] = "3u for an operation in fp32 and the rounding of its integer operands"

    dtype: str = field(default="bf16", validator=validators.in_(DTYPES), kw_only=True)
    out_dtype: str = field(default="", validator=validators.in_(("", *DTYPES)), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any sizes and dtypes."""
        dtype = random.choice(DTYPES)
        return cls(draw_size(random), draw_size(random), dtype=dtype, out_dtype=random.choice(("", *DTYPES)))

    def check(self) -> None:
        """Raises UserError for integer results of real numbers."""
        if self.dtype in FLOATS and self.out_dtype in INTEGERS:
            raise UserError("real numbers do not become integers", found=f"out_dtype={self.out_dtype}", allowed=FLOATS)

    @property
    def work(self) -> Work:
        """Two tensors in, one out."""
        chain = Chain(self.family, self.rows, self.columns)
        a, b = (chain.load(name, self.dtype) for name in "ab")
        chain.to(chain.store("out", self.out_dtype or self.dtype), self.family, a, b)
        return chain.work()

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out."""
        operation = np.add if self.family == "add" else np.multiply
        value = saturated(operation(inputs["a"], inputs["b"]), self.out_dtype or self.dtype)
        parts = np.abs(inputs["a"]) + np.abs(inputs["b"]) if self.family == "add" else np.abs(value)
        return {"out": (value, 3 * U * parts)}


@frozen
class Add(Arithmetic):
    """out = a + b."""

    family: ClassVar[str] = "add"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("add(rows=1024, columns=1024)", "a sum, as of a residual"),
        Example("add(rows=100, columns=100, dtype=int8)", "integers, saturated"),
    )


@frozen
class Mul(Arithmetic):
    """out = a * b."""

    family: ClassVar[str] = "mul"
    examples: ClassVar[tuple[Example, ...]] = (Example("mul(rows=1024, columns=1024)", "a product"),)
