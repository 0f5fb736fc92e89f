"""What every instruction of `isa/*.toml` computes: one function an instruction, in one table.

A function takes the written operands (with their values before), then the read ones, in the order of the row, and the
options by name; it returns the new values of the written ones. A box operand with an index list is the listed rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from kpusim.dtypes import Array, convert
from kpusim.function.semantics_vector import VECTOR, Semantics
from kpusim.function.values import Operand, Results, common, matrix, stored

__all__ = ["SEMANTICS", "Semantics", "evaluate"]


def _nothing() -> Results:
    return ()


def _moved(dst: Operand, src: Operand, *_: Operand) -> Results:
    """The same elements in the same order."""
    return (src.data.reshape(dst.data.shape),)


def _copy(dst: Operand, src: Operand, *, accumulate: int) -> Results:
    moved = src.data.reshape(dst.data.shape)
    if not accumulate:
        return (moved,)
    before, added = common(dst, dst, Operand(src.dtype, moved))
    return stored(before + added, dst)


def _scatter_add(dst: Operand, src: Operand, rows: Operand) -> Results:
    """dst holds the listed rows as they were; the result, each as it is after its own addition."""
    added = src.data.reshape(dst.data.shape).astype(np.float32)
    latest: dict[int, Array] = {}
    result = dst.data.copy()
    for i, row in enumerate(rows.data.tolist()):
        before = latest.get(row, result[i]).astype(np.float32)
        result[i] = latest[row] = convert(np.asarray(before + added[i]), dst.dtype)
    return (result,)


def _matmul(out: Operand, a: Operand, b: Operand, *, accumulate: int, transpose_a: int, transpose_b: int) -> Results:
    left, right = matrix(a.data), matrix(b.data)
    left, right = left.T if transpose_a else left, right.T if transpose_b else right
    if left.shape[1] != right.shape[0] or matrix(out.data).shape != (left.shape[0], right.shape[1]):
        raise ValueError(f"out {out.data.shape}, a {a.data.shape} and b {b.data.shape} do not multiply")
    if a.dtype == "int8":  # exact in float64, then modulo 2**32 as int32 additions are
        exact = left.astype(np.float64) @ right.astype(np.float64)
        product = Operand("int32", exact.astype(np.int64).astype(np.int32))
    else:
        product = Operand("fp32", left.astype(np.float32) @ right.astype(np.float32))
    result = Operand(product.dtype, product.data.reshape(out.data.shape))
    if not accumulate:
        return stored(result.data, out)
    before, added = common(out, out, result)
    return stored(before + added, out)


SEMANTICS: Mapping[str, Semantics] = MappingProxyType(
    {
        **dict.fromkeys(("halt", "sync", "barrier", "for", "end"), _nothing),
        "load": _moved,
        "store": _moved,
        "gather": _moved,
        "scatter": _moved,
        "scatter_add": _scatter_add,
        "copy": _copy,
        "matmul": _matmul,
        **VECTOR,
    }
)


def evaluate(name: str, written: list[Operand], read: list[Operand], options: Mapping[str, int]) -> Results:
    """The new values of the written operands. Raises ValueError where shapes do not fit."""
    with np.errstate(all="ignore"):  # overflow and 0/0 give what the dtype has for them
        return SEMANTICS[name](*written, *read, **options)
