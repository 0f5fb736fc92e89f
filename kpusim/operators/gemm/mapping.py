"""GEMM mappings: how the output is spread over tiles and time.

The tiles form a logical grid. In one round, a tile keeps a block of `block_m` x `block_n` results in its SRAM and works
through its part of K in steps of `block_k`; each block of A goes to the `grid_n` tiles of its grid row at once, each
block of B to the `grid_m` tiles of its grid column. `grid_batch` bands of rows (of different entries of a batch, as a
rule) are worked on at once, each by a grid of its own; `grid_k` grids divide K among them, and their partial sums are
added up on chip, in the SRAM of the first. Rounds follow each other until all of the output is done.

With `resident` a or b, a row (column) of rounds keeps that operand on chip: each tile of a grid row (column) holds a
share of it and hands it to the others by tile-to-tile multicast, so that HBM delivers it once however often the rounds
come back to it; rounds go along N (along M) first, so that they do.

With `raster` the output is no grid of rounds: its blocks, each of `grid_m` * `block_m` rows and `grid_n` * `block_n`
columns, are numbered and dealt to the `grid_batch` grids by turns, as GPUs deal thread blocks. Numbers go through bands
of `raster` block rows, column by column in each, so that those worked on at once share rows of A and columns of B (in
a cache). All grids but those of the last round are at work, however few rows or columns there are.
"""

from __future__ import annotations

from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.operators.declare import sram_bytes
from kpusim.operators.gemm.epilogue import temporaries
from kpusim.operators.gemm.problem import Problem

__all__ = ["ACCUMULATOR_BYTES", "READY_SLOTS", "Mapping"]

ACCUMULATOR_BYTES = 4
READY_SLOTS = 2  # of dequantised B
STRIP_ELEMENTS = 16384  # results that one epilogue and one store handle at most: large blocks overlap the two

Buffers = dict[str, tuple[str, int, tuple[int, ...]]]
"""(dtype, slots, shape) of each, by name."""


