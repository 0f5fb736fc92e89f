"""`kpusim compare`: its rows against runs of the same machines one by one."""

import csv
import json
import os

import pytest
from click.testing import CliRunner

import kpusim
from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.processes import map_in_order
from kpusim.report.compare import variants

GEMM = "gemm(m=20, n=24, k=28)"


@pytest.fixture
def compare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, ["compare", *args])


def in_json(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], [{}]),
        (["hbm.stacks=4,6"], [{"hbm.stacks": "4"}, {"hbm.stacks": "6"}]),
        (["a=1,2", "b=x, y"], [{"a": a, "b": b} for a in "12" for b in "xy"]),
        (["matrix.rows,matrix.columns=8,16"], [{"matrix.rows": n, "matrix.columns": n} for n in ("8", "16")]),
        (["clock=1 GHz,1.2 GHz"], [{"clock": "1 GHz"}, {"clock": "1.2 GHz"}]),
        (["description='a, b',\"c,d\""], [{"description": "'a, b'"}, {"description": '"c,d"'}]),
        (["t={ a = 1, b = 2 },{a=2}"], [{"t": "{ a = 1, b = 2 }"}, {"t": "{a=2}"}]),
        (["t=[1, 2]"], [{"t": "[1, 2]"}]),
    ],
)
def test_values_with_commas_are_variants(sets, expected):
    assert [variant.sets for variant in variants(["m"], sets)] == expected


def test_names_say_only_what_varies():
    def names(machines, *sets):
        return [variant.name for variant in variants(machines, sets)]

    assert names(["m"], "a=1") == ["m"]
    assert names(["m", "n"], "a=1") == ["m", "n"]
    assert names(["m", "n"], "a=1", "b,c=2,3") == ["m b,c=2", "m b,c=3", "n b,c=2", "n b,c=3"]


def test_rows_are_the_runs_of_the_variants(compare):
    rows = in_json(compare("--op", GEMM, "-m", "kpu-tiny,kpu-edge", "--set", "hbm.channels=2,4", "--json"))
    assert [row["variant"] for row in rows] == [
        f"{machine} hbm.channels={channels}" for machine in ("kpu-tiny", "kpu-edge") for channels in (2, 4)
    ]
    first = None
    for row in rows:
        machine = load_machine(row["machine"], [f"hbm.channels={row['sets']['hbm.channels']}"])
        result = kpusim.run(GEMM, machine)
        (op,), total = result.rows, result.json()["runs"][0]["total"]
        assert {key: row[key] for key in total if key in row} == {key: total[key] for key in total if key in row}
        first = first or row["microseconds"]
        assert row["times_baseline"] == row["microseconds"] / first
        assert row["hbm_bytes"] == op.hbm_bytes
        assert row["bound"] == {"by": op.bound.by, "share": 1.0}
        stall = op.top_stall
        assert row["top_stall"] == {"unit": stall.unit, "cause": stall.cause, "share": pytest.approx(stall.share)}
    assert len({row["cycles"] for row in rows}) == 4


WORKLOAD = """name = "two"
symbols = { m = 8 }
runs = { small = { m = 8 }, large = { m = 64 } }
tensors.x = { shape = ["m", 32], role = "input" }
tensors.w = { shape = [32, 64], role = "weight" }
tensors.h = { shape = ["m", 64], role = "activation" }
tensors.v = { shape = [64, 16], role = "weight" }
tensors.y = { shape = ["m", 16], role = "output" }

[[operators]]
name = "up"
family = "gemm"
ports = { a = "x", b = "w", out = "h" }

[[operators]]
name = "down"
family = "gemm"
ports = { a = "h", b = "v", out = "y" }
"""


