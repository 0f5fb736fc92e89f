"""What an attention computes: sizes, which keys a query sees, where keys and values come from, and its tensors.

out = softmax(scale * q k^T) v for each head. Query i of Q stands at position keys - queries + i, so that the last query
sees the last key (as FlashAttention does from version 2.1 on). Heads that share keys and values follow each other.
"""

from __future__ import annotations

from functools import cached_property
from math import sqrt

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.operators.base import Port

__all__ = ["Problem", "ports"]

Positions = npt.NDArray[np.int64]


@frozen(cache_hash=True)
class Problem:
    """Sizes in elements; 0 and False mean: without.

    window: keys that a query sees up to its own position, and the first `sinks` besides (StreamingLLM).
    kv_dtype: of keys and values as they are stored. Where it is not dtype they are dequantised: keys with a scale a
    channel for every `scale_group` tokens, values with one a token (KIVI, arXiv:2402.02750, there with zero points).
    tokens_first: Q, K, V and out are [batch * tokens, heads * dim] instead of [batch * heads, tokens, dim].
    page: tokens of a page of the pool of `pages` that each head of keys has (rows h * pages on of the tensor are head
    h's), in which each entry of the batch has a page table.
    kept: so many positions of each head of keys are read (H2O, SnapKV). block, blocks: each query block of `block`
    queries reads so many key blocks of as many keys, the last one that it sees among them. shared: values are the first
    value_dim columns of keys (MLA).
    rope: rotates "q", or "qk", by position, halves of head_dim against each other.
    """

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int
    causal: bool = False
    window: int = 0
    sinks: int = 0
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    out_dtype: str = "bf16"
    scale_group: int = 32
    scale: float = 0.0
    tokens_first: bool = False
    page: int = 0
    pages: int = 0
    kept: int = 0
    block: int = 0
    blocks: int = 0
    shared: bool = False
    rope: str = "none"
    seed: int = 0

    @property
    def factor(self) -> float:
        """Of the scores: `scale`, or 1 / sqrt(head_dim)."""
        return self.scale or 1 / sqrt(self.head_dim)

    @property
    def group(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.kv_heads

    @property
    def entries(self) -> int:
        """Sequences of keys and values: one for each head of keys of each entry of the batch."""
        return self.batch * self.kv_heads

    @property
    def quantized(self) -> bool:
        """Whether keys and values are dequantised on the vector engine."""
        return self.kv_dtype != self.dtype

    @property
    def unit(self) -> int:
        """Tokens of a row that keys and values are gathered by: of a page, of a block, or 1; 0: not gathered."""
        return self.page or self.block or bool(self.kept)

    @property
    def list_name(self) -> str:
        """The tensor that lists the rows to gather."""
        return "page_table" if self.page else "positions" if self.kept else "chosen"

    @property
    def grained(self) -> bool:
        """Whether keys only come in grains, which a buffer has as a dimension of its own."""
        return bool(self.page or self.block or (self.quantized and not self.kept))

    @property
    def grain(self) -> int:
        """Keys that only come together: those of a page, of a chosen block, or of a scale."""
        return self.page or self.block or (self.scale_group if self.grained else 1)

    @property
    def bounded(self) -> bool:
        """Whether columns of a block are hidden by their number: behind the last key, or not among the sinks."""
        return bool(self.sinks) or (not self.causal and self.length % self.grain > 0)

    def prepared(self, name: str) -> bool:
        """Whether "k" or "v" are made ready by the vector engine before they are multiplied."""
        return self.quantized or (name == "k" and self.rope == "qk")

    @property
    def length(self) -> int:
        """Keys of one sequence that are there to be seen."""
        return self.kept or self.keys

    @property
    def offset(self) -> int:
        """The position of the first query."""
        return self.length - self.queries

    @cached_property
    def lowest(self) -> Positions:
        """[queries]: the first key that each query sees beside the sinks."""
        positions = np.arange(self.queries, dtype=np.int64) + self.offset
        return np.maximum(positions - self.window + 1, 0) if self.window else np.zeros_like(positions)

    @cached_property
    def highest(self) -> Positions:
        """[queries]: the key behind the last that each query sees."""
        positions = np.arange(self.queries, dtype=np.int64) + self.offset
        return np.clip(positions + 1, 0, self.length) if self.causal else np.full_like(positions, self.length)

    @cached_property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees, of one head."""
        low, high = self.lowest, self.highest
        if self.blocks:
            whole = np.repeat(self.chosen_counts - 1, self.block)[: self.queries] * self.block
            return int((whole + (high - 1) % self.block + 1).sum())
        sinks = np.minimum(np.minimum(low, self.sinks), high)
        return int((np.maximum(high - low, 0) + sinks).sum())

    @cached_property
    def chosen_counts(self) -> Positions:
        """[query blocks]: key blocks that each reads: `blocks`, or all that it sees where those are fewer."""
        seen = -(-self.highest[self.block - 1 :: self.block] // self.block)
        last = -(-self.highest[-1:] // self.block)
        rows = ceil_div(self.queries, self.block)
        return np.minimum(np.concatenate((seen, last))[:rows], self.blocks)

    @cached_property
    def keys_read(self) -> int:
        """Keys of one sequence that some query sees (block-sparse: at most)."""
        if self.blocks:
            return min(self.keys, ceil_div(self.queries, self.block) * self.blocks * self.block)
        low, high = int(self.lowest.min()), int(self.highest.max())
        return max(high - low, 0) + min(low, self.sinks)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both matmuls on the pairs that are seen."""
        return self.batch * self.heads * self.pairs * (self.head_dim + self.value_dim)

    @property
    def key_bytes(self) -> int:
        """Bytes of one key as it is stored, with its scales, and of its value where that is stored beside it."""
        bits = (self.head_dim + (0 if self.shared else self.value_dim)) * DTYPE_BITS[self.kv_dtype]
        group = min(self.scale_group, self.page or self.block or self.scale_group)
        each = 1 if self.kept else ceil_div(self.head_dim, group)  # scales of a key; a value has one
        return ceil_div(bits + (DTYPE_BITS[self.dtype] * (each + 1) if self.quantized else 0), 8)

    @property
    def query_bytes(self) -> int:
        """Bytes of Q and out."""
        bits = self.head_dim * DTYPE_BITS[self.dtype] + self.value_dim * DTYPE_BITS[self.out_dtype]
        return self.batch * self.heads * self.queries * bits // 8


def ports(problem: Problem) -> tuple[Port, ...]:
    """The tensors of an attention, in the order of its program; an axis without a name follows from the others."""
    found = [_rows("q", "in", problem, "queries", ("head_dim", problem.head_dim), problem.dtype)]
    found += _stored(problem, "k", ("head_dim", problem.head_dim))
    if not problem.shared:
        found += _stored(problem, "v", ("value_dim", problem.value_dim))
    found += _lists(problem)
    if problem.rope != "none":
        shape = problem.length, problem.head_dim // 2
        found += [Port(name, "in", ("keys", ""), shape, "fp32") for name in ("cos", "sin")]
    return (*found, _rows("out", "out", problem, "queries", ("value_dim", problem.value_dim), problem.out_dtype))


def _rows(name: str, role: str, problem: Problem, axis: str, dim: tuple[str, int], dtype: str) -> Port:
    """A tensor of all heads: of queries or of keys."""
    tokens = problem.queries if axis == "queries" else problem.keys
    heads = problem.heads if axis == "queries" else problem.kv_heads
    if problem.tokens_first:
        rows = axis if problem.batch == 1 else ""
        return Port(name, role, (rows, ""), (problem.batch * tokens, heads * dim[1]), dtype)
    return Port(name, role, ("", axis, dim[0]), (problem.batch * heads, tokens, dim[1]), dtype)


def _stored(problem: Problem, name: str, dim: tuple[str, int]) -> list[Port]:
    """Keys or values as they are stored, and their scales."""
    size, scale = dim[1], f"{name}_scale"
    if problem.kept:
        rows = problem.entries * problem.keys
        found = [Port(name, "in", ("", dim[0]), (rows, size), problem.kv_dtype)]
        return found if not problem.quantized else [*found, Port(scale, "in", ("", ""), (rows, 1), problem.dtype)]
    if problem.unit:
        rows = problem.kv_heads * problem.pages if problem.page else problem.entries * (problem.keys // problem.block)
        found = [Port(name, "in", ("", "", dim[0]), (rows, problem.unit, size), problem.kv_dtype)]
        tokens = problem.unit
    else:
        rows, tokens = problem.entries, problem.keys
        found = [_rows(name, "in", problem, "keys", dim, problem.kv_dtype)]
    if problem.quantized:
        shape = (ceil_div(tokens, problem.scale_group), size) if name == "k" else (tokens, 1)
        found.append(Port(scale, "in", ("", "", ""), (rows, *shape), problem.dtype))
    return found


def _lists(problem: Problem) -> list[Port]:
    """What says which rows are gathered."""
    if problem.page:
        shape = problem.batch, ceil_div(problem.keys, problem.page)
        return [Port("page_table", "in", ("", ""), shape, "int32")]
    if problem.kept:
        return [Port("positions", "in", ("", ""), (problem.entries, problem.kept), "int32")]
    if problem.block:
        chosen = problem.entries, ceil_div(problem.queries, problem.block), problem.blocks
        return [Port("chosen", "in", ("", "", ""), chosen, "int32")]
    return []
