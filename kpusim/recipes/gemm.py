"""Recipes of GEMMs: out[M, N] = A[M, K] . W[N, K]^T by the vendor's library, which picks a block size and splits of K.

The library is column-major, so that it multiplies the other way round: out^T[N, M] = W[N, K] . A^T. Rows are here those
of W, columns those of A. Thread blocks are dealt to the tiles one by one, in clusters of two that share what they can;
a block keeps its sums in registers and goes through K in steps, several of which are under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import prod
from typing import Any

from attrs import evolve, frozen

from kpusim.costs import matmul_timer
from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS
from kpusim.machine import Machine
from kpusim.operators import Operator
from kpusim.operators.elementwise import Add
from kpusim.operators.gemm import Gemm
from kpusim.operators.gemm.mapping import Mapping
from kpusim.recipes.kernel import Kernel, Recipe, sampled
from kpusim.recipes.row import Row

__all__ = ["RECIPES", "gemm_kernels"]

BLOCKS = (
    (256, 128), (128, 256), (192, 128), (128, 192), (160, 128), (128, 160), (128, 128), (128, 96), (96, 128),
    (128, 64), (64, 128), (64, 64), (128, 16),
)  # fmt: skip
"""Rows and columns of a thread block, larger ones first: of cuBLASLt's tiles (`cublasLtMatmulTile_t`) those that feed a
tensor core well, and two for few columns."""
RASTER = 8  # chosen: block rows that are gone through together, as CUTLASS's largest swizzle
DRAW = 3 / 4  # chosen: of the bandwidth of a DMA engine, what the library counts on
STREAM = 7 / 8  # chosen: the same of memory
SHORTEST = 512  # chosen: elements along K of a split, at least
WAVES = 3  # chosen: waves of blocks that are simulated; more are told by these


@frozen
class Generation:
    """Kernels of a kind: blocks of a cluster, bytes along K of a step, how many steps are under way at most.

    longest: steps that are simulated; more are told by these. synchronous: as of `Kernel`.
    """

    cluster: int
    step: int
    stages: int
    longest: int
    synchronous: bool = False


HOPPER = Generation(2, 256, 3, 8)
"""nvjet and CUTLASS 3, in clusters of two. Two steps are taken as one: a step is a row of 128 B of the swizzled layouts
that `wgmma` reads, but several are under way, and memory sees those that lie side by side together."""
AMPERE = Generation(1, 128, 3, 8, synchronous=True)
"""CUTLASS 2, without clusters: five stages of 64 B in the library's names of kernels (..._ldg8_f2f_stages_32x5_tn), of
which two are taken as one here, too."""
OLDER = Generation(1, 64, 2, 16, synchronous=True)
"""The same where the library has newer kernels, but not of this dtype; chosen: one stage is read, one on its way."""


@frozen
class Product:
    """out^T[rows, columns] of each entry of a batch (0: one product). straight: W lies as [rows, K], else [K, rows]."""

    rows: int
    columns: int
    k: int
    dtype: str
    out_dtype: str
    batch: int = 0
    straight: bool = True

    @property
    def operator(self) -> Gemm:
        """It, with W as the first factor."""
        return Gemm(
            self.rows, self.columns, self.k, dtype=self.dtype, out_dtype=self.out_dtype, batch=self.batch,
            transpose_a=not self.straight, transpose_b=True,
        )  # fmt: skip

    def generation(self, machine: Machine) -> Generation:
        """Of its kernel. Arrays that multiply fp8 came with asynchronous instructions and clusters.

        The library multiplies int8 with instructions of the generation before also there.
        """
        if "fp8_e4m3" not in machine.matrix.macs_per_cell:
            return AMPERE
        return OLDER if self.dtype == "int8" else HOPPER

    def seen(self, machine: Machine) -> Machine:
        """A machine as its kernel sees it."""
        return machine.synchronous if self.generation(machine).synchronous else machine

    @property
    def entries(self) -> int:
        """Products."""
        return max(self.batch, 1)

    def bytes_of(self, elements: int) -> int:
        """Of so many factors."""
        return elements * DTYPE_BITS[self.dtype] // 8


@frozen
class Choice:
    """A block of rows x columns, the splits of K, and how a cluster stands: blocks down and across."""

    rows: int
    columns: int
    splits: int
    down: int
    across: int

    def clusters(self, product: Product) -> tuple[int, int]:
        """Of one split of one entry, along rows and columns."""
        down, across = self.down * self.rows, self.across * self.columns
        return ceil_div(product.rows, down), ceil_div(product.columns, across)

    def covered(self, product: Product) -> int:
        """Results of all clusters, with those that hang over."""
        return prod(self.clusters(product)) * self.down * self.rows * self.across * self.columns

    def at_once(self, machine: Machine) -> int:
        """Clusters that all tiles work on."""
        return machine.tiles.count // (self.down * self.across)

    def waves(self, product: Product, machine: Machine) -> int:
        """Of clusters."""
        return ceil_div(self.splits * product.entries * prod(self.clusters(product)), self.at_once(machine))

    def mapping(self, product: Product, machine: Machine) -> Mapping:
        """With as many stages as the SRAM holds."""
        clusters = self.splits * product.entries * prod(self.clusters(product))
        generation = product.generation(machine)
        deep = generation.step * 8 // DTYPE_BITS[product.dtype]
        one = Mapping(
            self.down, self.across, self.rows, self.columns, deep, grid_batch=min(clusters, self.at_once(machine)),
            raster=RASTER,
        )  # fmt: skip
        problem = product.operator.problem
        fitting = (
            each
            for each in range(min(generation.stages, self.held(product, machine)), 2, -1)
            if evolve(one, slots=each).sram_bytes(problem) <= machine.tile_bytes
        )
        return evolve(one, slots=next(fitting, 2))

    def held(self, product: Product, machine: Machine) -> int:
        """Steps whose factors the SRAM holds beside each other."""
        return machine.sram.capacity_bytes // ((self.rows + self.columns) * product.generation(machine).step)

    def fits(self, product: Product, machine: Machine) -> bool:
        """Whether factors of two steps are in the SRAM, and sums behind it."""
        needed = self.mapping(product, machine).sram_bytes(product.operator.problem)
        return self.held(product, machine) >= 2 and needed <= machine.tile_bytes


def gemm_kernels(
    m: int, n: int, k: int, dtype: str, *, machine: Machine, out_dtype: str = "", batch: int = 0,
    transpose_b: bool = True,
) -> tuple[Kernel, ...]:  # fmt: skip
    """The launches of a[m, k] times b, which is [n, k] (or, not transposed, [k, n]), `batch` times (0: once).

    out_dtype: "" for bf16, or for dtype if that is fp16, and int32 of int8.
    Raises UserError for a dtype that the machine cannot multiply.
    """
    out = out_dtype or {"int8": "int32", "fp16": "fp16"}.get(dtype, "bf16")
    product = Product(n, m, k, dtype, out, batch, transpose_b)
    choice = _choose(product, machine)
    if choice.splits == 1:
        return (_launch(product, choice, machine),)
    split = evolve(product, k=ceil_div(k, choice.splits), batch=choice.splits, out_dtype="fp32")
    return _launch(split, evolve(choice, splits=1), machine), _added_up(product, choice.splits)


def _added_up(product: Product, splits: int) -> Kernel:
    """The sums of all splits of K, which lie in memory in fp32, read once and written as the output."""
    return Kernel(Add(product.columns, ceil_div(product.rows * splits, 2), dtype="fp32", out_dtype=product.out_dtype))


# --- what the library picks -------------------------------------------------------------------------------------------


def _choose(product: Product, machine: Machine) -> Choice:
    """The block size and splits of K of the least estimated time; of equal ones that which hangs over least.

    Raises UserError where no block fits into the SRAM.
    """
    fitting = [each for each in _choices(product, machine) if each.fits(product, machine)]
    if not fitting:
        found = f"{machine.sram.capacity_bytes} bytes"
        raise UserError("no block of this GEMM fits into the SRAM of a tile", where=machine.name, found=found)
    seen = product.seen(machine)
    return min(fitting, key=lambda choice: (_estimate(product, choice, seen), choice.covered(product)))


def _choices(product: Product, machine: Machine) -> Iterator[Choice]:
    """Each block size, with K whole, and in as many splits as give all tiles something to do."""
    cluster = product.generation(machine).cluster
    for rows, columns in BLOCKS:
        down = cluster if product.rows > rows else 1
        across = cluster if down == 1 and product.columns > columns else 1
        whole = Choice(rows, columns, 1, down, across)
        yield whole
        splits = min(whole.at_once(machine) // prod(whole.clusters(product)), product.k // SHORTEST)
        if splits > 1 and not product.batch:
            yield evolve(whole, splits=splits)


def _estimate(product: Product, choice: Choice, machine: Machine) -> float:
    """Cycles: waves of blocks, each as long as the array or its loads take, or all that comes from memory.

    Blocks count as whole, also those that hang over. Sums of splits are written and read once more, by a second kernel.
    """
    rows, columns, deep = choice.rows, choice.columns, ceil_div(product.k, choice.splits)
    draw, rate = float(machine.dma.bytes_per_cycle), STREAM * float(machine.hbm.attainable_bytes_per_cycle)
    loads = product.bytes_of((rows + columns) * deep) / (DRAW * draw)
    out = DTYPE_BITS[product.out_dtype] / 8
    finish = rows * columns * (out + 4) / draw  # sums out of registers, and on their way
    block = max(matmul_timer(machine, product.dtype)(rows, columns, deep)[0], loads) + finish
    sums = product.entries * product.rows * product.columns
    moved = product.entries * product.bytes_of((product.rows + product.columns) * product.k) + sums * out
    cycles = max(choice.waves(product, machine) * block, moved / rate)
    if choice.splits > 1:
        cycles += machine.front_end.launch_cycles + sums * (8 * choice.splits + out) / rate
    return cycles


# --- what is simulated ------------------------------------------------------------------------------------------------


def _launch(product: Product, choice: Choice, machine: Machine) -> Kernel:
    """One launch, with the less of what is alike: steps along K, waves of blocks."""
    mapping, waves = choice.mapping(product, machine), choice.waves(product, machine)
    generation = product.generation(machine)
    options: dict[str, Any] = {"mapping": mapping, "synchronous": generation.synchronous}

    def deep(of: Product, steps: int) -> Operator:
        return evolve(of, k=min(steps * mapping.block_k, product.k)).operator

    steps = ceil_div(product.k, mapping.block_k)
    longest = generation.longest
    if steps <= longest:
        if waves <= WAVES:
            return Kernel(product.operator, **options)
        return sampled(lambda count: _excerpt(product, choice, machine, count).operator, waves, WAVES, **options)
    if waves <= WAVES:
        return sampled(lambda count: deep(product, count), steps, longest, **options)
    some = _excerpt(product, choice, machine, WAVES)
    alike = Fraction(waves, WAVES)
    return sampled(lambda count: deep(some, count), steps, longest, alike=alike, **options)


def _excerpt(product: Product, choice: Choice, machine: Machine, waves: int) -> Product:
    """A product of so many whole waves, which does the same a wave: as many blocks along its short side, if few."""
    down, across = choice.clusters(product)
    left = waves * choice.at_once(machine)
    short = _divisor(left, min(down, across, 2 * RASTER))
    long = _divisor(left // short, max(down, across)) if product.batch else left // short
    rows, columns = (short, long) if down < across else (long, short)
    return evolve(
        product, batch=left // (short * long) if product.batch else 0, rows=rows * choice.down * choice.rows,
        columns=columns * choice.across * choice.columns,
    )  # fmt: skip


def _divisor(number: int, most: int) -> int:
    """The greatest that is not above `most`."""
    return max(each for each in range(1, most + 1) if number % each == 0)


def _kernels(row: Row, machine: Machine) -> tuple[Kernel, ...]:
    m, n, k = (row.size(name) for name in "MNK")
    return gemm_kernels(m, n, k, row.typed(DTYPE_GROUPS["factor"]), machine=machine)


RECIPES = (
    Recipe(
        "gemm", "gemm", "out = a @ w.T of the vendor's library",
        "one launch of dealt blocks; where these are few and K is long, K is split and a second launch adds up",
        "cuBLAS library documentation (heuristics, cublasLtMatmulTile_t, split-K with a reduction kernel)",
        lambda row: True, _kernels,
    ),
)  # fmt: skip
