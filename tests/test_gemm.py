"""Plain GEMMs lowered: every mapping right on data, and within the machine."""

import numpy as np
import pytest
from attrs import evolve
from gemms import (
    DATACENTER,
    EDGE,
    FLAG,
    PRESETS,
    TINY,
    checked,
    execute,
    gemms,
    plain_gemms,
    preset,
    variant,
    verdict,
)
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.isa.layout import Layout
from kpusim.operators import build_operator, make_operator
from kpusim.operators.gemm import Gemm
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.search import QUEUES, mappings, search
from kpusim.simulate.run import simulate

VARIANTS = [  # of kpu-tiny, whose SRAM of 4 KiB holds next to nothing
    "",
    "tiles.rows=1 tiles.columns=1",
    "tiles.rows=3 tiles.columns=5 dma.outstanding=64B",
    "dma.placement=tile dma.queues=5",
    f"dma.queues={QUEUES}",
    "matrix.rows=3 matrix.columns=5 matrix.overlap_folds=true",
    "matrix.rows=3 matrix.columns=5 matrix.dataflow=weight-stationary matrix.overlap_folds=true",
    "matrix.rows=2 matrix.columns=3 matrix.dataflow=input-stationary",
    "sram.capacity=640B hbm.access=32B",
    "sram.capacity=1KiB matrix.rows=128 matrix.columns=64",  # which does not hold one fold
]
LAYOUTS = [{}, {"a": Layout((8, 16)), "out": Layout((5, 3))}, {"b": Layout((4, 8))}]


# --- values -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(plain_gemms(48), st.sampled_from(VARIANTS), FLAG, st.sampled_from(LAYOUTS), st.data())
def test_every_mapping_that_is_weighed_is_right(gemm, changes, fold, layouts, data):
    machine = variant(changes)
    mapping = data.draw(st.sampled_from([*mappings(gemm.problem, machine)]))
    execute(gemm, machine, layouts=layouts, fold_instructions=fold, mapping=mapping)


