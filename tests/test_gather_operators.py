"""gather and gather_nd: rows by index, on data, of every width, list, dtype and machine."""

from hypothesis import given, settings
from hypothesis import strategies as st
from listings import VARIANTS, drawn, execute, variant

from kpusim.operators.gather import Gather, GatherNd

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
