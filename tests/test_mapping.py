"""The mapping search: estimates held against the simulation, the choice against its runners-up."""

from math import exp, log
from random import Random

import pytest
from attrs import evolve
from gemms import DATACENTER, EDGE, TINY, plain_gemms, preset, variant
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.gemm import Gemm
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.search import mappings, search
from kpusim.operators.gemm.traffic import traffic
from kpusim.simulate.run import simulate

RUNNERS_UP = 20


def cycles(gemm, machine, mapping):
    return simulate(gemm.lower(machine, mapping=mapping).program, machine).cycles


def moved(run):
    return run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"]


# --- traffic ----------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(plain_gemms(96, steps=16), st.data())
def test_traffic_is_the_closed_form_where_runs_are_whole_accesses(gemm, data):
    tiny, problem = preset(TINY), gemm.problem
    access = tiny.hbm.access_bytes

    def whole(mapping):
        rows = mapping.block_n, mapping.block_m if gemm.transpose_a else mapping.block_k
        return all(row * 2 % access == 0 for row in rows) and mapping.block_n * problem.out_bytes % access == 0

    found = [each for each in mappings(problem, tiny) if whole(each)]
    assume(found)
    mapping = data.draw(st.sampled_from(found))
    run = simulate(gemm.lower(tiny, mapping=mapping).program, tiny)
    assert moved(run) == sum(traffic(mapping, problem, access).values())


@pytest.mark.parametrize(("name", "text"), [
    (DATACENTER, "gemm(m=1000, n=3000, k=2001)"),
    (EDGE, "gemm(m=700, n=900, k=1100, transpose_b=true)"),
    (EDGE, "gemm(m=333, n=1001, k=777, transpose_a=true)"),
    (TINY, "gemm(m=101, n=90, k=110)"),
    (DATACENTER, "gemm(m=64, n=1024, k=1024, b_dtype=int4, scale_group=128, bias=true, residual=true)"),
    (DATACENTER, "gemm(m=200, n=160, k=192, batch=12, column_scale=true)"),
    (EDGE, "grouped_gemm(groups=4, m=256, n=512, k=512, rows='zipf 1')"),
])  # fmt: skip
def test_traffic_of_every_form(name, text):
    gemm, machine = make_operator(text), preset(name)
    found = search(gemm.problem, machine)
    run = simulate(gemm.lower(machine).program, machine)
    assert moved(run) == pytest.approx(found.cost.hbm_bytes, rel=0.03)


def test_a_resident_operand_is_read_once():
    gemm, tiny = Gemm(64, 96, 32), preset(TINY)
    mapping = Mapping(2, 2, 8, 8, 8)
    a, b, out = 64 * 32 * 2, 32 * 96 * 2, 64 * 96 * 2
    rounds_m, rounds_n = 4, 6
    for resident, expected in (("", a * rounds_n + b * rounds_m), ("a", a + b * rounds_m), ("b", a * rounds_n + b)):
        run = simulate(gemm.lower(tiny, mapping=evolve(mapping, resident=resident)).program, tiny)
        assert moved(run) == expected + out


def test_scales_and_epilogue_are_traffic_too():
    gemm, tiny = make_operator("gemm(m=8, n=16, k=32, b_dtype=int8, scale_group=8, bias=true)"), preset(TINY)
    run = simulate(gemm.lower(tiny, mapping=Mapping(1, 2, 8, 8, 16)).program, tiny)
    assert moved(run) == 8 * 32 * 2 + 32 * 16 + 4 * 16 * 2 + 16 * 2 + 8 * 16 * 2


# --- cycles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text", "least", "most"), [
    (DATACENTER, "gemm(m=2048, n=4096, k=4096)", 0.97, 1.03),
    (DATACENTER, "gemm(m=1, n=14336, k=4096)", 0.97, 1.05),
    (DATACENTER, "gemm(m=32, n=14336, k=4096)", 0.97, 1.05),
    (DATACENTER, "gemm(m=1, n=1024, k=14336)", 0.95, 1.05),
    (DATACENTER, "gemm(m=1000, n=3000, k=2000)", 0.97, 1.05),
    (DATACENTER, "gemm(m=512, n=1024, k=1024, b_dtype=int4, scale_group=128)", 0.9, 1.1),
    (EDGE, "gemm(m=1024, n=1024, k=1024)", 0.95, 1.05),
    (EDGE, "gemm(m=512, n=1024, k=1024)", 0.95, 1.12),  # rows that share a bank are not in the estimate
    (EDGE, "gemm(m=1, n=4096, k=4096)", 0.95, 1.05),
    (EDGE, "gemm(m=700, n=900, k=1100)", 0.95, 1.1),
    (TINY, "gemm(m=128, n=128, k=128)", 0.95, 1.1),
    (TINY, "gemm(m=1, n=256, k=256)", 0.95, 1.1),
    ("tpu-v4-like", "gemm(m=2048, n=2048, k=2048)", 0.95, 1.05),
    ("kpu-many-small", "gemm(m=2048, n=2048, k=2048)", 0.9, 1.1),
])  # fmt: skip
def test_the_estimate_of_cycles(name, text, least, most):
    gemm, machine = make_operator(text), preset(name)
    found = search(gemm.problem, machine)
    assert least < cycles(gemm, machine, found.mapping) / found.cost.cycles < most


