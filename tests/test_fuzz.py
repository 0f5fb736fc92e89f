"""`kpusim fuzz` finds what is wrong, tells it in a small line that runs it again, and draws the same for a seed."""

import json
import os
import shlex
import subprocess
import sys
from random import Random

import numpy as np
import pytest
from attrs import evolve
from click.testing import CliRunner

from kpusim.cli import main
from kpusim.fuzz import Case, Summary, checks, drawn, examine, search
from kpusim.fuzz.machines import PRESETS, draw_machine
from kpusim.isa import disassemble
from kpusim.machine import load_machine
from kpusim.operators import FAMILIES, Part, make_operator, mapping_text, parse_mapping
from kpusim.operators.gemm import Gemm
from kpusim.simulate.run import simulate

MAP = "grid_m=1,grid_n=1,block_m=1,block_n=1,block_k=1,slots=many"
SMALL = Case("gemm(m=5, n=7, k=9)", "kpu-tiny")


def fuzz(*args):
    return CliRunner().invoke(main, ["fuzz", *args])


def again(line):
    """What the line of a failure does."""
    program, *args = shlex.split(line)
    assert program == "kpusim"
    return CliRunner().invoke(main, args)


# --- what it draws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family):
    for case in drawn(1, range(2), [family]):
        outcome = examine(case)
        assert outcome.verdict != "failed", f"{outcome.why}\n{case.line}"


@pytest.mark.parametrize("text", [
    "gemm(m=1, n=1, k=1, dtype=int8, out_dtype=fp8_e4m3)",
    "attention(queries=71, keys=38, head_dim=44, heads=2, kv_heads=2, variant=unfused)",
])  # fmt: skip
def test_what_failed_once(text):
    assert examine(Case(text, "kpu-tiny")) == checks.Outcome("passed")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_often(family):
    for case in drawn(2, range(30), [family]):
        outcome = examine(case)
        assert outcome.verdict != "failed", f"{outcome.why}\n{case.line}"


def test_few_cases_are_refused():
    outcomes = [examine(case).verdict for case in drawn(3, range(8), ["gemm"], ["kpu-tiny"])]
    assert outcomes.count("passed") > 5


def lines(seed, count=8):
    return [case.line for case in drawn(seed, range(count))]


def test_the_same_seed_draws_the_same():
    assert lines(5) == lines(5) != lines(6)
    assert [case.line for case in drawn(5, [7])] == lines(5)[7:]
    code = "from test_fuzz import lines; print(lines(5))"
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": f"{here}{os.pathsep}{os.path.dirname(here)}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(lines(5))


def test_it_draws_from_everything():
    cases = [*drawn(0, range(30), ["gemm"], ["kpu-tiny"])]
    assert {bool(case.mapping) for case in cases} == {True, False}
    assert len({case.chunk_bytes for case in cases}) > 1
    machines = [draw_machine(Random(seed)) for seed in range(400)]
    assert {name for name, _ in machines} == set(PRESETS)
    assert min(len(sets) for _, sets in machines) == 0
    changed = {change.partition("=")[0] for _, sets in machines for change in sets}
    assert changed >= {
        "tiles.rows", "matrix.dataflow", "sram.capacity", "sram.sharing", "noc.topology", "shared.kind", "hbm.hash"
    }  # fmt: skip


def test_families_and_machines_can_be_chosen():
    cases = [*drawn(0, range(10), ["grouped_gemm"], ["kpu-edge"], ["hbm.stacks=2"])]
    assert {case.operator.partition("(")[0] for case in cases} == {"grouped_gemm"}
    assert {case.machine for case in cases} == {"kpu-edge"}
    assert all(case.sets[-1] == "hbm.stacks=2" for case in cases)


def test_a_line_is_its_case(monkeypatch):
    seen = []
    monkeypatch.setattr(search, "examine", lambda case: seen.append(case) or checks.Outcome("passed"))
    cases = [
        *drawn(8, range(20), ["gemm"]),
        Case("grouped_gemm(groups=2, m=4, n=1, k=1, rows='1 3')", "kpu-tiny", ("dma.priorities=[0,1,0,1]",), "", 64),
    ]
    for case in cases:
        assert again(case.line).exit_code == 0
    assert seen == cases


def test_mappings_as_text():
    operator = make_operator(SMALL.operator)
    chosen = operator.lower(load_machine("kpu-tiny")).mapping
    assert parse_mapping(mapping_text(chosen), operator, "--map") == chosen
    other = evolve(chosen, slots=3, resident="a")
    assert parse_mapping(mapping_text(other), operator, "--map") == other


# --- what it finds ----------------------------------------------------------------------------------------------------


