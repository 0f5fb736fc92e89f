"""Attention whose items are dealt as thread blocks are: on data, in order, and launched ones not before one ended."""

import heapq

import pytest
from gemms import preset, variant
from test_attention import execute

from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.attention.items import schedule
from kpusim.operators.attention.mapping import Mapping
from kpusim.simulate.run import simulate

CAUSAL = "attention(queries=40, keys=56, head_dim=8, heads=3, batch=2, mask=causal)"
ROPE = "attention(queries=20, keys=20, head_dim=8, heads=3, rope=qk)"
SHARED = "mla(queries=5, keys=24, heads=1, latent=16, rope_dim=4)"
FORMS = [CAUSAL, ROPE, SHARED]


@pytest.mark.parametrize("order", ["numbered", "launched"])
@pytest.mark.parametrize("kind", ["flash", "pipelined"])
@pytest.mark.parametrize("text", FORMS)
def test_results_are_those_of_the_reference_in_both_modes(text, kind, order):
    execute(make_operator(text), variant("sram.capacity=16KiB"), Mapping(kind, 8, 1, 1, 8, order=order))


@pytest.mark.parametrize("order", ["numbered", "launched"])
def test_items_go_in_order_to_whoever_is_done_first(order):
    problem, tiles = make_operator(CAUSAL).problem, 4
    found = schedule(problem, Mapping("flash", 8, 1, 1, 8, order=order), tiles)
    free = [(0, tile, ()) for tile in range(tiles)]
    for entry in range(6):
        for row in range(0, 40, 8):
            until, tile, items = heapq.heappop(free)
            heapq.heappush(free, (until + (row + 24) // 8, tile, (*items, (entry, row))))
    expected = [items for _, _, items in sorted(free, key=lambda each: each[1])]
    assert [tuple((item.entry, item.row) for item in items) for items in found.streams] == expected


@pytest.mark.parametrize("kind", ["flash", "pipelined"])
def test_an_item_begins_when_the_one_before_has_ended(kind):
    machine = variant("tiles.rows=1 tiles.columns=1 sram.capacity=16KiB hbm.refresh_interval=1ms")
    cycles = {}
    for order in ("launched", "numbered"):
        for heads in (1, 5):
            operator = make_operator(f"attention(queries=8, keys=8, head_dim=8, heads={heads})")
            mapping = Mapping(kind, 8, 1, 1, 8, order=order)
            cycles[order, heads] = simulate(operator.lower(machine, mapping=mapping).program, machine).cycles
    assert cycles["launched", 1] == cycles["numbered", 1]
    assert cycles["launched", 5] == pytest.approx(5 * cycles["launched", 1], rel=0.1)
    assert cycles["numbered", 5] < 0.85 * cycles["launched", 5]


@pytest.mark.parametrize(
    ("order", "tiles", "problem"), [("launched", 2, "items are launched in single tiles"), ("any", 1, "no such order")]
)
def test_what_cannot_be_launched(order, tiles, problem):
    with pytest.raises(UserError, match=problem):
        make_operator(CAUSAL).lower(preset("kpu-tiny"), mapping=Mapping("flash", 8, 1, tiles, 8, order=order))
