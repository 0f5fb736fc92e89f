"""Plans simulated: the timeline, the memo, and spans released by rows instead of keys."""

import numpy as np
import pytest
from attrs import evolve

from kpusim.engines.semaphore import span_key
from kpusim.machine import load_machine
from kpusim.operators import make_operator
from kpusim.plan import load_workload, operator_plan, parse_workload, plan_workload, workload_names
from kpusim.report.execute import verify_step
from kpusim.simulate.releases import RowNumbers
from kpusim.simulate.run import simulate
from kpusim.simulate.shares import shares, top_stall, used_units
from kpusim.simulate.spans import NO_SPAN, SPAN, SpanBuffer
from kpusim.simulate.workload import Options, Timeline, run_plans

TINY = load_machine("kpu-tiny")
LAYERS = """
name = "layers"
[symbols]
layers = 3
[tensors]
x = { role = "input", shape = [8, 16] }
w = { role = "weight", shape = [16, 16], per = "layer" }
y = { role = "output", shape = [8, 16] }
[[operators]]
name = "layer"
repeat = "layers"
[[operators.operators]]
name = "g"
family = "gemm"
ports = { a = "x", b = "w", out = "y" }
"""


@pytest.mark.parametrize(
    ("boundaries", "cycles", "starts"),
    [
        (["launch"] * 3, [500, 500, 500], [100, 600, 1100]),  # hidden behind the one before
        (["launch"] * 4, [10, 10, 10, 10], [100, 110, 210, 220]),  # two in flight: issued at 0, 0, 110, 120
        (["launch", "barrier", "launch"], [10, 10, 10], [100, 114, 124]),
        (["barrier", "barrier"], [10, 10], [100, 114]),  # nothing before the first to meet
        (["launch"] * 3, [50, 0, 30], [100, 150, 250]),
    ],
)
def test_timeline(boundaries, cycles, starts):
    timeline = Timeline(evolve(TINY.front_end, launch_cycles=100, in_flight=2, barrier_cycles=4))
    assert [timeline.add(*step) for step in zip(boundaries, cycles, strict=True)] == starts
    assert timeline.now == starts[-1] + cycles[-1]


class Events:
    """A listener that notes what it hears."""

    def __init__(self):
        self.blocks, self.heard, self.rows = [], [], []

    def begin(self, lowered):
        self.blocks.append(lowered.program.name)
        return self.rows.append

    def end(self, executed):
        self.heard.append("end")

    def op(self, name, time, offset):
        self.heard.append((name, offset + time.start, time.executed.run.cycles))


def test_identical_operators_are_simulated_once():
    plans = plan_workload(parse_workload(LAYERS), TINY)
    events, names = Events(), []
    (run,) = run_plans(plans, listener=events, begins=names.append)
    assert events.blocks == ["gemm"]
    assert names == ["layer[0].g", "layer[1].g", "layer[2].g"]
    cycles = run.ops[0].executed.run.cycles
    assert events.heard == ["end"] + [(op.step.name, op.start, cycles) for op in run.ops]
    assert (run.launches, run.cycles) == (3, run.ops[-1].end)


def test_identical_operators_take_the_same_time_wherever_their_tensors_are():
    (plan,) = plan_workload(parse_workload(LAYERS), TINY)
    runs = []
    for step in plan.steps:
        program = step.operator.lower(TINY).program
        runs.append(simulate(program, TINY, [step.ports[tensor.name].address for tensor in program.tensors]).cycles)
    assert len(set(runs)) == 1


def test_several_plans_follow_one_another():
    plans = tuple(operator_plan(make_operator(f"gemm(m={m}, n=4, k=4)"), TINY) for m in (4, 8))
    events = Events()
    one, two = run_plans(plans, listener=events)
    assert [entry[0] for entry in events.heard if entry != "end"] == ["gemm: gemm", "gemm: gemm"]
    assert events.heard[-1][1] == one.cycles + two.ops[0].start


def test_options_reach_the_simulation():
    plan = operator_plan(make_operator("gemm(m=32, n=32, k=64)"), TINY)
    cycles = {
        (plain, chunk): next(run_plans((plan,), Options(plain, chunk))).cycles
        for plain in (False, True)
        for chunk in (64, 16384)
    }
    assert cycles[False, 64] == cycles[True, 64]
    assert cycles[False, 16384] == cycles[True, 16384]


