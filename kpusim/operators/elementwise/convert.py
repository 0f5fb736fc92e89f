"""Conversions: casts, and to and from narrow dtypes with scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import greatest, integer_range, is_integer, per_byte, smallest
from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.base import Example, Wide
from kpusim.operators.elementwise.arithmetic import INTEGERS
from kpusim.operators.fp32 import FP32_LEAST, U
from kpusim.operators.parameters import count
from kpusim.operators.rowwise.chain import BLOCK, COLUMN, DTYPES, ROW, Chain, draw_size, saturated
from kpusim.operators.rowwise.operator import Rowwise
from kpusim.operators.rowwise.work import COLUMNS, ROWS, Along, Dimension, Sweep, Work

__all__ = ["Cast", "Dequantize", "Quantize"]

REAL, NARROW = DTYPE_GROUPS["real"], DTYPE_GROUPS["quantized"]


@frozen
class Cast(Rowwise):
    """out = x in another dtype: rounded to nearest even; to integers truncated, saturated."""

    family: ClassVar[str] = "cast"
    error_origin: ClassVar[str] = "fp8 comes and goes by way of fp32"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("cast(rows=1024, columns=1024, dtype=fp32, out_dtype=bf16)", "sums to what a matmul takes"),
        Example("cast(rows=100, columns=1000, dtype=bf16, out_dtype=fp8_e4m3)", "to fp8, saturated"),
    )

    dtype: str = field(default="fp32", validator=validators.in_(DTYPES), kw_only=True)
    out_dtype: str = field(default="bf16", validator=validators.in_(DTYPES), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any sizes and dtypes."""
        options = {"dtype": random.choice(DTYPES), "out_dtype": random.choice(DTYPES)}
        return cls(draw_size(random), draw_size(random), **options)

    @property
    def work(self) -> Work:
        """One instruction, or two by way of fp32."""
        chain = Chain(self.family, self.rows, self.columns)
        x = chain.load("x", self.dtype)
        if self.dtype in INTEGERS and self.out_dtype.startswith("fp8"):
            x = chain.then("cast", chain.temporary("wide"), x)
        chain.to(chain.store("out", self.out_dtype), "cast", x)
        return chain.work()

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out."""
        off = U * np.abs(inputs["x"]) if self.out_dtype.startswith("fp8") else np.zeros_like(inputs["x"])
        return {"out": (saturated(inputs["x"], self.out_dtype), off)}


@frozen
class Scaled(Rowwise):
    """What `quantize` and `dequantize` have in common: which elements share a scale."""

    axis: str = field(default="row", validator=validators.in_(("row", "column")), kw_only=True)
    group: int = field(default=0, validator=count, kw_only=True)

    @property
    @abstractmethod
    def narrow(self) -> str:
        """The dtype that has scales."""

    def check(self) -> None:
        """Raises UserError for groups or rows that are not whole."""
        packed = per_byte(self.narrow)
        if self.group and self.axis == "column":
            raise UserError("a column's scale is of all of its rows", found=f"group={self.group}", allowed="group=0")
        if self.group and self.columns % self.group:
            allowed = f"divisors of columns = {self.columns}"
            raise UserError("a row is of whole groups", where="group", found=self.group, allowed=allowed)
        for name, size in (("columns", self.columns), ("group", self.group)):
            if size % packed:
                allowed = f"multiples of {packed}"
                raise UserError(f"a row of {self.narrow} ends within a byte", where=name, found=size, allowed=allowed)

    def _begin(self) -> tuple[Chain, tuple[Dimension, ...]]:
        """(chain, shape of a block)."""
        unit = self.group or per_byte(self.narrow)
        chain = Chain(self.family, self.rows, self.columns, {"unit": unit})
        return chain, (ROWS, Along("columns", each=self.group), self.group) if self.group else BLOCK

    @property
    def _scale(self) -> tuple[tuple[Dimension, ...], tuple[Dimension, ...]]:
        """(shape, tensor) of the scales."""
        if self.axis == "column":
            return COLUMN, (COLUMNS,)
        groups = Along("columns", each=self.group or 1)
        return ((ROWS, groups, 1), (ROWS, groups)) if self.group else (ROW, (ROWS,))

    def _spread(self, scale: Wide) -> Wide:
        """Scales, one for each element."""
        if self.group:
            return np.repeat(scale, self.group, axis=1)
        return scale[None] if self.axis == "column" else scale[:, None]


@frozen
class Quantize(Scaled):
    """out = x / scale in a narrow dtype, rounded to nearest even, saturated.

    axis, group: a scale for each row, or for each `group` columns of it: their greatest |x| over the greatest number of
    the dtype, in fp32, which is written to `scale`. axis=column: one for each column, which is given in `scale`.
    """

    family: ClassVar[str] = "quantize"
    error_origin: ClassVar[str] = "3u of scale and quotient in fp32"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("quantize(rows=256, columns=1024)", "int8 with a scale a row, as of activations"),
        Example("quantize(rows=256, columns=1024, out_dtype=int4, group=128)", "int4 with a scale for 128 columns"),
        Example("quantize(rows=256, columns=1024, out_dtype=fp8_e4m3, axis=column)", "fp8 with columns' given scales"),
    )

    dtype: str = field(default="bf16", validator=validators.in_(REAL), kw_only=True)
    out_dtype: str = field(default="int8", validator=validators.in_(NARROW), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any dtypes and scales."""
        group, options = _draw(random)
        options |= {"dtype": random.choice(REAL), "out_dtype": random.choice(NARROW)}
        return cls(draw_size(random), draw_size(random, group or 4), **options)

    @property
    def narrow(self) -> str:
        """That of the result."""
        return self.out_dtype

    @property
    def work(self) -> Work:
        """The greatest magnitude first, where scales are not given."""
        chain, block = self._begin()
        x = chain.load("x", self.dtype, block)
        shape, tensor = self._scale
        if self.axis == "column":
            scale = chain.column("scale", "fp32")
            chain.then("quantize", chain.store("out", self.out_dtype, block), x, scale, 0.0)
            return chain.work()
        out = chain.store("out", self.out_dtype, block)
        scale = chain.store("scale", "fp32", shape, tensor)
        chain.then("abs", chain.temporary("size", block), x)
        chain.then("row_max", scale, "size")
        found = chain.mark
        chain.then("mul", scale, scale, 1 / self._limit)
        chain.then("max", scale, scale, FP32_LEAST)  # of zeros
        scaled = chain.mark
        chain.then("quantize", out, x, scale, 0.0)
        if self.group:
            return chain.work()
        return chain.work(Sweep(chain.since()[:found], chain.since()[found:scaled]), Sweep(chain.since(scaled)))

    @property
    def _limit(self) -> float:
        """The greatest number of the dtype."""
        return float(integer_range(self.out_dtype)[1]) if is_integer(self.out_dtype) else greatest(self.out_dtype)

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out, and scale where it is a result. The arithmetic is fp32's own, since integers are rounded from it."""
        x = inputs["x"].astype(np.float32)
        if self.axis == "column":
            scale, found = inputs["scale"].astype(np.float32), {}
        else:
            size = np.abs(x).reshape(self.rows, -1, self.group or self.columns).max(axis=-1)
            scale = np.maximum(size * np.float32(1 / self._limit), np.float32(FP32_LEAST))
            scale = scale if self.group else scale[:, 0]
            found = {"scale": (scale.astype(np.float64), np.zeros(scale.shape))}
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            quotient = (x / self._spread(scale)).astype(np.float64)  # type: ignore[arg-type]
        rounded = np.rint(quotient) if is_integer(self.out_dtype) else quotient
        return {"out": (saturated(rounded, self.out_dtype), np.zeros_like(quotient)), **found}