def wrong_reference(monkeypatch):
    right = Gemm.reference
    monkeypatch.setattr(Gemm, "reference", lambda self, inputs: {"out": right(self, inputs)["out"] * 1.2})


def crash(monkeypatch):
    def lower(self, machine, layouts=None, **options):
        return 1 // 0

    monkeypatch.setattr(Gemm, "lower", lower)


def simulated(change):
    """Has every simulation changed by `change(run, plain)`."""

    def patch(monkeypatch):
        def changed(*args, plain=False, **options):
            run = simulate(*args, plain=plain, **options)
            change(run, plain)
            return run

        monkeypatch.setattr(checks, "simulate", changed)

    return patch


def later(run, plain):
    run.cycles += not plain


def more_reads(run, plain):
    run.counters["hbm.read_bytes"] += 8 * plain


def unwritten(run, plain):
    run.counters["hbm.write_bytes"] = 69


def unread(run, plain):
    run.counters["hbm.read_bytes"] = 1


def idle_arrays(run, plain):
    run.counters["macs.bf16"] = 5 * 7 * 9 - 1


def busier(run, plain):
    run.busy[0] += 1


def lazier(run, plain):
    run.cycles -= 100


def more_work(monkeypatch):
    monkeypatch.setattr(Gemm, "vector_work", {"exp": 10})


def other_text(monkeypatch):
    monkeypatch.setattr(checks, "disassemble", lambda program: disassemble(evolve(program, name="other")))


def other_mapping(monkeypatch):
    lower = Gemm.lower

    def once_more(self, machine, layouts=None, *, mapping=None):
        return lower(self, machine, mapping=mapping and evolve(mapping, slots=mapping.slots - 1))

    monkeypatch.setattr(Gemm, "lower", once_more)


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (wrong_reference, "DIFFERS FROM its float64 reference"),
        (crash, "ZeroDivisionError"),
        (simulated(later), "cycles in plain mode"),
        (simulated(more_reads), "hbm.read_bytes: "),
        (simulated(unwritten), "69 bytes are written, but the outputs are 70"),
        (simulated(unread), f"but inputs and outputs are {2 * (5 * 7 + 7 * 9 + 5 * 9)}"),
        (simulated(idle_arrays), "314 multiply-accumulates are executed, but the operator has 315"),
        (more_work, "vector engines worked for 35 lane-cycles, but the operator needs 40"),
        (simulated(busier), "busy and stalls of chip0.tile0.matrix are not those of its spans"),
        (simulated(lazier), "is idle for -"),
        (other_text, "the program's text is read as another program"),
        (other_mapping, "forced, gives another program"),
    ],
)
def test_a_defect_is_found_and_runs_again(monkeypatch, break_it, why):
    assert again(SMALL.line).exit_code == 0
    with monkeypatch.context() as patch:
        break_it(patch)
        result = again(SMALL.line)
        assert result.exit_code == 1
        assert why in result.stdout
        assert result.stdout.endswith(f"\n  {SMALL.line}\n")
    assert again(SMALL.line).exit_code == 0


class Halves(Gemm):
    """(a @ b) @ b for square b, in two programs."""

    @property
    def parts(self):
        gemm = Gemm(self.m, self.n, self.k)
        return (
            Part("one", gemm, {"a": "a", "b": "b", "out": "half"}),
            Part("two", gemm, {"a": "half", "b": "b", "out": "out"}),
        )

    def reference(self, inputs):
        return super().reference({"a": super().reference(inputs)["out"], "b": inputs["b"]})

    def error_bound(self, inputs):
        a, b = (np.abs(inputs[name].astype(float)) for name in "ab")
        return {"out": a @ b @ b / 64}  # the sums between them are rounded to bf16


@pytest.mark.parametrize("factor", [1, 1.2])
def test_parts_are_examined_one_by_one_and_as_a_whole(monkeypatch, factor):
    """Values go from part to part; a reference of the whole that is wrong is found, though all parts are right."""
    right = Halves.reference
    monkeypatch.setattr(Halves, "reference", lambda self, inputs: {"out": right(self, inputs)["out"] * factor})
    monkeypatch.setattr(checks, "make_operator", lambda text: Halves(8, 8, 8))
    monkeypatch.setattr(checks, "text_of", str)
    outcome = examine(SMALL)
    assert outcome.verdict == ("passed" if factor == 1 else "failed")
    assert ("DIFFERS" in outcome.why) == (factor != 1)


