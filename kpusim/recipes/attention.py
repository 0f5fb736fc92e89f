"""Recipes of attention: PyTorch's FlashAttention-2, cuDNN's fused kernel, and none fused.

A thread block takes a band of queries of one head past the keys. Blocks are dealt in the order of bands, then of heads;
one that ends makes room for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any

from attrs import evolve, frozen

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.machine.share import slices_for
from kpusim.operators.attention import Attention
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.elementwise import Cast
from kpusim.operators.rowwise.mapping import Mapping as Rows
from kpusim.recipes.gemm import gemm_kernels
from kpusim.recipes.kernel import Kernel, Recipe, sampled
from kpusim.recipes.row import Row
from kpusim.recipes.rowwise import rowwise_kernels

__all__ = ["BACKENDS", "RECIPES", "attention_kernels", "flash_splits"]

BACKENDS = "flash", "cudnn", "unfused"
OUT_DTYPES = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32", "fp8_e4m3": "bf16"}
FLASH = "pytorch, aten/src/ATen/native/transformers/cuda/flash_attn/"

HEAD_DIMS = 32  # steps of the head dims that kernels are made for, up to 256: static_switch.h, HEADDIM_SWITCH
SPLIT_ROWS = 64  # queries of a block where keys are split: flash_fwd_launch_template.h, run_mha_fwd_splitkv_dispatch
MOST_SPLITS = 128  # flash_api.cpp, set_params_splitkv
ENOUGH = 0.8  # of what runs at once: as many blocks are not split; there, num_splits_heuristic
NEARLY = 0.85  # of the best share of all waves is as good, with fewer splits; there
STEPS = 16  # blocks of keys of an item that are simulated at most; chosen: the first two differ from all that follow
FEWEST = 4  # and where items are many; chosen: half of it is still a first one and another
MANY = 4500  # blocks of keys of all items from which a slice of the machine is simulated; chosen: about a second
EIGHT = 8  # keys, the least that matrix instructions take: PTX ISA, shapes of mma
ROUNDS = 16  # of thread blocks that are simulated at most; chosen: the last ones weigh little among so many
LONG = 8  # chosen: keys for each query, from which a causal mask counts as the keys that a band sees in the mean


@frozen
class Shape:
    """Of an attention: sizes in elements.

    Each head has keys of its own: where heads share them, the second one to read them finds them in the shared level.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    causal: bool
    dtype: str


@frozen
class Block:
    """A thread block: queries, keys at a time, blocks resident beside each other on a tile, variant, slots, order."""

    queries: int
    keys: int
    resident: int
    variant: str = "flash"
    slots: int = 1
    order: str = "launched"

    def operand_bytes(self, shape: Shape) -> int:
        """Of its queries, and of keys and values in all slots."""
        return (self.queries + 2 * self.slots * self.keys) * shape.head_dim * DTYPE_BITS[shape.dtype] // 8


def attention_kernels(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, head_dim: int, causal: bool, backend: str,
    dtype: str, machine: Machine,
) -> tuple[Kernel, ...]:  # fmt: skip
    """The launches of softmax(QK^T / sqrt(head_dim)) V by a backend. Raises UserError for heads that do not divide."""
    if heads % kv_heads:
        raise UserError("heads of queries are no multiple of those of keys", found=heads, allowed=f"n * {kv_heads}")
    if dtype not in OUT_DTYPES:
        raise UserError("attention does not work in this dtype", found=dtype, allowed=OUT_DTYPES)
    group = heads // kv_heads
    if queries == 1 and group > 1:  # queries that share keys are rows of one block: flash_api.cpp, mha_fwd
        heads, queries, causal = kv_heads, group, False
    shape = Shape(batch, heads, queries, keys, head_dim, causal and queries > 1, dtype)
    return _LAUNCHES[backend](shape, machine)


# --- FlashAttention-2 -------------------------------------------------------------------------------------------------


def _flash(shape: Shape, machine: Machine) -> tuple[Kernel, ...]:
    """One kernel, or where blocks are few, one on splits of the keys and one that adds them up.

    Products are of a head dim that kernels are made for. So are the loads here, which in the library are of no more
    than there is: these take longest of few queries, whose products are therefore left as they are.
    """
    if shape.queries >= SPLIT_ROWS:
        shape = evolve(shape, head_dim=_padded(shape.head_dim))
    blocks = shape.batch * shape.heads * ceil_div(shape.queries, SPLIT_ROWS)
    size = _split_keys(shape.head_dim)
    splits = flash_splits(blocks, ceil_div(shape.keys, size), 2 * machine.tiles.count)
    if splits == 1:
        return (_launched(shape, _flash_block(shape, machine), machine, synchronous=True),)
    keys = ceil_div(ceil_div(shape.keys, size), splits) * size
    split = evolve(shape, batch=shape.batch * splits, keys=keys, causal=False, queries=_seen(shape, splits, keys))
    first = _launched(split, Block(SPLIT_ROWS, size, 2), machine, synchronous=True, out_dtype="fp32")
    return first, _combine(shape.batch * shape.heads * shape.queries, splits, shape, machine)


