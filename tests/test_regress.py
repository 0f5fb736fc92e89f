"""`kpusim regress`, as a user calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from click.testing import CliRunner

from kpusim.api import get_machine, run
from kpusim.cli import main
from kpusim.data import data_dir
from kpusim.golden import load_suite

GEMM = "gemm(m=12, n=20, k=24)"
SUITE = f"""\
# What my team holds.

# The projection.
[[cases]]
name = "projection"  # of one layer
machine = "kpu-tiny"
operator = "{GEMM}"

# Everything.
[[cases]]
name = "mlp"
machine = "mine.toml"
set = ["front_end.launch=50 ns"]
workload = "layers.toml"
symbols = {{ layers = 2 }}
# the end
"""


@pytest.fixture
def kpusim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def suite(kpusim, tmp_path):
    """The suite above with its machine and its workload beside it, in a folder that is not the current one."""
    folder = tmp_path / "perf"
    folder.mkdir()
    (folder / "mine.toml").write_text(kpusim("machine", "show", "kpu-tiny", "--toml").stdout)
    (folder / "layers.toml").write_text((data_dir("workloads") / "tiny-mlp.toml").read_text())
    path = folder / "suite.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def recorded(kpusim, suite):
    assert kpusim("regress", suite, "--update").exit_code == 0
    return suite


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def shifted(path, by=7):
    """The golden cycles of the projection are `by` less than they are; they were this."""
    cycles = load_suite(path).cases[0].golden.cycles
    change(path, f"\ncycles = {cycles}\nhbm_bytes", f"\ncycles = {cycles - by}\nhbm_bytes")
    return cycles


def test_new_cases_are_told_and_recorded_without_a_reason(kpusim, suite):
    result = kpusim("regress", suite)
    assert result.exit_code == 1
    assert result.stdout.endswith("2 cases, 0 moved, 2 new: run with --update\n")
    assert suite.read_text() == SUITE
    result = kpusim("regress", suite, "--update")
    assert result.exit_code == 0
    assert result.stdout.endswith("suite.toml: 0 moved, 2 added\n")
    result = kpusim("regress", suite)
    assert (result.exit_code, result.stdout) == (0, "2 cases, 0 moved\n")


def test_what_is_recorded_is_what_kpusim_run_says(recorded):
    one, mlp = (case.golden for case in load_suite(recorded).cases)
    (row,) = run(GEMM, "kpu-tiny").rows
    assert (one.cycles, one.hbm_bytes, one.row_hits) == (row.cycles, row.hbm_bytes, row.counters["hbm.row_hits"])
    assert one.top_stall == f"{row.top_stall.unit} for {row.top_stall.cause}"
    machine = get_machine("kpu-tiny", {"front_end.launch": "50 ns"})
    result = run("tiny-mlp", machine, symbols={"layers": 2})
    assert mlp.cycles == result.cycles
    assert [(each.name, each.count, each.cycles) for each in mlp.operators] == [
        (row.operator, row.count, row.cycles) for row in result.rows
    ]


def test_comments_and_order_survive(recorded):
    text = recorded.read_text()
    kept = [line for line in text.splitlines() if line in SUITE.splitlines()]
    assert kept == SUITE.splitlines()
    first, second = text.index("# Everything."), text.index("# the end")
    assert text.index("cycles =") < first < text.index("operators = [") < second
    assert max(map(len, text.splitlines())) < 400


def test_a_number_that_moved_is_told_with_what_explains_it(kpusim, recorded):
    cycles = shifted(recorded)
    text = recorded.read_text()
    result = kpusim("regress", recorded)
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if "projection" in line)
    assert row.split()[:5] == ["projection", "cycles", f"{cycles - 7:,}", f"{cycles:,}", f"+{700 / (cycles - 7):.2f}%"]
    assert result.stdout.endswith("2 cases, 1 moved\n")
    assert "mlp" not in result.stdout
    assert recorded.read_text() == text


def test_another_machine_explains_itself(kpusim, recorded):
    change(recorded, 'machine = "kpu-tiny"', 'machine = "kpu-tiny"\nset = ["matrix.macs_per_cell.bf16=1/2"]')
    assert re.search(r"projection .* matrix busy \+[\d,]+ \(of \+", kpusim("regress", recorded).stdout)
    change(recorded, "launch=50 ns", "launch=1 us")
    assert re.search(r"mlp .* launches and barriers \+", kpusim("regress", recorded).stdout)


def test_numbers_move_with_a_reason_only_and_the_reasons_are_kept(kpusim, recorded):
    cycles, text = shifted(recorded), recorded.read_text()
    result = kpusim("regress", recorded, "--update")
    assert result.exit_code == 2
    assert "projection moved: say why" in result.stderr
    assert recorded.read_text() == text
    for number, reason in enumerate(("wider tiles", 'ünd "more" = [x]\t\U0001f600')):
        assert kpusim("regress", recorded, "--update", "--reason", reason).exit_code == 0
        history = tomllib.loads(recorded.read_text())["history"]
        assert len(history) == number + 1
        assert history[-1] == {"reason": reason, "changes": [f"projection: cycles {cycles - 7} -> {cycles}"]}
        assert kpusim("regress", recorded).exit_code == 0
        shifted(recorded)
    assert "# the end\n\n[[history]]\n" in recorded.read_text()


def test_an_update_without_a_change_leaves_the_file(kpusim, recorded):
    before = recorded.stat().st_mtime_ns
    assert kpusim("regress", recorded, "--update", "--reason", "none needed").exit_code == 0
    assert recorded.stat().st_mtime_ns == before
    assert "none needed" not in recorded.read_text()


def test_accounts_that_differ_alone_are_written_silently(kpusim, recorded):
    busy = load_suite(recorded).cases[0].golden.units["matrix"]["busy"]
    good = recorded.read_text()
    recorded.write_text(good.replace(f"busy = {busy},", f"busy = {busy - 1},", 1))
    assert kpusim("regress", recorded).exit_code == 0
    assert kpusim("regress", recorded, "--update").exit_code == 0
    assert recorded.read_text() == good


def test_a_case_that_becomes_another_kind_loses_the_old_numbers(kpusim, recorded):
    change(recorded, 'workload = "layers.toml"\nsymbols = { layers = 2 }', f'operator = "{GEMM}"')
    assert kpusim("regress", recorded, "--update", "--reason", "an operator now").exit_code == 0
    assert load_suite(recorded).cases[1].golden.operators == ()
    assert kpusim("regress", recorded).exit_code == 0


@pytest.mark.parametrize(
    ("pattern", "cases"), [("mlp", 1), ("*", 2), ("p*n", 1), ("m", 1), ("j", 1), ("[mp]*", 2)]
)  # fmt: skip
def test_filter_takes_text_or_a_glob(kpusim, recorded, pattern, cases):
    result = kpusim("regress", recorded, "--filter", pattern)
    assert result.stdout == f"{cases} case{'s' * (cases > 1)}, 0 moved\n"


def test_a_filtered_update_writes_these_cases_only(kpusim, suite):
    assert kpusim("regress", suite, "--update", "--filter", "mlp").exit_code == 0
    assert [case.golden is None for case in load_suite(suite).cases] == [True, False]


def test_processes_change_nothing(kpusim, recorded):
    shifted(recorded)
    one, two = (kpusim("regress", recorded, "--json", "--jobs", jobs) for jobs in (1, 2))
    assert one.exit_code == two.exit_code == 1
    assert one.stdout == two.stdout
    change(recorded, 'machine = "mine.toml"', 'machine = "kpu-tinny"')
    one, two = (kpusim("regress", recorded, "--jobs", jobs) for jobs in (1, 2))
    assert one.exit_code == two.exit_code == 2
    assert one.stderr == two.stderr


def test_json_has_the_documented_keys(kpusim, recorded):
    cycles = shifted(recorded)
    data = json.loads(kpusim("regress", recorded, "--json").stdout)
    assert (data["moved"], data["new"], data["updated"]) == (1, 0, [])
    case, other = data["cases"]
    assert (case["suite"], case["name"], other["changes"]) == (str(recorded), "projection", [])
    assert case["measured"]["cycles"] == cycles
    (changed,) = case["changes"]
    assert (changed["what"], changed["golden"], changed["now"]) == ("cycles", cycles - 7, cycles)
    assert changed["percent"] == pytest.approx(700 / (cycles - 7))
    text = " ".join(kpusim("regress", "--help").stdout.split())
    for record in (data, case, changed, case["measured"], other["measured"]):
        assert all(key in text for key in record)
    data = json.loads(kpusim("regress", recorded, "--json", "--update", "--reason", "r").stdout)
    assert data["updated"] == [str(recorded)]


def test_suites_below_traces_are_the_default(kpusim, recorded, tmp_path):
    result = kpusim("regress")
    assert result.exit_code == 2
    assert "none in traces/*.toml" in result.stderr
    (tmp_path / "traces").mkdir()
    for name in ("a", "b"):
        (tmp_path / "traces" / f"{name}.toml").write_text(SUITE[: SUITE.index("# Everything.")])
    result = kpusim("regress")
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines() if "projection" in line] == [
        ["a", "projection"],
        ["b", "projection"],
    ]
    assert result.stdout.endswith("2 cases, 0 moved, 2 new: run with --update\n")


def test_several_suites_are_written_all_or_none(kpusim, recorded, tmp_path):
    (tmp_path / "other.toml").write_text(SUITE[: SUITE.index("# Everything.")])
    shifted(recorded)
    assert kpusim("regress", "other.toml", recorded, "--update").exit_code == 2
    assert "cycles" not in (tmp_path / "other.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"kpu-tiny"', '"kpu-tinny"', "suite.toml:4: case 'projection': unknown machine; found 'kpu-tinny'"),
        ('"kpu-tiny"', '"no.toml"', "suite.toml:4: case 'projection': no.toml: cannot be read"),
        (f'"{GEMM}"', '"gem(m=1)"', "case 'projection': operator: unknown operator; found 'gem'; allowed: gemm"),
        ("front_end.launch", "front_end.lunch", "case 'mlp': --set front_end.lunch: unknown key"),
        ('"layers.toml"', '"none.toml"', "case 'mlp': none.toml: cannot be read"),
        ("{ layers = 2 }", "{ layers = 2.5 }", "[cases.1.symbols] layers: wrong type; found 2.5"),
        ("{ layers = 2 }", "{ layrs = 2 }", "case 'mlp': --symbol layrs"),
        ('name = "mlp"', 'name = "projection"', "suite.toml:11: [cases.1] name: a second case of this name"),
        ('name = "mlp"', 'name = " "', "suite.toml:11: [cases.1] name: a case needs a name"),
        ('name = "mlp"', 'nam = "mlp"', "[cases.1] nam: unknown key; found 'nam'; allowed: name"),
        ('name = "mlp"', "name = 3", "[cases.1] name: wrong type; found 3; allowed: text in quotes"),
        ('name = "mlp"\n', "", "[cases.1] name: missing"),
        ('operator = "', 'run = "x"\noperator = "', "case 'projection': 'run' belongs to a workload"),
        ('operator = "', 'program = "x"\noperator = "', "one thing to run is needed; found 'operator and program'"),
        ('workload = "layers.toml"', "", "one thing to run is needed; found 'none'; allowed: operator, program"),
        ('operator = "', 'cycles = 3\noperator = "', "[cases.0] hbm_bytes: missing; or leave out all numbers"),
        (
            'operator = "',
            'cycles = "3"\nhbm_bytes = 1\nrow_hits = 1\noperator = "',
            "wrong type; found '3'; allowed: a whole number",
        ),
        ("# What", "[cases", "not valid TOML"),
        ("# What my team holds.", "suite = 3", "suite.toml:1: suite: unknown key; found 'suite'; allowed: cases"),
        (SUITE, "cases = 3\n", "cases: wrong type; found 3; allowed: an array"),
        (SUITE, "# nothing\n", "suite.toml: no cases; allowed: [[cases]]"),
    ],
)
def test_bad_suites_are_one_message_and_nothing_is_written(kpusim, suite, old, new, message):
    change(suite, old, new)
    text = suite.read_text()
    result = kpusim("regress", suite, "--update")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert suite.read_text() == text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no.toml"], "Error: no.toml: cannot be read"),
        (["--reason", "x"], "--reason belongs to --update"),
        (["--update", "--reason", " "], "--reason is empty"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_bad_arguments(kpusim, args, message):
    result = kpusim("regress", *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_filter_that_takes_nothing_says_what_there_is(kpusim, suite):
    result = kpusim("regress", suite, "--filter", "projecton")
    assert result.exit_code == 2
    assert "no case has such a name; found 'projecton'; allowed: projection, mlp; did you mean" in result.stderr


def test_cases_in_one_array_cannot_be_written(kpusim, tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(f"cases = [{{ name = 'g', machine = 'kpu-tiny', operator = '{GEMM}' }}]\n")
    assert kpusim("regress", path).exit_code == 1
    result = kpusim("regress", path, "--update")
    assert result.exit_code == 2
    assert "[[cases]]" in result.stderr


def test_programs_run_from_the_suites_folder(kpusim, suite):
    kpusim("lower", "--op", GEMM, "-m", "kpu-tiny", "-o", suite.parent / "g.kasm")
    change(suite, f'operator = "{GEMM}"', 'program = "g.kasm"')
    assert kpusim("regress", suite, "--update").exit_code == 0
    assert load_suite(suite).cases[0].golden.cycles == run(GEMM, "kpu-tiny").rows[0].cycles


def test_interrupted_processes_end_quietly(suite):
    case = SUITE[: SUITE.index("# Everything.")].replace(GEMM, "gemm(m=1024, n=1024, k=1024)")  # seconds
    suite.write_text(case + case.replace("projection", "another"))
    args = [sys.executable, "-c", "from kpusim.cli import main; main()", "regress", str(suite), "--jobs", "2"]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