def test_a_failure_is_made_small(monkeypatch):
    right = Gemm.error_bound

    def error_bound(self, inputs):
        if self.n >= 6:
            raise RuntimeError(f"{self.n} columns")
        return right(self, inputs)

    monkeypatch.setattr(Gemm, "error_bound", error_bound)
    summary = Summary()
    case = Case("gemm(m=12, n=30, k=9, bias=True, dtype='fp16')", "kpu-edge", ("hbm.hash=none", "dma.setup=0cycles"))
    first, second = summary.examine(case), summary.examine(SMALL)
    assert first.case == Case("gemm(m=1, n=6, k=1)", "kpu-tiny")
    assert first.is_news and not second.is_news
    assert summary.totals == {"passed": 0, "refused": 0, "failed": 2}
    (told,) = summary.json()["failures"]
    assert (told["found"], told["line"]) == (2, 'kpusim fuzz --op "gemm(m=1, n=6, k=1)" -m kpu-tiny')


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_refusal_is_no_failure():
    result = fuzz("--op", "gemm(m=5, n=7, k=9)", "-m", "kpu-tiny", "--set", "dma.queues=2")
    assert result.exit_code == 0
    assert result.stdout.startswith("refused: kpu-tiny: a GEMM needs a queue each for A, B and the output")


def test_json_and_the_exit_code(monkeypatch):
    wrong_reference(monkeypatch)
    result = fuzz("--family", "gemm", "-m", "kpu-tiny", "--seconds", "0.5", "--seed", "3", "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["seed"] == 3
    assert data["families"] == {"gemm": {name: data[name] for name in ("passed", "refused", "failed")}}
    assert sum(failure["found"] for failure in data["failures"]) == data["failed"] > 0
    assert again(data["failures"][0]["line"]).exit_code == 1


def test_the_commonest_refusal_of_a_family_is_told(monkeypatch):
    """Without place, numbers and what is allowed, by which they would all be different ones."""
    why = iter((
        "kpu-tiny: too large for it: 1,024 bytes; found 'rows=8'", "kpu-tiny: too large for it: 64 bytes; found 7",
        f"--op: impossible mul: {'x' * 100}; found 3",
    ))  # fmt: skip
    monkeypatch.setattr(search, "examine", lambda case: checks.Outcome("refused", next(why)))
    monkeypatch.setattr("kpusim.fuzz.numbers", lambda seconds: range(3))
    result = fuzz("--family", "mul", "-m", "kpu-tiny", "--json")
    assert json.loads(result.stdout)["refusals"] == {"mul": {"too large for it: N bytes": 2, "x" * 100: 1}}
    why = iter(["kpu-tiny: " + "x" * 100, *["kpu-tiny: too large for it: 64 bytes"] * 2])
    result = fuzz("--family", "mul", "-m", "kpu-tiny")
    assert "refused most because" in result.stdout and "too large for it: N bytes (2)" in result.stdout
    why = iter([f"kpu-tiny: {'x' * 100}"] * 3)
    assert f" {'x' * 57}... (3)" in fuzz("--family", "mul", "-m", "kpu-tiny").stdout


def test_nothing_is_told_of_refusals_where_none_was(monkeypatch):
    monkeypatch.setattr(search, "examine", lambda case: checks.Outcome("passed"))
    monkeypatch.setattr("kpusim.fuzz.numbers", lambda seconds: range(3))
    assert "refused most" not in fuzz("--family", "mul").stdout


def test_seconds_end_no_case_that_has_begun():
    assert "No new case begins after so long" in " ".join(fuzz("--help").stdout.split())


def test_an_interruption_tells_what_was_done(monkeypatch):
    seen = []

    def examined(case):
        seen.append(case)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return checks.Outcome("passed")

    monkeypatch.setattr(search, "examine", examined)
    result = fuzz("--family", "gemm")
    assert result.exit_code == 130
    assert "2 cases of seed 0" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--family", "gem"), "--family: unknown operator; found 'gem'; "),
        (("-m", "kpu-tinny"), "did you mean 'kpu-tiny'?"),
        (("--set", "hbm.stack=8"), "did you mean 'stacks'?"),
        (("--op", "gemm(m=1)"), "gemm needs the parameter n"),
        (("--op", SMALL.operator, "--map", "slot=3"), "--map:1: slot: unknown key; found 'slot'"),
        (("--op", SMALL.operator, "--map", MAP), "--map:6: slots: wrong type; found 'many'; allowed: a whole number"),
        (("--op", SMALL.operator, "--case", "1"), "--op excludes --family and --case"),
        (("--map", "slots=2"), "--map and --chunk belong to --op"),
        (("--seconds", "0"), "Invalid value for '--seconds'"),
    ],
)
def test_what_is_misspelt_exits_2(args, message):
    result = fuzz(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
