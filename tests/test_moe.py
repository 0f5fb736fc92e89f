"""Routing, permutation and weighted sum of a mixture of experts, on data, under even and skewed loads."""

from math import exp
from random import Random

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from listings import EDGE, MACHINES, TINY, VARIANTS, execute, preset, variant

from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.operators import make_operator, text_of
from kpusim.operators.gemm.groups import group_rows
from kpusim.operators.moe import MoeCombine, Permute, TopkRouting
from kpusim.operators.moe.assumed import routing
from kpusim.operators.moe.permute import LOADS
from kpusim.simulate.run import simulate

SEEDS = st.integers(0, 2**32)


def possible(family, seed):
    """A random operator whose load is not too uneven for its tokens."""
    random = Random(seed)
    for _ in range(50):
        operator = family.draw(random)
        try:
            operator.check()
        except UserError:
            continue
        return operator
    raise AssertionError("nothing that is possible")


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_the_greatest_scores_are_chosen(seed, changes):
    operator = possible(TopkRouting, seed)
    inputs, outputs, _ = execute(operator, variant(changes))
    for scores, weights, chosen in zip(inputs["scores"], outputs["weights"], outputs["chosen"], strict=True):
        values = [float(value) for value in scores]
        best = sorted(range(len(values)), key=lambda expert: (-values[expert], expert))[: operator.k]
        assert chosen.tolist() == best
        counted = values if operator.softmax == "before" else [values[expert] for expert in best]
        total = sum(exp(value) for value in counted)
        for weight, expert in zip(weights, best, strict=True):
            close = {"fp32": 1e-5, "bf16": 2**-8, "fp16": 2**-10}[operator.out_dtype]
            assert abs(float(weight) - exp(values[expert]) / total) <= close


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_tokens_are_sorted_by_expert(seed, changes):
    operator = possible(Permute, seed)
    inputs, outputs, _ = execute(operator, variant(changes))
    for row, token in enumerate(inputs["order"]):
        assert outputs["out"][row].tobytes() == inputs["x"][token].tobytes()


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_results_are_added_up_by_token(seed, changes):
    operator = possible(MoeCombine, seed)
    inputs, outputs, _ = execute(operator, variant(changes))
    y, weights = inputs["y"].astype(np.float64), inputs["weights"].astype(np.float64)
    for token in range(operator.tokens):
        total = sum(weights[token, j] * y[inputs["places"][token, j]] for j in range(operator.k))
        assert np.allclose(outputs["out"][token].astype(np.float64), total, rtol=2e-2, atol=3e-2)


