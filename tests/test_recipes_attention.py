"""Recipes of attention: splits and blocks as published, what is simulated of long launches, and measured rows."""

import csv
import json
from pathlib import Path

import pytest
from attrs import evolve

from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.machine.share import shared_among, slice_of, slices_for
from kpusim.recipes import attention
from kpusim.recipes.attention import attention_kernels, flash_splits
from kpusim.recipes.kernel import Kernel
from kpusim.recipes.row import Row
from kpusim.recipes.table import recipe_of
from kpusim.validate.predict import predict, time_kernel

H200, A100 = load_machine("h200"), load_machine("a100-80gb")
TRUTH = Path(__file__).parent / "data" / "h200_public.csv"


def launches(backend, batch, heads, kv_heads, queries, keys, dim, causal=False, machine=H200, dtype="bf16"):
    return attention_kernels(batch, heads, kv_heads, queries, keys, dim, causal, backend, dtype, machine)


def us(*args, machine=H200, **options):
    cycles = sum(
        machine.front_end.launch_cycles + time_kernel(kernel, machine).cycles
        for kernel in launches(*args, machine=machine, **options)
    )
    return float(cycles / machine.clock_hz * 10**6)


# --- splits and blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "key_blocks", "at_once", "splits"),
    [
        (48, 100, 108, 2),  # the example of the comment in flash_api.cpp: 0.89 with two splits, 0.67 with three
        (212, 64, 264, 1),  # 0.8 of what runs at once
        (8, 8, 264, 8),  # no more than there are blocks of keys
        (8, 64, 264, 32),  # 31 splits have three blocks of keys each, 32 have two
        (1, 128, 264, 128),  # one of 128 cannot do with fewer
    ],
)
def test_keys_are_split_as_the_library_does(blocks, key_blocks, at_once, splits):
    assert flash_splits(blocks, key_blocks, at_once) == splits


def test_kernels_of_the_measured_rows_are_as_many_as_the_profiler_saw():
    with TRUTH.open() as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == "attention"]
    assert len(rows) == 22
    for row in rows:
        asked = Row("attention", json.loads(row["params"]), row["dtype"])
        kernels = recipe_of(asked).kernels(asked, H200)
        assert sum(kernel.times for kernel in kernels) == float(row["kernels"]), row["params"]


def test_queries_that_share_keys_are_rows_of_one_block():
    (grouped, _), (alone, _) = launches("flash", 1, 32, 8, 1, 1024, 128), launches("flash", 1, 8, 8, 4, 1024, 128)
    assert grouped == alone
    assert grouped.operator.compulsory_bytes < 2 * 8 * 1024 * 128 * 2 * 1.1  # keys and values once


def test_flash_runs_two_blocks_a_tile_on_the_older_instructions():
    (kernel,) = launches("flash", 4, 12, 12, 512, 512, 64)
    assert kernel.synchronous
    assert (kernel.resident, kernel.mapping.tokens, kernel.mapping.block_keys) == (2, 128, 128)
    first, _ = launches("cudnn", 4, 12, 12, 512, 512, 64)
    assert not first.synchronous


