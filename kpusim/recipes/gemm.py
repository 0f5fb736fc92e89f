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
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators import Operator
from kpusim.operators.elementwise import Add
from kpusim.operators.gemm import Gemm
from kpusim.operators.gemm.mapping import Mapping
from kpusim.recipes.kernel import Kernel, Recipe, sampled

__all__ = ["RECIPES", "gemm_kernels"]

BLOCKS = (
    (256, 128), (128, 256), (192, 128), (128, 192), (160, 128), (128, 160), (128, 128), (128, 96), (96, 128),
    (128, 64), (64, 128),
)  # fmt: skip
"""Rows and columns of a thread block, larger ones first: of cuBLASLt's tiles (`cublasLtMatmulTile_t`) those that feed a
tensor core well."""
FEW = ((128, 64), (64, 64))
"""The same where a block then has all columns, so that weights are read once."""
NARROW = ((128, 16),)
"""The same of kernels for a few vectors: they split K until all tiles have something to do."""
RASTER = 8  # chosen: block rows that are gone through together, as CUTLASS's largest swizzle
DRAW = Fraction(7, 8)  # chosen: of the bandwidth of a DMA engine and of memory, what the library counts on
FILL = 3000  # chosen: cycles until a kernel's first block is under way, and from the last to its end
SHORTEST = 512  # chosen: elements along K of a split, at least
WAVES = 3  # chosen: waves of blocks that are simulated; more are told by these


@frozen
class Generation:
    """Kernels of a kind: blocks of a cluster, bytes along K of a step, how many steps are under way at most.

    longest: steps that are simulated; more are told by these.
    """

    cluster: int
    step: int
    stages: int
    longest: int


HOPPER = Generation(2, 256, 3, 8)
"""nvjet and CUTLASS 3, in clusters of two. Two steps are taken as one: a step is a row of 128 B of the swizzled layouts
that `wgmma` reads, but several are under way, and memory sees those that lie side by side together."""
AMPERE = Generation(1, 64, 2, 16)
"""CUTLASS 2, without clusters; chosen: of its stages one is read, and one on its way."""


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

    @property
    def generation(self) -> Generation:
        """Of its kernel: the library multiplies int8 with instructions of the generation before."""
        return AMPERE if self.dtype == "int8" else HOPPER

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

    def at_once(self, machine: Machine) -> int:
        """Clusters that all tiles work on."""
        return machine.tiles.count // (self.down * self.across)

    def waves(self, product: Product, machine: Machine) -> int:
        """Of clusters."""
        return ceil_div(self.splits * product.entries * prod(self.clusters(product)), self.at_once(machine))

    def mapping(self, product: Product, machine: Machine) -> Mapping:
        """With as many stages as the SRAM holds."""
        clusters = self.splits * product.entries * prod(self.clusters(product))
        stages, deep = product.generation.stages, product.generation.step * 8 // DTYPE_BITS[product.dtype]
        one = Mapping(
            self.down, self.across, self.rows, self.columns, deep, grid_batch=min(clusters, self.at_once(machine)),
            raster=RASTER,
        )  # fmt: skip
        problem = product.operator.problem
        held = machine.sram.capacity_bytes // product.bytes_of((self.rows + self.columns) * deep)
        fitting = (
            each
            for each in range(min(stages, held), 2, -1)
            if evolve(one, slots=each).sram_bytes(problem) <= machine.tile_bytes
        )
        return evolve(one, slots=next(fitting, 2))

    def sram_bytes(self, product: Product, machine: Machine) -> int:
        """Of a tile."""
        return self.mapping(product, machine).sram_bytes(product.operator.problem)


