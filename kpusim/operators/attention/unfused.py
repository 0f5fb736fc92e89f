"""Attention as three programs: scores and probabilities go through HBM, as in frameworks that fuse nothing."""

from __future__ import annotations

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.attention.problem import Problem
from kpusim.operators.base import Part
from kpusim.operators.gemm import Gemm
from kpusim.operators.norm import Softmax

__all__ = ["unfused"]


def unfused(problem: Problem) -> tuple[Part, ...]:
    """q k^T, softmax, and p v. Scores have the dtype of Q, or bf16 where the vector engine cannot work in that.

    The queries of the heads that share keys are rows of one matrix; softmax takes them apart again, for the mask.
    """
    rows, entries, keys = problem.group * problem.queries, problem.entries, problem.keys
    scores = problem.dtype if problem.dtype in DTYPE_GROUPS["real"] else "bf16"
    qk = Gemm(
        rows, keys, problem.head_dim, batch=entries, transpose_b=True, alpha=problem.factor, dtype=problem.dtype,
        out_dtype=scores,
    )  # fmt: skip
    softmax = Softmax(
        problem.queries, keys, batch=problem.batch * problem.heads, mask="causal" if problem.causal else "none",
        dtype=scores, out_dtype=problem.dtype,
    )  # fmt: skip
    pv = Gemm(rows, problem.value_dim, keys, batch=entries, dtype=problem.dtype, out_dtype=problem.out_dtype)
    return (
        Part("qk", qk, {"a": "q", "b": "k", "out": "scores"}),
        Part("softmax", softmax, {"x": "scores", "out": "probabilities"}),
        Part("pv", pv, {"a": "probabilities", "b": "v", "out": "out"}),
    )
