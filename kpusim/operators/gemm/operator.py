"""The GEMM operators: dimensions, work, bounds and reference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import prod, sqrt
from random import Random
from typing import ClassVar, Self

from attrs import field, frozen, validators

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators.activations import ACTIVATIONS
from kpusim.operators.base import ROW_MAJOR, Array, Example, Layouts, Lowered, Port, Wide
from kpusim.operators.gemm.draw import draw_matmul
from kpusim.operators.gemm.groups import group_rows
from kpusim.operators.gemm.lowering import lower
from kpusim.operators.gemm.mapping import Mapping as GemmMapping
from kpusim.operators.gemm.problem import PROLOGUES, Epilogue, Problem, Prologue, ports
from kpusim.operators.parameters import ENTRIES, FLOATS, count, flag, number, positive

__all__ = ["Gemm", "GroupedGemm"]

OUT_DTYPES = (*FLOATS, "int32")


@frozen(kw_only=True)
class Matmul:
    """What GEMMs have in common: out = activation(alpha * scale * (prologue(a) @ b) + bias) + residual.

    dtype: of A, of B, and of what is multiplied; sums are fp32 (int32 for int8). b_dtype: of B as it is stored, where
    that is narrower; it is dequantised with a scale for each column and `scale_group` elements of K (0: all of K).
    scale and bias have one element a column; the residual is as large as the output. The prologue normalises A, with
    factors along K at ports norm_weight and norm_bias.
    """

    error_origin: ClassVar[str] = "gamma_k * |a||b| for k sums in fp32 (Higham 2002, eq. 3.13), through the epilogue"
    mapping_type: ClassVar[type | None] = GemmMapping

    dtype: str = field(default="bf16", validator=validators.in_(DTYPE_GROUPS["factor"]))
    b_dtype: str = field(default="", validator=validators.in_(("", *DTYPE_GROUPS["quantized"])))
    scale_group: int = field(default=0, validator=count)
    out_dtype: str = field(default="bf16", validator=validators.in_(OUT_DTYPES))
    transpose_a: bool = field(default=False, validator=flag)
    transpose_b: bool = field(default=False, validator=flag)
    alpha: float = field(default=1.0, validator=number)
    column_scale: bool = field(default=False, validator=flag)
    bias: bool = field(default=False, validator=flag)
    activation: str = field(default="none", validator=validators.in_(ACTIVATIONS))
    residual: bool = field(default=False, validator=flag)
    prologue: str = field(default="none", validator=validators.in_(PROLOGUES))
    eps: float = field(default=1e-5, validator=[number, validators.gt(0)])

    @property
    @abstractmethod
    def problem(self) -> Problem:
        """Its sizes."""

    @property
    @abstractmethod
    def dimensions(self) -> Mapping[str, int]:
        """Name -> size."""

    def _problem(self, m: int, n: int, k: int, batch: int = 0, groups: tuple[int, ...] = ()) -> Problem:
        epilogue = Epilogue(float(self.alpha), self.column_scale, self.bias, self.activation, self.residual)
        return Problem(
            m, n, k, self.dtype, self.out_dtype, self.transpose_a, self.transpose_b, batch, groups,
            self.b_dtype, self.scale_group, epilogue, Prologue(self.prologue, float(self.eps)),
        )  # fmt: skip

    def check(self) -> None:
        """Raises UserError where parameters contradict each other."""
        problem = self.problem
        if problem.quantized and self.dtype not in DTYPE_GROUPS["real"]:
            raise UserError("B is dequantised to the dtype of A", found=self.dtype, allowed=DTYPE_GROUPS["real"])
        if self.scale_group and not problem.quantized:
            raise UserError("scale_group belongs to a b_dtype that is not dtype", found=f"b_dtype={self.b_dtype!r}")
        if self.prologue != "none" and self.dtype not in DTYPE_GROUPS["real"]:
            raise UserError("a prologue normalises A in its dtype", found=self.dtype, allowed=DTYPE_GROUPS["real"])
        if self.prologue != "none" and self.transpose_a:
            raise UserError("a prologue normalises rows of A as they lie", found="transpose_a", allowed="A [m, k]")
        integer = problem.accumulator == "int32" and problem.epilogue == Epilogue()
        if self.out_dtype == "int32" and not integer:
            raise UserError(
                "int32 results are the sums of int8 products as they are", found=f"dtype={self.dtype}",
                allowed="dtype=int8 and no epilogue",
            )  # fmt: skip
        packed = problem.packed
        axis, row = ("k", problem.k) if self.transpose_b else ("n", problem.n)
        if row % packed:
            dtype = problem.stored_dtype
            raise UserError(
                f"a row of {dtype} ends within a byte", found=f"{axis}={row}", allowed=f"multiples of {packed}"
            )
        if packed > 1 and self.transpose_b and self.scale_group % packed:
            raise UserError("scale_group ends within a byte", found=self.scale_group, allowed=f"multiples of {packed}")

    @property
    def ports(self) -> tuple[Port, ...]:
        """a, b, its scales where it is quantised, what the epilogue reads, and out."""
        return ports(self.problem)

    @property
    def macs(self) -> int:
        """Of all entries of a batch, or of all groups."""
        return self.problem.macs

    @property
    def flops(self) -> int:
        """Two a multiply-accumulate."""
        return 2 * self.macs

    @property
    def math_dtype(self) -> str:
        """Dtype of the factors."""
        return self.dtype

    @property
    def vector_work(self) -> Mapping[str, int]:
        """Of a prologue, what each element of A needs; of an epilogue nothing, which could not be the roof."""
        elements = max(self.problem.batch, 1) * self.problem.m * self.problem.k
        if self.problem.prologue.by_row:
            return {"mul": 2 * elements, "reduce": (2 if self.problem.prologue.centred else 1) * elements}
        return {"mul": elements} if self.problem.prologue.vectors else {}

    @property
    def compulsory_bytes(self) -> int:
        """Every input and output once; of ragged groups' tensors, those of groups without rows not at all.

        How many rows a group has comes with the program.
        """
        problem = self.problem
        used = sum(1 for rows in problem.groups if rows)
        return sum(
            ceil_div(
                prod((used, *port.shape[1:]) if port.axes[0] == "groups" else port.shape) * DTYPE_BITS[port.dtype], 8
            )
            for port in self.ports
            if port.name != "rows"
        )

    def io_bound_bytes(self, machine: Machine) -> int:
        """The larger of compulsory traffic and 2MNK/sqrt(S) words, S the words of all on chip (Hong & Kung 1981)."""
        word = DTYPE_BITS[self.dtype] // 8
        words = (machine.tiles.count * machine.tile_bytes + machine.shared.bytes_on_chip) / word
        return max(self.compulsory_bytes, int(2 * self.macs / sqrt(words)) * word)

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, fold_instructions: bool = False,
        mapping: GemmMapping | None = None,
    ) -> Lowered:  # fmt: skip
        """The program of the best mapping found, or of the one given.

        fold_instructions: one matmul for each fold of the array instead of one an SRAM tile.
        """
        return lower(self.problem, machine, layouts, fold_instructions, mapping)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """`out` in float64."""
        from kpusim.operators.gemm.reference import reference  # which imports what only runs on data need

        return {"out": reference(self.problem, inputs)}

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, Wide]:
        """gamma_k * |a| |b| (Higham, Accuracy and Stability, 2002, eq. 3.13), carried through the epilogue."""
        from kpusim.operators.gemm.reference import error_bound

        return {"out": error_bound(self.problem, inputs)}


@frozen
class Gemm(Matmul):
    """out[m, n] = sum over k of a[m, k] * b[k, n] (a[k, m], b[n, k] if transposed), between prologue and epilogue.

    batch: so many products of their own, each tensor with a dimension for them in front; 0: none.
    """

    family: ClassVar[str] = "gemm"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("gemm(m=256, n=512, k=256)", "a matmul in bf16 with fp32 sums"),
        Example("gemm(m=16, n=512, k=512, b_dtype=int4, scale_group=128)", "int4 weights with scales"),
        Example("gemm(m=128, n=256, k=256, bias=true, activation=gelu, residual=true)", "an epilogue"),
        Example("gemm(m=64, n=64, k=128, batch=8)", "a batch"),
        Example("gemm(m=64, n=512, k=256, prologue=rmsnorm)", "RMSNorm on the way to the array"),
    )

    m: int = field(validator=positive)
    n: int = field(validator=positive)
    k: int = field(validator=positive)
    batch: int = field(default=0, validator=[*count, validators.le(ENTRIES)], kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """With or without a batch."""
        m, n, k, options = draw_matmul(random)
        return cls(m, n, k, batch=random.choice((0, 0, 1, 3)), **options)

    @property
    def dimensions(self) -> Mapping[str, int]:
        """M, N and K, and how many products."""
        return ({"batch": self.batch} if self.batch else {}) | {"m": self.m, "n": self.n, "k": self.k}

    @property
    def problem(self) -> Problem:
        """Its sizes."""
        return self._problem(self.m, self.n, self.k, self.batch)


@frozen
class GroupedGemm(Matmul):
    """Rows of A by group, each group with a B of its own, as the experts of a mixture: m rows in all.

    rows: how many rows each group has: "even", "zipf 1.2" (the i-th in proportion to i^-1.2), or numbers, such as
    "3 0 5". Bias and scale are by group, too.
    """

    family: ClassVar[str] = "grouped_gemm"
    examples: ClassVar[tuple[Example, ...]] = (
        Example("grouped_gemm(groups=8, m=256, n=256, k=128)", "experts with equal loads"),
        Example('grouped_gemm(groups=8, m=256, n=256, k=128, rows="zipf 1.2")', "experts with skewed loads"),
    )

    groups: int = field(validator=[*positive, validators.le(ENTRIES)])
    m: int = field(validator=positive)
    n: int = field(validator=positive)
    k: int = field(validator=positive)
    rows: str = field(default="even", validator=validators.instance_of(str), kw_only=True)

    @classmethod
    def draw(cls, random: Random) -> Self:
        """Rows in any share, groups without any too."""
        m, n, k, options = draw_matmul(random)
        groups = random.choice((1, 2, 5))
        return cls(groups, m, n, k, rows=random.choice(("even", "zipf 1.2", "zipf 2.5")), **options)

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Groups, rows of all, N and K."""
        return {"groups": self.groups, "m": self.m, "n": self.n, "k": self.k}

    @property
    def ports(self) -> tuple[Port, ...]:
        """As of every GEMM, and rows, the number of each group's; however these are dealt."""
        return ports(self._problem(self.m, self.n, self.k, groups=group_rows("even", self.groups, self.m)))

    @property
    def problem(self) -> Problem:
        """Its sizes. Raises UserError for impossible `rows`."""
        return self._problem(self.m, self.n, self.k, groups=group_rows(self.rows, self.groups, self.m))
