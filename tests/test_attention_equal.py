"""Equal teams of an attention, of which one is simulated: how far that is from simulating all."""

import pytest
from gemms import preset

import kpusim
from kpusim.operators import make_operator
from kpusim.operators.attention import equal
from kpusim.simulate.equal import times
from kpusim.simulate.run import simulate
from kpusim.trace.reader import open_trace

WITHIN, ONCE = 0.003, 1500  # of the cycles, and cycles: all begin and end together, and meet in HBM then

CASES = [
    "attention(queries=1024, keys=1024, head_dim=128, heads=64)",
    "attention(queries=1024, keys=1024, head_dim=64, heads=64)",
    "attention(queries=1024, keys=2048, head_dim=128, heads=32, kv_heads=8, mask=causal)",
]


@pytest.fixture
def short(monkeypatch):
    """Short simulations by a share, too."""
    monkeypatch.setattr(equal.equal_team, "__defaults__", (0,))


LONG = "attention(queries=16384, keys=16384, head_dim=128, heads=32, mask=causal)"


@pytest.mark.parametrize("text", [*CASES, pytest.param(LONG, marks=pytest.mark.slow)])
def test_one_share_tells_the_time_of_all(text, short):
    operator, machine = make_operator(text), preset("kpu-datacenter")
    lowered = operator.lower(machine)
    share, whole = lowered.equal, simulate(lowered.program, machine)
    assert share.copies > 1
    told = times(simulate(share.program, machine), lowered.program, share.copies)
    assert abs(told.cycles - whole.cycles) <= WITHIN * whole.cycles + ONCE
    for name in whole.counters:
        if name.startswith(("macs.", "vector.", "hbm.read", "hbm.write", "instructions")):
            assert told.counters[name] == whole.counters[name], name
    for units in (slice(0, 256), slice(256, 512)):  # matrix and vector engines
        assert told.busy[units].sum() == whole.busy[units].sum()
    assert (told.busy + told.stalls.sum(axis=1) <= told.cycles).all()


def test_no_share_where_hbm_is_busy_or_teams_differ(short):
    machine = preset("kpu-datacenter")
    for text in (
        "attention(queries=1, keys=2048, head_dim=128, heads=32, kv_heads=8, batch=32)",  # HBM
        "attention(queries=2048, keys=2048, head_dim=128, heads=3, mask=causal)",  # no equal shares of three heads
    ):
        assert make_operator(text).lower(machine).equal is None


def test_a_share_is_for_long_simulations():
    assert make_operator(LONG).lower(preset("kpu-datacenter")).equal.copies == 32
    assert make_operator(CASES[0]).lower(preset("kpu-datacenter")).equal is None


def test_a_trace_shows_the_share(tmp_path):
    result = kpusim.run(LONG, trace=tmp_path / "t.h5")
    row, executed = result.rows[0], result.runs[0].ops[0].executed
    assert (row.equal_shares, row.cycles) == (32, executed.simulated.cycles)
    assert executed.run.busy.sum() == 32 * executed.simulated.busy.sum()
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.accounts()["busy"].tolist() == executed.simulated.busy.tolist()
