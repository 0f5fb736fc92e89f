"""gather and gather_nd: rows by index, on data, of every width, list, dtype and machine."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import VARIANTS, drawn, execute, variant

from kpusim.operators.gather import Gather, GatherNd, Scatter, ScatterAdd

SEEDS = st.integers(0, 2**32)


@settings(max_examples=60)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_rows_are_gathered(seed, changes):
    gather = drawn(Gather, seed)
    inputs, outputs, _ = execute(gather, variant(changes))
    for i, row in enumerate(inputs["indices"]):  # as they are, to the bit
        assert outputs["out"][i].tobytes() == inputs["table"][row].tobytes()


@settings(max_examples=40)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_rows_are_gathered_by_coordinates(seed, changes):
    gather = drawn(GatherNd, seed)
    inputs, outputs, _ = execute(gather, variant(changes))
    tensor = inputs["table"].reshape(*gather.leading, gather.width)
    for i, place in enumerate(inputs["indices"]):
        assert outputs["out"][i].tobytes() == tensor[tuple(place)].tobytes()


@settings(max_examples=60)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_the_last_of_duplicates_stays(seed, changes):
    scatter = drawn(Scatter, seed)
    inputs, outputs, _ = execute(scatter, variant(changes))
    table = inputs["table"].copy()
    for row, values in zip(inputs["indices"], inputs["rows"], strict=True):
        table[row] = values
    assert outputs["table"].tobytes() == table.tobytes()


@settings(max_examples=60)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_all_duplicates_are_added(seed, changes):
    scatter = drawn(ScatterAdd, seed)
    inputs, outputs, _ = execute(scatter, variant(changes))
    kind = inputs["table"].dtype
    table = inputs["table"].copy()
    for row, values in zip(inputs["indices"], inputs["rows"], strict=True):  # in the order of the list, each rounded
        table[row] = (table[row].astype(np.float32) + values.astype(np.float32)).astype(kind)
    assert outputs["table"].tobytes() == table.tobytes()
