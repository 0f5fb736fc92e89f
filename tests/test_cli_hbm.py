"""`kpusim hbm`: what users type, and what they get."""

import json
import random
from fractions import Fraction

import pytest
from click.testing import CliRunner

from kpusim.cli import main
from kpusim.dram.patterns import addresses_of, spread_writes
from kpusim.machine import load_machine
from kpusim.machine.drams import dram_names, dram_of, load_dram

KEYS = {"dram_cycles", "gb_per_s", "avg_read_latency_ns", "row_hits", "row_misses", "row_conflicts"}
FEW = ("--requests", "2000")


@pytest.fixture
def hbm():
    return lambda *args: CliRunner().invoke(main, ["hbm", *args])


@pytest.fixture
def measured(hbm):
    def run(*args):
        result = hbm(*args, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def test_a_row_of_ramulator(measured):
    found = measured("--dram", "hbm2-2000", "--mapper", "MOP4CLXOR", "--queue", "32")
    assert found.keys() >= KEYS
    assert found["dram_cycles"] == 114781
    assert (found["gb_per_s"], found["fraction_of_peak"], found["avg_read_latency_ns"]) == (27.879, 0.8712, 53.39)
    assert (found["row_hits"], found["row_misses"], found["row_conflicts"]) == (95627, 1329, 3012)


def test_the_same_numbers_on_the_terminal(hbm, measured):
    found, shown = measured(*FEW), hbm(*FEW).stdout
    assert f"{found['dram_cycles']:,}" in shown
    assert f"{found['row_hits']:,}" in shown
    assert f"{found['gb_per_s']:.2f}" in shown


@pytest.mark.parametrize("name", dram_names())
def test_every_dram_streams(measured, name):
    """A stream over all banks comes near what refresh leaves; twice the queue does not hurt."""
    found = measured("--dram", name, "--mapper", "MOP4CLXOR", "--queue", "256", "--requests", "20000")
    dram = load_dram(name)
    least = 0.9 * (1 - dram.timing.rfc / dram.timing.refi)
    assert least < found["fraction_of_peak"] < 1.02


def test_rates_are_those_of_the_stacks():
    stacks = {"hbm2-2400": 307.2, "hbm2e-3600": 460.8, "hbm3-6400": 819.2, "hbm3e-9200": 1177.6}
    for name, gb_per_s in stacks.items():
        dram = load_dram(name)
        pins = dram.channels * dram.organisation.pseudochannels * dram.organisation.width
        assert pins * dram.rate == gb_per_s * 8e9
        assert float(dram.channels * dram.peak_bytes_per_second) == pytest.approx(gb_per_s * 1e9, rel=1e-3)


def test_every_third_request_writes():
    assert spread_writes(Fraction(0), 4) == [False] * 4
    assert spread_writes(Fraction(1, 3), 7) == [False, False, True, False, False, True, False]
    assert spread_writes(Fraction(2, 3), 6) == [False, True, True, False, True, True]
    assert spread_writes(Fraction(1), 2) == [True, True]


def test_patterns():
    organisation = load_dram("hbm3-6400").organisation
    assert addresses_of("stream", 5, organisation, 96, 0, 0) == [0, 32, 64, 0, 32]
    draw = random.Random(7)
    assert addresses_of("random", 9, organisation, 1 << 20, 0, 7) == [32 * draw.randrange(1 << 15) for _ in range(9)]
    assert addresses_of("strided", 8, organisation, 256, 64, 0) == [0, 64, 128, 192, 32, 96, 160, 224]
    assert sorted(addresses_of("strided", 8, organisation, 256, 96, 0)) == list(range(0, 256, 32))


def test_a_file_is_as_good_as_a_pattern(measured, tmp_path):
    lines = ["# a stream", *(f"{32 * i:#x} {'W' if i % 3 == 2 else 'R'}" for i in range(900)), "", "28805  # the last"]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    found = measured("--pattern", str(tmp_path / "t.txt"))
    assert found["requests"] == 901
    first = measured("--pattern", str(tmp_path / "t.txt"), "--requests", "900")
    given = measured("--requests", "900", "--writes", "1/3")
    assert {**first, "pattern": "stream"} == given
    (tmp_path / "ld.txt").write_text("LD 64\nst 0x40\n")
    assert measured("--pattern", str(tmp_path / "ld.txt"))["requests"] == 2


def test_reads_of_buffered_writes_are_answered_at_once(measured, tmp_path):
    (tmp_path / "t.txt").write_text("0 W\n" * 50 + "0 R\n" * 50 + "64 W\n")
    found = measured("--pattern", str(tmp_path / "t.txt"), "--queue", "1")
    assert found["dram_cycles"] < 100 / 4 + 50  # all of one burst: merged, and none in the queue's way


def test_a_machine_is_a_dram_too(measured):
    machine = load_machine("kpu-datacenter")
    dram = dram_of(machine)
    assert dram.ck_ps == 625
    assert dram.organisation.capacity_bytes * machine.hbm.channels == machine.hbm.capacity_bytes
    assert (dram.timing.rp, dram.timing.ccdl, dram.timing.rtw, dram.timing.refi) == (28, 4, 20, 6240)  # 17 ns of 16.25
    found = measured("-m", "kpu-datacenter", *FEW)
    assert (found["dram"], found["peak_gb_per_s"], found["queue_depth"]) == ("kpu-datacenter", 25.6, 64)
    slower = measured("-m", "kpu-datacenter", "--set", "hbm.bandwidth=409.6 GB/s", *FEW)
    assert slower["peak_gb_per_s"] == 12.8
    assert slower["gb_per_s"] < found["gb_per_s"]


def test_list(hbm):
    listed = json.loads(hbm("--list", "--json").stdout)
    assert [each["name"] for each in listed] == [*dram_names()]
    assert all(each["name"] in hbm("--list").stdout for each in listed)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dram", "hbm3-640"], "did you mean 'hbm3-6400'?"),
        (["--dram", "no.toml"], "no.toml: cannot be read"),
        (["--mapper", "RoBaRaCoC"], "did you mean 'RoBaRaCoCh'?"),
        (["--pattern", "strem"], "did you mean 'stream'?"),
        (["--pattern", "no.txt"], "no.txt: cannot be read: No such file or directory"),
        (["--queue", "0"], "0 is not in the range"),
        (["--requests", "0"], "0 is not in the range"),
        (["--writes", "4/3"], "--writes: not a part; found '4/3'"),
        (["--writes", "1/0"], "--writes: not a part; found '1/0'"),
        (["--writes", "-1/3"], "--writes: not a part"),
        (["--span", "2 GiB"], "--span: not a span of this channel; found '2 GiB'"),
        (["--span", "16 B"], "32 B, a burst, to 1 GiB"),
        (["--span", "9"], "--span: has no unit"),
        (["--pattern", "strided", "--stride", "100 B"], "--stride: not a stride; found '100 B'"),
        (["--set", "hbm.stacks=2"], "it needs --machine"),
        (["--dram", "hbm3-6400", "-m", "kpu-tiny"], "exclude each other"),
        (["-m", "kpu-tiny", "--set", "hbm.refresh=1.9 us"], "no time is left between refreshes"),
        (["-m", "kpu-tiny", "--set", "hbm.banks=3", "--mapper", "MOP4CLXOR"], "powers of two"),
    ],
)
def test_mistakes_are_told(hbm, args, message):
    result = hbm(*args)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.txt: has no address"),
        ("0\n12 Q\n", "t.txt:2: not a request; found '12 Q'"),
        ("0\n\n0x\n", "t.txt:3: not a request"),
        ("R W 8", "t.txt:1: not a request"),
        ("-32", "t.txt:1: not a request"),
        ("0\n0x40000000 R", "t.txt:2: address too large; found '0x40000000 R'; allowed: below 0x40000000"),
    ],
)
def test_mistakes_in_files_name_the_line(hbm, tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    result = hbm("--pattern", str(tmp_path / "t.txt"))
    assert result.exit_code == 2
    assert message in result.output


def test_a_file_of_writes_and_the_option_exclude_each_other(hbm, tmp_path):
    (tmp_path / "t.txt").write_text("0 W\n32\n")
    result = hbm("--pattern", str(tmp_path / "t.txt"), "--writes", "1/2")
    assert "the file says which requests write" in result.output
    assert "more requests than the file has" in hbm("--pattern", str(tmp_path / "t.txt"), "--requests", "3").output


DRAM = """\
name = "mine"
description = ""
rate = "2 Gb/s"
channels = 1
protocol = "hbm3"
organisation = { pseudochannels = 1, stack_ids = 1, bank_groups = 2, banks = 2, rows = 64, columns = 32, \
 prefetch = 8, width = 32 }
timing = { bl = 2, cl = 4, cwl = 2, rcdrd = 4, rcdwr = 4, rp = 4, ras = 9, rc = 13, rtp = 2, wr = 4, ccds = 2, \
ccdl = 2, rrds = 2, rrdl = 2, faw = 8, wtrs = 2, wtrl = 2, ppd = 1, refi = 400, rfc = 40 }
"""


def test_a_dram_of_ones_own(hbm, measured, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(DRAM)
    found = measured("--dram", str(path), *FEW)
    assert (found["dram"], found["peak_gb_per_s"]) == ("mine", 8.0)
    for old, new, message in [
        ("bl = 2", "bl = 0", "[timing] bl: too small; found 0"),
        ("refi = 400", "refi = 60", "[timing] refi: no time is left between refreshes"),
        ("ppd = 1", "ppd = 0", "[timing] ppd: hbm3 needs at least 1 CK"),
        ("banks = 2,", "banks = 3,", "[organisation] banks: not a power of two; found 3"),
        ("prefetch = 8", "prefetch = 64", "[organisation] columns: a row is shorter than a burst"),
        ("hbm3", "hbm4", "protocol: unknown; found 'hbm4'; allowed: hbm2, hbm3"),
        ("rate", "speed", "speed: unknown key"),
        ("2 Gb/s", "2 GB/s", "rate: wrong unit; found '2 GB/s'"),
        ("2 Gb/s", "0 Gb/s", "rate: too small"),
        ("cl = 4,", 'cl = "4",', "[timing] cl: wrong type"),
        ("rp = 4,", "", "[timing] rp: missing"),
        ("rows = 64", "rows = 99999999", "[organisation] rows: too large"),
    ]:
        path.write_text(DRAM.replace(old, new, 1))
        result = hbm("--dram", str(path))
        assert result.exit_code == 2
        assert message in result.output, result.output