@pytest.mark.parametrize("plain", [False, True])
def test_released_by_is_the_row_that_its_key_names(plain):
    plan = operator_plan(make_operator("gemm(m=24, n=24, k=96)"), TINY)
    program = plan.steps[0].lowered.program
    keyed = []
    buffer = SpanBuffer(keyed.append)
    simulate(program, TINY, span=buffer.record, plain=plain)
    buffer.flush()
    events = Events()
    list(run_plans((plan,), Options(plain), events))
    keyed, rows = np.concatenate(keyed), np.concatenate(events.rows)
    assert np.any(rows["released_by"] != NO_SPAN)
    place, seen = {}, {}
    for row, unit in enumerate(rows["unit"].tolist()):
        place[span_key(unit, seen.setdefault(unit, 0))] = row
        seen[unit] += 1
    expected = [place.get(key, NO_SPAN) for key in keyed["released_by"].tolist()]
    assert rows["released_by"].tolist() == expected
    waited = rows[rows["released_by"] != NO_SPAN]
    causes = ("stall_dma", "stall_matrix", "stall_vector")
    assert all(any(row[cause] for cause in causes) for row in waited)


def test_rows_wait_for_those_that_release_them():
    def row(unit, released=NO_SPAN):
        rows = np.zeros(1, SPAN)
        rows["unit"], rows["released_by"] = unit, released
        return rows

    out = []
    numbers = RowNumbers(3, out.append)
    numbers.take(row(0, span_key(2, 1)))
    numbers.take(row(2))
    assert out == []
    numbers.take(row(2, span_key(0, 0)))
    numbers.take(row(1, span_key(2, 0)))
    numbers.finish()
    assert [rows["released_by"].tolist() for rows in out] == [[2], [NO_SPAN], [0], [1]]
    numbers.take(row(1, span_key(2, 2)))
    with pytest.raises(ValueError, match="not recorded"):
        numbers.finish()


def test_shares_cover_only_units_that_the_program_uses():
    plan = operator_plan(make_operator("gemm(m=1, n=1, k=4)"), TINY)
    (run,) = run_plans((plan,))
    result = run.ops[0].executed.run
    units = used_units(result.program, TINY)
    assert len(units["matrix"]) == 1
    for kind, share in shares(result).items():
        assert share.units == len(units[kind])
        assert share.total == share.units * result.cycles
    kind, cause, part = top_stall(result)
    assert (kind, cause) == ("matrix", "dma")
    assert 0 < part < 1


SMALL = {"tokens": 6, "hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 1, "head_size": 16, "group": 32}


@pytest.mark.parametrize("name", workload_names())
def test_shipped_workloads_compute_the_right_numbers(name):
    """All of their operators, with sizes that are small, on kpu-edge."""
    loaded = load_workload(name)
    symbols = {symbol: SMALL[symbol] for symbol in loaded.workload.symbols.keys() & SMALL.keys()}
    (plan,) = plan_workload(loaded, load_machine("kpu-edge"), symbols)
    steps = {step.label: step for step in plan.steps}
    boundaries = [spec.boundary or loaded.workload.boundary for _, _, spec in loaded.workload.entries()]
    assert len(steps) == len(boundaries) - boundaries.count("fused")
    for step in steps.values():
        assert all(found.verdict.passed for found in verify_step(step, plan)), step.label


def test_experts_without_rows_are_not_read():
    (plan,) = plan_workload(load_workload("moe-layer"), load_machine("kpu-edge"), {"hidden": 64, "intermediate": 96})
    (run,) = run_plans((plan,))
    read = {op.step.label: op.executed.run.counters["hbm.read_bytes"] for op in run.ops}
    expert = 2 * 96 * 64 * 2  # bytes of gate and up; of 8 rows in proportion to 1/i two experts get none
    assert 6 * expert <= read["gate_up-zipf"] < 7 * expert < 8 * expert <= read["gate_up"]


def test_a_program_other_than_the_one_before_is_loaded():
    """Layers of one program load it never; a composite of three programs changes at two of its three launches."""
    one = evolve(TINY, front_end=evolve(TINY.front_end, in_flight=1))  # where nothing hides a launch
    slow = evolve(one, front_end=evolve(one.front_end, load_cycles=70))
    unfused = make_operator("attention(queries=8, keys=8, head_dim=8, variant=unfused)")
    for plans, changes in (
        (lambda machine: plan_workload(parse_workload(LAYERS), machine), 0),
        (lambda machine: (operator_plan(unfused, machine),), 2),
    ):
        (fast,), (loaded,) = (list(run_plans(plans(machine))) for machine in (one, slow))
        assert loaded.cycles - fast.cycles == 70 * changes
