"""Recipes of whole decoders: the kernels of every layer, one after the other in one graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import evolve, frozen

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.recipes.attention import attention_kernels
from kpusim.recipes.gather import gather_kernels
from kpusim.recipes.gemm import gemm_kernels
from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row
from kpusim.recipes.rowwise import rowwise_kernels

__all__ = ["DECODERS", "RECIPES", "Decoder", "decoder_kernels"]

PHASES = "prefill", "decode"
REAL = DTYPE_GROUPS["real"]


@frozen
class Decoder:
    """Sizes of a decoder, in elements. llama: RMSNorm, SwiGLU and rotary positions; else LayerNorm and gelu."""

    hidden: int
    inter: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    llama: bool


DECODERS: Mapping[str, Decoder] = {  # from the config.json of each model's release
    "gpt2": Decoder(768, 3072, 12, 12, 12, 64, 50257, False),
    "llama-3.2-1b": Decoder(2048, 8192, 16, 32, 8, 64, 128256, True),
    "llama-3.1-8b": Decoder(4096, 14336, 32, 32, 8, 128, 128256, True),
}


@frozen
class _Pass:
    """One forward pass: `queries` tokens of each of `batch` sequences, of which `keys` tokens are known with them."""

    model: Decoder
    batch: int
    queries: int
    keys: int
    dtype: str
    machine: Machine

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return self.batch * self.queries

    def kernels(self) -> Iterator[Kernel]:
        """All of them; those of a layer stand there once, with their number."""
        model, dtype, machine = self.model, self.dtype, self.machine
        yield from gather_kernels(self.tokens, model.hidden, model.vocab, dtype, machine)
        for kernel in self._layer():
            yield evolve(kernel, times=kernel.times * model.layers)
        yield from self._norm(self.batch)
        yield from gemm_kernels(self.batch, model.vocab, model.hidden, dtype, machine=machine)

    def _layer(self) -> Iterator[Kernel]:
        model = self.model
        yield from self._norm(self.tokens)
        yield from self._gemm((model.heads + 2 * model.kv_heads) * model.head_dim, model.hidden)
        if model.llama:
            for heads in model.heads, model.kv_heads:
                yield from self._rotated(heads)
        if self.queries == 1:
            for _ in "kv":
                yield from self._each("copy", self.tokens, model.kv_heads * model.head_dim)
        yield from attention_kernels(
            self.batch, model.heads, model.kv_heads, self.queries, self.keys, model.head_dim,
            causal=self.queries > 1, backend="flash", dtype=self.dtype, machine=self.machine,
        )  # fmt: skip
        yield from self._gemm(model.hidden, model.heads * model.head_dim)
        yield from self._each("add", self.tokens, model.hidden)
        yield from self._norm(self.tokens)
        yield from self._gemm(model.inter * (2 if model.llama else 1), model.hidden)
        yield from self._each("silu" if model.llama else "gelu", self.tokens, model.inter)
        if model.llama:
            yield from self._each("mul", self.tokens, model.inter)
        yield from self._gemm(model.hidden, model.inter)
        yield from self._each("add", self.tokens, model.hidden)

    def _rotated(self, heads: int) -> Iterator[Kernel]:
        """Rotary positions of so many heads: half of each negated, the halves joined, times cosine and sine, added."""
        wide = heads * self.model.head_dim
        yield from self._each("copy", self.tokens, wide // 2)
        for _ in "join", "cosine", "sine":  # cosines and sines are small: one tensor read, one written
            yield from self._each("copy", self.tokens, wide)
        yield from self._each("add", self.tokens, wide)

    def _norm(self, rows: int) -> tuple[Kernel, ...]:
        return self._each("rmsnorm" if self.model.llama else "layernorm", rows, self.model.hidden)

    def _each(self, kind: str, rows: int, columns: int) -> tuple[Kernel, ...]:
        return rowwise_kernels(kind, rows, columns, self.dtype, self.machine)

    def _gemm(self, n: int, k: int) -> tuple[Kernel, ...]:
        return gemm_kernels(self.tokens, n, k, self.dtype, machine=self.machine)


def decoder_kernels(row: Row, machine: Machine) -> tuple[Kernel, ...]:
    """The kernels of one forward pass. Raises UserError for parameters that are missing or impossible."""
    model = DECODERS[row.word("model", tuple(DECODERS))]
    decode = row.word("phase", PHASES) == "decode"
    batch, keys, dtype = row.size("batch"), row.size("seq"), row.typed(REAL)
    return tuple(_Pass(model, batch, 1 if decode else keys, keys, dtype, machine).kernels())


RECIPES = (
    Recipe(
        "decoder", "model",
        "embedding; each layer's norms, GEMMs, rotation, attention and activation; norm and head of the last position",
        "one graph; the output of flash attention lies as the next GEMM reads it, so that no transposition runs (the "
        "profiler counts no such kernel)",
        "tests/data/h200_public.csv: its column kernels", lambda row: True, decoder_kernels,
    ),
)  # fmt: skip
