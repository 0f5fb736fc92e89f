"""LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import gamma
from kpusim.operators.base import Example
from kpusim.operators.norm.finish import Normalised, U, draw_options
from kpusim.operators.parameters import flag
from kpusim.operators.rowwise.chain import ROW, Chain, draw_size
from kpusim.operators.rowwise.operator import Wide
from kpusim.operators.rowwise.work import Sweep, Work
from kpusim.operators.steps import Step

__all__ = ["LayerNorm"]


@frozen
class LayerNorm(Normalised):
    """out = activation((h - mean(h)) / sqrt(variance(h) + eps) * weight + bias) of each row, h = x + residual.

    passes: "two": the mean first, then the mean square of the differences; "one": sum and sum of squares together, the
    variance is their difference, of which a large mean leaves few digits.
    """

    family: ClassVar[str] = "layernorm"
    error_origin: ClassVar[str] = "gamma_n of the means of n (Higham 2002, section 3.1), through what follows"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("layernorm(rows=256, columns=1024)", "rows less their mean, over their standard deviation"),
        Example("layernorm(rows=256, columns=1024, passes=one, residual=true)", "both sums in one pass; a residual"),
        Example("layernorm(rows=128, columns=768, activation=gelu)", "an activation behind it"),
    )

    bias: bool = field(default=True, validator=flag, kw_only=True)
    passes: str = field(default="two", validator=validators.in_(("one", "two")), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any options."""
        options = draw_options(random) | {"passes": random.choice(("one", "two"))}
        return cls(draw_size(random), draw_size(random), **options)

    @property
    def work(self) -> Work:
        """Mean and variance, in one sweep or two, then the row is scaled."""
        chain, h = self._begin()
        self._vectors(chain)
        begun = chain.since()
        sweeps = self._one_pass(chain, h, begun) if self.passes == "one" else self._two_passes(chain, h, begun)
        centred = chain.steps[-1] if self.passes == "one" else Step("sub", "y", (h, "mean"))
        last = chain.mark
        self._finish(chain, h, ("mul", "y", "scale"))
        return chain.work(*sweeps, Sweep((*begun, centred, *chain.since(last))))

    def _one_pass(self, chain: Chain, h: str, begun: tuple[Step, ...]) -> list[Sweep]:
        """Sum and sum of squares; the differences from the mean are left in "y"."""
        mean, scale, y = _buffers(chain)
        chain.then("row_sum", mean, h)
        chain.then("mul", y, h, h)
        chain.then("row_sum", scale, y)
        summed = chain.mark
        chain.then("mul", mean, mean, 1 / self.columns)
        square = chain.then("mul", chain.temporary("square", ROW), mean, mean)
        chain.then("fma", scale, scale, 1 / self.columns, self.eps)
        chain.then("sub", scale, scale, square)
        chain.then("max", scale, scale, self.eps)  # where rounding leaves less
        chain.then("rsqrt", scale, scale)
        first = Sweep(chain.since()[:summed], chain.since(summed))
        chain.then("sub", y, h, mean)
        return [first]

    def _two_passes(self, chain: Chain, h: str, begun: tuple[Step, ...]) -> list[Sweep]:
        """The sum, then the sum of squared differences from the mean, which are left in "y"."""
        mean, scale, y = _buffers(chain)
        chain.then("row_sum", mean, h)
        summed = chain.mark
        chain.then("mul", mean, mean, 1 / self.columns)
        first = Sweep(chain.since()[:summed], chain.since(summed))
        second = chain.mark
        chain.then("sub", y, h, mean)
        gate = chain.temporary("gate")
        chain.then("mul", gate, y, y)
        chain.then("row_sum", scale, gate)
        summed = chain.mark
        chain.then("fma", scale, scale, 1 / self.columns, self.eps)
        chain.then("rsqrt", scale, scale)
        return [first, Sweep((*begun, *chain.since(second)[: summed - second]), chain.since(summed))]

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out, and sum."""
        h, off = self._h(inputs)
        n = self.columns
        mean = np.mean(h, axis=-1, keepdims=True)
        difference = h - mean
        variance = np.mean(difference * difference, axis=-1, keepdims=True)
        mean_off = gamma(n + 2, "fp32") * np.mean(np.abs(h) + off, axis=-1, keepdims=True) + np.mean(
            off, axis=-1, keepdims=True
        )
        each_off = off + mean_off + U * (np.abs(difference) + off + mean_off)
        if self.passes == "two":
            grown = np.abs(difference) + each_off
            variance_off = np.mean(2 * np.abs(difference) * each_off + each_off**2, axis=-1, keepdims=True)
            variance_off = variance_off + gamma(n + 5, "fp32") * np.mean(grown**2, axis=-1, keepdims=True)
        else:
            squares = np.mean((np.abs(h) + off) ** 2, axis=-1, keepdims=True)
            variance_off = gamma(n + 8, "fp32") * (squares + self.eps) + 2 * (np.abs(mean) + mean_off) * mean_off
            variance_off = variance_off + np.mean(2 * np.abs(h) * off + off**2, axis=-1, keepdims=True)
        total = variance + self.eps
        least = np.maximum(total - variance_off - 2 * U * total, self.eps * (1 - 4 * U))
        root, most = 1 / np.sqrt(total), 1 / np.sqrt(least)
        y = difference * root
        bound = np.abs(difference) * (most - root) + each_off * most
        return self._finished(y, bound + 4 * U * (np.abs(y) + bound), inputs, h)


def _buffers(chain: Chain) -> tuple[str, str, str]:
    """For mean and scale of each row, and for differences."""
    return chain.temporary("mean", ROW), chain.temporary("scale", ROW), chain.temporary("y")
