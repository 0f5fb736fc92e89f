"""Recipes of family norm: normalised rows as PyTorch's kernels compute them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.norm import BatchNorm, LayerNorm, RmsNorm, Softmax
from kpusim.recipes.blocks import THREADS, dealt, equal_share
from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row

__all__ = ["KINDS", "RECIPES", "norm_kernels"]

KINDS = "layernorm", "rmsnorm", "softmax", "batchnorm"
REAL = DTYPE_GROUPS["real"]
NATIVE = "pytorch, aten/src/ATen/native/cuda/"

MOMENTS_THREADS = 128  # of a row of layernorm and rmsnorm: layer_norm_kernel.cu, vectorized_layer_norm_kernel
EACH = 8  # elements of a thread at once, of those that it loads in a loop; chosen: two loads of four, as vector.fill
WARP = 32  # threads of a warp
WARP_ROW = 2048  # elements of a row at most that a warp takes: SoftMax.cu of 2.10, host_softmax, dim_size <= 2048
WARP_BYTES = 8192  # and its bytes: there, dim_size * sizeof(scalar_t) <= 8192
BLOCK_THREADS = 1024  # of a longer row: there, SoftMaxForward_getBlockSize
BLOCK_EACH = 16  # elements of a thread at once, of rows that are as long; chosen: two loads of 16 bytes
BLOCK_BYTES = 48 * 1024  # of a row that stays in shared memory: there, sharedMemPerBlock (CUDA C++ Programming Guide)
BATCH_EACH = 4  # elements of a thread of batchnorm at once: Normalization.cuh, ELEMENTS_PER_ITER


def norm_kernels(kind: str, rows: int, dim: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """The launches of a norm of `rows` rows of `dim` elements."""
    return _LAUNCHES[kind](rows, dim, dtype, machine)


def _moments(kind: str, rows: int, dim: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """LayerNorm or RMSNorm: 128 threads a row, which they go through twice, for its moments and to scale it.

    The second time it comes from the first-level cache, here the SRAM, where that has room for all rows under way.
    Not modelled: rows that are no multiple of 4 elements, for which the library has two kernels.
    """
    piece = min(dim, EACH * MOMENTS_THREADS)

    def make(count: int) -> LayerNorm | RmsNorm:
        if kind == "rmsnorm":
            return RmsNorm(count, dim, dtype=dtype, out_dtype=dtype)
        return LayerNorm(count, dim, dtype=dtype, out_dtype=dtype, passes="one")  # Welford's: both moments in one pass

    resident, pieces = THREADS // MOMENTS_THREADS, ceil(dim / piece)
    under_way = equal_share(rows, machine.tiles.count, resident) * dim * DTYPE_BITS[dtype] // 8
    cached = under_way <= machine.sram.capacity_bytes
    options = {"slots": pieces if cached else 2, "out_slots": 1, "column_slots": pieces}
    return (dealt(make, rows, resident, piece, machine, **options),)


def _softmax(rows: int, dim: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """Short rows: a warp each, which keeps it in registers. Others: a block each, which computes exponentials twice.

    A tile has one such block: two would need threads of 32 registers at most, of its 65,536 (chosen: how many they
    take is not published).
    """
    size = dim * DTYPE_BITS[dtype] // 8
    if dim <= WARP_ROW and size <= WARP_BYTES:
        resident, piece, exponentials = THREADS // WARP, EACH * WARP, "kept"
        options = {"slots": ceil(dim / piece), "out_slots": 1}
    else:
        resident, piece, exponentials = 1, BLOCK_EACH * BLOCK_THREADS, "again"
        options = {"slots": ceil(dim / piece) if size <= BLOCK_BYTES else 1, "out_slots": 2}

    def make(count: int) -> Softmax:
        return Softmax(count, dim, dtype=dtype, out_dtype=dtype, exponentials=exponentials)

    return (dealt(make, rows, resident, piece, machine, **options),)


def _batchnorm(rows: int, dim: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """Two launches for statistics of columns (to fp32; their inverse roots), then one for all elements.

    That one loads single elements, four of a thread at once, and loads again when it is done with them.
    """
    piece = min(dim, BATCH_EACH * THREADS)

    def make(count: int) -> BatchNorm:
        return BatchNorm(count, dim, dtype=dtype, out_dtype=dtype)

    few = dealt(make, 1, 1, dim, machine)
    options = {"slots": 1, "out_slots": 2, "column_slots": ceil(dim / piece)}
    return few, few, dealt(make, rows, BATCH_EACH * THREADS // piece, piece, machine, **options)


_LAUNCHES: dict[str, Callable[[int, int, str, Machine], tuple[Kernel, ...]]] = {
    "layernorm": partial(_moments, "layernorm"),
    "rmsnorm": partial(_moments, "rmsnorm"),
    "softmax": _softmax,
    "batchnorm": _batchnorm,
}


def _recipe(kind: str, about: str, reason: str, source: str) -> Recipe:
    def kernels(row: Row, machine: Machine) -> Sequence[Kernel]:
        return norm_kernels(kind, row.size("rows"), row.size("dim"), row.typed(REAL), machine)

    return Recipe(kind, "norm", about, reason, NATIVE + source, lambda row: row.word("kind", KINDS) == kind, kernels)


RECIPES = (
    _recipe(
        "layernorm", "128 threads a row, which is read twice: for its moments, then to be scaled",
        "one vectorised kernel does all of it", "layer_norm_kernel.cu",
    ),
    _recipe(
        "rmsnorm", "as layernorm, without a mean", "the same kernel, compiled for rms_norm", "layer_norm_kernel.cu",
    ),
    _recipe(
        "softmax", "a warp a row of up to 2048 elements, else a thread block a row, one at a time",
        "the library has a kernel for short rows, in registers, and one of a thread block a row", "SoftMax.cu",
    ),
    _recipe(
        "batchnorm", "two launches on the statistics, one on the elements",
        "in inference the statistics are converted and inverted by launches of their own", "Normalization.cu",
    ),
)  # fmt: skip
