"""A shared level for its users: workloads that place tensors in a buffer, reports, traces and machine files."""

import h5py
import pytest
from test_shared_level import BUFFER, CACHE

from kpusim import api
from kpusim.errors import UserError
from kpusim.machine import load_machine, machine_toml, parse_machine
from kpusim.plan import parse_workload, plan_workload
from kpusim.report.execute import verify_step
from kpusim.report.rows import rows_of, total_of
from kpusim.simulate.workload import run_plans
from kpusim.trace.reader import open_trace

CHAIN = """
name = "chain"
[tensors]
x = { role = "input", shape = [16, 16], memory = "shared" }
w = { role = "weight", shape = [16, 16] }
u = { role = "activation", shape = [16, 16], memory = "shared" }
y = { role = "output", shape = [16, 16], memory = "shared" }
[[operators]]
name = "one"
family = "gemm"
ports = { a = "x", b = "w", out = "u" }
[[operators]]
name = "two"
family = "gemm"
ports = { a = "u", b = "x", out = "y" }
"""


def chain(sets=(), text=CHAIN):
    (plan,) = plan_workload(parse_workload(text, "w.toml"), load_machine("kpu-tiny", [*BUFFER, *sets]))
    return plan


def test_what_is_in_the_buffer_never_touches_hbm():
    (run,) = run_plans((chain(),))
    one, two = (op.executed.run.counters for op in run.ops)
    assert (one["hbm.read_bytes"] % 512, one["hbm.write_bytes"]) == (0, 0)  # w alone
    assert one["hbm.read_bytes"] > 0
    assert (two["hbm.read_bytes"], two["hbm.write_bytes"]) == (0, 0)
    assert two["shared.read_bytes"] >= 1024
    assert two["shared.write_bytes"] == 512


def test_the_buffer_is_reused_over_time_and_told():
    """x, u and y live together; with w of HBM none of the buffer's peak."""
    plan = chain()
    (run,) = run_plans((plan,))
    assert plan.memory.shared == ("x", "y", "u")
    assert plan.memory.peak_shared_bytes == 3 * 512
    assert plan.memory.peak_bytes == 512
    assert total_of(run).shared_tensors == plan.memory.shared
    first = load_machine("kpu-tiny", BUFFER).buffer_address
    assert {at.address >= first for step in plan.steps for at in step.ports.values() if at.tensor != "w"} == {True}


def test_the_roof_knows_what_the_buffer_holds():
    """Of the first operator only w's 512 B pass HBM (16 B/cycle), 1024 B the buffer (made as slow as 1 B/cycle)."""
    (run,) = run_plans((chain(["shared.bandwidth=1B/cycle"]),))
    one, two = rows_of(run)
    assert (one.roof, one.roof_cycles) == ("shared level", 1024)
    assert (two.roof, two.roof_cycles) == ("shared level", 1536)
    assert one.distance >= 1
    assert two.distance >= 1
    assert two.bound.by == "shared level"
    (run,) = run_plans((chain(["hbm.bandwidth=1B/cycle"]),))
    one, two = rows_of(run)
    assert (one.roof, one.roof_cycles) == ("HBM bandwidth", 512)
    assert two.roof == "matrix compute"


def test_identical_operators_on_other_places_of_the_buffer_are_simulated_once():
    second = CHAIN.replace('b = "x", out = "y"', 'b = "w", out = "y"')
    (run,) = run_plans((chain((), second),))
    one, two = run.ops
    assert one.step.ports["out"].address % 1024 != two.step.ports["out"].address % 1024
    assert one.executed is two.executed


def test_results_are_the_same_in_and_behind_a_shared_level():
    for plan in (chain(), chain(CACHE, CHAIN.replace('memory = "shared"', 'memory = "hbm"'))):
        for step in plan.steps:
            assert all(found.verdict.passed for found in verify_step(step, plan))


