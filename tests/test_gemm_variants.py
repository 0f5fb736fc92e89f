"""GEMMs with narrow dtypes, epilogues, batches and groups: on data against float64, whatever is combined."""

from math import erf, exp, sqrt, tanh

import numpy as np
import pytest
from gemms import DATACENTER, FLAG, TINY, execute, gemms, preset, variant, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.gemm import Gemm, GroupedGemm
from kpusim.operators.gemm.epilogue import chain
from kpusim.operators.gemm.groups import group_rows
from kpusim.operators.gemm.search import mappings

MACHINES = [
    "",
    "tiles.rows=1 tiles.columns=1",
    "tiles.rows=3 tiles.columns=5 sram.capacity=8KiB",
    "tiles.rows=4 tiles.columns=4 matrix.dataflow=weight-stationary matrix.overlap_folds=true",
    "matrix.dataflow=input-stationary",
]


@settings(max_examples=120)
@given(gemms(40), st.sampled_from(MACHINES), FLAG, st.data())
def test_all_forms_are_right(gemm, changes, fold, data):
    machine = variant(changes)
    mapping = data.draw(st.sampled_from([*mappings(gemm.problem, machine)]))
    execute(gemm, machine, fold_instructions=fold, mapping=mapping)


@pytest.mark.parametrize("name", ["kpu-edge", "kpu-datacenter", "tpu-v4-like", "scale-sim", "kpu-many-small"])
@pytest.mark.parametrize("text", [
    "gemm(m=40, n=72, k=200, b_dtype=int4, scale_group=32, bias=true, activation=silu)",
    "gemm(m=9, n=30, k=65, batch=7, residual=true)",
    "gemm(m=1, n=40, k=900, column_scale=true)",
    "grouped_gemm(groups=6, m=90, n=33, k=70, rows='zipf 1.1', bias=true)",
])  # fmt: skip
def test_the_chosen_mapping_on_every_machine(name, text):
    execute(make_operator(text), preset(name))


