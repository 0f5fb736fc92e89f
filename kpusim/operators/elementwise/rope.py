"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import smallest
from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.base import Example, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.gather.listed import listed
from kpusim.operators.parameters import count, flag, positive
from kpusim.operators.rowwise.chain import Chain, draw_size
from kpusim.operators.rowwise.operator import Rowwise
from kpusim.operators.rowwise.work import ROWS, Along, Dimension, Work

__all__ = ["Rope"]

REAL = DTYPE_GROUPS["real"]


@frozen
class Rope(Rowwise):
    """Pairs of elements of each head, turned by angles whose `cos` and `sin` [rows, head_dim / 2] each row has.

    (a, b) becomes (a cos - b sin, b cos + a sin) (Su et al., RoFormer, arXiv:2104.09864). interleaved: neighbours are a
    pair, as in GPT-J; else the i-th of the first and the second half of a head, as in GPT-NeoX and Llama. table: cos
    and sin are tables of so many rows, of which `positions` says each row's; 0: each row has its own. positions: how
    these are drawn, with `seed`: "sequential", "uniform" and others as of `gather`, or numbers.
    """

    family: ClassVar[str] = "rope"
    error_origin: ClassVar[str] = "gamma_3 of both products in fp32"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("rope(rows=256, columns=1024, head_dim=128)", "queries or keys of 8 heads, halves of a head as pairs"),
        Example("rope(rows=256, columns=1024, head_dim=64, interleaved=true)", "neighbours as pairs"),
        Example('rope(rows=64, columns=1024, table=4096, positions="uniform")', "angles gathered from a table"),
    )

    head_dim: int = field(default=128, validator=positive, kw_only=True)
    table: int = field(default=0, validator=count, kw_only=True)
    positions: str = field(default="sequential", validator=validators.instance_of(str), kw_only=True)
    seed: int = field(default=0, validator=count, kw_only=True)
    dtype: str = field(default="bf16", validator=validators.in_(REAL), kw_only=True)
    out_dtype: str = field(default="", validator=validators.in_(("", *REAL)), kw_only=True)
    interleaved: bool = field(default=False, validator=flag, kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Heads of any size."""
        head = 2 * random.choice((1, 3, 8))
        options: dict[str, Any] = {"dtype": random.choice(REAL), "out_dtype": random.choice(("", *REAL))}
        if random.random() < 0.4:
            options |= {"table": random.randint(1, 90), "positions": random.choice(("sequential", "uniform", "sorted"))}
        return cls(
            draw_size(random), draw_size(random, head), head_dim=head, interleaved=random.random() < 0.5, **options
        )

    def check(self) -> None:
        """Raises UserError for heads without pairs, or rows that are not of whole heads."""
        if self.head_dim % 2:
            raise UserError("a head is of pairs", where="head_dim", found=self.head_dim, allowed="even numbers")
        if self.positions != "sequential" and not self.table:
            raise UserError("positions are of a table", found=f"positions={self.positions!r}", allowed="table > 0")
        self._positions()
        if self.columns % self.head_dim:
            allowed = f"multiples of head_dim = {self.head_dim}"
            raise UserError("a row is of whole heads", where="columns", found=self.columns, allowed=allowed)

    @property
    def work(self) -> Work:
        """Five instructions on half of a block each, with head or row by row."""
        return self._neighbours() if self.interleaved else self._halves()

    def _halves(self) -> Work:
        """Blocks of rows, heads and elements of a head."""
        dim, half = self.head_dim, self.head_dim // 2
        chain = Chain(self.family, self.rows, self.columns, {"unit": dim})
        heads = Along("columns", each=dim)
        x = chain.load("x", self.dtype, (ROWS, heads, dim))
        cos, sin = self._angles(chain, (ROWS, 1, half))
        out = chain.store("out", self.out_dtype or self.dtype, (ROWS, heads, dim))
        t, u = (chain.temporary(name, (ROWS, heads, half)) for name in "tu")
        parts = [chain.part(of, f"{of}_{n}", n * half, half) for of in (x, out) for n in (0, 1)]
        _turn(chain, parts, (cos, sin), (t, u))
        return chain.work()

    def _neighbours(self) -> Work:
        """Blocks of whole rows, row by row: an operand has three dimensions, of heads, pairs, and the two of a pair."""
        half, heads = self.head_dim // 2, self.columns // self.head_dim
        chain = Chain(self.family, self.rows, self.columns, {"unit": self.columns, "by_row": True})
        shape = (Along("rows", times=heads), half, 2)
        x = chain.load("x", self.dtype, shape)
        cos, sin = self._angles(chain, (ROWS, half, 1))
        out = chain.store("out", self.out_dtype or self.dtype, shape)
        t, u = (chain.temporary(name, (heads, half, 1)) for name in "tu")
        parts = [chain.part(of, f"{of}_{n}", n, 1) for of in (x, out) for n in (0, 1)]
        _turn(chain, parts, (cos, sin), (t, u))
        return chain.work()

    def _positions(self) -> tuple[int, ...]:
        """Rows of the table. Raises UserError for impossible ones."""
        return listed(self.positions, self.rows, self.table, self.seed) if self.table else ()

    def _angles(self, chain: Chain, shape: tuple[Dimension, ...]) -> tuple[str, str]:
        """Loads cos and sin of each row."""
        half = self.head_dim // 2
        if not self.table:
            return chain.load("cos", "fp32", shape, (ROWS, half)), chain.load("sin", "fp32", shape, (ROWS, half))
        index, tensor = chain.index("positions", self._positions()), (self.table, half)
        return chain.load("cos", "fp32", shape, tensor, index=index), chain.load(
            "sin", "fp32", shape, tensor, index=index
        )

    @property
    def compulsory_bytes(self) -> int:
        """Every input and output once; of tables the rows that are wanted."""
        unused = self.table - len({*self._positions()})
        return super().compulsory_bytes - 2 * unused * self.head_dim // 2 * 4

    def judged(self, inputs: Mapping[str, Wide]) -> Mapping[str, tuple[Wide, Wide]]:
        """out."""
        heads, half = self.columns // self.head_dim, self.head_dim // 2
        x = inputs["x"].reshape(self.rows, heads, *((half, 2) if self.interleaved else (2, half)))
        a, b = np.moveaxis(x, -1 if self.interleaved else -2, 0)
        rows = list(self._positions()) if self.table else slice(None)
        cos, sin = inputs["cos"][rows, None], inputs["sin"][rows, None]
        axis = -1 if self.interleaved else -2
        value = np.stack((a * cos - b * sin, b * cos + a * sin), axis)
        size = np.stack((abs(a * cos) + abs(b * sin), abs(b * cos) + abs(a * sin)), axis)
        shape = self.rows, self.columns
        return {"out": (value.reshape(shape), 4 * U * size.reshape(shape) + 4 * smallest("fp32"))}


def _turn(chain: Chain, parts: list[str], angle: tuple[str, str], temporaries: tuple[str, str]) -> None:
    """The steps from the two parts of x to those of out."""
    (a, b, first, second), (cos, sin), (t, u) = parts, angle, temporaries
    chain.then("mul", t, a, cos)
    chain.then("mul", u, b, sin)
    chain.then("sub", first, t, u)
    chain.then("mul", t, b, cos)
    chain.then("fma", second, a, sin, t)
