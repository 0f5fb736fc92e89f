"""The attention operators: parameters, work, bounds and reference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import prod, sqrt
from random import Random
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from attrs import evolve, field, frozen, validators

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.attention.draw import draw_attention, draw_mla
from kpusim.operators.attention.lists import check_gathered
from kpusim.operators.attention.mapping import Mapping as AttentionMapping
from kpusim.operators.attention.problem import Problem, ports
from kpusim.operators.attention.rules import contradictions, not_unfused
from kpusim.operators.base import ROW_MAJOR, Array, Example, Layouts, Lowered, Part, Port
from kpusim.operators.parameters import count, flag, number, positive

__all__ = ["Attention", "Mla"]

Wide = npt.NDArray[np.float64]
DTYPES = ("bf16", "fp16", "fp32", "fp8_e4m3")
KIVI_GROUP = 32  # tokens that share a scale of keys (KIVI, arXiv:2402.02750, section 5)
LISTS = ("page_table", "positions", "chosen")


@frozen(kw_only=True)
class Attending:
    """What attentions have in common: out = softmax(scale * q k^T) v for each head, query i at keys - queries + i.

    dtype: of Q and of what is multiplied, to which probabilities are rounded; scores, sums and exponentials are fp32.
    mask: causal: a query sees the keys up to its own position. page: keys and values are in pages of so many tokens,
    anywhere in a pool of `pages` (0: twice those that are needed) a head; `seed` draws where.
    variant: flash streams keys and values past queries that stay on chip; pipelined does so with the exponentials of
    one tile beside the matmuls of others; unfused writes scores and probabilities to HBM.
    """

    error_origin: ClassVar[str] = "each score's and weight's roundings carried through softmax (attention/reference.py)"
    mapping_type: ClassVar[type | None] = AttentionMapping

    batch: int = field(default=1, validator=positive)
    mask: str = field(default="none", validator=validators.in_(("none", "causal")))
    dtype: str = field(default="bf16", validator=validators.in_(DTYPES))
    out_dtype: str = field(default="bf16", validator=validators.in_(DTYPE_GROUPS["real"]))
    page: int = field(default=0, validator=count)
    pages: int = field(default=0, validator=count)
    seed: int = field(default=0, validator=count)
    variant: str = field(default="auto", validator=validators.in_(("auto", "flash", "pipelined", "unfused")))

    @property
    @abstractmethod
    def problem(self) -> Problem:
        """Its sizes."""

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Sizes; those of values and of heads that share keys only where they are others."""
        problem = self.problem
        shown = {"batch": problem.batch} if problem.batch > 1 else {}
        shown["heads"] = problem.heads
        if problem.kv_heads != problem.heads:
            shown["kv_heads"] = problem.kv_heads
        shown |= {"queries": problem.queries, "keys": problem.keys, "head_dim": problem.head_dim}
        return shown if problem.value_dim == problem.head_dim else shown | {"value_dim": problem.value_dim}

    def check(self) -> None:
        """Raises UserError where parameters contradict each other."""
        problem = self.problem
        for wrong in contradictions(problem):
            raise wrong
        check_gathered(problem)
        wrong_variant = not_unfused(problem) if self.variant == "unfused" else None
        if wrong_variant is not None:
            raise wrong_variant

    @property
    def ports(self) -> tuple[Port, ...]:
        """q, k, v, their scales, what says which rows are gathered, cos and sin of rope, and out."""
        return ports(self.problem)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of the unfused variant: its programs; the others are one."""
        if self.variant != "unfused":
            return ()
        from kpusim.operators.attention.unfused import unfused

        return unfused(self.problem)

    @property
    def macs(self) -> int:
        """Of both matmuls, on the pairs of a query and a key that it sees."""
        return self.problem.macs

    @property
    def flops(self) -> int:
        """Two a multiply-accumulate."""
        return 2 * self.macs

    @property
    def math_dtype(self) -> str:
        """Dtype of the factors."""
        return self.dtype

    @property
    def vector_work(self) -> Mapping[str, int]:
        """For each pair: a scaling with the maximum subtracted, an exponential; a maximum and a sum along the row."""
        problem = self.problem
        pairs = problem.batch * problem.heads * problem.pairs
        return {"mul": pairs, "exp": pairs, "reduce": 2 * pairs}

    @property
    def compulsory_bytes(self) -> int:
        """Q and out, every key and value that some query sees, and what says where they are, once."""
        problem = self.problem
        keys = problem.entries * problem.keys_read * problem.key_bytes
        angles = problem.keys if problem.rope == "qk" else problem.queries
        tables = {port.name: prod(port.shape) for port in self.ports if port.name in LISTS}
        tables |= {port.name: angles * port.shape[1] for port in self.ports if port.name in ("cos", "sin")}
        return problem.query_bytes + keys + sum(tables.values()) * ceil_div(DTYPE_BITS["int32"], 8)

    def io_bound_bytes(self, machine: Machine) -> int:
        """Q, out, and keys and values once for each group of rows that is on chip together (design.md)."""
        from kpusim.operators.attention.search import io_bound

        return max(self.compulsory_bytes, io_bound(self.problem, machine, self.variant))

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Any = None, fold_instructions: bool = False
    ) -> Lowered:
        """The program of the variant asked for, of the best mapping found or of the one given."""
        from kpusim.operators.attention.lowering import lower

        if self.variant == "unfused":
            raise UserError("the unfused variant is several programs", found=self.variant, allowed="flash, pipelined")
        return lower(self.problem, machine, layouts, mapping, self.variant)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """`out` in float64."""
        from kpusim.operators.attention.reference import reference  # which imports what only runs on data need

        return {"out": reference(self.problem, inputs)}

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """How far `out` may be off before it is rounded: see the function."""
        from kpusim.operators.attention.reference import error_bound

        scores = next((port.dtype for part in self.parts[:1] for port in part.operator.ports if port.role == "out"), "")
        return {"out": error_bound(self.problem, inputs, scores)}

    def _pages(self, keys: int) -> int:
        return self.pages or (2 * self.batch * ceil_div(keys, self.page) if self.page else 0)


@frozen
class Attention(Attending):
    """Multi-head, grouped-query and multi-query attention: q [batch * heads, queries, head_dim], k, v of `kv_heads`.

    kv_heads: 0: heads. value_dim: 0: head_dim. scale: of the scores, 0: 1 / sqrt(head_dim). window: keys that a query
    sees up to its own position, 0: all; sinks: and the first of all. kv_dtype: of keys and values as they are stored,
    with a scale a channel for each `scale_group` keys (0: 32, a page or a block), and one a value; "": dtype.
    layout: tokens: q, k, v and out are [batch * tokens, heads * dim] as GEMMs have them. kept: so many positions of
    each head of keys are read. block, blocks: of each block of queries so many blocks of keys, the last that it sees
    among them. rope: rotates "q" or "qk" with the tables at ports cos and sin.
    """

    family: ClassVar[str] = "attention"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("attention(heads=4, queries=256, keys=256, head_dim=64, mask=causal)", "prefill, causal"),
        Example("attention(heads=8, kv_heads=2, queries=64, keys=256, head_dim=64, mask=causal)", "a chunk of it, GQA"),
        Example("attention(heads=4, queries=64, keys=128, head_dim=96)", "cross attention"),
        Example("attention(heads=8, kv_heads=1, queries=1, keys=1024, head_dim=128)", "decode, multi-query, split-KV"),
        Example("attention(heads=2, queries=256, keys=256, head_dim=64, mask=causal, window=64, sinks=4)",
                "a sliding window with sinks"),
        Example("attention(heads=8, kv_heads=2, queries=1, keys=500, head_dim=128, page=16, batch=2)", "a paged cache"),
        Example("attention(heads=8, kv_heads=2, queries=1, keys=512, head_dim=128, kv_dtype=int4)", "an int4 cache"),
        Example("attention(heads=8, kv_heads=2, queries=1, keys=1024, head_dim=64, kept=128)", "evicted to kept keys"),
        Example("attention(heads=2, queries=256, keys=256, head_dim=64, mask=causal, block=32, blocks=3)",
                "block-sparse"),
        Example("attention(heads=4, queries=128, keys=128, head_dim=64, mask=causal, rope=qk, layout=tokens)",
                "RoPE fused, on what a QKV GEMM leaves"),
        Example("attention(heads=2, queries=128, keys=128, head_dim=64, dtype=fp8_e4m3)", "fp8"),
        Example("attention(heads=2, queries=256, keys=256, head_dim=64, variant=pipelined)", "fully pipelined"),
        Example("attention(heads=2, queries=256, keys=256, head_dim=64, variant=unfused)", "scores through HBM"),
    )  # fmt: skip

    queries: int = field(validator=positive)
    keys: int = field(validator=positive)
    head_dim: int = field(validator=positive)
    heads: int = field(default=1, validator=positive, kw_only=True)
    kv_heads: int = field(default=0, validator=count, kw_only=True)
    value_dim: int = field(default=0, validator=count, kw_only=True)
    scale: float = field(default=0.0, validator=[number, validators.ge(0)], kw_only=True)
    window: int = field(default=0, validator=count, kw_only=True)
    sinks: int = field(default=0, validator=count, kw_only=True)
    kv_dtype: str = field(default="", validator=validators.in_(("", *DTYPE_GROUPS["quantized"])), kw_only=True)
    scale_group: int = field(default=0, validator=count, kw_only=True)
    layout: str = field(default="heads", validator=validators.in_(("heads", "tokens")), kw_only=True)
    kept: int = field(default=0, validator=count, kw_only=True)
    block: int = field(default=0, validator=count, kw_only=True)
    blocks: int = field(default=0, validator=count, kw_only=True)
    rope: str = field(default="none", validator=validators.in_(("none", "q", "qk")), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Any form."""
        return cls(**draw_attention(random))

    @property
    def problem(self) -> Problem:
        """Its sizes."""
        return Problem(
            self.batch, self.heads, self.kv_heads or self.heads, self.queries, self.keys, self.head_dim,
            self.value_dim or self.head_dim, causal=self.mask == "causal", window=self.window, sinks=self.sinks,
            dtype=self.dtype, kv_dtype=self.kv_dtype or self.dtype, out_dtype=self.out_dtype,
            scale_group=self.scale_group or self.page or self.block or KIVI_GROUP,
            scale=float(self.scale), tokens_first=self.layout == "tokens", page=self.page,
            pages=self._pages(self.keys), kept=self.kept, block=self.block, blocks=self.blocks,
            rope=self.rope, seed=self.seed,
        )  # fmt: skip

    def check(self) -> None:
        """Raises UserError where parameters contradict each other."""
        if self.scale_group and not self.problem.quantized:
            raise UserError("scale_group belongs to a kv_dtype that is not dtype", found=f"kv_dtype={self.kv_dtype!r}")
        super().check()