@frozen
class Dequantize(Scaled):
    """out = x * scale, from a narrow dtype.

    axis, group: a scale (fp32) for each row, for each `group` columns of it, or for each column.
    """

    family: ClassVar[str] = "dequantize"
    error_origin: ClassVar[str] = "one rounding in fp32"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("dequantize(rows=256, columns=1024)", "int8 with a scale a row"),
        Example("dequantize(rows=256, columns=1024, dtype=int4, group=128)", "int4 with a scale for 128 columns"),
    )

    dtype: str = field(default="int8", validator=validators.in_(NARROW), kw_only=True)
    out_dtype: str = field(default="bf16", validator=validators.in_(REAL), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any dtypes and scales."""
        group, options = _draw(random)
        options |= {"dtype": random.choice(NARROW), "out_dtype": random.choice(REAL)}
        return cls(draw_size(random), draw_size(random, group or 4), **options)

    @property
    def narrow(self) -> str:
        """That of x."""
        return self.dtype

    @property
    def work(self) -> Work:
        """One instruction."""
        chain, block = self._begin()
        x = chain.load("x", self.dtype, block, stored=True)
        scale = chain.load("scale", "fp32", *self._scale)
        chain.then("dequantize", chain.store("out", self.out_dtype, block), x, scale, 0.0)
        return chain.work()

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out."""
        value = inputs["x"] * self._spread(inputs["scale"])
        return {"out": (value, U * np.abs(value) + smallest("fp32"))}


def _draw(random: Random) -> tuple[int, dict[str, Any]]:
    """(group, options) of scales."""
    group = random.choice((0, 0, 4, 8))
    return group, {"group": group, "axis": "row" if group else random.choice(("row", "column"))}
