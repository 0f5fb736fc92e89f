"""Attention in float64, and how far the arithmetic of a fused kernel may be off.

Weights w_j = exp(s_j - m) of the keys j that a query sees, s = factor * q k, m the greatest; out = N/L, N = sum w v,
L = sum w.
A kernel goes through the keys block by block, m that of the blocks so far, and rescales its sums when m grows.

- Scores: sums in fp32 are off by gamma(d) |q||k| (Higham 2002, eq. 3.13), `factor` and its product are rounded; q and k
  that are rotated are rounded to dtype before, by dq and dk: |q + dq||k + dk| - |q||k| more. e_j is all of that.
- Exponents: s_j - m, and the differences of maxima that rescale later, are one rounding each of numbers that add up to
  at most the distance from s_j to the greatest. E_j = e_j + gamma(3) * distance. (Any error of m itself cancels.)
- Weights: w_j is off by a factor exp(E_j), the rounding of exp and that to dtype (u_dtype; below its least normal
  number an absolute error of half its least one, which only shrinks when it is rescaled).
- Sums of n weights (rounded to dtype or not) and of n products: n additions, a rounding of exp and of a product each
  time that they are rescaled, once a block and once where parts are joined: gamma(3 n + 8), n the keys.
- So N and L are off by A = sum d_j |v_j| and B = sum d_j, d_j the error of a weight, and N/L by
  (A + |out| B) / (L - B). Where that says nothing (B near L), out is still an average of values, their weights rounded:
  not much more than 2 max |v|.
- Where scores go through HBM they are rounded once more, which adds to e_j; and weights are rounded when they are
  divided by L already, so that half the least number is L times as much of w_j.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.dtypes import convert, gamma, smallest, unit_roundoff
from kpusim.operators.attention.problem import Problem
from kpusim.operators.base import Array

__all__ = ["error_bound", "reference"]

Wide = npt.NDArray[np.float64]
Inputs = Mapping[str, Array]
AT_ONCE = 1 << 21  # scores; chosen: 16 MB of float64, of which a few arrays stay in the caches
STEEP = 300.0  # beyond exp of that an error says nothing, and float64 ends at exp(709)


@frozen(eq=False)
class Rows:
    """Some queries of the heads that share an entry's keys and values. dq, dk: how far q and k may be off."""

    at: tuple[slice, slice]  # of [batch * heads, queries]
    q: Wide  # [heads, queries, head_dim]
    dq: Wide
    k: Wide  # [keys, head_dim]
    dk: Wide
    v: Wide  # [keys, value_dim]
    seen: npt.NDArray[np.bool_]  # [queries, keys]

    def weights(self, factor: float) -> tuple[Wide, Wide, Wide]:
        """(weights, how far each score is below the greatest, the sum of weights), of rows without keys all zeros."""
        scores = np.where(self.seen, factor * (self.q @ self.k.T), -np.inf)
        top = scores.max(axis=-1, keepdims=True)
        below = np.where(np.isfinite(top), top, 0) - scores
        weights = np.exp(-below)
        return weights, np.where(self.seen, below, 0), weights.sum(axis=-1, keepdims=True)


def reference(problem: Problem, inputs: Inputs) -> Wide:
    """The results, in the shape of the port."""
    out = np.zeros((problem.batch * problem.heads, problem.queries, problem.value_dim))
    for rows in _rows(problem, inputs):
        weights, _, total = rows.weights(problem.factor)
        out[rows.at] = weights @ rows.v / np.where(total > 0, total, 1)
    return _as_port(problem, out)


def error_bound(problem: Problem, inputs: Inputs, scores: str = "") -> Wide:
    """How far fp32 and weights rounded to dtype may be off, before results are rounded: see above.

    scores: the dtype in which they go through HBM, and weights with them; "": they stay on chip.
    """
    bound = np.zeros((problem.batch * problem.heads, problem.queries, problem.value_dim))
    for rows in _rows(problem, inputs):
        bound[rows.at] = _bound(problem, rows, scores)
    return _as_port(problem, bound)


