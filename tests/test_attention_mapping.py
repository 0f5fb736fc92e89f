"""The mapping that attention chooses: its estimate against the simulation, its choice against other candidates."""

import pytest
from gemms import preset

from kpusim.operators import make_operator
from kpusim.operators.attention.search import search
from kpusim.simulate.run import simulate

SHAPES = [  # where arrays or HBM decide, not latencies
    "attention(queries=1024, keys=1024, head_dim=128, heads=8, mask=causal)",
    "attention(queries=256, keys=4096, head_dim=128, heads=8, kv_heads=2, mask=causal)",
    "attention(queries=1, keys=512, head_dim=128, heads=32, kv_heads=8, batch=8)",
    "attention(queries=1024, keys=1024, head_dim=64, heads=4)",
]


@pytest.mark.parametrize("name", ["kpu-datacenter", "kpu-edge"])
@pytest.mark.parametrize("text", SHAPES)
def test_the_estimate_is_near_the_simulation(text, name):
    operator, machine = make_operator(text), preset(name)
    found = search(operator.problem, machine)
    cycles = simulate(operator.lower(machine).program, machine).cycles
    assert found.cost.cycles == pytest.approx(cycles, rel=0.15)


@pytest.mark.parametrize("text", SHAPES[1:3])
def test_no_candidate_is_much_faster(text):
    operator, machine = make_operator(text), preset("kpu-edge")
    found = search(operator.problem, machine)
    chosen = simulate(operator.lower(machine).program, machine).cycles
    others = [mapping for mapping, _ in found.weighed[: len(found.weighed) // 2]][:: max(len(found.weighed) // 16, 1)]
    fastest = min(simulate(operator.lower(machine, mapping=mapping).program, machine).cycles for mapping in others)
    assert chosen <= 1.08 * fastest


def test_auto_takes_the_faster_variant():
    machine = preset("kpu-edge")
    cycles = {}
    for variant in ("auto", "flash", "pipelined"):
        operator = make_operator(f"attention(queries=512, keys=512, head_dim=128, heads=4, variant={variant})")
        cycles[variant] = simulate(operator.lower(machine).program, machine).cycles
    assert cycles["auto"] == min(cycles.values()) < cycles["flash"]
