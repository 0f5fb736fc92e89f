"""`kpusim hbm --sweep`: what it measures, its tables, JSON and pictures, and mistakes."""

import json
from fractions import Fraction
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.report.sweep import draw_sweep
from kpusim.streams.requests import PATTERNS
from kpusim.streams.sweep import REFERENCE_LOADS, REFERENCE_SIZES, STEPS, sweep

SMALL = ["hbm.channels=2", "hbm.bandwidth=34 GB/s"]  # of kpu-edge: a quarter


@cache
def swept(name="kpu-edge", *sets, **how):
    return sweep(load_machine(name, [*(SMALL if name == "kpu-edge" else ()), *sets]), lambda step: None, **how)


@pytest.fixture
def hbm():
    return lambda *args: CliRunner().invoke(main, ["hbm", "--sweep", *args])


def curve(found, pattern):
    return [point for point in found.latency if point.pattern == pattern]


def reached(found, pattern):
    return {point.access_bytes: point.gb_per_s for point in found.bandwidth if point.pattern == pattern}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_latency_is_a_hockey_stick(pattern):
    """Flat at little load, and rising ever faster to what the pattern reaches."""
    points = curve(swept(), pattern)
    latencies = [point.latency_ns for point in points]
    slopes = [(b.latency_ns - a.latency_ns) / (b.load - a.load) for a, b in pairwise(points)]
    assert latencies[1] < 1.2 * latencies[0]
    assert latencies[-1] > 2 * latencies[0]
    assert slopes[-1] > 5 * slopes[0]
    full = points[0].gb_per_s / points[0].load
    assert [point.gb_per_s for point in points] == pytest.approx([full * point.load for point in points])


def test_bandwidth_by_size():
    found = swept()
    assert found.peak_gb_per_s == 34
    assert found.attainable_gb_per_s == pytest.approx(34 * (1 - 280 / 3906))
    sequential = reached(found, "sequential")
    assert all(value == pytest.approx(found.attainable_gb_per_s, rel=0.02) for value in sequential.values())
    for pattern in PATTERNS:
        values = reached(found, pattern)
        assert [*values] == [64, 256, 1024, 4096, 16384]
        assert all(0 < value < 1.01 * found.attainable_gb_per_s for value in values.values())
    assert reached(found, "random")[64] < reached(found, "random")[16384]


def test_accesses_below_a_burst_waste_its_rest():
    wide = reached(swept("kpu-edge", "hbm.access=256 B"), "random")
    assert wide[64] < 0.3 * wide[256]


def test_without_a_hash_strides_meet_in_few_channels():
    """256 B, 8 KiB apart, in blocks of 512 B over 8 channels: always the first."""
    bound = swept("kpu-edge", "hbm.channels=8", "hbm.bandwidth=136 GB/s", "hbm.hash=none")
    assert reached(bound, "strided")[256] <= bound.peak_gb_per_s / 8
    assert reached(bound, "random")[256] > bound.peak_gb_per_s / 2


def test_writes_cost_turnarounds():
    mixed = swept(writes=Fraction(1, 2))
    assert reached(mixed, "sequential")[4096] < 0.95 * reached(swept(), "sequential")[4096]


def test_the_reference_is_asked_at_some_loads_and_sizes(monkeypatch):
    monkeypatch.setattr("kpusim.streams.sweep.LEAST", 30)
    found = sweep(load_machine("kpu-edge", SMALL), lambda step: None, reference=True)
    for point in found.latency:
        assert (point.reference_ns is not None) == (point.load in REFERENCE_LOADS)
        if point.reference_ns:
            assert point.latency_ns == pytest.approx(point.reference_ns, rel=0.15)
    for size in found.bandwidth:
        assert (size.reference_gb_per_s is not None) == (size.access_bytes in REFERENCE_SIZES)
        if size.reference_gb_per_s:
            assert size.gb_per_s == pytest.approx(size.reference_gb_per_s, rel=0.2)


def test_a_memory_without_refresh_is_a_queue():
    """What asks at random and takes equal times waits load / (2 (1 - load)) of them in the mean (M/D/1)."""
    found, hbm = swept("kpu-tiny"), load_machine("kpu-tiny").hbm
    assert found.peak_gb_per_s == found.attainable_gb_per_s == 16
    assert reached(found, "sequential")[4096] == pytest.approx(16, rel=0.02)
    served = 4096 / 16
    alone = hbm.precharge_cycles + hbm.row_activate_cycles + hbm.read_cycles + hbm.controller_cycles + served - 1
    for point in curve(found, "sequential")[:3]:  # with more load, 300 requests are no mean
        waits = served * point.load / (2 * (1 - point.load))
        assert point.latency_ns == pytest.approx(float(alone) + waits, rel=0.1)


