"""Activation functions of a tensor, and gates: the activation of one half times the other."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Self

from attrs import field, frozen, validators

from kpusim.dtypes import smallest
from kpusim.operators.activations import activated, activation_steps
from kpusim.operators.base import Example, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.parameters import FLOATS, flag
from kpusim.operators.rowwise.chain import BLOCK, Chain, draw_size, saturated
from kpusim.operators.rowwise.operator import Rowwise
from kpusim.operators.rowwise.work import ROWS, Along, Work

__all__ = ["GeGlu", "Gelu", "GeluTanh", "Relu", "Silu", "SwiGlu"]


@frozen
class Activation(Rowwise):
    """A function of each element of x, in fp32."""

    error_origin: ClassVar[str] = "16 roundings in fp32, more than any activation has"

    dtype: str = field(default="bf16", validator=validators.in_(FLOATS), kw_only=True)
    out_dtype: str = field(default="", validator=validators.in_(("", *FLOATS)), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any sizes and dtypes."""
        return cls(draw_size(random), draw_size(random), **_dtypes(random))

    @property
    def work(self) -> Work:
        """One tensor in, one out."""
        chain = Chain(self.family, self.rows, self.columns)
        x = chain.load("x", self.dtype)
        steps = activation_steps(self.family, x, chain.temporary("gate"))
        chain.extend(steps, chain.store("out", self.out_dtype or self.dtype))
        return chain.work()

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out."""
        value, bound = activated(self.family, inputs["x"])
        return {"out": (saturated(value, self.out_dtype or self.dtype), bound)}


@frozen
class Relu(Activation):
    """out = max(x, 0)."""

    family: ClassVar[str] = "relu"
    examples: ClassVar[tuple[Example, ...]] = (Example("relu(rows=1024, columns=1024)", "the greater of x and 0"),)


@frozen
class Gelu(Activation):
    """out = x / 2 * (1 + erf(x / sqrt(2)))."""

    family: ClassVar[str] = "gelu"
    examples: ClassVar[tuple[Example, ...]] = (Example("gelu(rows=1024, columns=1024)", "GELU by the error function"),)


@frozen
class GeluTanh(Activation):
    """out = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""

    family: ClassVar[str] = "gelu_tanh"
    examples: ClassVar[tuple[Example, ...]] = (Example("gelu_tanh(rows=1024, columns=1024)", "GELU by tanh"),)


@frozen
class Silu(Activation):
    """out = x / (1 + exp(-x))."""

    family: ClassVar[str] = "silu"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("silu(rows=1024, columns=1024)", "the sigmoid linear unit, or swish"),
        Example("silu(rows=100, columns=1000, dtype=fp8_e4m3, out_dtype=bf16)", "of narrow elements"),
    )


@frozen
class Gated(Rowwise):
    """out = activation(gate) * up, in fp32.

    packed: gate and up are the halves of the rows of one tensor `gate_up`, as one GEMM leaves them.
    """

    error_origin: ClassVar[str] = Activation.error_origin
    activation: ClassVar[str]

    dtype: str = field(default="bf16", validator=validators.in_(FLOATS), kw_only=True)
    out_dtype: str = field(default="", validator=validators.in_(("", *FLOATS)), kw_only=True)
    packed: bool = field(default=False, validator=flag, kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any sizes and dtypes, packed or not."""
        return cls(draw_size(random), draw_size(random), packed=random.random() < 0.5, **_dtypes(random))

    @property
    def work(self) -> Work:
        """Two tensors in, or two halves of one."""
        chain = Chain(self.family, self.rows, self.columns)
        tensor = (ROWS, Along("columns", spread=2)) if self.packed else BLOCK
        gate, up = (
            chain.load(
                name, self.dtype, tensor=tensor, port="gate_up" if self.packed else "", offset=offset * self.packed
            )
            for name, offset in (("gate", 0), ("up", self.columns))
        )
        *steps, last = activation_steps(self.activation, gate, chain.temporary("y"))
        chain.steps += steps
        chain.then(last.op, "y", *last.sources)
        chain.to(chain.store("out", self.out_dtype or self.dtype), "mul", "y", up)
        return chain.work()

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out."""
        if self.packed:
            gate, up = inputs["gate_up"][:, : self.columns], inputs["gate_up"][:, self.columns :]
        else:
            gate, up = inputs["gate"], inputs["up"]
        value, bound = activated(self.activation, gate)
        bound = bound * abs(up) + U * abs(value * up) + smallest("fp32")
        return {"out": (saturated(value * up, self.out_dtype or self.dtype), bound * (1 + U))}


@frozen
class SwiGlu(Gated):
    """out = silu(gate) * up (Shazeer, GLU variants improve transformer, arXiv:2002.05202)."""

    family: ClassVar[str] = "swiglu"
    activation: ClassVar[str] = "silu"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("swiglu(rows=512, columns=1024)", "SiLU of a gate times another tensor"),
        Example("swiglu(rows=512, columns=1024, packed=true)", "both as halves of the rows of one tensor"),
    )


@frozen
class GeGlu(Gated):
    """out = gelu(gate) * up (Shazeer, arXiv:2002.05202)."""

    family: ClassVar[str] = "geglu"
    activation: ClassVar[str] = "gelu"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("geglu(rows=512, columns=1024)", "GELU of a gate times another tensor"),
    )


def _dtypes(random: Random) -> dict[str, Any]:
    return {"dtype": random.choice(FLOATS), "out_dtype": random.choice(("", *FLOATS))}