@pytest.mark.parametrize("machine", [H200, A100], ids=lambda machine: machine.name)
@pytest.mark.parametrize("dim", [40, 96, 128, 192, 256])
@pytest.mark.parametrize("backend", ["flash", "cudnn"])
def test_every_head_dim_fits_and_is_no_faster_than_a_shorter_one(backend, dim, machine):
    args = backend, 2, 8, 8, 77, 200
    (whole, *_), (shorter, *_) = (launches(*args, each, machine=machine, dtype="fp16") for each in (dim, dim // 2))
    assert whole.operator.macs >= 1.3 * shorter.operator.macs
    assert us(*args, dim, machine=machine, dtype="fp16") >= us(*args, dim - 8, machine=machine, dtype="fp16") * 0.95


@pytest.mark.parametrize(
    ("dim", "padded"), [(8, 32), (40, 64), (72, 96), (104, 128), (136, 160), (200, 224), (249, 256)]
)
def test_flash_multiplies_head_dims_that_it_has_kernels_for(dim, padded):
    (found,), (whole,) = (launches("flash", 8, 16, 16, 256, 256, each) for each in (dim, padded))
    assert found.operator.macs == whole.operator.macs == 2 * 8 * 16 * 256 * 256 * padded
    one, two = (launches("flash", 1, 8, 8, 1, 4096, each)[0].operator for each in (dim, padded))
    assert one.compulsory_bytes < two.compulsory_bytes  # few queries are told by what is there to load


def test_the_largest_heads_have_blocks_as_the_sram_has_room_for():
    """Two of 96 KiB: an H100 has 228 KiB, an A100 164 KiB."""
    (hopper,), (ampere,) = (launches("flash", 8, 16, 16, 256, 256, 256, machine=each) for each in (H200, A100))
    assert (hopper.mapping.tokens, hopper.mapping.block_keys, hopper.resident) == (64, 64, 2)
    assert (ampere.mapping.tokens, ampere.mapping.block_keys, ampere.resident) == (128, 64, 1)


@pytest.mark.parametrize(("machine", "dim", "dtype", "order"), [
    (H200, 64, "bf16", "numbered"),  # Q, two slots of K and of V: 128 x 64 x 2 B each, 80 KiB of 228
    (H200, 88, "bf16", "numbered"),  # 110 KiB
    (H200, 96, "bf16", "launched"),  # 120 KiB
    (H200, 128, "bf16", "launched"),
    (H200, 128, "fp8_e4m3", "numbered"),
    (A100, 64, "fp16", "numbered"),  # 80 KiB of 164
    (A100, 72, "fp16", "launched"),
])  # fmt: skip
def test_cudnn_begins_a_block_while_another_ends_where_two_have_room(machine, dim, dtype, order):
    first, second = launches("cudnn", 4, 12, 12, 512, 512, dim, machine=machine, dtype=dtype)
    assert first.mapping.order == order
    assert second == Kernel(None)


def test_beginning_early_hides_something():
    first, _ = launches("cudnn", 4, 12, 12, 512, 512, 64)
    waiting = evolve(first, mapping=evolve(first.mapping, order="launched"))
    assert time_kernel(first, H200).cycles < time_kernel(waiting, H200).cycles


@pytest.mark.parametrize(("backend", "factors"), [("flash", 3), ("cudnn", 3), ("unfused", 2)])
def test_factors_of_half_as_many_bytes_are_half_of_the_traffic(backend, factors):
    """What the first launch reads: Q, K and, where it is fused, V. Results and scores stay of two bytes."""
    moved = {
        dtype: launches(backend, 4, 4, 4, 256, 256, 64, dtype=dtype)[0].operator.compulsory_bytes
        for dtype in ("bf16", "fp16", "fp8_e4m3")
    }
    assert moved["fp16"] == moved["bf16"]
    assert moved["bf16"] - moved["fp8_e4m3"] == factors * 16 * 256 * 64


@pytest.mark.parametrize("dtype", ["fp8_e4m3", "fp16"])
def test_other_dtypes_run_unfused(dtype):
    assert 0.5 < us("unfused", 1, 4, 4, 256, 256, 64, dtype=dtype) / us("unfused", 1, 4, 4, 256, 256, 64) <= 1


@pytest.mark.parametrize("backend", ["flash", "cudnn"])
def test_fp8_is_multiplied_faster(backend):
    args = backend, 2, 16, 16, 512, 512, 128
    assert 0.4 < us(*args, dtype="fp8_e4m3") / us(*args) < 0.95
    assert us(*args, dtype="fp16") == us(*args)


def test_what_cannot_run_is_told():
    with pytest.raises(UserError, match="no multiple of those of keys; found 12; allowed: n \\* 8"):
        launches("flash", 1, 12, 8, 1, 128, 64)
    with pytest.raises(UserError, match="does not work in this dtype; found 'int8'"):
        launches("flash", 1, 8, 8, 1, 128, 64, dtype="int8")
    row = Row("attention", {"B": 1, "backend": "triton"})
    with pytest.raises(UserError, match="params.backend"):
        recipe_of(row)


# --- what is simulated ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "within"),
    [
        (("flash", 1, 32, 32, 1024, 1024, 128), 0.02),  # blocks of keys
        (("cudnn", 1, 32, 32, 1024, 1024, 64), 0.02),
        (("flash", 8, 32, 8, 1, 4096, 128), 0.02),  # split, from HBM
        (("flash", 1, 16, 16, 2048, 2048, 128, True), 0.05),  # bands of queries; few thread blocks a tile
        (("cudnn", 1, 32, 32, 2048, 2048, 64, True), 0.05),
        (("cudnn", 4, 32, 32, 256, 2048, 128, True), 0.02),  # a mask as the keys that a band sees in the mean
    ],
)
def test_a_part_tells_the_time_of_all(args, within, monkeypatch):
    monkeypatch.setattr(attention, "MANY", 1500)
    short = us(*args)
    assert any(kernel.slices > 1 for kernel in launches(*args))
    monkeypatch.setattr(attention, "MANY", 10**9)
    assert not any(kernel.slices > 1 for kernel in launches(*args))
    assert short == pytest.approx(us(*args), rel=within)


def test_long_rows_are_soon_simulated():
    """By the blocks of keys that all thread blocks work on, of all that is simulated."""
    for args in (
        ("flash", 1, 32, 8, 16384, 16384, 128, True), ("cudnn", 1, 32, 8, 32768, 32768, 128),
        ("flash", 128, 32, 8, 1, 32768, 128), ("flash", 1, 8, 8, 128, 131072, 128, True),
        ("flash", 8, 64, 64, 8192, 8192, 128, True), ("cudnn", 512, 32, 32, 1024, 1024, 64),
        ("cudnn", 1, 32, 8, 128, 131072, 128, True),
    ):  # fmt: skip
        first = launches(*args)[0]
        steps = 0
        for run in first.runs:
            problem, mapping = run.operator.problem, run.mapping
            bands = -(-problem.queries // mapping.tokens)
            steps += bands * problem.entries * -(-problem.keys // mapping.block_keys) // (2 if problem.causal else 1)
        assert steps < 20_000, args


@pytest.mark.parametrize("causal", [False, True])
def test_very_many_thread_blocks_are_told_by_some(causal, monkeypatch):
    monkeypatch.setattr(attention, "ROUNDS", 4)
    few = us("cudnn", 4, 32, 32, 1024, 1024, 64, causal)
    monkeypatch.setattr(attention, "ROUNDS", 10**6)
    assert few == pytest.approx(us("cudnn", 4, 32, 32, 1024, 1024, 64, causal), rel=0.1)


def test_a_slice_of_a_machine_has_its_share_of_everything():
    share = slice_of(H200, 4)
    assert share.tiles.count * 4 == H200.tiles.count
    assert share.hbm.attainable_bytes_per_cycle * 4 == H200.hbm.attainable_bytes_per_cycle
    assert share.shared.capacity_bytes * 4 == H200.shared.capacity_bytes
    assert slices_for(H200, 67) == 4
    assert slices_for(H200, 66) == 1  # half of the tiles have none
    assert slices_for(evolve(H200, tiles=evolve(H200.tiles, columns=7)), 1000) == 1


def test_fused_kernels_keep_operands_in_registers():
    seen = H200.fused.vector
    assert (seen.lane_cycles["exp"], seen.lane_cycles["add"], seen.fill) == (9, 1, 1)
    assert seen.lane_cycles["rsqrt"] == H200.vector.lane_cycles["rsqrt"]  # not among them
    plain = load_machine("kpu-edge")
    assert plain.fused == plain
    with pytest.raises(UserError, match="vector.fused"):
        load_machine("h200", ["vector.fused.tanh=3"])


def test_two_on_a_tile_have_half_of_it_each():
    half = shared_among(H200, 2)
    assert half.tiles.count == 2 * H200.tiles.count
    assert half.tile_bytes * 2 == H200.tile_bytes
    assert half.peak_macs_per_cycle("bf16") == H200.peak_macs_per_cycle("bf16")
    (kernel,) = launches("flash", 1, 8, 8, 1024, 1024, 64, machine=evolve(H200, tiles=evolve(H200.tiles, rows=1)))
    alone, shared = (
        time_kernel(Kernel(kernel.operator, kernel.mapping, resident=resident), H200).cycles for resident in (1, 2)
    )
    assert shared == pytest.approx(2 * alone, rel=0.15)  # 64 thread blocks: no tile has a second one


# --- measured rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "sizes", "measured"),
    [
        ("flash", (4, 12, 12, 512, 512, 64, 1), 20.4), ("cudnn", (4, 12, 12, 512, 512, 64, 1), 15.3),
        ("cudnn", (8, 16, 16, 512, 512, 64, 0), 27.6), ("flash", (1, 32, 8, 1, 1024, 128, 0), 12.1),
        ("flash", (1, 32, 8, 1, 8192, 128, 0), 24.7), ("flash", (64, 32, 8, 1, 2048, 128, 0), 203.2),
    ],
)  # fmt: skip
def test_measured_rows(backend, sizes, measured):
    params = dict(zip(("B", "Hq", "Hkv", "Sq", "Skv", "D", "causal"), sizes, strict=True))
    (found,) = predict([Row("attention", {**params, "backend": backend})], H200)
    assert found.us == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("backend", ["flash", "cudnn"])
def test_longer_takes_longer(backend):
    times = [us(backend, 1, 8, 8, size, size, 128, True) for size in (64, 256, 640, 1024)]
    assert times == sorted(times)
    assert us(backend, 4, 12, 12, 1024, 1024, 64, True) < us(backend, 4, 12, 12, 1024, 1024, 64)
