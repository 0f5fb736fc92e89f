"""Softmax of rows."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import gamma, smallest
from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_BITS
from kpusim.operators.base import Example, Wide
from kpusim.operators.fp32 import FP32_MAX, U
from kpusim.operators.norm.finish import REAL, draw_dtypes
from kpusim.operators.parameters import FLOATS, count, number
from kpusim.operators.rowwise.chain import BLOCK, COLUMN, ROW, Chain, draw_size, saturated
from kpusim.operators.rowwise.operator import Rowwise
from kpusim.operators.rowwise.work import ENTRIES, Sweep, Work
from kpusim.operators.steps import Step

__all__ = ["Softmax"]

STEEP = 80.0  # beyond exp of that an error says nothing: fp32 ends at exp(88.7)


@frozen
class Softmax(Rowwise):
    """out = exp(s - max(s)) / sum(exp(s - max(s))) of each row, s = scale * x.

    batch: so many matrices, a dimension in front; 0: one. mask: "causal": rows are queries, the last of as many
    positions as there are columns, and do not see what comes after them; a row that sees nothing becomes zeros. passes,
    where a row does not fit into the SRAM: "two": the greatest first, then the sum; "one": both together (Milakov and
    Gimelshein, Online normalizer calculation for softmax, 2018). exponentials: "kept" in the SRAM from the sum to the
    quotient, or computed "again"; where it is not said, kept if a row is in one piece.
    """

    family: ClassVar[str] = "softmax"
    error_origin: ClassVar[str] = "10u of the greatest |s| in exponents, gamma_4n for the sum, in fp32"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("softmax(rows=256, columns=1024)", "probabilities of each row"),
        Example("softmax(rows=64, columns=256, batch=8, mask=causal, scale=0.125)", "scores of attention"),
        Example("softmax(rows=2, columns=200000, passes=one)", "rows that are longer than an SRAM"),
    )

    batch: int = field(default=0, validator=count, kw_only=True)
    dtype: str = field(default="bf16", validator=validators.in_(REAL), kw_only=True)
    out_dtype: str = field(default="bf16", validator=validators.in_(FLOATS), kw_only=True)
    scale: float = field(default=1.0, validator=number, kw_only=True)
    mask: str = field(default="none", validator=validators.in_(("none", "causal")), kw_only=True)
    passes: str = field(default="two", validator=validators.in_(("one", "two")), kw_only=True)
    exponentials: str = field(default="", validator=validators.in_(("", "kept", "again")), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any options."""
        options = draw_dtypes(random) | {"batch": random.choice((0, 0, 1, 3)), "scale": random.choice((1.0, 0.125))}
        options |= {"mask": random.choice(("none", "causal")), "passes": random.choice(("one", "two"))}
        options |= {"exponentials": random.choice(("", "again", "kept" if options["passes"] == "two" else ""))}
        return cls(draw_size(random), draw_size(random), **options)

    @property
    def work(self) -> Work:
        """The greatest, the exponentials and their sum, then the quotient."""
        kept = self.exponentials == "kept"
        causal = self.mask == "causal" and self.out_dtype in REAL  # nothing else can be filled with zeros
        chain = Chain(self.family, self.rows, self.columns, {"entries": max(self.batch, 1), "causal": causal})
        tensor = (ENTRIES, *BLOCK) if self.batch else BLOCK
        x, e = chain.load("x", self.dtype, tensor=tensor), chain.temporary("e", held=kept)
        s = self._scores(chain, x)
        begun = chain.since()
        most, total = chain.temporary("most", ROW), chain.temporary("total", ROW)
        for name in ("next", "change", "part"):
            chain.temporary(name, ROW)
        greatest = Step("row_max", most, (s,)), Step("max", most, (most, -FP32_MAX))  # of none that is seen
        exponentials = Step("sub", e, (s, most)), Step("exp", e, (e,))
        summed = Step("row_sum", total, (e,))
        inverse = Step("max", total, (total, 1.0)), Step("reciprocal", total, (total,))  # 1: the greatest's own
        chain.steps += [*greatest, *exponentials, summed, *inverse]
        if self.exponentials == "again":
            chain.steps += [*begun, *exponentials]
        last = chain.mark
        chain.to(chain.store("out", self.out_dtype, tensor=tensor), "mul", e, total)
        final = Sweep(chain.since(last) if kept else (*begun, *exponentials, *chain.since(last)))
        if self.passes == "one":
            return chain.work(self._online(begun, s, inverse), final)
        first = Sweep((*begun, greatest[0]), greatest[1:])
        return chain.work(first, Sweep((*begun, *exponentials, summed), inverse), final)

    def _scores(self, chain: Chain, x: str) -> str:
        """The buffer of what is exponentiated."""
        if self.scale != 1.0:
            x = chain.then("mul", chain.temporary("e"), x, float(self.scale))
        if self.mask == "none":
            return x
        column, row = chain.temporary("column", COLUMN, "int32"), chain.temporary("row", ROW, "int32")
        chain.prelude.append(Step("iota", column, ("columns", 0.0)))
        chain.then("iota", row, "rows", float(self.columns - self.rows))
        chain.then("le", chain.temporary("seen", BLOCK, "uint8"), column, row)
        return chain.then("select", chain.temporary("e"), "seen", x, float("-inf"))

    def _online(self, begun: tuple[Step, ...], s: str, inverse: tuple[Step, ...]) -> Sweep:
        """The greatest and the sum so far, which shrinks as the greatest grows."""
        each = (
            Step("row_max", "part", (s,)),
            Step("max", "next", ("most", "part")),
            Step("sub", "change", ("most", "next")),
            Step("exp", "change", ("change",)),
            Step("sub", "e", (s, "next")),
            Step("exp", "e", ("e",)),
            Step("row_sum", "part", ("e",)),
            Step("fma", "total", ("total", "change", "part")),
            Step("move", "most", ("next",)),
        )
        start = Step("fill", "most", (-FP32_MAX,)), Step("fill", "total", (0.0,))
        return Sweep((*begun, *each), inverse, start, joined=False)

    def check(self) -> None:
        """Raises UserError for exponentials that are kept although their greatest is not known yet."""
        if self.exponentials == "kept" and self.passes == "one":
            raise UserError("with one pass exponentials change", where="exponentials", found="kept", allowed="again")

    @property
    def compulsory_bytes(self) -> int:
        """Every result once, and every input that is needed."""
        work = self.work
        masked = self.rows * self.columns - work.needed
        return super().compulsory_bytes - work.entries * masked * DTYPE_BITS[self.dtype] // 8

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out.

        An exponent s - max(s) is off by u of both and 2u of their difference, the same again in the sum; as the
        greatest grows, the factors of the sum are off by 2u more of all of its changes. A sum of n, with three
        roundings for each piece, is off by gamma_4n.
        """
        s = self.scale * inputs["x"]
        seen = np.ones(s.shape, bool)
        if self.mask == "causal":
            seen &= np.tri(self.rows, self.columns, self.columns - self.rows, dtype=bool)
        s = np.where(seen, s, -np.inf)
        top = np.maximum(np.max(s, axis=-1, keepdims=True), -FP32_MAX)
        e = np.exp(s - top)
        p = e / np.maximum(np.sum(e, axis=-1, keepdims=True), 1.0)
        size = np.max(np.abs(np.where(seen, s, 0.0)), axis=-1, keepdims=True)
        relative = np.expm1(np.minimum(10 * U * size, STEEP)) + gamma(4 * self.columns + 8, "fp32")
        return {"out": (saturated(p, self.out_dtype), relative * p + (self.columns + 2) * smallest("fp32") * seen)}
