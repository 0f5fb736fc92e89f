"""The benchmark measures what it says; its numbers are for `kpusim bench`."""

import json
from math import ceil

import pytest
from click.testing import CliRunner

from kpusim.bench import GROUPS, TARGETS, Target, target_of
from kpusim.bench.decode import stream_program
from kpusim.bench.gemms import measured
from kpusim.cli import main
from kpusim.isa.check import check_program
from kpusim.machine import load_machine, machine_names
from kpusim.machine.limits import limits_of
from kpusim.operators.gemm import Gemm
from kpusim.simulate.run import simulate


@pytest.mark.parametrize("name", sorted({*machine_names()} - {"scale-sim"}))  # whose memory takes no time
def test_the_stream_reads_everything_once_at_nearly_the_attainable_rate(name):
    machine = load_machine(name)
    size = 4096 if name == "kpu-tiny" else 1 << 24
    program = stream_program(machine, size, min(size, machine.sram.capacity_bytes) // 16)
    check_program(program, limits_of(machine))
    run = simulate(program, machine)
    assert run.counters["hbm.read_bytes"] == size
    ideal = ceil(size / machine.hbm.attainable_bytes_per_cycle)
    first = simulate(stream_program(machine, machine.hbm.access_bytes), machine).cycles
    assert size / machine.hbm.peak_bytes_per_cycle <= run.cycles <= first + 1.12 * ideal


def test_only_one_group(monkeypatch):
    monkeypatch.setattr("kpusim.bench.simulator.timeout_seconds", lambda: 1e-6)
    result = CliRunner().invoke(main, ["bench", "--only", "unit", "--json"])
    assert json.loads(result.stdout) == {"timeout.microseconds": 1.0}
    assert "timeout.microseconds" in CliRunner().invoke(main, ["bench", "--only", "unit"]).stdout


def test_decode_is_near_an_ideal_stream():
    found = dict(GROUPS["decode1"]())
    assert TARGETS["decode1.bandwidth_over_ideal"].met(found["decode1.bandwidth_over_ideal"])
    assert found["decode1.launch_cycles"] == 1000


def test_a_row_of_one_array():
    # One instruction of 2 x 2 folds of 32 + 32 + 64 - 2 cycles each; the memory of this machine takes next to no time.
    found = dict(measured("row", Gemm(64, 64, 64), load_machine("scale-sim")))
    folds, work = 4 * (32 + 32 + 64 - 2), 64**3 // 32**2
    assert folds <= found["row.cycles"] <= folds + 8
    assert found["row.matrix_utilisation"] == found["row.roofline_over_cycles"] == work / found["row.cycles"]
    assert all(type(value) in (int, float) for value in found.values())
    assert found["row.traffic_over_bound"] == found["row.plain_equals_local"] == 1
    assert found["row.estimate_over_cycles"] == pytest.approx(1, abs=0.02)


def test_a_row_whose_modes_differ(monkeypatch):
    def differing(program, machine, plain=False):
        run = simulate(program, machine, plain=plain)
        run.stalls[0, 0] += plain
        return run

    monkeypatch.setattr("kpusim.bench.gemms.simulate", differing)
    found = dict(measured("row", Gemm(8, 8, 8), load_machine("kpu-tiny")))
    assert found["row.plain_equals_local"] == 0
    assert not target_of("row.plain_equals_local").met(0)


def test_every_target_is_of_a_group():
    assert all(key.split(".")[0] in {*GROUPS, "trace", "*"} for key in TARGETS)
    assert Target(1.0).met(1.0)
    assert not Target(1.0, at_least=True).met(0.99)
    words = CliRunner().invoke(main, ["bench", "--help"]).stdout
    assert all(group in words for group in GROUPS)


def test_targets_of_many_keys():
    assert target_of("gemm_forms.epilogue.traffic_over_bound") == TARGETS["*.traffic_over_bound"]
    assert target_of("gemm4096.traffic_over_bound") == TARGETS["gemm4096.traffic_over_bound"]
    assert target_of("gemm_forms.epilogue.cycles") is None