@frozen
class Mla(Attending):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): all heads share keys of latent + rope_dim elements.

    absorbed: the projections of keys and values are part of those of Q and out: q has latent + rope_dim elements, and
    values are the first `latent` of keys. Else keys of nope_dim + rope_dim and values of value_dim elements are there
    for each head: the GEMM that expands them is an operator of its own. The scale is 1 / sqrt(nope_dim + rope_dim).
    """

    family: ClassVar[str] = "mla"
    examples: ClassVar[tuple[Example, ...]] = (  # sizes: config.json of deepseek-ai/DeepSeek-V3, here with fewer heads
        Example("mla(queries=1, keys=1024, heads=16)", "decode from the latent cache"),
        Example("mla(queries=1, keys=500, heads=16, page=64, batch=2)", "the latent cache in pages"),
        Example("mla(queries=128, keys=128, heads=4, absorbed=false, mask=causal)", "prefill with expanded keys"),
    )

    queries: int = field(validator=positive)
    keys: int = field(validator=positive)
    heads: int = field(default=128, validator=positive, kw_only=True)
    latent: int = field(default=512, validator=positive, kw_only=True)
    rope_dim: int = field(default=64, validator=count, kw_only=True)
    nope_dim: int = field(default=128, validator=positive, kw_only=True)
    value_dim: int = field(default=128, validator=positive, kw_only=True)
    absorbed: bool = field(default=True, validator=flag, kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Absorbed or not."""
        return cls(**draw_mla(random))

    @property
    def ports(self) -> tuple[Port, ...]:
        """As of every attention; head_dim is the sum of two parameters, and value_dim is `latent` where absorbed."""
        names = {"head_dim": "", "value_dim": "latent"} if self.absorbed else {"head_dim": ""}
        return tuple(
            evolve(port, axes=tuple(names.get(axis, axis) for axis in port.axes)) for port in ports(self.problem)
        )

    @property
    def problem(self) -> Problem:
        """Its sizes."""
        kinds: dict[str, Any] = {
            "causal": self.mask == "causal", "dtype": self.dtype, "kv_dtype": self.dtype, "out_dtype": self.out_dtype,
            "scale": 1 / sqrt(self.nope_dim + self.rope_dim), "page": self.page, "pages": self._pages(self.keys),
            "seed": self.seed,
        }  # fmt: skip
        rows = self.queries, self.keys
        if self.absorbed:
            dims = self.latent + self.rope_dim, self.latent
            return Problem(self.batch, self.heads, 1, *rows, *dims, shared=True, **kinds)
        dims = self.nope_dim + self.rope_dim, self.value_dim
        return Problem(self.batch, self.heads, self.heads, *rows, *dims, **kinds)
