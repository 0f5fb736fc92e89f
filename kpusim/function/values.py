"""What an instruction computes with: operands, their common arithmetic, and the fit of a result into its place."""

from __future__ import annotations

from math import prod

import numpy as np
from attrs import frozen

from kpusim.dtypes import Array, convert, integer_range, is_integer

__all__ = ["Operand", "Results", "common", "fitted", "matrix", "scalar", "stored"]


@frozen(eq=False)
class Operand:
    """An operand with its values, in the array type of `dtype`; those of an operand only written mean nothing."""

    dtype: str
    data: Array


Results = tuple[Array, ...]
"""The new values of the operands that an instruction writes, in their order."""


def scalar(value: int | float) -> Operand:
    """A number in an instruction: int32 or fp32. Raises ValueError for an integer beyond int32."""
    if isinstance(value, float):
        with np.errstate(over="ignore"):  # what is beyond fp32 is infinite
            return Operand("fp32", np.asarray(value, np.float32))
    low, high = integer_range("int32")
    if not low <= value <= high:
        raise ValueError(f"{value} is no int32")
    return Operand("int32", np.asarray(value, np.int32))


def common(out: Operand, *sources: Operand) -> list[Array]:
    """The sources in the type of the arithmetic: int32 where `out` and all of them are integers, else fp32."""
    integers = is_integer(out.dtype) and all(is_integer(source.dtype) for source in sources)
    kind = np.int32 if integers else np.float32
    return [source.data.astype(kind, copy=False) for source in sources]


def fitted(values: Array, shape: tuple[int, ...]) -> Array:
    """`values` broadcast to `shape`, or the same elements in it where only dimensions of 1 differ.

    Raises ValueError where they do not fit.
    """
    if values.shape == shape:
        return values
    if [n for n in values.shape if n != 1] == [n for n in shape if n != 1]:
        return values.reshape(shape)
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(f"a result of {list(values.shape)} does not fit into {list(shape)}") from None


def stored(values: Array, out: Operand) -> Results:
    """`values` as `out` keeps them: rounded to its dtype, in its shape."""
    return (fitted(convert(values, out.dtype), out.data.shape),)


def matrix(values: Array) -> Array:
    """`values` as rows and columns: leading dimensions are rows."""
    return values.reshape(prod(values.shape[:-1]), values.shape[-1])