@settings(max_examples=100)
@given(plain_gemms(30), FLAG, st.data())
def test_mappings_that_are_never_weighed_are_right_too(gemm, fold, data):
    machine = variant("tiles.rows=3 tiles.columns=4")
    grid_m = data.draw(st.integers(1, 12))
    grid_n = data.draw(st.integers(1, 12 // grid_m))
    grid_k = data.draw(st.integers(1, 12 // (grid_m * grid_n)))
    blocks = [data.draw(st.integers(1, 9)) for _ in range(3)]
    slots, accumulators = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    mapping = Mapping(grid_m, grid_n, *blocks, slots, accumulators, grid_k=grid_k)
    assume((grid_k - 1) * mapping.steps(gemm.problem) * blocks[2] < gemm.k)
    residents = [""]
    if grid_k == 1:
        residents += ["a"] * (1 < grid_n < gemm.n / blocks[1]) + ["b"] * (1 < grid_m < gemm.m / blocks[0])
    mapping = evolve(mapping, resident=data.draw(st.sampled_from(residents)))
    assume(mapping.sram_bytes(gemm.problem) <= machine.sram.capacity_bytes)
    execute(gemm, machine, fold_instructions=fold, mapping=mapping)


@settings(max_examples=60)
@given(gemms(30), st.integers(1, 4), st.data())
def test_blocks_that_are_dealt_are_right(gemm, raster, data):
    machine = variant("tiles.rows=3 tiles.columns=4 sram.capacity=64KiB")
    grid_m, grid_n, grid_k = data.draw(st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 3, 1), (1, 1, 2)]))
    assume(grid_k == 1 or gemm.k > 8)
    blocks = (data.draw(st.sampled_from((4, 5, 8))), data.draw(st.sampled_from((4, 8, 16))), 8)
    one = Mapping(grid_m, grid_n, *blocks, accumulators=data.draw(st.integers(1, 2)), grid_k=grid_k, raster=raster)
    count = one.rounds(gemm.problem)[0]
    mapping = evolve(one, grid_batch=data.draw(st.integers(1, min(count, 12 // one.tiles))))
    try:
        execute(gemm, machine, mapping=mapping)
    except UserError as error:  # of scales, as for every mapping
        assert "scales in parts" in str(error)


@pytest.mark.parametrize(("batch", "raster"), [(0, 1), (0, 4), (0, 99), (3, 2)])
def test_dealt_blocks_come_in_waves(batch, raster):
    """30 (or 90) blocks on 12 tiles: each tile has as many as there are waves, or one less, by turns."""
    machine = variant("tiles.rows=3 tiles.columns=4")
    mapping = Mapping(1, 1, 4, 4, 16, grid_batch=12, raster=raster)
    gemm = Gemm(24, 20, 16, batch=batch)
    run = simulate(checked(gemm, machine, mapping=mapping), machine)
    blocks = 30 * max(batch, 1)
    one = simulate(checked(Gemm(4, 4, 16), machine, mapping=evolve(mapping, grid_batch=1)), machine).busy
    names = run.machine.unit_names
    each = one[names.index("chip0.tile0.matrix")]
    busy = [run.busy[names.index(f"chip0.tile{tile}.matrix")] for tile in range(12)]
    assert busy == [each * -(-(blocks - tile) // 12) for tile in range(12)]


def test_blocks_are_dealt_in_bands_of_rows():
    """Bands of two block rows, column by column: the order of swizzled thread blocks."""
    program = Gemm(12, 8, 16).lower(preset(TINY), mapping=Mapping(1, 1, 4, 4, 16, grid_batch=4, raster=2)).program
    tables = {table.name: tuple(table.values) for table in program.tables}
    assert tables["lane_of"] == (0, 1, 0, 1, 2, 2, 3, 3)  # 3 and 2: beyond the last
    assert tables["across_of"] == (0, 0, 1, 1, 0, 1, 2, 2)


@pytest.mark.parametrize("slots", [2, 3, 4])
@pytest.mark.parametrize("accumulators", [1, 2])
@pytest.mark.parametrize("resident", ["", "a", "b"])
def test_every_kind_of_mapping(resident, accumulators, slots):
    gemm = Gemm(52, 75, 90, out_dtype="fp32")
    kind = resident, accumulators, slots
    tiny = preset(TINY)
    found = [each for each in mappings(gemm.problem, tiny) if (each.resident, each.accumulators, each.slots) == kind]
    execute(gemm, tiny, mapping=found[0])
    execute(gemm, tiny, mapping=found[-1], fold_instructions=True)


@pytest.mark.parametrize(("name", "tiles", "grid_m"), [
    *[(EDGE, 64, 1 << i) for i in range(7)], *[(DATACENTER, 256, 1 << i) for i in (0, 2, 4, 6)]
])  # fmt: skip
@pytest.mark.parametrize("transpose_b", [False, True])
def test_every_grid_of_many_tiles(name, tiles, grid_m, transpose_b):
    machine, grid_n = preset(name), tiles // grid_m
    gemm = Gemm(70, 330, 40, transpose_b=transpose_b)
    block_m, block_n = (min(-(-size // count), 16) for size, count in ((70, grid_m), (330, grid_n)))
    execute(gemm, machine, mapping=Mapping(grid_m, grid_n, block_m, block_n, 32))
    if 1 < grid_n < 21:
        execute(gemm, machine, mapping=Mapping(grid_m, grid_n, block_m, 16, 16, 3, 2, "a"))
    if 1 < grid_m < 70 and grid_n < 330:
        execute(gemm, machine, mapping=Mapping(grid_m, grid_n, 1, block_n, 16, 2, 1, "b"))
    if grid_n > 1:
        execute(gemm, machine, mapping=Mapping(grid_m, grid_n // 2, block_m, block_n, 8, 2, 2, grid_k=2))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 200), (300, 1, 77), (33, 65, 129), (100, 90, 110), (2, 3, 999)])
def test_the_chosen_mapping(name, shape):
    execute(Gemm(*shape), preset(name))
    execute(Gemm(*shape, dtype="fp16", out_dtype="fp32", transpose_b=True), preset(name), fold_instructions=True)


def test_a_lost_product_is_more_than_the_tolerance():
    gemm = Gemm(9, 10, 40, out_dtype="fp32")
    inputs, result = execute(gemm, preset(TINY))
    inputs["a"][3, 17] = 0
    assert not verdict(gemm, inputs, result).passed


# --- SRAM and machines ------------------------------------------------------------------------------------------------


@given(plain_gemms(20000), st.sampled_from([(TINY, 4096), (TINY, 512), (TINY, 256), (EDGE, 16384), (DATACENTER, 4096)]))
@example(Gemm(158, 178, 17916), (TINY, 512))  # the most promising blockings do not fit
def test_what_exceeds_the_sram_tiles_further(gemm, case):
    name, capacity = case
    machine, problem = preset(name), gemm.problem
    machine = evolve(machine, sram=evolve(machine.sram, capacity_bytes=capacity))
    found = [*mappings(problem, machine)]
    assert found
    for mapping in found:
        assert mapping.sram_bytes(problem) <= capacity
        assert mapping.tiles <= machine.tiles.count
    assert gemm.lower(machine).program.sram_bytes <= search(problem, machine).mapping.sram_bytes(problem)


def test_machines_that_run_no_gemm():
    gemm = Gemm(8, 8, 8)
    with pytest.raises(UserError, match="kpu-tiny: no block of this GEMM fits into the SRAM of a tile; found '255 b"):
        gemm.lower(variant("sram.capacity=255B"))
    execute(gemm, variant("sram.capacity=256B"))
    with pytest.raises(UserError, match=r"a queue each for A, B and the output .*dma.queues = 2.; allowed: at least 3"):
        gemm.lower(variant("dma.queues=2"))


# --- the operator -----------------------------------------------------------------------------------------------------


def test_the_operator_knows_its_sizes():
    gemm = make_operator("gemm(m=3, n=5, k=7, dtype=fp16, out_dtype=fp32, transpose_b=true)")
    assert gemm == Gemm(3, 5, 7, dtype="fp16", out_dtype="fp32", transpose_b=True)
    assert gemm.dimensions == {"m": 3, "n": 5, "k": 7} and (gemm.macs, gemm.flops) == (105, 210)
    assert [port.shape for port in gemm.ports] == [(3, 7), (5, 7), (3, 5)]
    tensors = gemm.lower(preset(TINY)).program.tensors
    assert [(port.name, port.shape, port.dtype, port.role) for port in gemm.ports] == [
        (tensor.name, tensor.shape, tensor.dtype, tensor.role) for tensor in tensors
    ]
    assert gemm.compulsory_bytes == sum(tensor.size_bytes for tensor in tensors) == 2 * 21 + 2 * 35 + 4 * 15


def test_the_io_bound():
    one = Gemm(1, 64, 64)
    assert one.io_bound_bytes(preset(TINY)) == one.compulsory_bytes == 2 * (64 + 64 * 64 + 64)
    large = Gemm(2048, 2048, 2048)  # 2 MNK / sqrt(S) words of 2 bytes, S the 8192 words of four tiles
    assert large.io_bound_bytes(preset(TINY)) == int(2 * 2048**3 / 8192**0.5) * 2 > large.compulsory_bytes


@pytest.mark.parametrize(("text", "message"), [
    ("gem(m=1, n=1, k=1)", "unknown operator; found 'gem'; allowed: gemm, grouped_gemm, "),
    ("gemm(m=1, n=1, kk=1)", "gemm has no such parameter; found 'kk'; allowed: dtype, "),
    ("gemm(m=1, n=1, k=1, transposeb=1)", "did you mean 'transpose_b'?"),
    ("gemm(m=1, n=1)", "gemm needs the parameter k; found 'm, n'; allowed: dtype, "),
    ("gemm(m=0, n=1, k=1)", "impossible m of gemm; found 0; allowed: >= 1"),
    ("gemm(m=1, n=-4, k=1)", "impossible n of gemm; found -4; allowed: >= 1"),
    ("gemm(m=1, n=1, k=2.0)", "impossible k of gemm; found 2.0; allowed: a value of type int"),
    ("gemm(m=many, n=1, k=1)", "impossible m of gemm; found 'many'; allowed: a value of type int"),
    ("gemm(m=true, n=1, k=1)", "impossible m of gemm; found True; allowed: a value of type int"),
    ("gemm(m=1, n=1, k=1, dtype=bf61)", "dtype of gemm; found 'bf61'; allowed: fp32, bf16, fp16, fp8_e4m3, fp8_e5m2, "),
    ("gemm(m=1, n=1, k=1, out_dtype=int8)", "out_dtype of gemm; found 'int8'; allowed: fp32, bf16, fp16, "),
    ("gemm(m=1, n=1, k=1, transpose_b=1)", "transpose_b of gemm; found 1; allowed: a value of type bool"),
    ("gemm(m=1, n=1, k=1, alpha=nan)", "alpha of gemm; found 'nan'; allowed: a value of type float"),
    *[(text, f"not an operator; found {text!r}; allowed: family(name=value, ...), as in gemm(m=2048, n=4096, k=4096)")
      for text in ("", "gemm", "gemm(1, 2, 3)", "gemm(m=1", "gemm(m=1, m=2, n=1, k=1)", "gemm(**sizes)",
                   "gemm(m=1, n=1, k=2**3)")],
    (f"gemm(m=1, n=1, k={5000 * '-'}1)", "--- ... ---"),  # too deep to parse; and the message leaves out its middle
])  # fmt: skip
def test_bad_parameters_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_message_says_where():
    with pytest.raises(UserError, match=r"my.toml:7: unknown operator; found 'gemv'; allowed: gemm"):
        build_operator("gemv", {}, "my.toml:7")


def test_the_reference_of_a_plain_gemm():
    rng = np.random.default_rng(3)
    a, b = rng.integers(-9, 9, (3, 5)).astype(np.int8), rng.integers(-9, 9, (4, 5)).astype(np.int8)
    gemm = Gemm(3, 4, 5, dtype="int8", out_dtype="int32", transpose_b=True)
    assert (gemm.reference({"a": a, "b": b})["out"] == a.astype(int) @ b.astype(int).T).all()


def test_a_single_column_of_tiles():
    """Engines at both ends of a row of one tile: none is nearer than the other."""
    machine = variant("tiles.rows=4 tiles.columns=1")
    execute(Gemm(8, 8, 8), machine, mapping=Mapping(2, 2, 4, 4, 8))
