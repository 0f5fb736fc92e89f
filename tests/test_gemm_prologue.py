"""GEMMs that normalise A on its way: right on data whatever they are combined with, and at the cost of the formulas."""

from math import sqrt

import numpy as np
import pytest
from attrs import evolve
from gemms import EDGE, FLAG, TINY, execute, gemms, preset, variant, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.operators import make_operator, text_of
from kpusim.operators.gemm import Gemm, GroupedGemm
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import PROLOGUES
from kpusim.operators.gemm.search import mappings, search
from kpusim.simulate.run import simulate

MACHINES = [
    "",
    "tiles.rows=1 tiles.columns=1",
    "tiles.rows=3 tiles.columns=5 sram.capacity=8KiB",
    "tiles.rows=4 tiles.columns=4 matrix.dataflow=weight-stationary",
    "matrix.dataflow=input-stationary",
]
KIND = st.sampled_from(PROLOGUES[1:])
EPS = st.sampled_from([1e-6, 1e-5, 0.5])


def with_prologue(gemm, kind, eps):
    """A GEMM with a prologue, in a dtype that has one."""
    dtype = gemm.dtype if gemm.dtype in ("fp32", "bf16", "fp16") else "bf16"
    out = "fp32" if gemm.out_dtype == "int32" else gemm.out_dtype
    return evolve(gemm, dtype=dtype, out_dtype=out, transpose_a=False, prologue=kind, eps=eps)


normalized_gemms = st.builds(with_prologue, gemms(40), KIND, EPS)


@settings(max_examples=40)
@given(normalized_gemms, st.sampled_from(MACHINES), FLAG, st.data())
def test_all_forms_are_right(gemm, changes, fold, data):
    machine = variant(changes)
    mapping = data.draw(st.sampled_from([*mappings(gemm.problem, machine)]))
    execute(gemm, machine, fold_instructions=fold, mapping=mapping)
    assert make_operator(text_of(gemm)) == gemm


@pytest.mark.parametrize("name", [
    "kpu-edge", "kpu-datacenter", "tpu-v4-like", "scale-sim", pytest.param("kpu-many-small", marks=pytest.mark.slow)
])  # fmt: skip
def test_every_machine_runs_one(name):
    execute(make_operator("gemm(m=20, n=36, k=300, prologue=rmsnorm, b_dtype=int8, batch=2)"), preset(name))


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_parts_of_k_add_up_their_squares(kind):
    """With one slot, too, each tile gets on to the next round only when its sums have been taken."""
    gemm = Gemm(8, 24, 64, prologue=kind, out_dtype="fp32", residual=True, transpose_b=kind == "layernorm")
    for slots, block_k, accumulators in ((1, 32, 1), (3, 8, 2), (4, 8, 2)):
        mapping = Mapping(2, 1, 4, 4, block_k, slots=slots, accumulators=accumulators, grid_k=2)
        execute(gemm, preset(TINY), mapping=mapping)
    execute(Gemm(2, 6, 12, prologue=kind, b_dtype="int8", scale_group=3, transpose_b=True), preset(TINY))
    execute(Gemm(1, 1, 18, prologue=kind, b_dtype="int8"), preset(TINY), mapping=Mapping(1, 1, 1, 1, 9, grid_k=2))


@pytest.mark.parametrize("kind", PROLOGUES[1:])
def test_what_stays_on_chip_is_normalised_in_every_round(kind):
    for resident, slots in (("a", 2), ("a", 1), ("b", 3)):
        gemm = Gemm(23, 45, 20, prologue=kind, out_dtype="fp32")
        execute(gemm, preset(TINY), mapping=Mapping(2, 2, 4, 8, 8, slots=slots, resident=resident))


# --- what is computed, written out element by element ---------------------------------------------------------------