def gemm_kernels(
    m: int, n: int, k: int, dtype: str, *, machine: Machine, out_dtype: str = "", batch: int = 0,
    transpose_b: bool = True,
) -> tuple[Kernel, ...]:  # fmt: skip
    """The launches of a[m, k] times b, which is [n, k] (or, not transposed, [k, n]), `batch` times (0: once).

    dtype: as rows of measurements have it; fp8 is e4m3. out_dtype: "" for bf16, or for dtype if that is fp16, and
    int32 of int8. Raises UserError for a dtype that the machine cannot multiply.
    """
    factor = "fp8_e4m3" if dtype == "fp8" else dtype
    out = out_dtype or {"int8": "int32", "fp16": "fp16"}.get(dtype, "bf16")
    product = Product(n, m, k, factor, out, batch, transpose_b)
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
    """The block size and splits of K of the least estimated time; of equal ones the first, which has larger blocks.

    Raises UserError where no block fits into the SRAM.
    """
    room = machine.tile_bytes
    fitting = [each for each in _choices(product, machine) if each.sram_bytes(product, machine) <= room]
    if not fitting:
        raise UserError("no block of this GEMM fits into the SRAM of a tile", where=machine.name, found=f"{room} bytes")
    return min(fitting, key=lambda choice: _estimate(product, choice, machine))


def _choices(product: Product, machine: Machine) -> Iterator[Choice]:
    """Each block size, with K whole, and in as many splits as give all tiles something to do."""
    narrow, few = (product.columns <= blocks[0][1] for blocks in (NARROW, FEW))
    splittable = not product.batch and DTYPE_BITS[product.dtype] > 8
    for rows, columns in NARROW if narrow else FEW if few else BLOCKS:
        down = product.generation.cluster if product.rows > rows else 1
        across = product.generation.cluster if down == 1 and product.columns > columns else 1
        whole = Choice(rows, columns, 1, down, across)
        splits = min(whole.at_once(machine) // prod(whole.clusters(product)), product.k // SHORTEST)
        if splittable and splits > 1:
            yield evolve(whole, splits=splits)
        if not (splittable and splits > 1 and narrow):
            yield whole


def _estimate(product: Product, choice: Choice, machine: Machine) -> float:
    """Cycles: waves of blocks, each as long as the array or its loads take, or all that comes from memory."""
    deep = ceil_div(product.k, choice.splits)
    high, wide = min(choice.rows, product.rows), min(choice.columns, product.columns)
    loads = product.bytes_of((high + wide) * deep) / (DRAW * machine.dma.bytes_per_cycle)
    block = max(matmul_timer(machine, product.dtype)(high, wide, deep)[0], float(loads))
    sums = product.entries * product.rows * product.columns
    moved = product.entries * product.bytes_of((product.rows + product.columns) * product.k)
    rate = float(DRAW * machine.hbm.attainable_bytes_per_cycle)
    out = DTYPE_BITS[product.out_dtype] / 8
    finish = high * wide * (out + 4) / float(machine.dma.bytes_per_cycle)  # sums out of registers, and on their way
    cycles = max(choice.waves(product, machine) * (block + finish), (moved + sums * out) / rate) + FILL
    if choice.splits > 1:
        cycles += machine.front_end.launch_cycles + 2 * FILL + sums * (8 * choice.splits + out) / rate
    return cycles


# --- what is simulated ------------------------------------------------------------------------------------------------


def _launch(product: Product, choice: Choice, machine: Machine) -> Kernel:
    """One launch, with the less of what is alike: steps along K, waves of blocks."""
    mapping, waves = choice.mapping(product, machine), choice.waves(product, machine)
    options: dict[str, Any] = {"mapping": mapping, "synchronous": product.generation == AMPERE}

    def deep(of: Product, steps: int) -> Operator:
        return evolve(of, k=min(steps * mapping.block_k, product.k)).operator

    steps = ceil_div(product.k, mapping.block_k)
    longest = product.generation.longest
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


RECIPES = (
    Recipe(
        "gemm", "gemm", "out = a @ w.T of the vendor's library",
        "one launch of dealt blocks; where these are few and K is long, K is split and a second launch adds up",
        "cuBLAS library documentation (heuristics, cublasLtMatmulTile_t, split-K with a reduction kernel)",
        lambda row: True,
        lambda row, machine: gemm_kernels(row.size("M"), row.size("N"), row.size("K"), row.dtype, machine=machine),
    ),
)  # fmt: skip