def test_a_workload_has_a_row_for_each_run(compare, tmp_path):
    (tmp_path / "two.toml").write_text(WORKLOAD)
    args = ("two.toml", "-m", "kpu-tiny", "--set", "hbm.bandwidth=16 B/cycle,4 B/cycle")
    rows = in_json(compare(*args, "--json"))
    assert [(row["variant"], row["run"]) for row in rows] == [
        (f"hbm.bandwidth={rate} B/cycle", run) for rate in (16, 4) for run in ("small", "large")
    ]
    for row, base in zip(rows, rows[:2] * 2, strict=True):
        assert row["times_baseline"] == pytest.approx(row["cycles"] / base["cycles"])
        result = kpusim.run("two.toml", load_machine("kpu-tiny", [f"hbm.bandwidth={row['sets']['hbm.bandwidth']}"]),
                            runs=[row["run"]])  # fmt: skip
        assert row["cycles"] == result.cycles
        cycles = sum(op.cycles for op in result.rows)
        assert row["hbm_bytes"] == sum(op.hbm_bytes for op in result.rows)
        bounds = {op.bound.by: 0 for op in result.rows}
        for op in result.rows:
            bounds[op.bound.by] += op.cycles
        assert row["bound"] == {
            "by": max(bounds, key=bounds.get),
            "share": pytest.approx(max(bounds.values()) / cycles),
        }
        assert {op.top_stall.cause for op in result.rows} == {row["top_stall"]["cause"]}
        weighed = sum(op.top_stall.share * op.cycles for op in result.rows)
        assert row["top_stall"]["share"] == pytest.approx(weighed / cycles)
    assert [row["run"] for row in in_json(compare(*args, "--run", "large", "--json"))] == ["large", "large"]
    table = compare(*args).stdout
    assert "two.toml on kpu-tiny" in table
    assert all(word in table for word in ("small", "large", "x baseline", "matrix for dma"))


def test_jobs_do_not_change_the_result(compare):
    args = ("--op", GEMM, "-m", "kpu-tiny", "--set", "hbm.stacks=1,2,4", "--json")
    assert compare(*args, "--jobs", "2").stdout == compare(*args).stdout


def test_a_killed_process_is_one_message():
    with pytest.raises(UserError, match="a process was killed"):
        list(map_in_order(os._exit, [1, 1], 2, lambda item: None))


def test_csv_has_the_rows_of_json(compare, tmp_path):
    args = ("--op", GEMM, "-m", "kpu-tiny", "--set", "clock=1 GHz,2 GHz", "--csv", "rows.csv", "--json")
    rows = in_json(compare(*args))
    with (tmp_path / "rows.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [int(row["cycles"]) for row in written] == [row["cycles"] for row in rows]
    assert [row["set.clock"] for row in written] == ["1 GHz", "2 GHz"]
    assert [row["top_stall.cause"] for row in written] == [row["top_stall"]["cause"] for row in rows]


def test_documented_keys(compare):
    text = " ".join(compare("--help").stdout.split())
    (row,) = in_json(compare("--op", GEMM, "-m", "kpu-tiny", "--json"))
    assert all(key in text for record in (row, row["top_stall"], row["bound"]) for key in record)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Give either a workload file or --op."),
        (["x.toml", "--op", GEMM], "Give either a workload file or --op."),
        (["--op", GEMM, "--run", "a"], "belong to a workload file"),
        (["--op", GEMM, "-m", "kpu-tiny,kpu-egde"], "did you mean 'kpu-edge'?"),
        (["--op", GEMM, "--set", "hbm.stakcs=1,2"], "did you mean 'stacks'?"),
        (["--op", GEMM, "--set", "hbm.stacks=1,0"], "variant hbm.stacks=0: --set hbm.stacks: too small"),
        (["--op", GEMM, "--set", "hbm.stacks=1,,2"], "Error: --set hbm.stacks=1,,2: not a change with its values"),
        (["--op", GEMM, "--set", "hbm.stacks"], "not a change with its values"),
        (["--op", GEMM, "--set", "hbm.stacks="], "not a change with its values"),
        (["--op", GEMM, "--set", "chips=1", "--set", "chips=1"], "Error: --set chips: given twice"),
        (["--op", "gem(m=1)"], "Error: --op: unknown operator; found 'gem'"),
        (
            ["--op", "gemm(m=4096, n=4096, k=4096)", "-m", "kpu-edge,kpu-tiny"],
            "variant kpu-tiny: gemm: tensor a does not fit",
        ),
        (["--op", GEMM, "-m", "kpu-tiny", "--set", "sram.capacity=4 KiB,16 B"], "variant sram.capacity=16 B: "),
        (["tiny-mpl"], "did you mean 'tiny-mlp'?"),
        (["tiny-mlp", "--run", "x"], "no such run"),
        (["--op", GEMM, "--jobs", "0"], "0 is not in the range"),
        (["--op", GEMM, "-m", "kpu-tiny", "--csv", "."], "is a directory"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(compare, args, message):
    result = compare(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize("more", [("--set", "hbm.stacks=1,0"), ("--csv", ".")])
def test_nothing_is_simulated_where_something_cannot_be(compare, monkeypatch, more):
    monkeypatch.setattr("kpusim.report.compare.run_plans", lambda plans: pytest.fail("simulated"))
    assert compare("--op", GEMM, "-m", "kpu-tiny", *more).exit_code == 2