@pytest.mark.parametrize("kind", PROLOGUES[1:])
def test_the_reference(kind):
    rng = np.random.default_rng(0)
    gemm = Gemm(3, 4, 5, dtype="fp32", out_dtype="fp32", alpha=0.5, bias=True, prologue=kind, eps=0.25)
    vectors = ["norm_mean", "norm_variance", "norm_weight", "norm_bias"]
    vectors = {"rmsnorm": vectors[2:3], "layernorm": vectors[2:], "batchnorm": vectors}[kind]
    names = ["a", "b", *vectors, "bias", "out"]
    assert [port.name for port in gemm.ports] == names
    inputs = {port.name: rng.standard_normal(port.shape) for port in gemm.ports}
    result = gemm.reference(inputs)["out"]
    a, b, weight = inputs["a"], inputs["b"], inputs["norm_weight"]
    for i, j in np.ndindex(3, 4):
        if kind == "rmsnorm":
            mean = sum(a[i, k] ** 2 for k in range(5)) / 5
            row = [a[i, k] / sqrt(mean + 0.25) * weight[k] for k in range(5)]
        elif kind == "layernorm":
            mean = sum(a[i]) / 5
            root = sqrt(sum((a[i, k] - mean) ** 2 for k in range(5)) / 5 + 0.25)
            row = [(a[i, k] - mean) / root * weight[k] + inputs["norm_bias"][k] for k in range(5)]
        else:
            mean, variance, bias = (inputs[f"norm_{name}"] for name in ("mean", "variance", "bias"))
            roots = [sqrt(max(variance[k], 0) + 0.25) for k in range(5)]
            row = [(a[i, k] - mean[k]) / roots[k] * weight[k] + bias[k] for k in range(5)]
        expected = 0.5 * sum(row[k] * b[k, j] for k in range(5)) + inputs["bias"][j]
        assert result[i, j] == pytest.approx(expected, abs=1e-12)


def test_entries_share_the_weight_and_rows_have_their_own_root():
    rng = np.random.default_rng(1)
    weight = rng.standard_normal(6)
    a, b = rng.standard_normal((2, 3, 6)), rng.standard_normal((2, 6, 4))
    normed = a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5) * weight
    batch = Gemm(3, 4, 6, batch=2, prologue="rmsnorm").reference({"a": a, "b": b, "norm_weight": weight})["out"]
    assert batch == pytest.approx(normed @ b)
    groups = GroupedGemm(2, 6, 4, 6, rows="2 4", prologue="rmsnorm")
    flat = normed.reshape(6, 6)
    result = groups.reference({"a": a.reshape(6, 6), "b": b, "norm_weight": weight})["out"]
    assert result == pytest.approx(np.concatenate([flat[:2] @ b[0], flat[2:] @ b[1]]))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("rmsnorm", "norm_weight"),
        ("layernorm", "norm_weight"),
        ("layernorm", "norm_bias"),
        *(("batchnorm", f"norm_{name}") for name in ("mean", "variance", "weight", "bias")),
    ],
)
def test_a_wrong_operand_is_more_than_the_tolerance(kind, name):
    gemm = Gemm(6, 8, 20, dtype="fp32", out_dtype="fp32", prologue=kind)
    inputs, result = execute(gemm, preset(TINY))
    assert verdict(gemm, inputs, result).passed
    assert not verdict(gemm, inputs | {name: inputs[name] + 0.01}, result).passed
    if kind != "batchnorm":
        assert not verdict(evolve(gemm, eps=0.01), inputs, result).passed


def test_huge_and_tiny_rows_are_normalised():
    gemm = Gemm(2, 4, 16, dtype="fp32", out_dtype="fp32", prologue="rmsnorm", eps=1e-36)
    rows = np.ones((2, 16)) * np.array([[1e15], [1e-15]])
    result = gemm.reference({"a": rows, "b": np.ones((16, 4)), "norm_weight": np.ones(16)})["out"]
    assert result == pytest.approx(16.0, rel=1e-3)
    bound = gemm.error_bound({"a": rows, "b": np.ones((16, 4)), "norm_weight": np.ones(16)})["out"]
    assert bound.max() < 1e-3


# --- what it costs ----------------------------------------------------------------------------------------------------

ONE = Mapping(1, 1, 4, 8, 16)  # one tile, two steps along K of 32


def run(gemm, machine, mapping=None):
    return simulate(gemm.lower(machine, mapping=mapping).program, machine)


