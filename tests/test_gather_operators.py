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
from kpusim.operators.gather.schedule import schedule, stripes_of
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
    kind, most = inputs["table"].dtype, scatter.lower(variant(changes)).mapping.rows
    listed_ = inputs["indices"].tolist()
    table = inputs["table"].copy()
    for row, values in zip(inputs["indices"], inputs["rows"], strict=True):  # in the order of the list, each rounded
        table[row] = (table[row].astype(np.float32) + values.astype(np.float32)).astype(kind)
    for row in range(scatter.entries):
        if listed_.count(row) <= most:  # else summed in fp32, and compared with its bound
            assert outputs["table"][row].tobytes() == table[row].tobytes()


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
STRIPES = ((0, 3), (3, 3), (6, 1))


@given(LISTS, st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_no_two_lanes_write_the_same_place(rows, size, lanes, add):
    plan = schedule(tuple(rows), size, lanes, STRIPES if add else (), size + 2)
    wanted = range(len(rows)) if add else [len(rows) - 1 - rows[::-1].index(row) for row in set(rows)]
    assert sorted(plan.order) == sorted(wanted)
    written = []
    for blocks in plan.lanes:
        summed: list[int] = []
        for block in blocks:
            here = [rows[position] for position in plan.order[block.first : block.first + block.many]]
            assert 1 <= len(here) <= size + 2 * block.hot
            if not block.hot:
                assert not summed
                written += [(row, column) for row in set(here) for column in range(7)]
                continue
            assert len(set(here)) == 1
            assert bool(summed) != bool(block.begins)
            summed += here
            if block.ends:
                assert len(summed) == rows.count(here[0]) > size
                written += [(here[0], block.left + column) for column in range(block.wide)]
                summed = []
        assert not summed
    assert sorted(written) == [(row, column) for row in sorted(set(rows)) for column in range(7)]


@given(LISTS, st.integers(1, 9), st.integers(1, 5))
def test_duplicates_are_added_in_the_order_of_the_list(rows, size, lanes):
    order = schedule(tuple(rows), size, lanes, STRIPES, size).order
    for row in set(rows):
        places = [position for position in order if rows[position] == row]
        assert places == sorted(places)


def test_a_list_without_duplicates_stays_as_it_is():
    for stripes in ((), STRIPES):
        plan = schedule((4, 2, 9, 0, 7), 2, 2, stripes)
        assert plan.order == (0, 1, 2, 3, 4)
        assert [[(block.first, block.many) for block in blocks] for blocks in plan.lanes] == [
            [(0, 2), (4, 1)],
            [(2, 2)],
        ]


@pytest.mark.parametrize(("width", "most", "unit", "lanes", "stripes"), [
    (100, 100, 32, 3, ((0, 64), (64, 36))),
    (100, 100, 32, 8, ((0, 32), (32, 32), (64, 32), (96, 4))),
    (100, 40, 32, 1, ((0, 40), (40, 40), (80, 20))),
    (3, 3, 32, 4, ((0, 3),)),
])  # fmt: skip
def test_stripes(width, most, unit, lanes, stripes):
    assert stripes_of(width, most, unit, lanes) == stripes


@pytest.mark.parametrize(("count", "block", "hot"), [(6, 6, False), (6, 4, True), (400, 5, True)])
def test_one_hot_row(count, block, hot):
    """All duplicates of one row, more than a block: summed on chip, written once."""
    scatter = ScatterAdd(entries=3, width=24, count=count, indices=" ".join(["1"] * count), dtype="fp32")
    mapping = Mapping(3, block, 24, 2)
    program = scatter.lower(preset(TINY), mapping=mapping).program
    assert ("vector" in {section.unit for section in program.sections}) == hot
    _, _, run = execute(scatter, preset(TINY), mapping=mapping)
    assert run.counters["hbm.write_bytes"] == (96 if hot else count * 96)


def test_writing_without_order_is_a_hazard():
    """The same row in blocks of two lanes."""
    scatter = ScatterAdd(entries=8, width=64, count=8, indices="0 1 2 3 4 5 6 7", dtype="fp32")
    program = scatter.lower(preset(TINY)).program
    tables = tuple(evolve(table, values=(0,) * 8) if table.name in ("targets", "listed") else table
                   for table in program.tables)  # fmt: skip
    program = evolve(program, tables=tables)
    executor = Executor(program, preset(TINY), random_inputs(program, 1))
    with pytest.raises(HazardError, match="before it is written|while it is written"):
        simulate(program, preset(TINY), plain=True, watcher=executor)
