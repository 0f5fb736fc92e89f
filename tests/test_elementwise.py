"""Elementwise operators: on data, and against what is written out number by number."""

from math import erf, exp, sqrt, tanh
from random import Random

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rowwise import TINY, VARIANTS, execute, preset, variant, verdicts

from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.elementwise import ELEMENTWISE, Add, Cast, Dequantize, Mul, Quantize, Rope, SwiGlu

PRESETS = ["kpu-edge", "kpu-datacenter", "tpu-v4-like", "scale-sim", "kpu-many-small"]


def drawn(family, seed):
    """A random operator; None where `check` refuses it."""
    operator = family.draw(Random(seed))
    try:
        operator.check()
    except UserError:
        return None
    return operator


@settings(max_examples=50)
@given(st.sampled_from(ELEMENTWISE), st.integers(0, 2**32), st.sampled_from(VARIANTS))
def test_all_forms_are_right(family, seed, changes):
    operator = drawn(family, seed)
    if operator:
        execute(operator, variant(changes))


@pytest.mark.slow
@settings(max_examples=250)
@given(st.sampled_from(ELEMENTWISE), st.integers(0, 2**32), st.sampled_from(VARIANTS))
def test_all_forms_are_right_often(family, seed, changes):
    operator = drawn(family, seed)
    if operator:
        execute(operator, variant(changes))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("text", [
    "add(rows=9, columns=700)", "swiglu(rows=9, columns=70, packed=true)", "rope(rows=9, columns=256, head_dim=64)",
    "rope(rows=9, columns=64, head_dim=8, interleaved=true)",
    "quantize(rows=30, columns=64, out_dtype=int4, group=16)", "dequantize(rows=300, columns=20, axis=column)",
])  # fmt: skip
def test_every_machine(name, text):
    execute(make_operator(text), preset(name))


# --- number by number ------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x**3))),  # sqrt(2 / pi)
    "silu": lambda x: x / (1 + exp(-x)),
}


@pytest.mark.parametrize("family", FUNCTIONS)
def test_activations(family):
    operator = make_operator(f"{family}(rows=3, columns=4)")
    x = np.random.default_rng(0).standard_normal((3, 4)) * 4
    expected = [[FUNCTIONS[family](value) for value in row] for row in x]
    assert operator.reference({"x": x})["out"] == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize(("family", "function"), [("swiglu", "silu"), ("geglu", "gelu")])
@pytest.mark.parametrize("packed", ["true", "false"])
def test_gates(family, function, packed):
    operator = make_operator(f"{family}(rows=3, columns=4, packed={packed})")
    both = np.random.default_rng(1).standard_normal((3, 8))
    inputs = {"gate_up": both} if packed == "true" else {"gate": both[:, :4], "up": both[:, 4:]}
    assert {port.name: port.shape for port in operator.ports} == {
        **{name: values.shape for name, values in inputs.items()}, "out": (3, 4)
    }  # fmt: skip
    expected = [[FUNCTIONS[function](row[j]) * row[4 + j] for j in range(4)] for row in both]
    assert operator.reference(inputs)["out"] == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_turns_complex_numbers(interleaved):
    rope = Rope(3, 24, head_dim=8, interleaved=interleaved)
    rng = np.random.default_rng(2)
    x, angle = rng.standard_normal((3, 24)), rng.uniform(0, 6, (3, 4))
    out = rope.reference({"x": x, "cos": np.cos(angle), "sin": np.sin(angle)})["out"]

    def paired(values):  # [row, head, pair], as complex numbers
        heads = values.reshape(3, 3, 8)
        return heads[..., ::2] + 1j * heads[..., 1::2] if interleaved else heads[..., :4] + 1j * heads[..., 4:]

    assert paired(out) == pytest.approx(paired(x) * np.exp(1j * angle)[:, None])


@pytest.mark.parametrize("interleaved", [False, True])
def test_angles_of_positions(interleaved):
    rope = Rope(5, 24, head_dim=8, table=9, positions="8 0 3 3 8", interleaved=interleaved)
    inputs, results = execute(rope, preset(TINY))
    assert inputs["positions"].tolist() == [8, 0, 3, 3, 8]
    assert inputs["cos"].shape == (9, 4)
    rows = {"x": inputs["x"], **{name: inputs[name][[8, 0, 3, 3, 8]] for name in ("cos", "sin")}}
    expected = Rope(5, 24, head_dim=8, interleaved=interleaved).reference(rows)["out"]
    assert results["out"].astype(float) == pytest.approx(expected, rel=1 / 128, abs=1e-30)
    assert rope.compulsory_bytes == 2 * 5 * 24 * 2 + 5 * 4 + 2 * 3 * 4 * 4  # 3 rows of each table
    execute(Rope(70, 64, head_dim=16, table=1000, positions="uniform", seed=3), preset("kpu-edge"))


