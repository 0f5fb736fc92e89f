"""What a GEMM multiplies: sizes, dtypes, how its tensors lie, and what follows each sum."""

from __future__ import annotations

from attrs import frozen

from kpusim.dtypes import per_byte
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.operators.base import Port

__all__ = ["PROLOGUES", "Epilogue", "Problem", "Prologue", "ports"]

PROLOGUES = ("none", "rmsnorm", "layernorm", "batchnorm")


@frozen(cache_hash=True)
class Prologue:
    """How A is normalised before it is multiplied; see `prologue.py`. eps: beside the mean square or the variance."""

    kind: str = "none"
    eps: float = 1e-5

    @property
    def vectors(self) -> tuple[str, ...]:
        """Its tensors, with one element along K each."""
        folded = "norm_mean", "norm_variance", "norm_weight", "norm_bias"
        return {"none": (), "rmsnorm": ("norm_weight",), "layernorm": folded[2:], "batchnorm": folded}[self.kind]

    @property
    def by_row(self) -> bool:
        """Whether each row has a factor of its own, known only when all of the row has passed."""
        return self.kind in ("rmsnorm", "layernorm")

    @property
    def centred(self) -> bool:
        """Whether the mean of each row is subtracted from it."""
        return self.kind == "layernorm"


@frozen(cache_hash=True)
class Epilogue:
    """What follows each sum, in fp32: activation(alpha * column scale * sum + bias) + residual."""

    alpha: float = 1.0
    column_scale: bool = False
    bias: bool = False
    activation: str = "none"
    residual: bool = False

    @property
    def vectors(self) -> tuple[str, ...]:
        """Its tensors with one element a column."""
        return tuple(name for name, used in (("scale", self.column_scale), ("bias", self.bias)) if used)


@frozen(cache_hash=True)
class Problem:
    """Sizes in elements; with `groups` (rows of each) m is the sum of them.

    batch: products, each of m x k times k x n; 0: one, of plain matrices. dtype: of the factors as they are multiplied.
    b_dtype: of B as it is stored; where it is another, B is dequantised with a scale for each column and `scale_group`
    elements along K.
    """

    m: int
    n: int
    k: int
    dtype: str = "bf16"
    out_dtype: str = "bf16"
    transpose_a: bool = False
    transpose_b: bool = False
    batch: int = 0
    groups: tuple[int, ...] = ()
    b_dtype: str = ""
    scale_group: int = 0
    epilogue: Epilogue = Epilogue()
    prologue: Prologue = Prologue()

    @property
    def entries(self) -> int:
        """How many B there are."""
        return len(self.groups) or max(self.batch, 1)

    @property
    def longest(self) -> int:
        """Rows of the largest entry."""
        return max(self.groups) if self.groups else self.m

    @property
    def packed(self) -> int:
        """Elements of B as it is stored that share a byte; 1 for none."""
        return per_byte(self.stored_dtype)

    @property
    def quantized(self) -> bool:
        """Whether B is dequantised on the vector engine."""
        return self.b_dtype not in ("", self.dtype)

    @property
    def stored_dtype(self) -> str:
        """Of B in HBM."""
        return self.b_dtype or self.dtype

    @property
    def accumulator(self) -> str:
        """Dtype of the sums."""
        return "int32" if self.dtype == "int8" else "fp32"

    @property
    def model_dtype(self) -> str:
        """Of bias and residual: the output's, if that is more than 8 bits of floating point."""
        return self.out_dtype if self.out_dtype in ("fp32", "bf16", "fp16") else "bf16"

    @property
    def norm_dtype(self) -> str:
        """Of the prologue's vectors: what a BatchNorm has learned is fp32, as its family's."""
        return "fp32" if self.prologue.kind == "batchnorm" else self.dtype

    @property
    def group_k(self) -> int:
        """Elements along K that share a scale."""
        return min(self.scale_group or self.k, self.k)

    @property
    def scale_rows(self) -> int:
        """Scales of one column of B."""
        return ceil_div(self.k, self.group_k)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return max(self.batch, 1) * self.m * self.n * self.k

    def lanes(self, rows: int) -> int:
        """Bands of `rows` rows, of which none crosses the edge of an entry."""
        if self.groups:
            return sum(ceil_div(group, rows) for group in self.groups)
        return max(self.batch, 1) * ceil_div(self.m, rows)

    def a_bytes(self, elements: int) -> int:
        """Bytes of so many elements of A, in HBM as in SRAM."""
        return ceil_div(elements * DTYPE_BITS[self.dtype], 8)

    def b_bytes(self, elements: int) -> int:
        """Bytes of so many elements of B as it is stored."""
        return ceil_div(elements * DTYPE_BITS[self.stored_dtype], 8)

    @property
    def out_bytes(self) -> int:
        """Bytes of one result in HBM."""
        return DTYPE_BITS[self.out_dtype] // 8


def ports(problem: Problem) -> tuple[Port, ...]:
    """The tensors of a GEMM, in the order of its program; an axis without a name follows from the others."""
    m, n, k, entries = problem.m, problem.n, problem.k, problem.entries
    kinds: tuple[tuple[str, int], ...] = (("batch", entries),) if problem.batch else ()
    each_b: tuple[tuple[str, int], ...] = kinds or ((("groups", entries),) if problem.groups else ())
    a = (("k", k), ("m", m)) if problem.transpose_a else (("m", m), ("k", k))
    b = (("n", n), ("k", k)) if problem.transpose_b else (("k", k), ("n", n))
    out = (*kinds, ("m", m), ("n", n))
    found = [("a", "in", (*kinds, *a), problem.dtype), ("b", "in", (*each_b, *b), problem.stored_dtype)]
    if problem.quantized:
        found.append(("b_scale", "in", (*each_b, ("", problem.scale_rows), ("n", n)), problem.dtype))
    found += [(name, "in", (("k", k),), problem.norm_dtype) for name in problem.prologue.vectors]
    for name in problem.epilogue.vectors:
        found.append((name, "in", (*each_b, ("n", n)), "fp32" if name == "scale" else problem.model_dtype))
    if problem.epilogue.residual:
        found.append(("residual", "in", out, problem.model_dtype))
    if problem.groups:
        found.append(("rows", "in", (("groups", entries),), "int32"))
    found.append(("out", "out", out, problem.out_dtype))
    return tuple(
        Port(name, role, tuple(axis for axis, _ in sizes), tuple(size for _, size in sizes), dtype)
        for name, role, sizes, dtype in found
    )
