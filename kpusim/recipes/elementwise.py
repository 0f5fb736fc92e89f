"""Recipes of family eltwise: operators on each element by itself as PyTorch's kernels compute them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.elementwise import Add, Cast, Gelu, Mul, Silu
from kpusim.operators.rowwise import Rowwise
from kpusim.recipes.blocks import THREADS, dealt
from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row

__all__ = ["KINDS", "RECIPES", "elementwise_kernels"]

REAL = DTYPE_GROUPS["real"]
KINDS = "gelu", "silu", "copy", "add", "mul"
BYTES = 8  # that a thread loads of an operand at once: CUDALoops.cuh, vectors of four elements of 2 bytes
LINE = 512  # elements side by side: there, a thread block of 128 threads with such a vector each


def elementwise_kernels(kind: str, count: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """The launch of an operator on `count` elements: all threads of a tile take 8 bytes of each operand at once."""
    line = min(LINE, count)

    def make(rows: int) -> Rowwise:
        if kind == "copy":
            return Cast(rows, line, dtype=dtype, out_dtype=dtype)
        return _OPERATORS[kind](rows, line, dtype=dtype)

    resident = THREADS * BYTES * 8 // DTYPE_BITS[dtype] // LINE
    return (dealt(make, ceil(count / line), resident, line, machine, slots=2, out_slots=2),)


_OPERATORS: dict[str, type[Gelu | Silu | Add | Mul]] = {"gelu": Gelu, "silu": Silu, "add": Add, "mul": Mul}


def _kernels(row: Row, machine: Machine) -> Sequence[Kernel]:
    kind = row.word("kind", KINDS)
    return elementwise_kernels(kind, row.size("rows") * row.size("dim"), row.typed(REAL), machine)


RECIPES = (
    Recipe(
        "elementwise", "eltwise", "one pass; a thread loads 8 bytes of each operand, and as much is under way again",
        "the library's kernels take several elements a thread where tensors are contiguous",
        "pytorch, aten/src/ATen/native/cuda/CUDALoops.cuh: vectorized_elementwise_kernel",
        lambda row: True, _kernels,
    ),
)  # fmt: skip
