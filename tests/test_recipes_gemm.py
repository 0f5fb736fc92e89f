"""Recipes of GEMMs: what the library is known to pick, and short runs that tell what whole ones take."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from attrs import evolve

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.machine import load_machine
from kpusim.recipes import gemm
from kpusim.recipes.gemm import gemm_kernels
from kpusim.recipes.row import Row
from kpusim.recipes.table import recipe_of
from kpusim.validate.predict import time_kernel

machine = cache(load_machine)


def kernels(m, n, k, dtype="bf16", name="h200", **options):
    return gemm_kernels(m, n, k, dtype, machine=machine(name), **options)


def macs(kernel):
    """Multiply-accumulates of what a kernel stands for."""
    sample = kernel.sample
    longer = sample.longer.macs - kernel.operator.macs if sample.longer else 0
    return sample.alike * (kernel.operator.macs + sample.rounds * longer)


# --- what is picked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "k", "blocks", "waves"), [
    (2048, 2048, 2048, 128, 1),  # 128 x 256 of 132 SMs: 25.1 us measured, of which 22 at three quarters of the peak
    (4096, 4096, 4096, 512, 4),
    (2048, 4096, 14336, 256, 2),
    (512, 4096, 14336, 128, 1),  # 128 x 128
    (2048, 768, 3072, 132, 1),  # 128 x 96: the only blocks that leave no tile idle
])  # fmt: skip
def test_blocks_fill_waves(m, n, k, blocks, waves):
    (kernel,) = kernels(m, n, k)
    mapping = kernel.mapping
    assert ceil_div(n, mapping.block_m) * ceil_div(m, mapping.block_n) == blocks
    assert ceil_div(blocks, mapping.tiles) == waves
    assert mapping.grid_m * mapping.grid_n == 2  # a cluster


@pytest.mark.parametrize(("m", "n", "k", "dtype", "launches"), [
    (1, 4096, 4096, "bf16", 2), (16, 4096, 14336, "bf16", 2), (128, 4096, 14336, "bf16", 2),
    (256, 4096, 14336, "bf16", 2), (16, 14336, 4096, "bf16", 1), (64, 4096, 4096, "bf16", 1),
    (64, 4096, 14336, "bf16", 2), (64, 14336, 4096, "bf16", 1), (128, 4096, 4096, "bf16", 1),
    (256, 4096, 4096, "bf16", 1), (512, 4096, 14336, "bf16", 1), (1, 50304, 768, "bf16", 1),
    (16, 4096, 4096, "fp8_e4m3", 1), (32, 4096, 4096, "int8", 1),
])  # fmt: skip
def test_long_k_is_split_where_blocks_are_few(m, n, k, dtype, launches):
    """Kernels a call, as the profiler counts them on the H200."""
    found = kernels(m, n, k, dtype)
    assert len(found) == launches
    assert macs(found[0]) == pytest.approx(m * n * k)
    if launches == 2:
        split, reduced = found
        splits = split.operator.batch
        assert split.operator.out_dtype == reduced.operator.dtype == "fp32" and splits > 1
        assert 2 * reduced.operator.rows * reduced.operator.columns == splits * m * n  # each split read once


@pytest.mark.parametrize("k", [4096, 14336])
def test_a_row_more_takes_no_less(k):
    """Within what is chance of memory, also where a block of 16 columns holds them no longer."""
    few, more = (
        sum(float(time_kernel(each, machine("h200")).cycles) for each in kernels(m, 4096, k)) for m in (16, 17)
    )
    assert more > 0.98 * few


@pytest.mark.parametrize("kib", [64, 128, 228])
def test_factors_of_two_steps_are_in_the_sram(kib):
    """Sums may lie behind it, factors may not."""
    h200 = machine("h200")
    small = evolve(h200, sram=evolve(h200.sram, capacity_bytes=kib << 10))
    (kernel,) = gemm_kernels(4096, 4096, 4096, "bf16", machine=small)
    mapping = kernel.mapping
    assert mapping.slots >= 2
    assert mapping.slots * (mapping.block_m + mapping.block_n) * mapping.block_k * 2 <= kib << 10


def test_arrays_choose_blocks():
    """At the rate that their instructions have: those of int8 are older ones."""
    h200 = machine("h200")
    slow = evolve(h200, matrix=evolve(h200.matrix, synchronous=Fraction(1, 16)))
    for dtype, alike in ("int8", False), ("bf16", True):
        fast, late = (gemm_kernels(1500, 1500, 1500, dtype, machine=each)[0].mapping for each in (h200, slow))
        assert (fast == late) == alike


def test_the_library_multiplies_the_other_way_round():
    """out^T = W . A^T, for W as [n, k] and as [k, n]."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((3, 5, 7))
    for straight in True, False:
        b = rng.standard_normal((3, 4, 7) if straight else (3, 7, 4))
        (kernel,) = kernels(5, 4, 7, batch=3, transpose_b=straight, out_dtype="fp32")
        expected = a @ (b.swapaxes(1, 2) if straight else b)
        assert kernel.operator.reference({"a": b, "b": a})["out"] == pytest.approx(expected.swapaxes(1, 2))


