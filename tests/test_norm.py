"""RMSNorm, LayerNorm, BatchNorm and softmax: on data, and against what is written out number by number."""

from math import erf, exp, fsum, sqrt
from random import Random

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rowwise import TINY, VARIANTS, execute, preset, variant, verdicts

from kpusim.api import verify
from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.norm import NORMS, BatchNorm, LayerNorm, RmsNorm, Softmax
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.simulate.run import simulate

PRESETS = ["kpu-edge", "kpu-datacenter", "tpu-v4-like", "scale-sim", "kpu-many-small"]


@settings(max_examples=20)
@given(st.sampled_from(NORMS), st.integers(0, 2**32), st.sampled_from(VARIANTS))
def test_all_forms_are_right(family, seed, changes):
    execute(family.draw(Random(seed)), variant(changes))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(NORMS), st.integers(0, 2**32), st.sampled_from(VARIANTS))
def test_all_forms_are_right_often(family, seed, changes):
    execute(family.draw(Random(seed)), variant(changes))


@pytest.mark.parametrize("family", ["rmsnorm", "layernorm"])
def test_each_output_tells_where_its_tolerance_comes_from(family):
    """The sum is an addition, out what follows from it."""
    origins = {
        each.output: each.verdict.tolerance_origin
        for each in verify(f"{family}(rows=9, columns=70, residual=true)", "kpu-tiny")
    }
    assert origins["sum"] == "one rounding of x + residual in fp32 + u of bf16 = 0.00391"
    assert origins["out"].startswith("gamma_n of the mean")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("text", [
    "rmsnorm(rows=9, columns=70, residual=true)", "layernorm(rows=300, columns=33, activation=gelu)",
    "batchnorm(rows=70, columns=300, activation=relu)", "softmax(rows=9, columns=70, batch=3, mask=causal)",
])  # fmt: skip
def test_every_machine(name, text):
    execute(make_operator(text), preset(name))


@pytest.mark.parametrize("operator", [
    RmsNorm(3, 2100, bias=True, activation="silu"), LayerNorm(2, 2100, out_dtype="fp8_e4m3"), BatchNorm(3, 2100),
    LayerNorm(2, 2100, passes="one", residual=True), Softmax(3, 2100, mask="causal"),
    Softmax(3, 2100, mask="causal", passes="one", scale=0.5),
], ids=str)  # fmt: skip
def test_rows_longer_than_an_sram(operator):
    execute(operator, preset(TINY))


# --- number by number ------------------------------------------------------------------------------------------------


def gelu(x):
    return x * (1 + erf(x / sqrt(2))) / 2


def drawn(operator, seed=0):
    rng = np.random.default_rng(seed)
    return {port.name: rng.standard_normal(port.shape) for port in operator.ports if port.role == "in"}


def test_rmsnorm():
    norm = RmsNorm(3, 5, bias=True, residual=True, activation="gelu", eps=0.1)
    assert [port.name for port in norm.ports] == ["x", "residual", "weight", "bias", "sum", "out"]
    inputs = drawn(norm)
    result = norm.reference(inputs)
    for row in range(3):
        h = [inputs["x"][row, j] + inputs["residual"][row, j] for j in range(5)]
        assert result["sum"][row] == pytest.approx(h)
        root = sqrt(fsum(value * value for value in h) / 5 + 0.1)
        expected = [gelu(h[j] / root * inputs["weight"][j] + inputs["bias"][j]) for j in range(5)]
        assert result["out"][row] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("passes", ["one", "two"])
def test_layernorm(passes):
    norm = LayerNorm(3, 7, passes=passes, eps=0.01)
    inputs = drawn(norm)
    for row, result in zip(inputs["x"], norm.reference(inputs)["out"], strict=True):
        mean = fsum(row) / 7
        deviation = sqrt(fsum((value - mean) ** 2 for value in row) / 7 + 0.01)
        expected = [(row[j] - mean) / deviation * inputs["weight"][j] + inputs["bias"][j] for j in range(7)]
        assert result == pytest.approx(expected, abs=1e-12)


def test_batchnorm():
    norm = BatchNorm(4, 3, activation="relu")
    inputs = drawn(norm)
    result = norm.reference(inputs)["out"]
    assert (inputs["variance"] < 0).any()
    for i, j in np.ndindex(4, 3):
        factor = inputs["weight"][j] / sqrt(max(inputs["variance"][j], 0) + 1e-5)
        expected = max((inputs["x"][i, j] - inputs["mean"][j]) * factor + inputs["bias"][j], 0)
        assert result[i, j] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 6), (6, 2)])
def test_softmax(rows, columns):
    softmax = Softmax(rows, columns, batch=2, mask="causal", scale=0.5)
    inputs = drawn(softmax)
    result = softmax.reference(inputs)["out"]
    for b, i in np.ndindex(2, rows):
        seen = range(max(columns - rows + i + 1, 0))  # queries are the last of the keys
        powers = [exp(0.5 * inputs["x"][b, i, j]) for j in seen]
        expected = [power / fsum(powers) for power in powers] + [0.0] * (columns - len(powers))
        assert result[b, i] == pytest.approx(expected, abs=1e-12)


# --- what must not go wrong ------------------------------------------------------------------------------------------


def test_what_is_masked_is_not_read():
    machine, softmax = variant("sram.capacity=16KiB"), Softmax(48, 64, batch=2, mask="causal")
    mapping = Mapping(4, 1, 8, 64)
    execute(softmax, machine, mapping)
    counters = simulate(softmax.lower(machine, mapping=mapping).program, machine).counters
    seen = [24, 32, 40, 48, 56, 64]  # by the last row of each block
    assert counters["hbm.read_bytes"] == 2 * sum(8 * columns * 2 for columns in seen)
    assert counters["hbm.write_bytes"] == 2 * 48 * 64 * 2
    assert counters["vector.exp"] == 2 * sum(8 * columns for columns in seen)
    assert softmax.compulsory_bytes == 2 * (sum(range(17, 65)) + 48 * 64) * 2
    assert softmax.vector_work["exp"] == 2 * sum(range(17, 65))