# --- the assumed routing ----------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.sampled_from(LOADS), SEEDS)
def test_a_routing_is_one(tokens, experts, k, load, seed):
    rows = group_rows(load, experts, tokens * k)
    assume(max(rows) <= tokens)
    found = routing(tokens, experts, k, load, seed)
    first, chosen = 0, [set() for _ in range(tokens)]
    for expert, many in enumerate(rows):  # rows of each expert as of grouped_gemm, tokens ascending, none twice
        mine = found.order[first : first + many]
        assert sorted(set(mine)) == list(mine)
        for token in mine:
            chosen[token].add(expert)
        first += many
    assert all(len(each) == k for each in chosen)
    assert sorted(found.places) == list(range(tokens * k))
    assert all(found.order[place] == number // k for number, place in enumerate(found.places))


def test_an_expert_without_tokens():
    load = "3 0 4 0 1"
    permute = Permute(tokens=4, width=20, experts=5, k=2, load=load, seed=1)
    execute(permute, preset(TINY))
    assert permute.selection.count == 8
    execute(MoeCombine(4, 20, 2, experts=5, load=load, seed=1), preset(TINY))


def test_seeds_differ():
    assert routing(40, 8, 2, "even", 1) != routing(40, 8, 2, "even", 2)


# --- work and traffic -------------------------------------------------------------------------------------------------


def test_large_scores_and_equal_ones():
    operator = TopkRouting(tokens=3, experts=5, k=3, softmax="before")
    scores = np.array([[1e4, 1e4, -1e4, 0, 1e4], [7, 7, 7, 7, 7], [-88, 88, 0, 87.5, 1e30]], np.float32)
    _, outputs, _ = execute(operator, preset(TINY), {"scores": scores})
    assert outputs["chosen"].tolist() == [[0, 1, 4], [0, 1, 2], [4, 1, 3]]
    expected = [[1 / 3] * 3, [0.2] * 3, [1, 0, 0]]
    assert np.allclose(outputs["weights"], expected, atol=1e-6)
    assert operator.error_bound({"scores": scores})["weights"].max() < 2e-5


def test_weights_add_up_to_one_after_the_choice():
    _, outputs, _ = execute(TopkRouting(50, 16, 4), preset(TINY))
    assert np.allclose(outputs["weights"].sum(axis=1), 1, atol=1e-6)
    _, outputs, _ = execute(TopkRouting(50, 16, 4, softmax="before"), preset(TINY))
    assert (outputs["weights"].sum(axis=1) < 1).all()


@pytest.mark.parametrize(("text", "compulsory"), [
    ("topk_routing(tokens=10, experts=8, k=2)", 10 * 8 * 4 + 10 * 2 * 4 * 2),
    ("permute(tokens=10, width=16, experts=4, k=2)", 10 * 32 + 20 * 4 + 20 * 32),
    ("moe_combine(tokens=10, width=16, k=2)", 20 * 32 + 20 * 4 * 2 + 10 * 32),
])  # fmt: skip
def test_bytes_that_must_move(text, compulsory):
    operator = make_operator(text)
    assert operator.compulsory_bytes == compulsory
    assert make_operator(text_of(operator)) == operator


def test_rows_of_both_are_read_once():
    machine = preset(EDGE)
    permute = Permute(tokens=64, width=512, experts=8, k=2)
    counters = simulate(permute.lower(machine).program, machine).counters
    assert counters["hbm.write_bytes"] == 128 * 1024
    assert 128 * 1024 + 512 <= counters["hbm.read_bytes"] <= 128 * 1024 + 128 * 64  # and indices
    combine = MoeCombine(tokens=64, width=512, k=2)
    counters = simulate(combine.lower(machine).program, machine).counters
    assert counters["hbm.write_bytes"] == 64 * 1024
    assert 128 * 1024 + 1024 <= counters["hbm.read_bytes"] <= 128 * 1024 + 128 * 64


# --- machines, mappings, messages -------------------------------------------------------------------------------------

TEXTS = [
    "topk_routing(tokens=70, experts=60, k=6, softmax=before, dtype=bf16)",
    "permute(tokens=33, width=300, experts=8, k=3, load='zipf 0.5')",
    "moe_combine(tokens=33, width=300, k=3, out_dtype=fp32)",
]


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("text", TEXTS)
def test_every_machine_runs_it(name, text):
    execute(make_operator(text), preset(name))


@pytest.mark.parametrize("text", TEXTS)
def test_mappings_can_be_forced(text):
    operator, machine = make_operator(text), preset(TINY)
    lowered = operator.lower(machine)
    assert operator.lower(machine, mapping=lowered.mapping).program == lowered.program


def test_sums_of_rows_longer_than_an_sram():
    combine = MoeCombine(tokens=3, width=5000, k=2, experts=4)
    mapping = combine.lower(preset(TINY)).mapping
    assert mapping.rows == 1 and mapping.columns < 512
    execute(combine, preset(TINY))


@pytest.mark.parametrize(("text", "message"), [
    ("topk_routing(tokens=3, experts=4, k=5)", "more are chosen than there are; found 'k=5'; allowed: at most "
     "experts = 4"),
    ("permute(tokens=4, width=8, k=9)", "more are chosen than there are; found 'k=9'; allowed: at most experts = 8"),
    ("moe_combine(tokens=4, width=8, k=9, experts=3)", "found 'k=9'; allowed: at most experts = 3"),
    ("topk_routing(tokens=3, experts=4, k=2, softmax=befor)", "did you mean 'before'?"),
    ("permute(tokens=3, width=4, experts=4, k=2, load='zipf 3')", "an expert gets a token twice; found '5 rows"),
    ("moe_combine(tokens=3, width=4, k=2, experts=2, load='3 4')", "allowed: 2 that add up to"),
    ("moe_combine(tokens=3, width=4, k=2, load='some')", "impossible rows; found 'some'"),
])  # fmt: skip
def test_contradictions_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(text)
    assert message in str(caught.value)


def test_the_layer_in_the_workload_is_right():
    symbols = [word for name in ("hidden=64", "intermediate=96", "tokens=6") for word in ("--symbol", name)]
    words = ["run", "mixtral-moe-layer", *symbols, "-m", "kpu-tiny", "--verify", "--no-trace"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("agrees with its float64 reference") == 12  # two of routing; one of both swiglu