def flash_splits(blocks: int, key_blocks: int, at_once: int) -> int:
    """Splits of the keys of so many thread blocks, of which so many run at once: num_splits_heuristic."""
    if blocks >= ENOUGH * at_once:
        return 1
    efficiency = {}
    for splits in range(1, min(MOST_SPLITS, at_once, key_blocks) + 1):
        if splits == 1 or ceil_div(key_blocks, splits) != ceil_div(key_blocks, splits - 1):
            waves = blocks * splits / at_once
            efficiency[splits] = waves / -(-waves // 1)
    return min(splits for splits, each in efficiency.items() if each >= NEARLY * max(efficiency.values()))


def _padded(head_dim: int) -> int:
    """The least that kernels are made for."""
    return ceil_div(head_dim, HEAD_DIMS) * HEAD_DIMS


def _flash_block(shape: Shape, machine: Machine) -> Block:
    """flash_fwd_launch_template.h: run_mha_fwd_hdim32 to 256, as of an A100 or H100; two where 128 threads are one.

    Of the longest heads it is the larger one where an SM has no room for two of the smaller.
    """
    if shape.head_dim <= 64:
        return Block(128, 128, 2)
    if shape.head_dim <= 128:
        return Block(128, 64, 2)
    if shape.head_dim <= 160:
        return Block(128, 32, 2)
    small = Block(64, 64, 2)
    two = 2 * small.operand_bytes(shape) <= machine.sram.capacity_bytes
    return small if shape.head_dim > 224 and two else Block(128, 64, 1)


def _split_keys(head_dim: int) -> int:
    """flash_fwd_launch_template.h: run_mha_fwd_splitkv_dispatch."""
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


def _seen(shape: Shape, splits: int, keys: int) -> int:
    """Queries of a split of so many keys, in the mean, of which some see it: the blocks of others end at once."""
    if not shape.causal:
        return shape.queries
    first = shape.keys - shape.queries
    rows = [min(row + SPLIT_ROWS, shape.queries) + first for row in range(0, shape.queries, SPLIT_ROWS)]
    seen = sum(min(ceil_div(max(row, 1), keys), splits) for row in rows)
    return min(ceil_div(seen, splits) * SPLIT_ROWS, shape.queries)


def _combine(rows: int, splits: int, shape: Shape, machine: Machine) -> Kernel:
    """The splits of each row added up, one after the other: each is asked for when the one before has come.

    Cast stands for it: a part of some rows is read, worked on and written in bf16.
    """
    dim = _padded(shape.head_dim)
    each = 4 if dim % 128 == 0 else 8 if dim % 64 == 0 else 16  # flash_fwd_launch_template.h, run_flash_splitkv_fwd
    blocks = ceil_div(rows, each)
    side = ceil_div(blocks, machine.tiles.count)
    mapping = Rows(min(blocks, machine.tiles.count), 1, side * each, shape.head_dim, slots=1)
    read = mapping.row_tiles * side * each * splits
    return Kernel(Cast(read, shape.head_dim, dtype="fp32", out_dtype=OUT_DTYPES[shape.dtype]), mapping, fused=True)


# --- cuDNN ------------------------------------------------------------------------------------------------------------


def _cudnn(shape: Shape, machine: Machine) -> tuple[Kernel, ...]:
    """Asynchronous matrix instructions; two groups of warps whose softmax hides behind each other's products.

    Where the SRAM holds the operands of two thread blocks, one begins while the other ends.
    """
    block = Block(128, 128, 1, "pipelined", slots=2)
    if 2 * block.operand_bytes(shape) <= machine.sram.capacity_bytes:
        block = evolve(block, order="numbered")
    return _launched(shape, block, machine), Kernel(None)


# --- none fused -------------------------------------------------------------------------------------------------------


def _unfused(shape: Shape, machine: Machine) -> tuple[Kernel, ...]:
    """Scores, scaled, hidden where a mask is, their softmax and its products with values; and the results in order.

    A pass that scales or hides reads and writes all scores, as a copy does.
    """
    heads, queries, keys, dim = shape.batch * shape.heads, shape.queries, shape.keys, shape.head_dim
    stored = OUT_DTYPES[shape.dtype]
    scores = gemm_kernels(queries, keys, dim, shape.dtype, machine=machine, batch=heads)
    scaled = rowwise_kernels("copy", heads * queries, keys, stored, machine)
    softmax = rowwise_kernels("softmax", heads * queries, keys, stored, machine)
    weighted = gemm_kernels(queries, dim, keys, shape.dtype, machine=machine, batch=heads, transpose_b=False)
    ordered = rowwise_kernels("copy", heads * queries, dim, stored, machine)
    return (*scores, *(scaled * (2 if shape.causal else 1)), *softmax, *weighted, *ordered)


# --- launches ---------------------------------------------------------------------------------------------------------


def _launched(shape: Shape, block: Block, machine: Machine, out_dtype: str = "", synchronous: bool = False) -> Kernel:
    """A launch of one thread block for each band of queries of each head.

    Where that is long, a slice of the machine tells it, with as many thread blocks for each tile; and there, where no
    mask hides keys, few blocks of keys; where one does, few bands of more heads, which are alike but for their size.
    Of very many thread blocks some tell how long all take.
    """
    options: dict[str, Any] = {"synchronous": synchronous, "fused": True, "resident": block.resident}

    def make(queries: int, keys: int, heads: int) -> Attention:
        return Attention(
            queries, keys, shape.head_dim, batch=heads, mask="causal" if shape.causal else "none", dtype=shape.dtype,
            out_dtype=out_dtype or OUT_DTYPES[shape.dtype],
        )  # fmt: skip

    heads = shape.batch * shape.heads
    whole = make(shape.queries, shape.keys, heads)
    mapping = _fitting(block, whole, Kernel(whole, **options).seen(machine))
    bands, steps = ceil_div(shape.queries, block.queries), ceil_div(shape.keys, mapping.block_keys)
    if bands * heads * steps // (2 if shape.causal else 1) <= MANY:
        return Kernel(whole, mapping, **options)
    if shape.causal and shape.keys >= LONG * shape.queries:
        shape = evolve(shape, causal=False, keys=shape.keys - max(shape.queries - block.queries, 0) // 2)
        steps = ceil_div(shape.keys, mapping.block_keys)
    slices, every = slices_for(machine, bands * heads), heads
    heads = min(heads, max(ROUNDS * machine.tiles.count * block.resident // (bands * slices), 1) * slices)
    options |= {"mapping": mapping, "slices": slices, "alike": Fraction(every, heads)}
    most = max(min(STEPS, 2 * MANY * slices // (bands * heads)), FEWEST)

    def some_bands(count: int) -> Attention:
        share = Fraction(count, bands)
        return make(ceil(shape.queries * share), ceil(shape.keys * share), max(round(heads / (slices * share)), 1))

    if shape.causal:
        return sampled(some_bands, bands, max(most * mapping.block_keys // block.queries, FEWEST), **options)
    share = ceil_div(heads, slices)
    return sampled(lambda few: make(shape.queries, few * mapping.block_keys, share), steps, most, **options)


def _fitting(block: Block, operator: Attention, machine: Machine) -> Mapping:
    """The mapping of a thread block: with fewer keys at a time where sums and scores find no room beside them."""
    most = min(block.keys, operator.keys)
    for keys in range(most, 0, -EIGHT):
        mapping = Mapping(block.variant, block.queries, 1, 1, keys, slots=block.slots, order=block.order)
        if mapping.sram_bytes(operator.problem) <= machine.tile_bytes:
            return mapping
    raise UserError(
        "a thread block of attention has no room", where=machine.name, found=f"head_dim {operator.head_dim}"
    )


_LAUNCHES: dict[str, Callable[[Shape, Machine], tuple[Kernel, ...]]] = {
    "flash": _flash, "cudnn": _cudnn, "unfused": _unfused,
}  # fmt: skip


def _kernels(row: Row, machine: Machine) -> tuple[Kernel, ...]:
    batch, heads, kv_heads, queries, keys, dim = (row.size(name) for name in ("B", "Hq", "Hkv", "Sq", "Skv", "D"))
    causal, backend = row.flag("causal"), row.word("backend", BACKENDS)
    return attention_kernels(batch, heads, kv_heads, queries, keys, dim, causal, backend, row.dtype, machine)


def _backend(backend: str, row: Row) -> bool:
    return row.word("backend", BACKENDS) == backend


RECIPES = (
    Recipe(
        "attention-flash",
        "attention",
        "FlashAttention-2: a band of 128 queries a thread block; keys split where these are few",
        "made for the instructions of the generation before: products and softmax of a block take turns; two thread "
        "blocks a tile, each of four warps, hide each other's waiting",
        FLASH + "flash_api.cpp and flash_fwd_launch_template.h; Dao, arXiv:2307.08691",
        partial(_backend, "flash"),
        _kernels,
    ),
    Recipe(
        "attention-cudnn",
        "attention",
        "cuDNN's fused kernel: 128 queries by 128 keys, softmax beside the products",
        "asynchronous products of one group of warps hide the softmax of the other; a short second kernel",
        "Shah et al., FlashAttention-3, arXiv:2407.08608; kernels of cuDNN's frontend are named ..._128x128x128",
        partial(_backend, "cudnn"),
        _kernels,
    ),
    Recipe(
        "attention-unfused",
        "attention",
        "products, scaling, softmax, products and a copy, through memory",
        "five launches: what a framework does with each operator by itself",
        "tests/data/README.md: backend unfused, five kernels",
        partial(_backend, "unfused"),
        _kernels,
    ),
)