@pytest.mark.parametrize(("dtype", "most"), [("int8", 127), ("int4", 7), ("int2", 1)])
@pytest.mark.parametrize("group", [0, 8])
def test_quantised_rows(dtype, most, group):
    quantize = Quantize(4, 32, dtype="fp32", out_dtype=dtype, group=group)
    inputs, results = execute(quantize, preset(TINY))
    x = inputs["x"].reshape(4, -1, group or 32)
    scale = results["scale"].reshape(4, -1, 1)
    assert scale[..., 0] == pytest.approx(np.abs(x).max(axis=-1) / most, rel=1e-6)
    q = results["out"].astype(np.int64).reshape(x.shape)
    assert (np.abs(q).max(axis=-1) == most).all()
    assert (np.abs(x - q * scale) <= scale / 2 * 1.0001).all()


def test_rows_of_zeros_are_quantised():
    _, results = execute(Quantize(2, 16), preset(TINY), x=np.zeros((2, 16), ml_dtypes.bfloat16))
    assert not results["out"].any()
    assert (results["scale"] > 0).all()


def test_what_is_quantised_comes_back():
    inputs, results = execute(Quantize(6, 40, dtype="fp32", out_dtype="fp8_e4m3"), preset(TINY))
    back = Dequantize(6, 40, dtype="fp8_e4m3", out_dtype="fp32")
    _, found = execute(back, preset(TINY), x=results["out"], scale=results["scale"])
    assert found["out"] == pytest.approx(inputs["x"], rel=1 / 16, abs=0.02)  # 3 bits of mantissa


@pytest.mark.parametrize(("family", "a", "b", "expected"), [
    (Add, 100, 100, 127), (Add, -100, -100, -128), (Mul, 20, -20, -128), (Mul, 5, -7, -35),
])  # fmt: skip
def test_integers_saturate(family, a, b, expected):
    inputs = {name: np.full((1, 4), value, np.int8) for name, value in (("a", a), ("b", b))}
    _, results = execute(family(1, 4, dtype="int8"), preset(TINY), **inputs)
    assert (results["out"] == expected).all()


def test_casts():
    x = np.array([[1.9, -1.9, 300.0, -300.0, 0.3]], np.float32)
    _, results = execute(Cast(1, 5, out_dtype="int8"), preset(TINY), x=x)
    assert results["out"].tolist() == [[1, -1, 127, -128, 0]]
    _, results = execute(Cast(1, 5, out_dtype="fp8_e4m3"), preset(TINY), x=x * 2)
    assert results["out"].astype(float).tolist() == [[3.75, -3.75, 448, -448, 0.625]]


@pytest.mark.parametrize(("operator", "name", "change"), [
    (Add(3, 40, out_dtype="fp32"), "a", 1e-5), (SwiGlu(3, 40, out_dtype="fp32"), "up", 1e-3),
    (Rope(3, 40, head_dim=8, out_dtype="fp32"), "sin", 1e-4), (Dequantize(3, 40, out_dtype="fp32"), "scale", 1e-5),
])  # fmt: skip
def test_a_wrong_operand_is_more_than_the_tolerance(operator, name, change):
    inputs, results = execute(operator, preset(TINY))
    inputs[name] = inputs[name].astype(np.float64) + change
    assert not verdicts(operator, inputs, results)["out"].passed


@pytest.mark.parametrize(("text", "message"), [
    ("add(rows=1, columns=1, out_dtype=int8)", "real numbers do not become integers; found 'out_dtype=int8'"),
    ("rope(rows=1, columns=100)", "columns: a row is of whole heads; found 100; allowed: multiples of head_dim = 128"),
    ("rope(rows=1, columns=9, head_dim=9)", "head_dim: a head is of pairs; found 9; allowed: even numbers"),
    ("rope(rows=1, columns=128, positions=uniform)", "positions are of a table; found"),
    ("rope(rows=2, columns=128, table=4, positions='3 4')", "an index out of range; found '4, number 1"),
    ("quantize(rows=1, columns=9, out_dtype=int4)", "columns: a row of int4 ends within a byte; found 9"),
    ("quantize(rows=1, columns=9, group=2)", "group: a row is of whole groups; found 2; allowed: divisors of columns"),
    ("quantize(rows=1, columns=8, group=2, out_dtype=int2)", "group: a row of int2 ends within a byte; found 2"),
    ("dequantize(rows=1, columns=8, group=2, axis=column)", "a column's scale is of all of its rows; found 'group=2'"),
    ("gelu(rows=1, columns=1, dtype=int8)", "impossible dtype of gelu; found 'int8'; allowed: fp32, bf16, fp16, fp8"),
    ("swiglu(rows=1, columns=1, paked=true)", "did you mean 'packed'?"),
])  # fmt: skip
def test_contradictions_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(text)
    assert message in str(caught.value)
