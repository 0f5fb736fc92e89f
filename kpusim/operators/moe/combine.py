"""The weighted sum of the experts' results, token by token."""

from __future__ import annotations

from collections.abc import Mapping as Names
from random import Random
from typing import Any, ClassVar, Self

import numpy as np
from attrs import field, frozen, validators

from kpusim.dtypes import gamma, smallest
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Array, Example, Layouts, Lowered, Port, Unmultiplied, Wide
from kpusim.operators.gather.draw import draw_rows
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.moe.assumed import routing
from kpusim.operators.moe.lowering import Combination, lower_combine
from kpusim.operators.moe.permute import draw_routing
from kpusim.operators.parameters import ENTRIES, count, positive

__all__ = ["MoeCombine"]


@frozen
class MoeCombine(Unmultiplied):
    """out[t] = sum over j of weights[t, j] * y[places[t, j]]: the rows of a token, gathered back, in fp32.

    load, seed: of the routing, as of `permute`.
    """

    family: ClassVar[str] = "moe_combine"
    error_origin: ClassVar[str] = "gamma_k * |weights||y| for k sums in fp32 (Higham 2002, eq. 3.13)"
    mapping_type: ClassVar[type | None] = Mapping
    examples: ClassVar[tuple[Example, ...]] = (
        Example("moe_combine(tokens=256, width=512, k=2)", "results of two experts a token"),
        Example('moe_combine(tokens=100, width=256, k=6, experts=32, load="zipf 0.5")', "of six"),
    )

    tokens: int = field(validator=positive)
    width: int = field(validator=positive)
    k: int = field(validator=positive)
    experts: int = field(default=8, validator=[*positive, validators.le(ENTRIES)], kw_only=True)
    load: str = field(default="even", validator=validators.instance_of(str), kw_only=True)
    seed: int = field(default=0, validator=count, kw_only=True)
    dtype: str = field(default="bf16", validator=validators.in_(DTYPE_GROUPS["real"]), kw_only=True)
    out_dtype: str = field(default="bf16", validator=validators.in_(DTYPE_GROUPS["real"]), kw_only=True)
    weight_dtype: str = field(default="fp32", validator=validators.in_(DTYPE_GROUPS["real"]), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any routing, any width."""
        tokens, options = draw_routing(random)
        _, width, _, _ = draw_rows(random, DTYPE_GROUPS["real"])
        dtypes: dict[str, Any] = {
            name: random.choice(DTYPE_GROUPS["real"]) for name in ("dtype", "out_dtype", "weight_dtype")
        }
        return cls(tokens, width, options.pop("k"), **options, **dtypes)

    def check(self) -> None:
        """Raises UserError for an impossible load."""
        self._places()

    def _places(self) -> tuple[int, ...]:
        return routing(self.tokens, self.experts, self.k, self.load, self.seed).places

    @property
    def dimensions(self) -> Names[str, int]:
        """Tokens and their width, experts, and experts of a token."""
        return {"tokens": self.tokens, "width": self.width, "experts": self.experts, "k": self.k}

    @property
    def ports(self) -> tuple[Port, ...]:
        """y, rows sorted by expert; weights, and places of a token's rows; out."""
        each = ("tokens", "k"), (self.tokens, self.k)
        return (
            Port("y", "in", ("", "width"), (self.tokens * self.k, self.width), self.dtype),
            Port("weights", "in", *each, self.weight_dtype),
            Port("places", "in", *each, "int32"),
            Port("out", "out", ("tokens", "width"), (self.tokens, self.width), self.out_dtype),
        )

    @property
    def vector_work(self) -> Names[str, int]:
        """A product an element of y."""
        return {"mul": self.tokens * self.k * self.width}

    @property
    def compulsory_bytes(self) -> int:
        """Every input and output once."""
        return sum(port.size_bytes for port in self.ports)

    def io_bound_bytes(self, machine: Machine) -> int:
        """Every input and output once, in whole accesses."""
        access = machine.hbm.access_bytes
        return sum(ceil_div(port.size_bytes, access) * access for port in self.ports)

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Mapping | None = None,
        fold_instructions: bool = False,
    ) -> Lowered:  # fmt: skip
        """Lanes of a DMA engine and a tile each, which gathers, sums and stores blocks of tokens."""
        y, weights, index, out = self.ports
        combination = Combination(y, index, out, self._places(), self._places(), weights=weights)
        return lower_combine(self.family, combination, machine, layouts, mapping)

    def reference(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """The sums in float64."""
        return {"out": self._sums(inputs["y"].astype(np.float64), inputs["weights"].astype(np.float64))}

    def error_bound(self, inputs: Names[str, Array]) -> dict[str, Wide]:
        """gamma_k of the sums of magnitudes."""
        y, weights = (np.abs(inputs[name].astype(np.float64)) for name in ("y", "weights"))
        return {"out": gamma(self.k, "fp32") * self._sums(y, weights) + self.k * smallest("fp32")}

    def _sums(self, y: Wide, weights: Wide) -> Wide:
        rows = y[list(self._places())].reshape(self.tokens, self.k, self.width)
        return np.asarray(np.einsum("tkw,tk->tw", rows, weights))
