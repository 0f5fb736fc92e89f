"""RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import frozen

from kpusim.dtypes import gamma
from kpusim.operators.base import Example, Wide
from kpusim.operators.norm.finish import Normalised, draw_options
from kpusim.operators.rowwise.chain import ROW, draw_size
from kpusim.operators.rowwise.work import Sweep, Work

__all__ = ["RmsNorm"]


@frozen
class RmsNorm(Normalised):
    """out = activation(h / sqrt(mean(h^2) + eps) * weight + bias) of each row, h = x + residual."""

    family: ClassVar[str] = "rmsnorm"
    error_origin: ClassVar[str] = "gamma_n of the mean of n squares (Higham 2002, section 3.1), through what follows"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("rmsnorm(rows=256, columns=1024)", "rows over the root of their mean square, times a weight"),
        Example("rmsnorm(rows=256, columns=1024, residual=true)", "a residual is added first; the sum is a result too"),
        Example("rmsnorm(rows=16, columns=4096, activation=silu, out_dtype=fp8_e4m3)", "an activation; narrow results"),
    )

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any options."""
        return cls(draw_size(random), draw_size(random), **draw_options(random))

    @property
    def work(self) -> Work:
        """Squares are summed first, then the row is scaled."""
        chain, h = self._begin()
        self._vectors(chain)
        begun = chain.since()
        chain.then("mul", chain.temporary("y"), h, h)
        scale = chain.then("row_sum", chain.temporary("scale", ROW), "y")
        summed = chain.mark
        chain.then("fma", scale, scale, 1 / self.columns, self.eps)
        chain.then("rsqrt", scale, scale)
        scaled = chain.mark
        self._finish(chain, h, ("mul", h, scale))
        first = Sweep(chain.since()[:summed], chain.since()[summed:scaled])
        return chain.work(first, Sweep((*begun, *chain.since(scaled))))

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out, and sum.

        The mean of n squares of h, itself rounded, is off by gamma(n + 6) of itself, its root by half of that; two more
        roundings follow.
        """
        h, _ = self._h(inputs)
        y = h / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + self.eps)
        return self._finished(y, gamma(self.columns + 10, "fp32") * np.abs(y), inputs, h)
