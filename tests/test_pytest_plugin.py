"""The fixture `kpusim_cycles`, in test suites of its own."""

import re
import subprocess
import sys

import pytest

from kpusim.api import run
from kpusim.golden import load_suite

GEMM = "gemm(m=12, n=20, k=24)"
TESTS = f"""
    import pytest

    def test_one(kpusim_cycles):
        assert kpusim_cycles("{GEMM}", machine="kpu-tiny").cycles > 0

    class TestMore:
        @pytest.mark.parametrize("rows", [1, 8])
        def test_rows(self, kpusim_cycles, rows):
            kpusim_cycles(f"gemm(m={{rows}}, n=8, k=8)", "kpu-tiny", set=["front_end.launch=50 ns"])
            kpusim_cycles("tiny-mlp", "kpu-tiny", symbols={{"layers": rows}})
"""
NAMES = [
    f"test_one: {GEMM} on kpu-tiny",
    *(
        f"TestMore::test_rows[{rows}]: {what}"
        for rows in (1, 8)
        for what in (
            f"gemm(m={rows}, n=8, k=8) on kpu-tiny front_end.launch=50 ns",
            f"tiny-mlp on kpu-tiny layers={rows}",
        )
    ),
]


@pytest.fixture
def golden(pytester):
    """The golden file of recorded TESTS."""
    pytester.makepyfile(test_speed=TESTS)
    result = pytester.runpytest("--kpusim-update")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["kpusim: test_speed.cycles.toml: 0 moved, 5 added"])
    return pytester.path / "test_speed.cycles.toml"


def shifted(path):
    """The golden cycles of the first case are 7 less than they are; they were this."""
    cycles = load_suite(path).cases[0].golden.cycles
    path.write_text(path.read_text().replace(f"cycles = {cycles}\n", f"cycles = {cycles - 7}\n", 1))
    return cycles


def test_what_is_not_recorded_fails(pytester):
    pytester.makepyfile(test_speed=TESTS)
    result = pytester.runpytest()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([f"{NAMES[0]}: not recorded in test_speed.cycles.toml; *pytest --kpusim-update"])
    assert list(pytester.path.glob("*.toml")) == []


def test_what_is_recorded_passes(pytester, golden):
    suite = load_suite(golden)
    assert [case.name for case in suite.cases] == NAMES
    assert suite.cases[0].golden.cycles == run(GEMM, "kpu-tiny").rows[0].cycles
    before = golden.read_text()
    pytester.runpytest().assert_outcomes(passed=3)
    assert golden.read_text() == before


def test_what_moved_fails_with_what_explains_it(pytester, golden):
    cycles = shifted(golden)
    for args in ((), ("-n1",)):
        result = pytester.runpytest(*args)
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(
            [
                f"{NAMES[0]}: not as in test_speed.cycles.toml",
                f"  cycles {cycles - 7:,} -> {cycles:,} (+{700 / (cycles - 7):.2f}%)*(of +7)",
            ]
        )


def test_what_moved_is_recorded_with_a_reason_only(pytester, golden):
    cycles = shifted(golden)
    before = golden.read_text()
    result = pytester.runpytest("--kpusim-update")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["give the reason: *"])
    assert golden.read_text() == before
    result = pytester.runpytest("--kpusim-update", "--kpusim-reason", "a wider array")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["kpusim: test_speed.cycles.toml: 1 moved, 0 added"])
    (entry,) = load_suite(golden).history
    assert entry.reason == "a wider array"
    assert entry.changes == (f"{NAMES[0]}: cycles {cycles - 7} -> {cycles}",)
    pytester.runpytest().assert_outcomes(passed=3)


def test_the_golden_file_is_a_suite(pytester, golden):
    done = subprocess.run([sys.executable, "-c", REGRESS, golden], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "5 cases, 0 moved\n")
    shifted(golden)
    done = subprocess.run([sys.executable, "-c", REGRESS, golden], capture_output=True, text=True, check=False)
    assert done.returncode == 1


