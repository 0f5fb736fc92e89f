"""Tokens in the order of their experts."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Self

from attrs import field, frozen, validators

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.base import Example, Port
from kpusim.operators.gather.draw import draw_rows
from kpusim.operators.gather.operator import RowGather
from kpusim.operators.gather.problem import Selection
from kpusim.operators.moe.assumed import routing
from kpusim.operators.parameters import ENTRIES, count, positive

__all__ = ["LOADS", "Permute", "draw_routing"]

LOADS = ("even", "zipf 0.5", "zipf 1")


def draw_routing(random: Random) -> tuple[int, dict[str, Any]]:
    """Tokens, and the other parameters of a routing; loads that are too uneven for so few tokens too."""
    experts = random.choice((1, 3, 8, 20))
    options = {"experts": experts, "k": random.randint(1, min(experts, 4)), "load": random.choice(LOADS)}
    return random.randint(1, 40), options | {"seed": random.randint(0, 99)}


@frozen
class Permute(RowGather):
    """out[i] = x[order[i]]: the row of each token once for each of its k experts, rows sorted by expert.

    load: how many rows each expert has, as `rows` of `grouped_gemm`; which, is drawn with `seed`.
    """

    family: ClassVar[str] = "permute"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("permute(tokens=256, width=512, experts=8, k=2)", "tokens to experts with equal loads"),
        Example('permute(tokens=256, width=512, experts=16, k=4, load="zipf 0.8")', "and with skewed loads"),
    )

    tokens: int = field(validator=positive)
    width: int = field(validator=positive)
    experts: int = field(default=8, validator=[*positive, validators.le(ENTRIES)], kw_only=True)
    k: int = field(default=2, validator=positive, kw_only=True)
    load: str = field(default="even", validator=validators.instance_of(str), kw_only=True)
    seed: int = field(default=0, validator=count, kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any routing, any width."""
        tokens, options = draw_routing(random)
        _, width, _, rows = draw_rows(random, DTYPE_GROUPS["any"])
        return cls(tokens, width, dtype=rows["dtype"], index_dtype=rows["index_dtype"], **options)

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Tokens and their width, experts, and experts of a token."""
        return {"tokens": self.tokens, "width": self.width, "experts": self.experts, "k": self.k}

    @property
    def ports(self) -> tuple[Port, ...]:
        """x, the token of each row, and the rows."""
        rows = self.tokens * self.k
        return (
            Port("x", "in", ("tokens", "width"), (self.tokens, self.width), self.dtype),
            Port("order", "in", ("",), (rows,), self.index_dtype),
            Port("out", "out", ("", "width"), (rows, self.width), self.dtype),
        )

    @property
    def selection(self) -> Selection:
        """The rows in the order of their experts."""
        x, index, out = self.ports
        order = routing(self.tokens, self.experts, self.k, self.load, self.seed).order
        return Selection(x, index, out, order, order)
