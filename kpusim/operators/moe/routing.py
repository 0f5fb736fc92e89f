"""Top-k routing: the experts of each token, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from attrs import field, frozen, validators

from kpusim.dtypes import gamma, smallest
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.base import Array, Example, Port, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.moe.assumed import check_chosen
from kpusim.operators.parameters import positive
from kpusim.operators.rowwise.chain import ROW, Chain
from kpusim.operators.rowwise.operator import Streamed
from kpusim.operators.rowwise.work import ROWS, Work

__all__ = ["TopkRouting"]

NOTHING = 200.0  # e^-200 is 0 in fp32, whose least number is e^-103


@frozen
class TopkRouting(Streamed):
    """The k experts with the greatest scores of each token, and softmax of the scores as their weights.

    softmax: "after" the choice, over the chosen ones, whose weights add up to 1 (Mixtral, arXiv:2401.04088); "before"
    it, over all experts (DeepSeekMoE, arXiv:2401.06066). Of equal scores the expert with the lesser number comes first.
    """

    family: ClassVar[str] = "topk_routing"
    error_origin: ClassVar[str] = "roundings of the scores' differences, of exp, of the sum and of the quotient in fp32"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("topk_routing(tokens=512, experts=8, k=2)", "Mixtral: weights of the two chosen"),
        Example("topk_routing(tokens=100, experts=64, k=6, softmax=before)", "DeepSeekMoE: shares of all experts"),
    )

    tokens: int = field(validator=positive)
    experts: int = field(validator=positive)
    k: int = field(validator=positive)
    softmax: str = field(default="after", validator=validators.in_(("after", "before")), kw_only=True)
    dtype: str = field(default="fp32", validator=validators.in_(DTYPE_GROUPS["real"]), kw_only=True)
    out_dtype: str = field(default="fp32", validator=validators.in_(DTYPE_GROUPS["real"]), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Few or many experts, one or all of them chosen too."""
        experts = random.choice((1, 2, 8, 13, 40))
        options = {name: random.choice(DTYPE_GROUPS["real"]) for name in ("dtype", "out_dtype")}
        softmax = random.choice(("after", "before"))
        return cls(random.randint(1, 70), experts, random.randint(1, experts), softmax=softmax, **options)

    def check(self) -> None:
        """Raises UserError for more experts of a token than there are."""
        check_chosen(self.k, self.experts)

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Tokens, experts, and experts of a token."""
        return {"tokens": self.tokens, "experts": self.experts, "k": self.k}

    @property
    def ports(self) -> tuple[Port, ...]:
        """scores, weights and the chosen experts' numbers, weights descending."""
        return (
            Port("scores", "in", ("tokens", "experts"), (self.tokens, self.experts), self.dtype),
            Port("weights", "out", ("tokens", "k"), (self.tokens, self.k), self.out_dtype),
            Port("chosen", "out", ("tokens", "k"), (self.tokens, self.k), "int32"),
        )

    @property
    def work(self) -> Work:
        """Scores less the greatest one, exponentials, and their sum."""
        chain = Chain(self.family, self.tokens, self.experts, {"unit": self.experts})
        some = (ROWS, self.k)
        scores = chain.load("scores", self.dtype)
        weights, chosen = chain.store("weights", self.out_dtype, some, some), chain.store("chosen", "int32", some, some)
        best, total = chain.temporary("best", some), chain.temporary("total", ROW)
        chain.then("top_k", best, chosen, scores)
        greatest = chain.part(best, "greatest", 0, 1)
        powers = chain.then("exp", *[chain.then("sub", chain.temporary("powers", some), best, greatest)] * 2)
        if self.softmax == "before":
            shares = chain.then("sub", chain.temporary("shares"), scores, greatest)
            chain.then("row_sum", total, chain.then("exp", shares, shares))
        else:
            chain.then("row_sum", total, powers)
        chain.to(weights, "mul", powers, chain.then("reciprocal", total, total))
        return chain.work()

    @property
    def vector_work(self) -> Mapping[str, int]:
        """The search goes over all scores for each of the chosen; exponentials are of those that count."""
        scores, chosen = self.tokens * self.experts, self.tokens * self.k
        counted = scores if self.softmax == "before" else chosen
        return {"reduce": self.k * scores + counted, "exp": counted, "add": counted, "mul": chosen}

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """Softmax in float64, sorted."""
        chosen, best, counted = self._powers(inputs["scores"].astype(np.float64))
        return {"weights": best / counted.sum(axis=1, keepdims=True), "chosen": chosen.astype(np.float64)}

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """e^x is off by |x| u and a rounding of its own, a sum of n by gamma_n, the quotient by three roundings."""

        def off(powers: Wide) -> Wide:
            shifts = np.minimum(-np.log(np.maximum(powers, np.exp(-NOTHING))), NOTHING)
            return powers * np.expm1((shifts + 2) * U) + smallest("fp32")

        _, best, counted = self._powers(inputs["scores"].astype(np.float64))
        total, total_off = (each.sum(axis=1, keepdims=True) for each in (counted, off(counted)))
        total_off = total_off + gamma(counted.shape[1], "fp32") * (total + total_off)
        weights = best / total
        bound = (off(best) + weights * total_off) / (total - total_off)
        return {
            "weights": bound + gamma(3, "fp32") * (weights + bound), "chosen": np.zeros((self.tokens, self.k))
        }  # fmt: skip

    def _powers(self, scores: Wide) -> tuple[npt.NDArray[np.int64], Wide, Wide]:
        """The chosen experts; exponentials of their scores less the greatest one; those that are added up."""
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        best = np.take_along_axis(powers, chosen, axis=1)
        return chosen, best, powers if self.softmax == "before" else best
