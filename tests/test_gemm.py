"""GEMMs lowered: executed on data against float64, checked, and held against their own estimates."""

from functools import cache

import numpy as np
import pytest
from attrs import astuple, evolve
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.function import Executor, compare, random_inputs
from kpusim.isa import assemble, disassemble
from kpusim.isa.check import check_program
from kpusim.isa.layout import Layout
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.operators import build_operator, make_operator
from kpusim.operators.gemm import Gemm
from kpusim.operators.gemm.lowering import lower
from kpusim.operators.gemm.mapping import QUEUES, Mapping, Problem, choose, cost, mappings, weigh
from kpusim.simulate.run import simulate

TINY, EDGE, DATACENTER = PRESETS = ["kpu-tiny", "kpu-edge", "kpu-datacenter"]
VARIANTS = [  # of kpu-tiny, whose SRAM of 4 KiB holds next to nothing
    "",
    "tiles.rows=1 tiles.columns=1",
    "tiles.rows=3 tiles.columns=5 dma.outstanding=64B",
    "dma.placement=tile dma.queues=5",
    f"dma.queues={QUEUES}",
    "matrix.rows=3 matrix.columns=5 matrix.overlap_folds=true",
    "sram.capacity=640B hbm.access=32B",
    "sram.capacity=1KiB matrix.rows=128 matrix.columns=64",  # which does not hold one fold
]
LAYOUTS = [
    {},
    {"a": Layout((8, 16)), "out": Layout((5, 3))},
    {"b": Layout((4, 8))},
    {"a": Layout(pitch=50), "b": Layout((8, 8)), "out": Layout(pitch=49)},
]
preset = cache(load_machine)
variant = cache(lambda changes: load_machine(TINY, changes.split()))
IN, OUT = st.sampled_from(["bf16", "fp16"]), st.sampled_from(["bf16", "fp16", "fp32"])


