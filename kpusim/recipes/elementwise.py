"""Recipes of family eltwise: operators on each element by itself as PyTorch's kernels compute them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.elementwise import Add, Cast, Gelu, Mul, Silu
from kpusim.operators.rowwise import Rowwise
from kpusim.recipes.blocks import THREADS, dealt
from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row

__all__ = ["KINDS", "RECIPES", "elementwise_kernels"]

REAL = DTYPE_GROUPS["real"]
KINDS = "gelu", "silu", "copy", "add", "mul"
BLOCK_THREADS = 128  # of a thread block: CUDALoops.cuh, num_threads
EACH = 8  # elements of a thread, which it loads before it computes: there, elems_per_thread


def elementwise_kernels(kind: str, count: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """The launch of an operator on `count` elements: all threads of a tile take 8 elements of each operand at once."""
    line = min(EACH * BLOCK_THREADS, count)

    def make(rows: int) -> Rowwise:
        if kind == "copy":
            return Cast(rows, line, dtype=dtype, out_dtype=dtype)
        return _OPERATORS[kind](rows, line, dtype=dtype)

    return (dealt(make, ceil(count / line), THREADS // BLOCK_THREADS, line, machine, slots=2, out_slots=2),)


_OPERATORS: dict[str, type[Gelu | Silu | Add | Mul]] = {"gelu": Gelu, "silu": Silu, "add": Add, "mul": Mul}


def _kernels(row: Row, machine: Machine) -> Sequence[Kernel]:
    kind = row.word("kind", KINDS)
    return elementwise_kernels(kind, row.size("rows") * row.size("dim"), row.typed(REAL), machine)


RECIPES = (
    Recipe(
        "elementwise", "eltwise", "one pass; a thread loads 8 elements of each operand, and as much is under way again",
        "the library's kernels take several elements a thread where tensors are contiguous",
        "pytorch, aten/src/ATen/native/cuda/CUDALoops.cuh: vectorized_elementwise_kernel",
        lambda row: True, _kernels,
    ),
)  # fmt: skip
