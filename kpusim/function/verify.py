"""Whether a computed tensor is as close to a float64 reference as its arithmetic must be; and random inputs.

The tolerance is derived, not tuned. With u the unit roundoff of a format, a sum of k products of given numbers differs
from the exact one by at most gamma(k) * sum |a||b|, gamma(k) = k*u / (1 - k*u), in any order of summation (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1); rounding the result x to its dtype adds u * |x|.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.dtypes import Array, gamma, integer_range, is_integer, numpy_dtype, smallest, unit_roundoff
from kpusim.errors import UserError
from kpusim.isa.program import Program, Tensor

__all__ = ["Verdict", "compare", "random_inputs", "sum_bound"]

Wide = npt.NDArray[np.float64]
FP64_ROUNDOFF = 2.0**-53


@frozen
class Verdict:
    """How far a result is from its reference.

    max_rel_error: over the elements whose reference is not 0. worst: the element whose error has the greatest share of
    its tolerance; tolerance: the greatest absolute error allowed there; tolerance_origin: the formula, in words.
    """

    max_abs_error: float
    max_rel_error: float
    tolerance: float
    tolerance_origin: str
    worst: tuple[int, ...]
    passed: bool


def sum_bound(k: int, magnitude: Wide, roundings: Mapping[str, int] | None = None) -> Wide:
    """How far a sum of k products in fp32 may be from its float64 reference, elementwise.

    magnitude: sum |a||b|. roundings: by dtype, how often each product or factor is rounded to it on its way.
    """
    factor = 1 + gamma(k, "fp32")
    for dtype, count in (roundings or {}).items():
        factor *= 1 + gamma(count, dtype)
    return (factor - 1 + k * FP64_ROUNDOFF) * magnitude + k * smallest("fp32")  # the reference rounds, fp32 underflows


def compare(result: Array, reference: Wide, dtype: str, *, bound: Wide | float = 0.0, origin: str = "") -> Verdict:
    """Compares `result`, in `dtype`, with what float64 arithmetic makes of the same (rounded) inputs.

    bound: how far the value before the last rounding, to `dtype`, may be off (`sum_bound`, or an operator's own bound);
    origin: where that comes from, in words. Integer results must be equal. Raises UserError where the shapes differ.
    """
    if result.shape != reference.shape:
        raise UserError("a result of another shape", found=list(result.shape), allowed=str(list(reference.shape)))
    if is_integer(dtype):
        allowed, origin = np.zeros(result.shape), "integers: equal"
    else:
        roundoff = unit_roundoff(dtype)
        allowed = bound + roundoff * (np.abs(reference) + bound) + smallest(dtype) / 2
        origin = f"{origin}{' + ' if origin else ''}u of {dtype} = {roundoff:.3g}"
    values = result.astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(values - reference)
        rounded = reference.astype(numpy_dtype(dtype)).astype(np.float64)
        right = (values == rounded) | (np.isnan(values) & np.isnan(rounded))  # the only right way not to be finite
        error = np.where(np.isfinite(error), error, np.where(right, 0.0, np.inf))
        relative = np.where((reference != 0) & np.isfinite(reference), error / np.abs(reference), 0.0)
        share = np.where(error == 0, 0.0, error / allowed)
    worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape)) if share.size else ()
    return Verdict(
        max_abs_error=float(error.max(initial=0.0)),
        max_rel_error=float(relative.max(initial=0.0)),
        tolerance=float(allowed[worst]) if share.size else 0.0,
        tolerance_origin=origin,
        worst=worst,
        passed=bool(np.all((error == 0) | (error <= allowed))),
    )


def random_inputs(program: Program, seed: int) -> dict[str, Array]:
    """Values for the `in` and `inout` tensors of a program: the same for the same seed and tensor number.

    Floats are normal, of variance 1, rounded to the dtype; integers uniform (int32: 16 bits of it, so that sums stay in
    range); a tensor that a table assumes is that table.
    """
    tables = {table.assumed: table.values for table in program.tables if table.assumed}
    return {
        tensor.name: _assumed(tensor, tables[tensor.name])
        if tensor.name in tables
        else _random(tensor, np.random.default_rng((seed, number)))
        for number, tensor in enumerate(program.tensors)
        if tensor.role != "out"
    }


def _assumed(tensor: Tensor, values: tuple[int, ...]) -> Array:
    return np.array(values, numpy_dtype(tensor.dtype)).reshape(tensor.shape)


def _random(tensor: Tensor, generator: np.random.Generator) -> Array:
    dtype = numpy_dtype(tensor.dtype)
    if not is_integer(tensor.dtype):
        return generator.standard_normal(tensor.shape, np.float32).astype(dtype)
    low, high = (-(2**15), 2**15 - 1) if tensor.dtype == "int32" else integer_range(tensor.dtype)
    return generator.integers(low, high, tensor.shape, dtype, endpoint=True)