REGRESS = "import sys; from kpusim.cli import main; main(['regress', sys.argv[1]])"


def test_new_cases_join_the_others(pytester, golden):
    before = golden.read_text()
    pytester.makepyfile(test_speed=TESTS + '\n    def test_two(kpusim_cycles): kpusim_cycles("tiny-mlp", "kpu-edge")')
    pytester.runpytest().assert_outcomes(passed=3, failed=1)
    pytester.runpytest("--kpusim-update").assert_outcomes(passed=4)
    assert golden.read_text().startswith(before)
    assert load_suite(golden).cases[-1].name == "test_two: tiny-mlp on kpu-edge"


def test_paths_start_at_the_test_file_and_hold_elsewhere(pytester):
    pytester.mkpydir("deep").joinpath("test_deep.py").write_text(
        "from pathlib import Path\n"
        "HERE = Path(__file__).parent\n"
        "def test(kpusim_cycles):\n"
        f"    kpusim_cycles('{GEMM}', machine=HERE / 'mine.toml')\n"
        "    kpusim_cycles('p.kasm', machine='mine.toml')\n"
    )
    deep = pytester.path / "deep"
    shell = "import sys; from kpusim.cli import main; main(sys.argv[1:])"
    for args in (
        ["machine", "show", "kpu-tiny", "--toml"],
        ["lower", "--op", GEMM, "-m", "kpu-tiny"],
    ):
        out = subprocess.run([sys.executable, "-c", shell, *args], capture_output=True, text=True, check=True).stdout
        (deep / ("mine.toml" if args[0] == "machine" else "p.kasm")).write_text(out)
    pytester.runpytest("--kpusim-update").assert_outcomes(passed=1)
    assert str(pytester.path) not in (deep / "test_deep.cycles.toml").read_text()
    one, two = load_suite(deep / "test_deep.cycles.toml").cases
    assert (one.machine, two.program, one.golden.cycles) == ("mine.toml", "p.kasm", two.golden.cycles)
    deep.rename(pytester.path / "moved")
    pytester.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('"gem(m=1)", "kpu-tiny"', "unknown operator; found 'gem'"),
        (f'"{GEMM}", "kpu-tinny"', "did you mean 'kpu-tiny'"),
        (f'"{GEMM}", "kpu-tiny", run="prefill"', "'run' belongs to a workload"),
        (f'"{GEMM}", "kpu-tiny", symbols={{"m": 3}}', "'symbols' belongs to a workload"),
    ],
)
def test_bad_calls_fail_with_one_message(pytester, call, message):
    pytester.makepyfile(f"def test(kpusim_cycles): kpusim_cycles({call})")
    for args in ((), ("--kpusim-update",)):
        result = pytester.runpytest(*args)
        result.assert_outcomes(failed=1)
        assert message in result.stdout.str()
        assert "Traceback" not in result.stdout.str()
    assert list(pytester.path.glob("*.toml")) == []


def test_a_golden_file_that_is_no_suite_is_one_message(pytester, golden):
    golden.write_text("cases = 3\n")
    result = pytester.runpytest()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*test_speed.cycles.toml:1: cases: wrong type; found 3; *"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--kpusim-reason", "x"], "--kpusim-reason belongs to --kpusim-update"),
        (["--kpusim-update", "-n2"], "--kpusim-update writes one file from one process"),
    ],
)
def test_bad_options(pytester, args, message):
    result = pytester.runpytest(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_pytest_starts_without_the_rest_of_kpusim(pytester):
    pytester.makepyfile(
        "import sys\n"
        "def test(): assert not {'numpy', 'simpy', 'cattrs', 'tomlkit', 'kpusim.golden'} & sys.modules.keys()\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    help_text = pytester.runpytest("--help").stdout.str()
    assert re.search(r"--kpusim-update\s", help_text)
    assert "kpusim_cycles" in pytester.runpytest("--fixtures").stdout.str()
