"""A GEMM in float64, and how far fp32 arithmetic may be off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import frozen

from kpusim.dtypes import gamma, greatest, smallest, unit_roundoff
from kpusim.operators.activations import activated
from kpusim.operators.base import Array, Wide
from kpusim.operators.fp32 import U
from kpusim.operators.gemm.problem import Problem

__all__ = ["error_bound", "reference"]


@frozen
class _Factors:
    """What is multiplied: a and b, neither transposed, b with its scales, and a factor for each row of the result.

    error: how far a may be off, elementwise; row_error: how far the factors of rows may be, in proportion.
    """

    a: Wide
    b: Wide
    error: Wide
    row: Wide
    row_error: float = 0.0


def reference(problem: Problem, inputs: Mapping[str, Array]) -> Wide:
    """The results."""
    if problem.prologue.centred:
        sums = _centred(problem, *_plain(problem, inputs), inputs)[0]
    else:
        factors = _factors(problem, inputs)
        sums = factors.row * _product(factors.a, factors.b, problem.groups)
    return _finished(problem, sums, np.zeros(()), inputs)[0]


def error_bound(problem: Problem, inputs: Mapping[str, Array]) -> Wide:
    """How far fp32 may be off before the results are rounded to the output's dtype.

    gamma_k * |a| |b|, of which B has two roundings more where it is dequantised, and the errors of what a prologue
    makes of A, carried through the epilogue.
    """
    if problem.prologue.centred:
        return _finished(problem, *_centred(problem, *_plain(problem, inputs), inputs), inputs)[1]
    factors = _factors(problem, inputs)
    sums = factors.row * _product(factors.a, factors.b, problem.groups)
    if problem.accumulator == "int32":
        return _finished(problem, sums, np.zeros_like(sums), inputs)[1]
    relative = _relative(problem, problem.k)
    error = relative * np.abs(factors.a) + (1 + relative) * factors.error
    bound = _product(error, np.abs(factors.b), problem.groups) + problem.k * smallest("fp32")
    bound = factors.row * (1 + factors.row_error) * bound + factors.row_error * np.abs(sums)
    return _finished(problem, sums, bound, inputs)[1]


def _relative(problem: Problem, count: int) -> float:
    """The relative error of products with B, two roundings more where it is dequantised, in `count` roundings."""
    relative = gamma(count, "fp32")
    if problem.quantized:
        relative = (1 + relative) * (1 + U) * (1 + unit_roundoff(problem.dtype)) - 1
    return relative


def _plain(problem: Problem, inputs: Mapping[str, Array]) -> tuple[Wide, Wide]:
    """(a, b), neither transposed, b with its scales."""
    a, b = inputs["a"].astype(np.float64), inputs["b"].astype(np.float64)
    a, b = (a.swapaxes(-1, -2) if problem.transpose_a else a), (b.swapaxes(-1, -2) if problem.transpose_b else b)
    if problem.quantized:
        scale = np.repeat(inputs["b_scale"].astype(np.float64), problem.group_k, axis=-2)
        b = b * scale[..., : problem.k, :]
    return a, b


def _factors(problem: Problem, inputs: Mapping[str, Array]) -> _Factors:
    a, b = _plain(problem, inputs)
    if not problem.prologue.vectors:
        return _Factors(a, b, np.zeros_like(a), np.ones(()))
    return _normalized(problem, a, b, inputs)


def _normalized(problem: Problem, a: Wide, b: Wide, inputs: Mapping[str, Array]) -> _Factors:
    """A as the prologue hands it to the array: a product, and with a bias a sum, in fp32, rounded to A's dtype.

    The relative error of a sum of k squares is at most gamma_k, as is thus that of its root's reciprocal; the mean's
    factor, its product, eps (rounded, added), the root, its reciprocal and the last product add seven roundings. A
    column's factor has six at most (eps rounded and added, root, reciprocal, weight), its term three more with the sum.
    """
    vectors = {name: inputs[name].astype(np.float64) for name in problem.prologue.vectors}
    factor, mean, bias = vectors["norm_weight"], np.zeros(()), np.zeros(())
    if problem.prologue.kind == "batchnorm":
        factor = factor / np.sqrt(np.maximum(vectors["norm_variance"], 0) + problem.prologue.eps)
        mean, bias = vectors["norm_mean"], vectors["norm_bias"]
    x = (a - mean) * factor + bias
    error = gamma(10, "fp32") * ((np.abs(a) + np.abs(mean)) * np.abs(factor) + np.abs(bias))
    error = error + unit_roundoff(problem.dtype) * (np.abs(x) + error) + smallest(problem.dtype)
    if not problem.prologue.by_row:
        return _Factors(x, b, error, np.ones(()))
    row = 1 / np.sqrt(np.mean(a * a, axis=-1, keepdims=True) + problem.prologue.eps)
    return _Factors(x, b, error, row, gamma(problem.k + 7, "fp32"))


def _centred(problem: Problem, a: Wide, b: Wide, inputs: Mapping[str, Array]) -> tuple[Wide, Wide]:
    """(sums, bound) of rows normalised by a LayerNorm.

    fp32 has root * (s - mean * c) + d, with s = (a * weight) @ b, c = weight @ b and d = bias @ b (`columns.py`), each
    of them off by its roundings; the variance is the mean square less the square of the mean.
    """
    n, groups = problem.k, problem.groups
    weight, bias = (inputs[name].astype(np.float64) for name in ("norm_weight", "norm_bias"))
    mean = np.mean(a, axis=-1, keepdims=True)
    total = np.mean((a - mean) ** 2, axis=-1, keepdims=True) + problem.prologue.eps
    root = 1 / np.sqrt(total)
    sums = _product((a - mean) * root * weight + bias, b, groups)
    mean_off = gamma(n + 2, "fp32") * np.mean(np.abs(a), axis=-1, keepdims=True)
    squares = np.mean(a * a, axis=-1, keepdims=True) + problem.prologue.eps
    total_off = gamma(n + 5, "fp32") * squares + (2 * np.abs(mean) + mean_off) * mean_off + 2 * U * mean**2
    most = 1 / np.sqrt(np.maximum(total - total_off, problem.prologue.eps * (1 - 4 * U)))
    like, size = np.ones_like(a), np.abs(b)
    weighted = np.abs(a * weight)
    rounded = (U + unit_roundoff(problem.dtype)) * (1 + U) * weighted + smallest(problem.dtype)
    relative = _relative(problem, n + 1)
    s_off = _product(relative * weighted + (1 + relative) * rounded, size, groups) + n * smallest("fp32")
    c, d = (_product(like * each, b, groups) for each in (weight, bias))
    c_off, d_off = (
        relative * _product(like * np.abs(each), size, groups) + n * smallest("fp32") for each in (weight, bias)
    )
    difference = np.abs((sums - d) / root)
    off = s_off + (np.abs(mean) + mean_off) * c_off + mean_off * np.abs(c)
    off = off + 2 * U * (difference + off + 2 * (np.abs(mean) + mean_off) * (np.abs(c) + c_off))
    bound = most * off + (most - root) * difference + d_off
    return sums, bound + 6 * U * (most * (difference + off) + np.abs(d) + d_off)


def _product(a: Wide, b: Wide, groups: tuple[int, ...]) -> Wide:
    """a @ b; with groups, the rows of each by its own b."""
    if not groups:
        return np.asarray(a @ b)
    ends = np.cumsum(groups)
    return np.concatenate([a[end - rows : end] @ each for rows, end, each in zip(groups, ends, b, strict=True)])


def _finished(problem: Problem, x: Wide, bound: Wide, inputs: Mapping[str, Array]) -> tuple[Wide, Wide]:
    """(results, bound) from (sums, bound)."""
    epilogue = problem.epilogue
    each = {name: _by_row(inputs[name].astype(np.float64), problem) for name in epilogue.vectors}
    factor = epilogue.alpha * each.get("scale", np.ones(1))
    x, bound = x * factor, np.abs(factor) * bound
    bound = bound + gamma(4, "fp32") * (np.abs(x) + bound)
    if epilogue.bias:
        x, bound = x + each["bias"], bound + 2 * U * (np.abs(x) + np.abs(each["bias"]) + bound)
    x, bound = activated(epilogue.activation, x, bound)
    if epilogue.residual:
        more = inputs["residual"].astype(np.float64)
        x, bound = x + more, bound + 2 * U * (np.abs(x) + np.abs(more) + bound)
    if problem.out_dtype.startswith("fp8"):
        limit = greatest(problem.out_dtype)
        x = np.clip(x, -limit, limit)
    return x, bound


def _by_row(vectors: Wide, problem: Problem) -> Wide:
    """Vectors of columns, one an entry, as they apply to the rows of the output."""
    if problem.groups:
        return np.repeat(vectors, problem.groups, axis=0)
    return vectors[:, None, :] if problem.batch else vectors
