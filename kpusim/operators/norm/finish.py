"""What normalised rows have in common: a residual before, weight, bias and activation after, and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import smallest
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.activations import ACTIVATIONS, activated, activation_steps
from kpusim.operators.base import Wide
from kpusim.operators.fp32 import U
from kpusim.operators.parameters import FLOATS, flag, number
from kpusim.operators.rowwise.chain import Chain, saturated
from kpusim.operators.rowwise.operator import Rowwise

__all__ = ["REAL", "Normalised", "draw_dtypes", "draw_options"]

REAL = DTYPE_GROUPS["real"]


@frozen
class Normalised(Rowwise):
    """out = activation(normalised(x + residual) * weight + bias), in fp32; `sum` is x + residual."""

    other_origins: ClassVar[Mapping[str, str]] = {"sum": "one rounding of x + residual in fp32"}

    dtype: str = field(default="bf16", validator=validators.in_(REAL), kw_only=True)
    out_dtype: str = field(default="bf16", validator=validators.in_(FLOATS), kw_only=True)
    weight: bool = field(default=True, validator=flag, kw_only=True)
    bias: bool = field(default=False, validator=flag, kw_only=True)
    residual: bool = field(default=False, validator=flag, kw_only=True)
    activation: str = field(default="none", validator=validators.in_(ACTIVATIONS), kw_only=True)
    eps: float = field(default=1e-5, validator=[number, validators.gt(0)], kw_only=True)

    def _begin(self) -> tuple[Chain, str]:
        """(chain, the buffer of what is normalised)."""
        chain = Chain(self.family, self.rows, self.columns)
        h = chain.load("x", self.dtype)
        if self.residual:
            h = chain.then("add", chain.temporary("h"), h, chain.load("residual", self.dtype))
        return chain, h

    def _vectors(self, chain: Chain) -> None:
        """Loads weight and bias."""
        for name, used in (("weight", self.weight), ("bias", self.bias)):
            if used:
                chain.column(name, self.dtype)

    def _finish(self, chain: Chain, h: str, last: tuple[str, ...]) -> None:
        """Steps from the last of normalising (`last`, an instruction and its sources) to the outputs."""
        if self.residual:
            chain.to(chain.store("sum", self.dtype), "cast", h)
        out = chain.store("out", self.out_dtype)
        steps = [last]
        if self.weight or self.bias:
            op = "fma" if self.weight and self.bias else "mul" if self.weight else "add"
            vectors = [name for name, used in (("weight", self.weight), ("bias", self.bias)) if used]
            steps.append((op, "y", *vectors))
        for op, *sources in steps[:-1] if self.activation == "none" else steps:
            chain.then(op, chain.temporary("y"), *sources)
        if self.activation == "none":
            chain.to(out, *steps[-1])
        else:
            chain.extend(activation_steps(self.activation, chain.temporary("y"), chain.temporary("gate")), out)

    def _finished(self, y: Wide, bound: Wide, inputs: Mapping[str, Wide], h: Wide) -> Mapping[str, tuple[Wide, Wide]]:
        """The outputs and their bounds from normalised rows, how far they may be off, and x + residual."""
        factor = inputs["weight"] if self.weight else np.ones(1)
        y, bound = y * factor, np.abs(factor) * (bound + U * (np.abs(y) + bound))
        if self.bias:
            y = y + inputs["bias"]
            bound = bound + U * (np.abs(y) + bound)
        y, bound = activated(self.activation, y, bound)
        found = {"out": (saturated(y, self.out_dtype), bound + 2 * smallest("fp32"))}
        return found | ({"sum": (h, U * np.abs(h))} if self.residual else {})

    def _h(self, inputs: Mapping[str, Wide]) -> tuple[Wide, Wide]:
        """(what is normalised, how far it is off)."""
        h = inputs["x"] + (inputs["residual"] if self.residual else 0.0)
        return h, U * np.abs(h) if self.residual else np.zeros_like(h)


def draw_dtypes(random: Random) -> dict[str, Any]:
    """Of an input and an output."""
    return {"dtype": random.choice(REAL), "out_dtype": random.choice(FLOATS)}


def draw_options(random: Random) -> dict[str, Any]:
    """Of any normalised rows."""
    flags = {name: random.random() < 0.5 for name in ("weight", "bias", "residual")}
    return draw_dtypes(random) | flags | {"activation": random.choice(ACTIVATIONS)}