def shapes(seed, count, least, most):
    """Shapes with sizes spread evenly over their logarithms, half of the factors transposed."""
    random = Random(seed)

    def size():
        return round(exp(random.uniform(log(least), log(most))))

    flags = [False, True]
    return [
        Gemm(size(), size(), size(), transpose_a=random.choice(flags), transpose_b=random.choice(flags))
        for _ in range(count)
    ]


def regrets(machine, gemms):
    """For each GEMM: cycles of the chosen mapping over those of the best of it and its runners-up, all simulated."""
    for gemm in gemms:
        found = search(gemm.problem, machine)
        others = [mapping for mapping, _ in found.weighed if mapping != found.mapping][:RUNNERS_UP]
        chosen = cycles(gemm, machine, found.mapping)
        yield chosen / min(chosen, *(cycles(gemm, machine, mapping) for mapping in others))


def test_the_choice_is_near_the_best_of_its_runners_up():
    found = [*regrets(preset(EDGE), shapes(1, 12, 16, 512))]
    assert sum(found) / len(found) < 1.08
    assert max(found) < 1.25


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [(EDGE, 1024), (DATACENTER, 2048)])
def test_the_choice_among_100_shapes(name, most):
    """Most within 5 % of the best; where latencies decide, closed formulas do not tell apart what is near."""
    found = [*regrets(preset(name), shapes(7, 100, 16, most))]
    assert sum(regret <= 1.05 for regret in found) >= 70
    assert sum(found) / len(found) < 1.05
    assert max(found) < 1.45


# --- mappings that are forced ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "message"), [
    ({"grid_m": 3}, "the grid has more tiles than the machine; found 6; allowed: at most 4"),
    ({"block_k": 0}, "block_k is too small; found 0; allowed: at least 1"),
    ({"block_m": 64, "block_n": 64}, "its buffers do not fit into a tile's SRAM; found '"),
    ({"grid_batch": 2, "grid_m": 1}, "grid_batch is more than there are entries; found 2; allowed: at most 1"),
    ({"grid_k": 2, "grid_m": 1, "block_k": 32}, "block_k leaves parts of K empty, or scales in parts; found 32"),
    ({"resident": "c"}, "this operand cannot be resident here; found 'c'; allowed: '' or 'a' or 'b'"),
    ({"resident": "b", "block_m": 16}, "this operand cannot be resident here; found 'b'; allowed: '' or 'a' with"),
])  # fmt: skip
def test_an_impossible_mapping_is_one_message(changes, message):
    mapping = evolve(Mapping(2, 2, 8, 8, 8), **changes)
    with pytest.raises(UserError) as caught:
        Gemm(32, 32, 32).lower(preset(TINY), mapping=mapping)
    assert f"kpu-tiny: this mapping cannot run: {message}" in str(caught.value)


def test_resident_operands_need_a_fourth_queue():
    with pytest.raises(UserError, match="too few queues; found 'dma.queues = 3'; allowed: at least 4"):
        Gemm(32, 32, 32).lower(variant("dma.queues=3"), mapping=Mapping(2, 2, 8, 8, 8, resident="a"))


def test_a_forced_mapping_is_told_as_such():
    lowered = Gemm(32, 32, 32).lower(preset(TINY), mapping=Mapping(2, 2, 8, 8, 8))
    assert [each.why for each in lowered.tried] == ["forced"]
    assert ("weighed", "nothing", "it is forced") in lowered.choices


def test_what_was_tried_is_told():
    lowered = Gemm(512, 1024, 1024).lower(preset(EDGE))
    assert [each.cycles for each in lowered.tried] == sorted(each.cycles for each in lowered.tried)
    assert sum(each.why.startswith("chosen") for each in lowered.tried) == 1
    kinds = " ".join(each.mapping for each in lowered.tried)
    assert "A resident" in kinds and len(lowered.tried) > 8