@frozen
class Mapping:
    """One way to run a GEMM; see the module."""

    grid_m: int
    grid_n: int
    block_m: int
    block_n: int
    block_k: int
    slots: int = 2
    accumulators: int = 1
    resident: str = ""
    grid_batch: int = 1
    grid_k: int = 1
    raster: int = 0

    @property
    def base_tiles(self) -> int:
        """Tiles that finish results: the first, or only, part of K."""
        return self.grid_batch * self.grid_m * self.grid_n

    @property
    def tiles(self) -> int:
        """All that are used."""
        return self.base_tiles * self.grid_k

    @property
    def strip_rows(self) -> int:
        """Rows of results that one epilogue and one store handle."""
        return max(1, min(self.block_m, STRIP_ELEMENTS // self.block_n))

    @property
    def strips(self) -> int:
        """Strips of a block."""
        return ceil_div(self.block_m, self.strip_rows)

    @property
    def norm_rows(self) -> int:
        """Rows of a block of A whose squares are added up at once."""
        return max(1, min(self.block_m, STRIP_ELEMENTS // self.block_k))

    def weighted_rows(self, problem: Problem) -> int:
        """Rows of a block of B as it lies whose columns are added up at once."""
        high, wide = (self.block_n, self.block_k) if problem.transpose_b else (self.block_k, self.block_n)
        return max(1, min(high, STRIP_ELEMENTS // wide))

    def columns(self, problem: Problem) -> int:
        """Blocks along N: how often all of A is used."""
        return ceil_div(problem.n, self.grid_n * self.block_n)

    def rounds(self, problem: Problem) -> tuple[int, int]:
        """Rounds along M (over all entries) and along N; where blocks are dealt, all of them and 1."""
        lanes, columns = problem.lanes(self.grid_m * self.block_m), self.columns(problem)
        if self.raster:
            return ceil_div(lanes * columns, self.grid_batch), 1
        return ceil_div(lanes, self.grid_batch), columns

    def steps(self, problem: Problem) -> int:
        """Steps along K in one round."""
        return ceil_div(ceil_div(problem.k, self.grid_k), self.block_k)

    def shares(self, problem: Problem) -> int:
        """K blocks of the resident operand that each tile of a grid row or column holds."""
        return ceil_div(self.steps(problem), self.grid_n if self.resident == "a" else self.grid_m)

    def scales(self, problem: Problem) -> int:
        """Scales of one column in a block of quantised B."""
        return max(1, self.block_k // problem.group_k)

    def instructions(self, problem: Problem) -> int:
        """Instructions in proportion: rounds times steps, twice where an operand is also passed on."""
        along_m, along_n = self.rounds(problem)
        return along_m * along_n * self.steps(problem) * (2 if self.resident else 1)

    def buffers(self, problem: Problem) -> Buffers:
        """(dtype, slots, shape) of each buffer that a tile needs, by name."""
        m, n, k = self.block_m, self.block_n, self.block_k
        a: tuple[int, ...] = (k, m) if problem.transpose_a else (m, k)
        b: tuple[int, ...] = (n, k) if problem.transpose_b else (k, n)
        scale: tuple[int, ...]
        found = {
            "a_tile": (problem.dtype, self.slots, a),
            "b_tile": (problem.dtype, self.slots, b),
            "acc": (problem.accumulator, self.accumulators, (m, n)),
            "strip": (problem.out_dtype, 2, (self.strip_rows, n)),
        }
        if problem.quantized:
            scales = self.scales(problem)
            scale = (n, 1) if problem.transpose_b and scales == 1 else (scales, n)
            if problem.transpose_b and scales > 1:  # a row of scales is spread over columns
                b, scale = (1, *b), (*scale, 1)
            found["b_tile"] = problem.dtype, READY_SLOTS, b
            found["b_packed"] = problem.stored_dtype, self.slots, b
            found["b_scale_tile"] = problem.dtype, self.slots, scale
        if self.resident:
            found["share"] = problem.dtype, self.shares(problem), a if self.resident == "a" else b
        if self.grid_k > 1:
            found["partial"] = problem.accumulator, self.grid_k - 1, (m, n)
        if problem.prologue.vectors:
            found |= self._norm_buffers(problem)
        for name in problem.epilogue.vectors:
            found[f"{name}_tile"] = "fp32" if name == "scale" else problem.model_dtype, 2, (1, n)
        if problem.epilogue.residual:
            found["residual_tile"] = problem.model_dtype, 2, (self.strip_rows, n)
        return found | dict.fromkeys(temporaries(problem), ("fp32", 1, (self.strip_rows, n)))

    def _norm_buffers(self, problem: Problem) -> Buffers:
        """Those of a prologue."""
        k, prologue = self.block_k, problem.prologue
        found: Buffers = {f"{name}_tile": (problem.norm_dtype, self.slots, (1, k)) for name in prologue.vectors}
        if prologue.kind == "batchnorm":
            found |= dict.fromkeys(("norm_factor", "norm_term"), ("fp32", 1, (1, k)))
        if prologue.by_row:
            sums = self.block_m, 2 if prologue.centred else 1
            found |= {"squares": ("fp32", 1, (self.norm_rows, k)), "norm_part": ("fp32", 1, sums)}
            found |= {"norm_sum": ("fp32", 2, sums)} | (self._column_buffers(problem) if prologue.centred else {})
        for name in ("norm_sum", "columns"):
            if self.grid_k > 1 and name in found:
                found[f"{name}_partial"] = "fp32", self.grid_k - 1, found[name][2]
        return found

    def _column_buffers(self, problem: Problem) -> Buffers:
        """Of the sums of B's columns."""
        n, k, strip = self.block_n, self.block_k, self.weighted_rows(problem)
        found: Buffers = {
            "weighted": ("fp32", 1, (strip, k if problem.transpose_b else n)),
            "columns_part": ("fp32", 1, (strip, 1) if problem.transpose_b else (1, n)),
            "columns": ("fp32", 2, (n, 2) if problem.transpose_b else (2, n)),
        }
        if problem.transpose_b:
            return found | {"columns_row": ("fp32", 1, (2, n))}
        return found | {f"{name}_across": (problem.dtype, 1, (k, 1)) for name in problem.prologue.vectors}

    def sram_bytes(self, problem: Problem) -> int:
        """SRAM of a tile."""
        return sram_bytes(self.buffers(problem))