# --- what is computed, written out element by element ---------------------------------------------------------------

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x**3))),  # sqrt(2 / pi)
    "silu": lambda x: x / (1 + exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_epilogue(activation):
    rng = np.random.default_rng(0)
    gemm = Gemm(4, 6, 5, dtype="fp32", out_dtype="fp32", alpha=0.5, column_scale=True, bias=True, residual=True,
                activation=activation)  # fmt: skip
    shapes = {"a": (4, 5), "b": (5, 6), "scale": (6,), "bias": (6,), "residual": (4, 6)}
    assert {port.name: port.shape for port in gemm.ports} == shapes | {"out": (4, 6)}
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    result = gemm.reference(inputs)["out"]
    a, b, scale, bias, residual = (inputs[name].astype(float) for name in shapes)
    for i, j in np.ndindex(4, 6):
        x = 0.5 * scale[j] * sum(a[i, k] * b[k, j] for k in range(5)) + bias[j]
        assert result[i, j] == pytest.approx(ACTIVATIONS[activation](x) + residual[i, j], abs=1e-12)


def test_scales_of_quantised_weights():
    rng = np.random.default_rng(1)
    gemm = Gemm(3, 4, 10, dtype="fp32", b_dtype="int4", scale_group=4, transpose_b=True, out_dtype="fp32")
    assert [(port.name, port.shape, port.dtype) for port in gemm.ports][1:3] == [
        ("b", (4, 10), "int4"), ("b_scale", (3, 4), "fp32")
    ]  # fmt: skip
    a, scale = rng.standard_normal((3, 10)), rng.standard_normal((3, 4))
    b = rng.integers(-8, 8, (4, 10))
    expected = [[sum(a[i, k] * b[j, k] * scale[k // 4, j] for k in range(10)) for j in range(4)] for i in range(3)]
    assert gemm.reference({"a": a, "b": b, "b_scale": scale})["out"] == pytest.approx(np.array(expected))


def test_scale_groups_of_any_size_are_lowered():
    execute(Gemm(4, 32, 80, b_dtype="int8", scale_group=48), preset(TINY))
    execute(Gemm(4, 8, 120, b_dtype="int4", scale_group=20, transpose_b=True), preset(TINY))


def test_parts_of_k_that_no_scales_divide_do_not_hide_others():
    """72 elements in 8 or 4 parts of whole groups of 8 leave parts empty."""
    execute(GroupedGemm(6, 90, 32, 72, b_dtype="int4", scale_group=8), preset(DATACENTER))


def test_groups_have_rows_and_weights_of_their_own():
    rng = np.random.default_rng(2)
    gemm = GroupedGemm(3, 5, 4, 6, rows="2 0 3", bias=True, dtype="fp32", out_dtype="fp32")
    a, b, bias = rng.standard_normal((5, 6)), rng.standard_normal((3, 6, 4)), rng.standard_normal((3, 4))
    expected = np.concatenate([a[:2] @ b[0] + bias[0], a[2:] @ b[2] + bias[2]])
    assert gemm.reference({"a": a, "b": b, "bias": bias})["out"] == pytest.approx(expected)
    assert gemm.macs == 5 * 4 * 6
    assert gemm.compulsory_bytes == 4 * (5 * 6 + 2 * 6 * 4 + 2 * 4 + 5 * 4)  # without what group 1 has not


def test_rows_are_dealt():
    assert group_rows("even", 3, 8) == (3, 3, 2)
    assert group_rows("zipf 1", 3, 11) == (6, 3, 2)
    assert group_rows("4, 0 7", 3, 11) == (4, 0, 7)


def test_a_chain_has_no_step_too_many():
    def steps(**options):
        return [step.op for step in chain(Gemm(8, 8, 8, **options).problem)]

    assert steps() == steps(dtype="int8") == ["cast"]
    assert steps(bias=True) == ["add"]
    assert steps(column_scale=True, bias=True) == ["fma"]
    assert steps(column_scale=True, bias=True, dtype="int8") == ["mul", "add"]
    assert steps(activation="relu", residual=True) == ["max", "add"]
    assert steps(out_dtype="fp8_e4m3") == ["quantize"]
    assert steps(out_dtype="fp8_e4m3", dtype="int8") == ["cast", "quantize"]


@pytest.mark.parametrize(("name", "change"), [("bias", 0.1), ("residual", 0.1), ("b_scale", 0.05), ("scale", 0.05)])
def test_a_wrong_operand_is_more_than_the_tolerance(name, change):
    gemm = Gemm(6, 8, 20, b_dtype="int4", column_scale=True, bias=True, residual=True, out_dtype="fp32")
    inputs, result = execute(gemm, preset(TINY))
    inputs[name] = inputs[name].astype(np.float64) + change
    assert not verdict(gemm, inputs, result).passed


@pytest.mark.parametrize(("text", "message"), [
    ("gemm(m=1, n=1, k=1, scale_group=32)", "scale_group belongs to a b_dtype that is not dtype"),
    ("gemm(m=1, n=1, k=1, dtype=int8, b_dtype=int4)", "dequantised to the dtype of A; found 'int8'; allowed: fp32"),
    ("gemm(m=1, n=1, k=1, out_dtype=int32)", "int32 results are the sums of int8 products"),
    ("gemm(m=1, n=1, k=1, out_dtype=int32, dtype=int8, bias=true)", "allowed: dtype=int8 and no epilogue"),
    ("gemm(m=1, n=3, k=1, b_dtype=int4)", "a row of int4 ends within a byte; found 'n=3'; allowed: multiples of 2"),
    ("gemm(m=1, n=3, k=6, b_dtype=int2, transpose_b=true)", "found 'k=6'; allowed: multiples of 4"),
    ("gemm(m=1, n=1, k=1, b_dtype=int3)", "found 'int3'; allowed: \"\", fp8_e4m3, fp8_e5m2, int8, int4, int2"),
    ("gemm(m=1, n=1, k=1, activation=gleu)", "did you mean 'gelu'?"),
    ("gemm(m=1, n=1, k=1, alpha=1e39)", "impossible alpha of gemm; found 1e+39; allowed: a number that fp32 holds"),
    ("gemm(m=1, n=1, k=1, batch=5000)", "impossible batch of gemm; found 5000; allowed: <= 4096"),
    ("grouped_gemm(groups=5000, m=1, n=1, k=1)", "impossible groups of grouped_gemm; found 5000; allowed: <= 4096"),
    ("gemm(m=1, n=1, k=1, batch=-1)", "impossible batch of gemm; found -1; allowed: >= 0"),
    ("grouped_gemm(groups=2, m=4, n=1, k=1, rows='1 2')", "add up to 3'; allowed: 2 that add up to m = 4"),
    ("grouped_gemm(groups=2, m=4, n=1, k=1, rows='some')", 'impossible rows; found \'some\'; allowed: "even", "zipf '),
    ("grouped_gemm(groups=2, m=4, n=1, k=1, rows='zipf 1e400')", "impossible rows; found 'zipf 1e400'"),
    ("grouped_gemm(groups=2, m=4, n=1, k=1, rows=3)", "impossible rows of grouped_gemm; found 3; allowed: a value of"),
])  # fmt: skip
def test_contradictions_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(text)
    assert message in str(caught.value)