def test_refreshes_that_come_too_rarely_are_left_out():
    found = swept("kpu-edge", "hbm.refresh_interval=1 s", "hbm.refresh=1 ms")
    assert reached(found, "sequential")[4096] == pytest.approx(found.peak_gb_per_s, rel=0.02)


def test_steps_are_told(monkeypatch):
    monkeypatch.setattr("kpusim.streams.sweep.LEAST", 20)
    steps = []
    sweep(load_machine("kpu-tiny"), steps.append)
    assert len(steps) == STEPS == len({*steps})


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        ("scale-sim", [], "[hbm] bandwidth: this memory is ideal"),
        ("kpu-tiny", ["hbm.bandwidth=1 B/s"], "too slow to sweep"),
        ("kpu-tiny", ["hbm.capacity=32 KiB"], "--span: not a span to sweep; found '32 KiB'"),
    ],
)
def test_memories_that_cannot_be_measured(name, sets, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        sweep(load_machine(name, sets), lambda step: None)


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_is_the_same_twice(tmp_path):
    for suffix, begins in (".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF"):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        draw_sweep(swept(), first, suffix)
        draw_sweep(swept(), second, suffix)
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes().startswith(begins)


def test_the_picture_says_what_it_shows(tmp_path):
    found = swept()
    draw_sweep(found, tmp_path / "a.svg", ".svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = {"".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert texts >= {"HBM of kpu-edge", *PATTERNS, "bandwidth reached, GB/s", "16 KiB"}


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(hbm, tmp_path, monkeypatch):
    monkeypatch.setattr("kpusim.streams.sweep.LEAST", 20)
    picture = tmp_path / "new" / "a.svg"
    shown = hbm("-m", "kpu-tiny", "-o", str(picture))
    assert shown.exit_code == 0, shown.output
    assert picture.read_text().startswith("<?xml")
    assert f"Plot: {picture}" in shown.stdout
    data = json.loads(hbm("-m", "kpu-tiny", "--json").stdout)
    assert [*data] == ["machine", "peak_gb_per_s", "attainable_gb_per_s", "latency", "bandwidth"]
    assert data["latency"][0].keys() == {"pattern", "load", "gb_per_s", "latency_ns", "reference_ns"}
    assert data["bandwidth"][0].keys() == {"pattern", "access_bytes", "gb_per_s", "reference_gb_per_s"}
    for point in data["latency"]:
        assert f"{point['latency_ns']:,.1f}" in shown.stdout
    plain = hbm("-m", "kpu-tiny")
    assert "-o FILE.svg" in plain.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--list"], "--list belongs to one channel, without --sweep"),
        (["--dram", "hbm3e-9200"], "--set hbm.dram=NAME"),
        (["--queue", "8"], "--set hbm.queue=N"),
        (["--pattern", "stream"], "--pattern belongs to one channel"),
        (["--mapper", "RoBaRaCoCh"], "--mapper belongs to one channel"),
        (["--requests", "10"], "--requests belongs to one channel"),
        (["-o", "a.gif"], "found '.gif'; allowed: .svg, .png, .pdf"),
        (["-o", "a"], "not a kind of picture"),
        (["-m", "kpu-tny"], "did you mean 'kpu-tiny'?"),
        (["-m", "scale-sim"], "this memory is ideal"),
        (["--writes", "1"], "no latency of reads without reads"),
        (["--writes", "x"], "--writes: not a part"),
        (["--span", "1 TiB"], "--span: not a span to sweep; found '1 TiB'"),
        (["--span", "1 KiB"], "64 KiB to 96 GiB"),
        (["--stride", "64 B"], "--stride: not a stride to sweep; found '64 B'"),
        (["--stride", "1 GiB"], "--stride: not a stride to sweep"),
    ],
)
def test_mistakes_are_told(hbm, args, message):
    result = hbm(*args)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_a_mistake_leaves_no_picture(hbm, tmp_path):
    assert hbm("-m", "scale-sim", "-o", str(tmp_path / "a.svg")).exit_code == 2
    assert hbm("-o", str(tmp_path)).exit_code == 2
    assert [*tmp_path.iterdir()] == []
    machine = tmp_path / "mine.svg"
    machine.write_text("")
    assert "another file of this command" in hbm("-m", str(machine), "-o", str(machine)).output


@pytest.mark.parametrize("args", [["--reference"], ["-o", "a.svg"]])
def test_options_of_the_sweep_need_it(args):
    result = CliRunner().invoke(main, ["hbm", *args])
    assert result.exit_code == 2
    assert "belongs to --sweep" in result.output
