"""LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import gamma
from kpusim.operators.base import Example, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.norm.finish import Normalised, draw_options
from kpusim.operators.parameters import flag
from kpusim.operators.rowwise.chain import ROW, draw_size
from kpusim.operators.rowwise.work import Sweep, Work
from kpusim.operators.steps import Step

__all__ = ["LayerNorm"]

Steps = tuple[Step, ...]


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
        for name in ("mean", "scale", "square"):
            chain.temporary(name, ROW)
        for name in ("y", "gate"):
            chain.temporary(name)
        begun, centred = chain.since(), Step("sub", "y", (h, "mean"))
        sweeps = self._one_pass(h) if self.passes == "one" else self._two_passes(h, centred)
        for each, after in sweeps:
            chain.steps += each + after
        if self.passes == "one":
            chain.steps.append(centred)
        last = chain.mark
        self._finish(chain, h, ("mul", "y", "scale"))
        final = Sweep((*begun, centred, *chain.since(last)))
        return chain.work(*(Sweep(begun + each, after) for each, after in sweeps), final)

    def _one_pass(self, h: str) -> list[tuple[Steps, Steps]]:
        """(steps on each piece, steps after them): sum and sum of squares."""
        each = Step("row_sum", "mean", (h,)), Step("mul", "y", (h, h)), Step("row_sum", "scale", ("y",))
        after = (
            Step("mul", "mean", ("mean", 1 / self.columns)),
            Step("mul", "square", ("mean", "mean")),
            Step("fma", "scale", ("scale", 1 / self.columns, self.eps)),
            Step("sub", "scale", ("scale", "square")),
            Step("max", "scale", ("scale", self.eps)),  # where rounding leaves less
            Step("rsqrt", "scale", ("scale",)),
        )
        return [(each, after)]

    def _two_passes(self, h: str, centred: Step) -> list[tuple[Steps, Steps]]:
        """(steps on each piece, steps after them) of both: the sum, the sum of squared differences from the mean."""
        squares = centred, Step("mul", "gate", ("y", "y")), Step("row_sum", "scale", ("gate",))
        root = Step("fma", "scale", ("scale", 1 / self.columns, self.eps)), Step("rsqrt", "scale", ("scale",))
        mean = (Step("row_sum", "mean", (h,)),), (Step("mul", "mean", ("mean", 1 / self.columns)),)
        return [mean, (squares, root)]

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out, and sum.

        The mean of n numbers is off by gamma(n + 2) of their mean magnitude, a difference from it by that and its own
        rounding, a mean of squares by gamma(n + 5) of itself and by what its differences are off. In one pass the
        variance is a difference of means: off by what both are, however small it is. The root is taken of the least
        that the variance may come out as, never below eps.
        """
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