def problems(most, steps=1):
    """Problems of sizes up to `most` that are multiples of `steps`."""
    size = st.one_of(st.just(1), st.integers(1, most // steps)).map(lambda count: count * steps)
    return st.builds(Problem, size, size, size, IN, OUT, st.booleans())


def checked(problem, machine, **choices):
    """The lowered program, which passes the static check and comes back from its text."""
    program = lower(problem, machine, **choices).program
    check_program(program, limits_of(machine))
    assert assemble(disassemble(program)) == program
    return program


def execute(problem, machine, **choices):
    """Runs on data in plain mode, hazards on, and compares with float64; the local clocks agree on the cycles."""
    program = checked(problem, machine, **choices)
    inputs = random_inputs(program, 1)
    executor = Executor(program, machine, inputs)
    run = simulate(program, machine, plain=True, watcher=executor)
    assert simulate(program, machine).cycles == run.cycles
    assert run.counters[f"macs.{problem.dtype}"] == problem.m * problem.n * problem.k
    assert verdict(problem, inputs, executor.outputs()["out"]).passed
    return inputs, executor.outputs()["out"]


def verdict(problem, inputs, result):
    a, b = (inputs[name].astype(np.float64) for name in "ab")
    expected = np.einsum("mk,nk->mn" if problem.transpose_b else "mk,kn->mn", a, b)
    bound = Gemm(*astuple(problem)).error_bound(inputs)["out"]
    return compare(result, expected, problem.out_dtype, bound=bound)


def hbm_bytes(run):
    return run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"]


# --- values -----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(problems(48), st.sampled_from(VARIANTS), st.booleans(), st.sampled_from(LAYOUTS), st.data())
def test_every_mapping_that_is_weighed_is_right(problem, changes, fold, layouts, data):
    machine = variant(changes)
    mapping = data.draw(st.sampled_from([*mappings(problem, machine)]))
    execute(problem, machine, layouts=layouts, fold_instructions=fold, mapping=mapping)


@settings(max_examples=60)
@given(problems(30), st.booleans(), st.data())
def test_mappings_that_are_never_weighed_are_right_too(problem, fold, data):
    machine = variant("tiles.rows=3 tiles.columns=4")
    grid_m = data.draw(st.integers(1, 12))
    grid_n = data.draw(st.integers(1, 12 // grid_m))
    blocks = [data.draw(st.integers(1, 9)) for _ in range(3)]
    slots, accumulators = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    several = grid_n > 1 and grid_n * blocks[1] < problem.n
    mapping = Mapping(grid_m, grid_n, *blocks, slots, accumulators, several and data.draw(st.booleans()))
    assume(mapping.sram_bytes(problem) <= machine.sram.capacity_bytes)
    execute(problem, machine, fold_instructions=fold, mapping=mapping)


@pytest.mark.parametrize("slots", [2, 3, 4])
@pytest.mark.parametrize("accumulators", [1, 2])
@pytest.mark.parametrize("resident", [False, True])
def test_every_kind_of_mapping(resident, accumulators, slots):
    problem = Problem(52, 75, 90, "bf16", "fp32", False)
    kind = resident, accumulators, slots
    tiny = preset(TINY)
    found = [each for each in mappings(problem, tiny) if (each.resident, each.accumulators, each.slots) == kind]
    execute(problem, tiny, mapping=found[0])
    execute(problem, tiny, mapping=found[-1], fold_instructions=True)


@pytest.mark.parametrize(("name", "tiles", "grid_m"), [
    *[(EDGE, 64, 1 << i) for i in range(7)], *[(DATACENTER, 256, 1 << i) for i in (0, 2, 4, 6)]
])  # fmt: skip
@pytest.mark.parametrize("transpose_b", [False, True])
def test_every_grid_of_many_tiles(name, tiles, grid_m, transpose_b):
    machine, grid_n = preset(name), tiles // grid_m
    problem = Problem(70, 330, 40, "bf16", "bf16", transpose_b)
    block_m, block_n = (min(-(-size // count), 16) for size, count in ((70, grid_m), (330, grid_n)))
    execute(problem, machine, mapping=Mapping(grid_m, grid_n, block_m, block_n, 32, 2, 1, False))
    if 1 < grid_n < 21:
        execute(problem, machine, mapping=Mapping(grid_m, grid_n, block_m, 16, 16, 3, 2, True))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 200), (300, 1, 77), (33, 65, 129), (100, 90, 110)])
def test_the_chosen_mapping(name, shape):
    execute(Problem(*shape, "bf16", "bf16", False), preset(name))
    execute(Problem(*shape, "fp16", "fp32", True), preset(name), fold_instructions=True)


def test_a_lost_product_is_more_than_the_tolerance():
    problem = Problem(9, 10, 40, "bf16", "fp32", False)
    inputs, result = execute(problem, preset(TINY))
    inputs["a"][3, 17] = 0
    assert not verdict(problem, inputs, result).passed


# --- SRAM and machines ------------------------------------------------------------------------------------------------


@given(problems(20000), st.sampled_from([(TINY, 4096), (TINY, 512), (TINY, 256), (EDGE, 16384), (DATACENTER, 4096)]))
@example(Problem(158, 178, 17916, "bf16", "bf16", False), (TINY, 512))  # the most promising blockings do not fit
def test_what_exceeds_the_sram_tiles_further(problem, case):
    name, capacity = case
    machine = preset(name)
    machine = evolve(machine, sram=evolve(machine.sram, capacity_bytes=capacity))
    found = [*mappings(problem, machine)]
    assert found
    for mapping in found:
        assert mapping.sram_bytes(problem) <= capacity
        assert mapping.grid_m * mapping.grid_n <= machine.tiles.count
    program = lower(problem, machine).program
    assert program.sram_bytes <= choose(weigh(problem, machine), problem).sram_bytes(problem)


def test_machines_that_run_no_gemm():
    problem = Problem(8, 8, 8, "bf16", "bf16", False)
    with pytest.raises(UserError, match="kpu-tiny: no block of this GEMM fits into the SRAM of a tile; found '255 b"):
        lower(problem, variant("sram.capacity=255B"))
    execute(problem, variant("sram.capacity=256B"))
    with pytest.raises(UserError, match=r"a queue each for A, B and the output .*dma.queues = 2.; allowed: at least 3"):
        lower(problem, variant("dma.queues=2"))


# --- estimates --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(problems(96, steps=16), st.data())
def test_traffic_is_the_closed_form_where_runs_are_whole_accesses(problem, data):
    tiny = preset(TINY)
    access = tiny.hbm.access_bytes
    whole = [each for each in mappings(problem, tiny) if each.block_n * problem.factor_bytes % access == 0
             and each.block_n * problem.out_bytes % access == 0]  # fmt: skip
    assume(whole)
    mapping = data.draw(st.sampled_from(whole))
    run = simulate(lower(problem, tiny, mapping=mapping).program, tiny)
    assert hbm_bytes(run) == mapping.hbm_bytes(problem, access)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [(DATACENTER, (1000, 3000, 2001)), (EDGE, (700, 900, 1100)), (EDGE, (333, 1001, 777)), (TINY, (101, 90, 110))],
)
def test_traffic_of_runs_that_start_anywhere(name, shape, transpose_b):
    problem, machine = Problem(*shape, "bf16", "bf16", transpose_b), preset(name)
    mapping = choose(weigh(problem, machine), problem)
    run = simulate(lower(problem, machine, mapping=mapping).program, machine)
    assert hbm_bytes(run) == pytest.approx(mapping.hbm_bytes(problem, machine.hbm.access_bytes), rel=0.01)


@pytest.mark.parametrize(("name", "shape", "least", "most"), [
    (DATACENTER, (2048, 4096, 4096), 0.97, 1.03),
    (DATACENTER, (1, 14336, 4096), 0.97, 1.03),
    (DATACENTER, (32, 14336, 4096), 0.97, 1.03),
    (DATACENTER, (1000, 3000, 2000), 0.97, 1.05),
    (EDGE, (1024, 1024, 1024), 0.97, 1.3),  # A and B in small blocks: rows of the HBM close and open
    (EDGE, (1, 4096, 4096), 0.97, 1.03),
    (EDGE, (700, 900, 1100), 0.97, 1.3),
    (TINY, (128, 128, 128), 0.97, 1.2),
    (TINY, (1, 256, 256), 0.97, 1.1),
])  # fmt: skip
def test_the_estimate_of_cycles(name, shape, least, most):
    problem, machine = Problem(*shape, "bf16", "bf16", False), preset(name)
    mapping = choose(weigh(problem, machine), problem)
    run = simulate(lower(problem, machine, mapping=mapping).program, machine)
    assert least < run.cycles / cost(mapping, problem, machine).cycles < most


# --- the operator -----------------------------------------------------------------------------------------------------


def test_the_operator_knows_its_sizes():
    gemm = make_operator("gemm(m=3, n=5, k=7, dtype=fp16, out_dtype=fp32, transpose_b=true)")
    assert gemm == Gemm(3, 5, 7, "fp16", "fp32", True)
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
    ("gem(m=1, n=1, k=1)", "--op: unknown operator; found 'gem'; allowed: gemm; did you mean 'gemm'?"),
    ("gemm(m=1, n=1, kk=1)", "gemm has no such parameter; found 'kk'; allowed: m, n, k, dtype, "),
    ("gemm(m=1, n=1, k=1, transposeb=1)", "out_dtype, transpose_b; did you mean 'transpose_b'?"),
    ("gemm(m=1, n=1)", "gemm needs the parameter k; found 'm, n'; allowed: m, n, k, "),
    ("gemm(m=0, n=1, k=1)", "impossible m of gemm; found 0; allowed: >= 1"),
    ("gemm(m=1, n=-4, k=1)", "impossible n of gemm; found -4; allowed: >= 1"),
    ("gemm(m=1, n=1, k=2.0)", "impossible k of gemm; found 2.0; allowed: a value of type int"),
    ("gemm(m=many, n=1, k=1)", "impossible m of gemm; found 'many'; allowed: a value of type int"),
    ("gemm(m=true, n=1, k=1)", "impossible m of gemm; found True; allowed: a value of type int"),
    ("gemm(m=1, n=1, k=1, dtype=bf61)", "dtype of gemm; found 'bf61'; allowed: bf16, fp16; did you mean 'bf16'?"),
    ("gemm(m=1, n=1, k=1, out_dtype=int8)", "out_dtype of gemm; found 'int8'; allowed: bf16, fp16, fp32"),
    ("gemm(m=1, n=1, k=1, transpose_b=1)", "transpose_b of gemm; found 1; allowed: a value of type bool"),
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