def test_dtypes():
    int8, fp8, fp16 = (kernels(512, 512, 512, dtype)[0] for dtype in ("int8", "fp8_e4m3", "fp16"))
    assert int8.synchronous and not fp8.synchronous and not fp16.synchronous
    assert [each.operator.out_dtype for each in (int8, fp8, fp16)] == ["int32", "bf16", "fp16"]
    assert [each.mapping.grid_m * each.mapping.grid_n for each in (int8, fp8, fp16)] == [1, 2, 2]  # a cluster
    older = kernels(512, 512, 512, "fp16", name="a100-80gb")[0]
    assert older.synchronous and older.mapping.grid_m * older.mapping.grid_n == 1
    with pytest.raises(UserError, match="a100-80gb: the matrix engine cannot multiply this dtype; found 'fp8_e4m3'"):
        kernels(64, 64, 64, "fp8_e4m3", name="a100-80gb")


@pytest.mark.parametrize(("size", "share"), [(4096, 0.5), (12288, 0.9)])
def test_stages_hide_how_far_memory_is(size, share):
    """Few vectors draw most of what memory has, also without clusters; int8 beside newer kernels does not."""
    a100 = machine("a100-80gb")
    taken = sum(time_kernel(each, a100).cycles for each in kernels(16, size, size, "fp16", name="a100-80gb"))
    assert 2 * size * size / float(taken) > share * float(a100.hbm.attainable_bytes_per_cycle)
    assert [kernels(16, 4096, 4096, "int8", name=name)[0].mapping.slots for name in ("h200", "a100-80gb")] == [2, 3]


def test_a_row_runs_by_it():
    row = Row("gemm", {"M": 3, "N": 50257, "K": 769})
    recipe = recipe_of(row)
    (kernel,) = recipe.kernels(row, machine("h200"))
    assert recipe.name == "gemm" and kernel == kernels(3, 50257, 769)[0]


@pytest.mark.parametrize("name", ["h200", "a100-80gb"])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 1, 65), (1, 257, 33), (700, 900, 130)])
def test_any_size_runs(name, size):
    """All of it; no faster than arrays, memory and a trip there and back, and but a few trips slower than these."""
    m, n, k = size
    (kernel,), on = kernels(*size, name=name), machine(name)
    cycles, microsecond = time_kernel(kernel, on).cycles, on.clock_hz / 10**6
    computed = m * n * k / on.peak_macs_per_cycle("bf16")
    moved = 2 * (m * k + n * k + m * n) / on.hbm.peak_bytes_per_cycle
    assert macs(kernel) == m * n * k
    assert max(computed, moved, 0.27 * microsecond) < cycles < computed + moved + 3 * microsecond


# --- what is simulated ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "k", "batch"), [
    (1536, 2816, 8192, 0), (1536, 14080, 8192, 0), (1536, 22528, 256, 0), (1536, 2816, 256, 16),
])  # fmt: skip
def test_excerpts_stand_for_all_of_it(m, n, k, batch):
    """Whole waves on 132 tiles: steps and waves left out come back exactly."""
    (kernel,) = kernels(m, n, k, batch=batch)
    assert kernel.sample.longer is not None and kernel.operator.macs < m * n * k * max(batch, 1)
    assert macs(kernel) == m * n * k * max(batch, 1)


@pytest.mark.parametrize(("m", "n", "k", "longest", "waves"), [
    (512, 4096, 2304, 18, 4),  # steps along K
    (1536, 14080, 256, 8, 9),  # waves
    (1024, 11264, 1536, 12, 9),  # both
])  # fmt: skip
def test_short_runs_tell_what_whole_ones_take(m, n, k, longest, waves, monkeypatch):
    (told,) = kernels(m, n, k)
    assert told.sample.longer is not None
    monkeypatch.setattr(gemm, "HOPPER", evolve(gemm.HOPPER, longest=longest))
    monkeypatch.setattr(gemm, "WAVES", waves)
    (whole,) = kernels(m, n, k)
    assert whole.sample.longer is None and whole.operator.macs == m * n * k
    times = [time_kernel(kernel, machine("h200")).cycles for kernel in (told, whole)]
    assert float(times[0]) == pytest.approx(float(times[1]), rel=0.02)
