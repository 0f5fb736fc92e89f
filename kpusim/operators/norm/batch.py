"""BatchNorm in inference."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.operators.activations import ACTIVATIONS, activated, activation_steps
from kpusim.operators.base import Example, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.norm.finish import REAL, draw_dtypes
from kpusim.operators.parameters import FLOATS, flag, number
from kpusim.operators.rowwise.chain import COLUMN, Chain, draw_size, saturated
from kpusim.operators.rowwise.operator import Rowwise
from kpusim.operators.rowwise.work import Work
from kpusim.operators.steps import Step

__all__ = ["BatchNorm"]


@frozen
class BatchNorm(Rowwise):
    """out = activation((x - mean) / sqrt(variance + eps) * weight + bias), all four by column, as in inference.

    They become one factor and one term a column, once, on the vector engine. A variance below 0 counts as 0.
    """

    family: ClassVar[str] = "batchnorm"
    error_origin: ClassVar[str] = "a rounding in fp32 for each operation on columns' factors and terms"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("batchnorm(rows=1024, columns=256)", "a factor and a term for each column"),
        Example("batchnorm(rows=1024, columns=256, activation=relu)", "an activation behind it"),
    )

    dtype: str = field(default="bf16", validator=validators.in_(REAL), kw_only=True)
    out_dtype: str = field(default="bf16", validator=validators.in_(FLOATS), kw_only=True)
    weight: bool = field(default=True, validator=flag, kw_only=True)
    bias: bool = field(default=True, validator=flag, kw_only=True)
    activation: str = field(default="none", validator=validators.in_(ACTIVATIONS), kw_only=True)
    eps: float = field(default=1e-5, validator=[number, validators.gt(0)], kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any options."""
        flags = {name: random.random() < 0.5 for name in ("weight", "bias")}
        options = draw_dtypes(random) | flags | {"activation": random.choice(ACTIVATIONS)}
        return cls(draw_size(random), draw_size(random), **options)

    @property
    def work(self) -> Work:
        """Columns' factors and terms first; then one instruction, and the activation."""
        chain = Chain(self.family, self.rows, self.columns)
        x = chain.load("x", self.dtype)
        mean, variance = (chain.column(name, "fp32") for name in ("mean", "variance"))
        factor, term = chain.temporary("factor", COLUMN), chain.temporary("term", COLUMN)
        chain.prelude += [
            Step("max", factor, (variance, 0.0)),
            Step("add", factor, (factor, self.eps)),
            Step("rsqrt", factor, (factor,)),
        ]
        if self.weight:
            chain.prelude.append(Step("mul", factor, (factor, chain.column("weight", "fp32"))))
        chain.prelude.append(Step("mul", term, (mean, factor)))
        if self.bias:
            chain.prelude.append(Step("sub", term, (chain.column("bias", "fp32"), term)))
        else:
            chain.prelude.append(Step("neg", term, (term,)))
        out = chain.store("out", self.out_dtype)
        if self.activation == "none":
            chain.to(out, "fma", x, factor, term)
        else:
            y = chain.then("fma", chain.temporary("y"), x, factor, term)
            chain.extend(activation_steps(self.activation, y, chain.temporary("gate")), out)
        return chain.work()

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out. The factor has five roundings; the term three more, and they are of numbers that may cancel."""
        factor = 1 / np.sqrt(np.maximum(inputs["variance"], 0) + self.eps)
        factor = factor * (inputs["weight"] if self.weight else 1.0)
        bias = inputs["bias"] if self.bias else 0.0
        y = (inputs["x"] - inputs["mean"]) * factor + bias
        bound = 10 * U * ((np.abs(inputs["x"]) + np.abs(inputs["mean"])) * np.abs(factor) + np.abs(bias))
        y, bound = activated(self.activation, y, bound)
        return {"out": (saturated(y, self.out_dtype), bound)}
