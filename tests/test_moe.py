"""Routing, permutation and weighted sum of a mixture of experts, on data, under even and skewed loads."""

from math import exp
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import VARIANTS, execute, variant

from kpusim.errors import UserError
from kpusim.operators.moe import MoeCombine, Permute, TopkRouting

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


@settings(max_examples=50)
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


@settings(max_examples=50)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_tokens_are_sorted_by_expert(seed, changes):
    operator = possible(Permute, seed)
    inputs, outputs, _ = execute(operator, variant(changes))
    for row, token in enumerate(inputs["order"]):
        assert outputs["out"][row].tobytes() == inputs["x"][token].tobytes()


@settings(max_examples=50)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_results_are_added_up_by_token(seed, changes):
    operator = possible(MoeCombine, seed)
    inputs, outputs, _ = execute(operator, variant(changes))
    y, weights = inputs["y"].astype(np.float64), inputs["weights"].astype(np.float64)
    for token in range(operator.tokens):
        total = sum(weights[token, j] * y[inputs["places"][token, j]] for j in range(operator.k))
        assert np.allclose(outputs["out"][token].astype(np.float64), total, rtol=2e-2, atol=3e-2)
