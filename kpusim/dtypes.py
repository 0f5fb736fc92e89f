"""Element types in numpy: which array holds which dtype, conversion with one rounding, packed 4- and 2-bit data.

int4 and int2 are held as int8 arrays outside the SRAM; inside they are packed, lowest element in the lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from kpusim.isa.tables import DTYPE_BITS

__all__ = [
    "Array",
    "convert",
    "gamma",
    "greatest",
    "integer_range",
    "is_integer",
    "is_packed",
    "numpy_dtype",
    "pack",
    "per_byte",
    "smallest",
    "unit_roundoff",
    "unpack",
]

Array = npt.NDArray[Any]

_NUMPY: Mapping[str, str] = MappingProxyType(
    {
        "fp32": "float32",
        "bf16": "bfloat16",
        "fp16": "float16",
        "fp8_e4m3": "float8_e4m3fn",
        "fp8_e5m2": "float8_e5m2",
        "int64": "int64",
        "int32": "int32",
        "int8": "int8",
        "uint8": "uint8",
        "int4": "int8",
        "int2": "int8",
    }
)


@cache
def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that holds elements of `dtype` (int8 for the packed ones)."""
    name = _NUMPY[dtype]
    if not hasattr(np, name):
        import ml_dtypes  # only here: importing it takes longer than many a run without data

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    return np.dtype(name)


def is_integer(dtype: str) -> bool:
    """Whether `dtype` is an integer."""
    return dtype.startswith(("int", "uint"))


def is_packed(dtype: str) -> bool:
    """Whether several elements share a byte."""
    return DTYPE_BITS[dtype] < 8


def per_byte(dtype: str) -> int:
    """Elements that share a byte; 1 for none."""
    return max(8 // DTYPE_BITS[dtype], 1)


def integer_range(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an integer dtype."""
    bits = DTYPE_BITS[dtype]
    return (0, 2**bits - 1) if dtype.startswith("uint") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _limits(dtype: str) -> Any:
    if dtype in ("fp32", "fp16"):
        return np.finfo(numpy_dtype(dtype))
    import ml_dtypes

    return ml_dtypes.finfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]


def unit_roundoff(dtype: str) -> float:
    """The greatest relative error of rounding to a floating dtype: half the distance from 1 to the next number."""
    return float(_limits(dtype).eps) / 2


def gamma(count: int, dtype: str) -> float:
    """The bound of the relative error of `count` roundings in `dtype`: k*u / (1 - k*u), infinite from k*u = 1 on.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, section 3.1.
    """
    error = count * unit_roundoff(dtype)
    return error / (1 - error) if error < 1 else float("inf")


def smallest(dtype: str) -> float:
    """The least positive (subnormal) number of a floating dtype."""
    return float(_limits(dtype).smallest_subnormal)


def greatest(dtype: str) -> float:
    """The greatest finite number of a floating dtype."""
    return float(_limits(dtype).max)


def convert(values: Array, dtype: str) -> Array:
    """`values` in `dtype`: rounded once to the nearest, ties to even; to an integer: truncated, saturated, NaN to 0."""
    target = numpy_dtype(dtype)
    if values.dtype == target and not is_packed(dtype):
        return values
    if is_integer(dtype):
        low, high = integer_range(dtype)
        wide = values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)
        if wide.dtype.kind == "f":
            wide = np.where(np.isnan(wide), 0.0, np.trunc(wide))
        return np.clip(wide, low, high).astype(target)
    if values.dtype.kind in "iu" and dtype != "fp32":
        values = _to_odd(values)
    with np.errstate(over="ignore"):
        return values.astype(target)


def _to_odd(integers: Array) -> npt.NDArray[np.float32]:
    """Integers in fp32, inexact ones rounded to the neighbour with an odd significand: rounding that to fewer bits
    gives what one rounding would (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, 2008)."""
    near = integers.astype(np.float32)
    error = near.astype(np.float64) - integers
    below = np.where(error * np.sign(near) > 0, np.nextafter(near, np.float32(0)), near)
    odd = (below.view(np.uint32) | np.uint32(1)).view(np.float32)
    return np.where(error == 0, near, odd)


def pack(values: Array, dtype: str) -> npt.NDArray[np.uint8]:
    """The bytes of integers in [-2**(bits-1), 2**(bits-1)) of a packed dtype; the last byte is filled with zeros."""
    bits = DTYPE_BITS[dtype]
    each = 8 // bits
    flat = values.astype(np.int8).view(np.uint8).reshape(-1) & (2**bits - 1)
    flat = np.concatenate([flat, np.zeros(-len(flat) % each, np.uint8)]).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    return np.asarray(np.bitwise_or.reduce(flat << shifts, axis=1), np.uint8)


def unpack(data: npt.NDArray[np.uint8], dtype: str, count: int) -> npt.NDArray[np.int8]:
    """The first `count` elements of packed bytes, signs extended."""
    bits = DTYPE_BITS[dtype]
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    fields = (data[:, None] >> shifts).reshape(-1)[:count]
    return (fields << np.uint8(8 - bits)).view(np.int8) >> np.int8(8 - bits)