@pytest.mark.parametrize(("exponentials", "columns", "loads", "powers"), [
    ("", 64, 1, 1), ("again", 64, 1, 2), ("kept", 64, 1, 1), ("", 16, 3, 2), ("again", 16, 3, 2), ("kept", 16, 2, 1),
])  # fmt: skip
def test_exponentials_are_kept_or_computed_again(exponentials, columns, loads, powers):
    """For the greatest, for the sum, and where they are not kept for the quotient, of rows in pieces."""
    machine, softmax = variant("sram.capacity=16KiB"), Softmax(24, 64, scale=0.5, exponentials=exponentials)
    mapping = Mapping(4, 1, 2, columns, 2, 2)
    execute(softmax, machine, mapping)
    counters = simulate(softmax.lower(machine, mapping=mapping).program, machine).counters
    assert counters["hbm.read_bytes"] == loads * 24 * 64 * 2
    assert counters["vector.exp"] == powers * 24 * 64


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize("columns", [12, 900])
def test_softmax_of_large_numbers(passes, columns):
    softmax = Softmax(3, columns, dtype="fp32", out_dtype="fp32", passes=passes)
    x = np.random.default_rng(0).standard_normal((3, columns)).astype(np.float32) * 1e37
    x[1, 4], x[2] = 3.4e38, -3.4e38
    _, results = execute(softmax, preset(TINY), x=x)
    out = results["out"].astype(float)
    assert np.isfinite(out).all()
    assert out.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    assert out[1, 4] == 1.0


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize("columns", [5, 40])
def test_rows_that_see_nothing_become_zeros(passes, columns):
    softmax = Softmax(columns + 3, columns, mask="causal", passes=passes)
    in_pieces = Mapping(4, 1, 2, 16, 3, 2, 2) if columns > 16 else None
    _, results = execute(softmax, preset(TINY), in_pieces)
    out = results["out"].astype(float)
    assert not out[:3].any()
    assert out[3:].sum(axis=-1) == pytest.approx(1, abs=0.05)


def test_a_large_mean_costs_one_pass_its_digits():
    x = (np.random.default_rng(1).standard_normal((2, 64)) + 1000).astype(np.float32)
    bounds = {}
    for passes in ("one", "two"):
        norm = LayerNorm(2, 64, dtype="fp32", out_dtype="fp32", passes=passes, weight=False, bias=False)
        inputs, results = execute(norm, preset(TINY), x=x)
        bounds[passes] = np.abs(results["out"] - norm.reference(inputs)["out"]).max()
    assert bounds["one"] > 5 * bounds["two"]


@pytest.mark.parametrize("x", [0.0, 1e4])
@pytest.mark.parametrize("passes", ["one", "two"])
def test_rows_without_variance(x, passes):
    norm = LayerNorm(2, 40, dtype="fp32", out_dtype="fp32", passes=passes)
    _, results = execute(norm, preset(TINY), x=np.full((2, 40), x, np.float32))
    assert np.isfinite(results["out"]).all()


@pytest.mark.parametrize(("operator", "name", "change"), [
    (RmsNorm(4, 50, out_dtype="fp32"), "weight", 1e-3), (LayerNorm(4, 50, out_dtype="fp32"), "bias", 1e-3),
    (RmsNorm(4, 50, out_dtype="fp32", residual=True), "residual", 1e-3),
    (LayerNorm(4, 50, out_dtype="fp32", passes="one"), "x", np.linspace(0, 1e-3, 50)),
    (BatchNorm(4, 50, out_dtype="fp32"), "mean", 1e-3), (Softmax(4, 50, out_dtype="fp32"), "x", np.eye(1, 50) * 1e-3),
])  # fmt: skip
def test_a_wrong_operand_is_more_than_the_tolerance(operator, name, change):
    inputs, results = execute(operator, preset(TINY))
    inputs[name] = inputs[name].astype(np.float64) + change
    assert not verdicts(operator, inputs, results)["out"].passed


def test_the_sum_with_a_residual_is_written():
    norm = RmsNorm(5, 12, residual=True)
    inputs, results = execute(norm, preset(TINY))
    total = inputs["x"].astype(np.float32) + inputs["residual"].astype(np.float32)
    assert (results["sum"] == total.astype(inputs["x"].dtype)).all()
    assert [port.name for port in attrs.evolve(norm, residual=False).ports] == ["x", "weight", "out"]


@pytest.mark.parametrize(("text", "message"), [
    ("rmsnorm(rows=1, columns=1, eps=0)", "impossible eps of rmsnorm; found 0; allowed: > 0"),
    ("layernorm(rows=1, columns=1, passes=three)", "impossible passes of layernorm; found 'three'; allowed: one, two"),
    ("layernorm(rows=1, columns=1, dtype=int8)", "impossible dtype of layernorm; found 'int8'; allowed: fp32, bf16"),
    ("softmax(rows=1, columns=1, mask=casual)", "did you mean 'causal'?"),
    ("softmax(rows=1, columns=1, exponentials=kept, passes=one)", "exponentials change; found 'kept'"),
    ("softmax(rows=0, columns=1)", "impossible rows of softmax; found 0; allowed: >= 1"),
    ("batchnorm(rows=1, columns=1, residual=true)", "batchnorm has no such parameter; found 'residual'"),
])  # fmt: skip
def test_contradictions_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(text)
    assert message in str(caught.value)