def _bound(problem: Problem, rows: Rows, scores: str) -> Wide:
    weights, below, total = rows.weights(problem.factor)
    off = _score_error(problem, rows, scores)
    worst = off.max(axis=-1, keepdims=True)
    exponent = np.minimum(off + gamma(3, "fp32") * (below + 2 * worst), STEEP)
    sums = gamma(3 * problem.length + 8, "fp32")
    rounded = 0.0 if problem.dtype == "fp32" else unit_roundoff(problem.dtype)
    lost = smallest(problem.dtype) / 2 * (total.max() if scores else 1) + (2 * problem.length + 2) * smallest("fp32")
    error = weights * (np.exp(exponent) * (1 + gamma(1, "fp32")) * (1 + rounded) * (1 + sums) - 1)
    error += np.where(rows.seen, lost * np.exp(np.minimum(2 * worst, STEEP)), 0)
    size = np.abs(rows.v)
    values, part = error @ size, error.sum(axis=-1, keepdims=True)
    out = np.abs(weights @ rows.v) / np.where(total > 0, total, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.where(part < total, (values + out * part) / (total - part), np.inf)
    bound = np.minimum(bound, (1 + (1 + rounded) * (1 + 4 * sums) + problem.length * lost) * size.max(axis=0))
    bound += gamma(4, "fp32") * (out + bound) + smallest("fp32")
    return np.where(total > 0, bound, 0)


def _score_error(problem: Problem, rows: Rows, scores: str) -> Wide:
    """e_j of each query and key that it sees."""
    q, k = np.abs(rows.q), np.abs(rows.k)
    most = (q + rows.dq) @ (k + rows.dk).T
    off = gamma(problem.head_dim + 2, "fp32") * most + problem.head_dim * smallest("fp32")
    if problem.rope != "none":
        off += most - q @ k.T
    off *= problem.factor
    if scores:
        off += unit_roundoff(scores) * (problem.factor * np.abs(rows.q @ rows.k.T) + off) + smallest(scores)
    return np.where(rows.seen, off, 0)


def _rows(problem: Problem, inputs: Inputs) -> Iterator[Rows]:
    """All queries, as many at once as `AT_ONCE` scores allow."""
    group, exact = problem.group, np.zeros(1)
    step = max(AT_ONCE // (group * problem.length), 1)
    for entry in range(problem.entries):
        heads = range(entry * group, (entry + 1) * group)
        q = np.stack([_head(problem, inputs["q"], problem.heads, head) for head in heads])
        k, dk = _stored(problem, inputs, "k", entry), exact
        v = k[:, : problem.value_dim] if problem.shared else _stored(problem, inputs, "v", entry)
        if problem.rope == "qk":
            k, dk = _rotated(problem, inputs, k, 0)
        for first in range(0, problem.queries, step):
            at = slice(first, min(first + step, problem.queries))
            some, dq = q[:, at].astype(np.float64), exact
            if problem.rope != "none":
                some, dq = _rotated(problem, inputs, some, problem.offset + first)
            yield Rows((slice(heads[0], heads[-1] + 1), at), some, dq, k, dk, v, _seen(problem, inputs, entry, at))


def _head(problem: Problem, tensor: Array, heads: int, index: int) -> Array:
    """[tokens, dim]: the index-th of `heads` in each entry of the batch."""
    if not problem.tokens_first:
        return np.asarray(tensor[index])
    entry, head = divmod(index, heads)
    return np.asarray(tensor.reshape(problem.batch, -1, heads, tensor.shape[1] // heads)[entry, :, head])


def _as_port(problem: Problem, out: Wide) -> Wide:
    """[batch * heads, queries, dim] as the port has it."""
    if not problem.tokens_first:
        return out
    split = out.reshape(problem.batch, problem.heads, problem.queries, -1)
    return split.swapaxes(1, 2).reshape(problem.batch * problem.queries, -1)


def _stored(problem: Problem, inputs: Inputs, name: str, entry: int) -> Wide:
    """[keys, dim]: keys or values of an entry, dequantised and rounded to dtype."""
    if problem.unit:
        rows = _gathered(problem, inputs, entry)
        pieces, scale = inputs[name][rows], inputs[f"{name}_scale"][rows] if problem.quantized else None
    else:
        pieces = _head(problem, inputs[name], problem.kv_heads, entry)
        scale = inputs[f"{name}_scale"][entry] if problem.quantized else None
    if scale is not None:
        if name == "k" and not problem.kept:  # a scale for each channel of a group of tokens
            scale = scale[..., np.arange(pieces.shape[-2]) // problem.scale_group, :]
        pieces = convert(pieces.astype(np.float32) * scale.astype(np.float32), problem.dtype)
    return np.asarray(pieces, np.float64).reshape(-1, pieces.shape[-1])[: problem.length]


def _gathered(problem: Problem, inputs: Inputs, entry: int) -> npt.NDArray[np.int64]:
    """The rows of keys and values, as stored, that hold those of an entry."""
    if problem.kept:
        return np.asarray(inputs["positions"][entry] + entry * problem.keys, np.int64)
    if problem.page:
        sequence, head = divmod(entry, problem.kv_heads)
        return np.asarray(inputs["page_table"][sequence] + head * problem.pages, np.int64)
    return np.arange(problem.keys // problem.block) + entry * (problem.keys // problem.block)


def _rotated(problem: Problem, inputs: Inputs, x: Wide, first: int) -> tuple[Wide, Wide]:
    """(x rotated, how far that may be off): rows of x are at positions from `first` on."""
    at = slice(first, first + x.shape[-2])
    cos, sin = (inputs[name][at].astype(np.float64) for name in ("cos", "sin"))
    low, high = np.split(x, 2, axis=-1)
    turned = np.concatenate((low * cos - high * sin, high * cos + low * sin), axis=-1)
    low, high, cos, sin = (np.abs(each) for each in (low, high, cos, sin))
    off = gamma(3, "fp32") * np.concatenate((low * cos + high * sin, high * cos + low * sin), axis=-1)
    if problem.dtype != "fp32":
        off += unit_roundoff(problem.dtype) * (np.abs(turned) + off)
    return turned, off + smallest(problem.dtype)


def _seen(problem: Problem, inputs: Inputs, entry: int, at: slice) -> npt.NDArray[np.bool_]:
    """[queries, keys]: whether each of these queries sees each key."""
    keys, low, high = np.arange(problem.length), problem.lowest[at, None], problem.highest[at, None]
    if not problem.block:
        return np.asarray((keys < high) & ((keys >= low) | (keys < problem.sinks)))
    counts, chosen = problem.chosen_counts, inputs["chosen"][entry]
    read = np.zeros((len(counts), problem.keys // problem.block), np.bool_)
    for row, count in enumerate(counts):
        read[row, chosen[row, :count]] = True
    rows = np.arange(at.start, at.stop) // problem.block
    return np.asarray(read[rows][:, keys // problem.block] & (keys < high))