@pytest.mark.parametrize(
    ("sets", "old", "new", "message"),
    [
        ([], '"shared"', '"sharde"', "w.toml:4: [tensors.x] memory: unknown; found 'sharde'; allowed: hbm, shared"),
        (["shared.kind=none"], "", "", "w.toml:4: [tensors.x] memory: kpu-tiny has no shared buffer"),
        (CACHE, "", "", "w.toml:4: [tensors.x] memory: kpu-tiny has no shared buffer"),
        (["shared.capacity=1KiB"], "", "", "does not fit into the shared buffer of kpu-tiny: it needs 512 bytes and 0"),
    ],
)
def test_what_no_buffer_can_hold(sets, old, new, message):
    with pytest.raises(UserError) as caught:
        chain(sets, CHAIN.replace(old, new) if old else CHAIN)
    assert message in str(caught.value)


def test_an_operator_that_reads_one_tensor_twice_is_not_one_that_reads_two():
    """In a cache the second reading of the same tensor hits; the two operators are simulated apart."""
    text = CHAIN.replace('memory = "shared"', 'memory = "hbm"').replace('b = "w", out = "u"', 'b = "x", out = "u"')
    sets = [*CACHE, "shared.write=through"]
    (run,) = run_plans((chain(sets, text.replace('a = "u", b = "x"', 'a = "u", b = "w"')),))
    same, other = (op.executed.run.counters for op in run.ops)
    assert same["hbm.read_bytes"] == 512
    assert other["hbm.read_bytes"] == 1024


# --- reports and traces ---------------------------------------------------------------------------------------------


def test_a_report_tells_hits_and_what_is_in_the_buffer(capsys):
    machine = load_machine("kpu-tiny", [*CACHE, "shared.capacity=64KiB"])
    api.run(api.gemm(m=64, n=64, k=64), machine).table()
    assert "gemm finds 93.8% of 3,072 lines in the shared cache, which writes back 8.19 kB." in capsys.readouterr().out
    (run,) = run_plans((chain(),))
    api.Result((run,)).table()
    assert "In the shared buffer: x, y, u; 1,536 bytes at its peak." in capsys.readouterr().out


def test_a_trace_has_the_counters_and_says_what_its_bandwidth_is_of(tmp_path):
    machine, path = load_machine("kpu-tiny", CACHE), tmp_path / "t.h5"
    result = api.run(api.gemm(m=64, n=64, k=64), machine, trace=path)
    counters = result.rows[0].counters
    with open_trace(path) as trace:
        assert dict(trace.ops[0].counters) == dict(counters)
        assert trace.meta.memory == "Shared cache and HBM"
    with h5py.File(path) as file:
        title = file["entry/hbm_bandwidth"].attrs.get("title") or file["entry/hbm_bandwidth/title"][()].decode()
    assert title.startswith("Shared cache and HBM bandwidth (byte/cycle), attainable of HBM 16: ")
    assert counters["shared.hits"] > 0


# --- machine files --------------------------------------------------------------------------------------------------


def test_a_file_without_the_table_stays_as_it_is_and_one_with_it_comes_back():
    tiny = load_machine("kpu-tiny")
    assert "[shared]" not in machine_toml(tiny)
    for sets in (CACHE, BUFFER, ["shared.capacity=1MiB"]):
        machine = load_machine("kpu-tiny", sets)
        assert parse_machine(machine_toml(machine)) == machine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shared.capacity=0B", "capacity: a cache needs it"),
        ("shared.bandwidth=0B/cycle", "bandwidth: a cache needs it"),
        ("shared.bandwidth=-1B/cycle", "must be more than 0"),
        ("shared.block=2KiB", "allowed: 4 KiB to 64 KiB"),
        ("shared.block=128KiB", "allowed: 4 KiB to 64 KiB"),
        ("shared.line=100B", "is not a multiple of hbm.access (8 B)"),
        ("shared.line=1536B", "shared.block (4096 B) is not a multiple of shared.line (1536 B)"),
        ("shared.capacity=10KiB", "allowed: multiples of shared.block * ways = 8192 B"),
        ("shared.ways=0", "too small"),
        ("shared.kind=cahce", "did you mean 'cache'?"),
        ("shared.size=1KiB", "unknown key"),
    ],
)
def test_impossible_levels(change, message):
    with pytest.raises(UserError) as caught:
        load_machine("kpu-tiny", [*CACHE, change])
    assert message in str(caught.value)