def test_vector_work_of_a_round():
    """Each of 4 x 32 elements is squared, added up and weighted; rows: 2 x 4 sums, cleared, divided, rooted."""
    plain, normed = (run(Gemm(4, 8, 32, prologue=kind), preset(TINY), ONE).counters for kind in ("none", "rmsnorm"))
    assert {name: plain.get(f"vector.{name}", 0) for name in ("mul", "reduce", "rsqrt")} == {
        "mul": 0, "reduce": 0, "rsqrt": 0
    }  # fmt: skip
    assert plain["vector.move"] == 4 * 8  # sums are cast: with a prologue they are multiplied instead
    assert {name: normed[f"vector.{name}"] for name in ("mul", "reduce", "rsqrt", "add", "move")} == {
        "mul": 2 * 128 + 4 + 32, "reduce": 128, "rsqrt": 4, "add": 2 * 4, "move": 4
    }  # fmt: skip
    folded = run(Gemm(4, 8, 32, prologue="batchnorm"), preset(TINY), ONE).counters
    assert folded["vector.mul"] == 128 + 2 * 32
    centred = run(Gemm(4, 8, 32, prologue="layernorm"), preset(TINY), ONE).counters
    rows, weighted = 3 * 4, 2 * 8 * 32  # means, their squares, mean squares; B is weighted twice, summed twice
    assert centred["vector.mul"] == 2 * 128 + weighted + rows + 2 * 32
    assert centred["vector.reduce"] == 2 * 128 + weighted
    assert centred["vector.rsqrt"] == 4
    assert folded["vector.rsqrt"] == 32


def test_a_is_read_once_and_the_weight_once_a_round():
    machine = preset(EDGE)
    for kind, vectors in (("rmsnorm", 2), ("batchnorm", 4 * 4)):
        gemm = Gemm(64, 384, 256, transpose_b=True, prologue=kind)
        mapping = search(gemm.problem, machine).mapping
        plain = run(evolve(gemm, prologue="none"), machine, mapping).counters
        normed = run(gemm, machine, mapping).counters
        rounds = mapping.grid_batch * mapping.rounds(gemm.problem)[0] * mapping.rounds(gemm.problem)[1]
        assert normed["hbm.read_bytes"] - plain["hbm.read_bytes"] == vectors * 256 * rounds
        assert normed["hbm.write_bytes"] == plain["hbm.write_bytes"]


@pytest.mark.parametrize("text", [
    "gemm(m=1024, n=96, k=512, prologue=rmsnorm)", "gemm(m=2048, n=8, k=256, prologue=rmsnorm)",
    "gemm(m=16, n=768, k=1024, prologue=batchnorm, transpose_b=true)", "gemm(m=16, n=768, k=1024, prologue=layernorm)",
])  # fmt: skip
def test_the_estimate_knows_it(text):
    machine, gemm = preset(EDGE), make_operator(text)
    found = search(gemm.problem, machine)
    assert run(gemm, machine, found.mapping).cycles == pytest.approx(found.cost.cycles, rel=0.12)


def test_where_results_are_narrow_the_vector_engine_decides():
    """Of 8 columns, an element of A is multiplied 8 times and worked on three times."""
    machine = preset(EDGE)
    gemm = Gemm(4096, 8, 256, prologue="rmsnorm")
    cycles = {name: search(evolve(gemm, prologue=name).problem, machine).cost.vector for name in ("none", "rmsnorm")}
    lanes, tiles = machine.vector.lanes, machine.tiles.count
    assert cycles["rmsnorm"] - cycles["none"] >= 3 * 4096 * 256 // (lanes * tiles)
    assert gemm.vector_work == {"mul": 2 * 4096 * 256, "reduce": 4096 * 256}


def test_it_is_explained():
    lowered = Gemm(4, 8, 32, prologue="rmsnorm").lower(preset(TINY), mapping=ONE)
    rows = {what: (value, why) for what, value, why in lowered.choices}
    each = (3 * 4 * 16 + 4) // 4  # three instructions on 4 x 16 elements, and one on 4 sums, of 4 lanes
    roots = 4 // 4 + 4 * 4 // 4
    whole = 2 * each + roots + 4 * 8 // 4
    assert rows["prologue"][0] == "rmsnorm"
    assert rows["prologue"][1].startswith(f"{each} cycles of the vector engine for each block of A")
    assert rows["prologue"][1].endswith(f"of {whole} in all")


@pytest.mark.parametrize(("text", "message"), [
    ("prologue=rmsnrom", "did you mean 'rmsnorm'?"),
    ("prologue=rmsnorm, dtype=int8", "a prologue normalises A in its dtype; found 'int8'; allowed: fp32, bf16, fp16"),
    ("prologue=rmsnorm, transpose_a=true", "a prologue normalises rows of A as they lie; found 'transpose_a'"),
    ("prologue=rmsnorm, eps=0", "impossible eps of gemm"),
])  # fmt: skip
def test_contradictions_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(f"gemm(m=1, n=1, k=1, {text})")
    assert message in str(caught.value)
