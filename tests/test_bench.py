"""The benchmark measures what it says; its numbers are for `kpusim bench`."""

import json
from math import ceil

import pytest
from click.testing import CliRunner

from kpusim.bench import GROUPS, TARGETS, Target, stream_program
from kpusim.cli import main
from kpusim.isa.check import check_program
from kpusim.machine import load_machine, machine_names
from kpusim.machine.limits import limits_of
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
    assert ideal <= run.cycles <= first + 1.1 * ideal


def test_only_one_group(monkeypatch):
    monkeypatch.setattr("kpusim.bench.timeout_seconds", lambda: 1e-6)
    result = CliRunner().invoke(main, ["bench", "--only", "unit", "--json"])
    assert json.loads(result.stdout) == {"timeout.microseconds": 1.0}
    assert "timeout.microseconds" in CliRunner().invoke(main, ["bench", "--only", "unit"]).stdout


def test_decode_is_near_an_ideal_stream():
    found = dict(GROUPS["decode1"]())
    assert TARGETS["decode1.bandwidth_over_ideal"].met(found["decode1.bandwidth_over_ideal"])
    assert found["decode1.launch_cycles"] == 1000


def test_every_target_is_of_a_group():
    assert all(key.split(".")[0] in {*GROUPS, "trace"} for key in TARGETS)
    assert Target(1.0).met(1.0)
    assert not Target(1.0, at_least=True).met(0.99)
    words = CliRunner().invoke(main, ["bench", "--help"]).stdout
    assert all(group in words for group in GROUPS)
