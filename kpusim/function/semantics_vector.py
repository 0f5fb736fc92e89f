"""What the vector instructions compute. Arithmetic is fp32 (int32 where every operand is an integer); functions that
hardware approximates (exp, erf, ...) are computed in float64 and rounded to fp32: the same on every computer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf, prod
from types import MappingProxyType

import numpy as np

from kpusim.dtypes import Array, greatest, integer_range, is_integer
from kpusim.function.values import Operand, Results, common, fitted, stored

__all__ = ["VECTOR", "Semantics"]

Semantics = Callable[..., Results]
"""(written operands, read ones, options by name) -> new values of the written ones. ValueError: shapes do not fit."""


def _arithmetic(function: Callable[..., Array]) -> Semantics:
    """`out = function(sources)` in the common type."""
    return lambda out, *sources: stored(function(*common(out, *sources)), out)


def _precise(function: Callable[[Array], Array]) -> Semantics:
    """`out = function(src)` in float64, rounded to fp32 and then to out."""
    return _arithmetic(lambda src: function(src.astype(np.float64)).astype(np.float32))


def _erf(values: Array) -> Array:
    return np.asarray(np.frompyfunc(erf, 1, 1)(values), np.float64)


def _fma(a: Array, b: Array, c: Array) -> Array:
    """The product of two fp32 is exact in float64."""
    return np.asarray(a.astype(np.float64) * b + c, np.float32)


def _reduction(function: np.ufunc, identity: float, axis: int) -> Semantics:
    """Along the row (axis -1) or the column (-2); of nothing at all, the identity."""

    def reduce(src: Array) -> Array:
        initial = identity if src.dtype.kind == "f" else int(np.clip(identity, *integer_range("int32")))
        return np.asarray(function.reduce(np.atleast_2d(src), axis, src.dtype, keepdims=True, initial=initial))

    return _arithmetic(reduce)


def _move(out: Operand, src: Operand) -> Results:
    return (fitted(src.data, out.data.shape),)


def _cast(out: Operand, src: Operand) -> Results:
    return stored(src.data, out)


def _transpose(out: Operand, src: Operand) -> Results:
    swapped = np.swapaxes(src.data, -1, -2)
    if swapped.shape != out.data.shape:
        raise ValueError(f"the transpose of {src.data.shape} is not {out.data.shape}")
    return (swapped,)


def _iota(out: Operand, *, base: int, row_step: int, column_step: int) -> Results:
    *leading, width = out.data.shape
    rows = np.arange(prod(leading)).reshape(*leading, 1)
    return stored(base + row_step * rows + column_step * np.arange(width), out)


def _select(out: Operand, mask: Operand, a: Operand, b: Operand) -> Results:
    yes, no = common(out, a, b)
    return stored(np.where(mask.data != 0, yes, no), out)


def _argmax(out: Operand, src: Operand) -> Results:
    return stored(np.argmax(src.data.astype(np.float64), axis=-1, keepdims=True), out)


def _top_k(values: Operand, indices: Operand, src: Operand) -> Results:
    k = values.data.shape[-1]
    if k > src.data.shape[-1]:
        raise ValueError(f"{src.data.shape[-1]} elements have no {k} greatest")
    order = np.argsort(-src.data.astype(np.float64), axis=-1, kind="stable")[..., :k]
    best = np.take_along_axis(src.data, order, axis=-1)
    return *stored(best, values), *stored(order, indices)


def _quantize(out: Operand, src: Operand, scale: Operand, zero: Operand) -> Results:
    src_values, scale_values, zero_values = (operand.data.astype(np.float32) for operand in (src, scale, zero))
    scaled = src_values / scale_values + zero_values
    if is_integer(out.dtype):
        return stored(np.rint(scaled), out)
    limit = np.float32(greatest(out.dtype))
    return stored(np.clip(scaled, -limit, limit), out)


VECTOR: Mapping[str, Semantics] = MappingProxyType(
    {
        "move": _move,
        "cast": _cast,
        "transpose": _transpose,
        "fill": _arithmetic(lambda value: value),
        "iota": _iota,
        "add": _arithmetic(np.add),
        "sub": _arithmetic(np.subtract),
        "mul": _arithmetic(np.multiply),
        "max": _arithmetic(np.maximum),
        "min": _arithmetic(np.minimum),
        "fma": _arithmetic(_fma),
        "neg": _arithmetic(np.negative),
        "abs": _arithmetic(np.abs),
        "floordiv": _arithmetic(np.floor_divide),
        "mod": _arithmetic(np.mod),
        "lt": _arithmetic(np.less),
        "le": _arithmetic(np.less_equal),
        "eq": _arithmetic(np.equal),
        "select": _select,
        "exp": _precise(np.exp),
        "exp2": _precise(np.exp2),
        "erf": _precise(_erf),
        "tanh": _precise(np.tanh),
        "rsqrt": _precise(lambda src: 1 / np.sqrt(src)),
        "reciprocal": _precise(lambda src: 1 / src),
        "row_sum": _reduction(np.add, 0, -1),
        "row_max": _reduction(np.maximum, -np.inf, -1),
        "row_min": _reduction(np.minimum, np.inf, -1),
        "col_sum": _reduction(np.add, 0, -2),
        "col_max": _reduction(np.maximum, -np.inf, -2),
        "col_min": _reduction(np.minimum, np.inf, -2),
        "prefix_sum": _arithmetic(lambda src: np.cumsum(src, axis=-1, dtype=src.dtype)),
        "row_argmax": _argmax,
        "top_k": _top_k,
        "quantize": _quantize,
        "dequantize": _arithmetic(lambda src, scale, zero: (src - zero) * scale),
    }
)
