"""Operators by index: rows gathered and scattered, on data, of every width, list, dtype and machine."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import TINY, VARIANTS, drawn, execute, preset, variant

from kpusim.function import Executor, random_inputs
from kpusim.function.hazards import HazardError
from kpusim.operators.gather import Gather, GatherNd, Scatter, ScatterAdd
from kpusim.operators.gather.listed import listed
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.schedule import schedule
from kpusim.simulate.run import simulate

SEEDS = st.integers(0, 2**32)


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_rows_are_gathered(seed, changes):
    gather = drawn(Gather, seed)
    inputs, outputs, _ = execute(gather, variant(changes))
    for i, row in enumerate(inputs["indices"]):  # as they are, to the bit
        assert outputs["out"][i].tobytes() == inputs["table"][row].tobytes()


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_rows_are_gathered_by_coordinates(seed, changes):
    gather = drawn(GatherNd, seed)
    inputs, outputs, _ = execute(gather, variant(changes))
    tensor = inputs["table"].reshape(*gather.leading, gather.width)
    for i, place in enumerate(inputs["indices"]):
        assert outputs["out"][i].tobytes() == tensor[tuple(place)].tobytes()


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_the_last_of_duplicates_stays(seed, changes):
    scatter = drawn(Scatter, seed)
    inputs, outputs, _ = execute(scatter, variant(changes))
    table = inputs["table"].copy()
    for row, values in zip(inputs["indices"], inputs["rows"], strict=True):
        table[row] = values
    assert outputs["table"].tobytes() == table.tobytes()


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(VARIANTS))
def test_all_duplicates_are_added(seed, changes):
    scatter = drawn(ScatterAdd, seed)
    inputs, outputs, _ = execute(scatter, variant(changes))
    kind = inputs["table"].dtype
    table = inputs["table"].copy()
    for row, values in zip(inputs["indices"], inputs["rows"], strict=True):  # in the order of the list, each rounded
        table[row] = (table[row].astype(np.float32) + values.astype(np.float32)).astype(kind)
    assert outputs["table"].tobytes() == table.tobytes()


# --- lists and schedules ----------------------------------------------------------------------------------------------


def test_lists_are_drawn():
    assert listed("3, 0 5", 3, 6, 0) == (3, 0, 5)
    assert listed("sequential", 5, 3, 0) == (0, 1, 2, 0, 1)
    uniform = listed("uniform", 1000, 10, 1)
    assert set(uniform) == set(range(10)) and uniform != listed("uniform", 1000, 10, 2)
    assert uniform == listed("uniform", 1000, 10, 1)
    assert listed("sorted", 1000, 10, 1) == tuple(sorted(listed("sorted", 1000, 10, 1)))
    assert sorted(listed("permutation", 10, 10, 3)) == [*range(10)]
    assert len(set(listed("duplicates", 800, 10**6, 1))) <= 100
    zipf = listed("zipf 1", 110_000, 10, 1)  # row 0 in 1 / (1 + 1/2 + ... + 1/10) = 34.1 % of all
    assert zipf.count(0) / len(zipf) == pytest.approx(0.3414, abs=0.005)
    assert zipf.count(0) / zipf.count(4) == pytest.approx(5, rel=0.05)


LISTS = st.lists(st.integers(0, 30), min_size=1, max_size=80)


@given(LISTS, st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_no_two_lanes_write_the_same_row(rows, block, lanes, add):
    plan = schedule(tuple(rows), block, lanes, add=add)
    wanted = range(len(rows)) if add else [len(rows) - 1 - rows[::-1].index(row) for row in set(rows)]
    assert sorted(plan.order) == sorted(wanted)
    written: dict[int, int] = {}
    for lane, blocks in enumerate(plan.lanes):
        before: set[int] = set()
        positions = []
        for number, (start, many, again) in enumerate(blocks):
            assert 1 <= many <= block
            here = plan.order[start : start + many]
            positions += here
            assert all(written.setdefault(rows[position], lane) == lane for position in here)
            mine = {rows[position] for position in here}
            if mine & before:
                assert blocks[number - 1][2], "the block before is not waited for"
            before |= mine
            assert not again or number + 1 < len(blocks)
        for row in set(rows):  # duplicates in the order of the list
            places = [position for position in positions if rows[position] == row]
            assert places == sorted(places)
    assert sum(many for blocks in plan.lanes for _, many, _ in blocks) == len(plan.order)


def test_a_list_without_duplicates_stays_as_it_is():
    for add in (False, True):
        plan = schedule((4, 2, 9, 0, 7), 2, 2, add=add)
        assert plan.order == (0, 1, 2, 3, 4)
        assert plan.lanes == (((0, 2, 0), (4, 1, 0)), ((2, 2, 0),))


@pytest.mark.parametrize(("count", "block", "waits"), [(6, 6, False), (6, 4, True), (400, 12, True)])
def test_one_hot_row(count, block, waits):
    """All duplicates of one row, more than a block: one lane, block after block."""
    scatter = ScatterAdd(entries=3, width=24, count=count, indices=" ".join(["1"] * count), dtype="fp32")
    mapping = Mapping(1, block, 24)
    program = scatter.lower(preset(TINY), mapping=mapping).program
    assert any(semaphore.name == "settled" for semaphore in program.semaphores) == waits
    execute(scatter, preset(TINY), mapping=mapping)


def test_a_lane_that_does_not_wait_is_a_hazard():
    scatter = ScatterAdd(entries=3, width=24, count=400, indices=" ".join(["1"] * 400), dtype="fp32")
    program = scatter.lower(preset(TINY)).program
    tables = tuple(evolve(table, values=(0,) * len(table.values)) if table.name == "again" else table
                   for table in program.tables)  # fmt: skip
    program = evolve(program, tables=tables)
    executor = Executor(program, preset(TINY), random_inputs(program, 1))
    with pytest.raises(HazardError, match="before it is written|while it is written"):
        simulate(program, preset(TINY), plain=True, watcher=executor)
