"""`kpusim diff`: what it says of two traces against what the simulations that wrote them say."""

import json
from pathlib import Path
from shutil import copyfile

import h5py
import pytest
from click.testing import CliRunner

import kpusim
from kpusim.cli import main
from kpusim.machine import load_machine
from kpusim.report.diff import diff_traces
from kpusim.trace.hotspots import op_shares
from kpusim.trace.reader import open_trace

WORKLOAD, SLOW = "tiny-mlp", ("hbm.bandwidth=4 B/cycle", "matrix.overlap_folds=true")


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Traces by name, with the results of their runs."""
    folder, results = tmp_path_factory.mktemp("diff"), {}
    tiny, slow = load_machine("kpu-tiny"), load_machine("kpu-tiny", SLOW)
    for name, what, machine, options in (
        ("a", WORKLOAD, tiny, {}),
        ("slow", WORKLOAD, slow, {"chunk_bytes": 4096}),
        ("deeper", WORKLOAD, tiny, {"symbols": {"layers": 5}}),
        ("edge", WORKLOAD, load_machine("kpu-edge"), {}),
        ("gemm", "gemm(m=20, n=24, k=28)", tiny, {}),
    ):
        path = folder / f"{name}.h5"
        results[name] = path, kpusim.run(what, machine, trace=path, **options)
    copyfile(folder / "a.h5", folder / "copy.h5")
    results["copy"] = folder / "copy.h5", results["a"][1]
    return results


@pytest.fixture
def diff(traces):
    def call(a, b, *args):
        paths = [str(traces[each][0] if each in traces else each) for each in (a, b)]
        return CliRunner().invoke(main, ["diff", *paths, *args])

    return call


def in_json(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["a", "slow", "edge", "gemm"])
def test_shares_from_events_are_those_of_the_simulation(traces, name):
    path, result = traces[name]
    rows = {row.operator: row for row in result.rows}
    with open_trace(path) as trace:
        for op in trace.ops:
            found, expected = op_shares(trace, op), rows[op.name.rpartition(".")[2]].units
            assert found == {
                kind: share for kind, share in expected.items() if share.busy or any(share.stalls.values())
            }


@pytest.mark.parametrize("other", ["slow", "edge"])
def test_cycles_of_units_explain_the_change(traces, diff, other):
    before, after = traces["a"][1], traces[other][1]
    data = in_json(diff("a", other, "--json"))
    assert (data["equal"], data["change"]) == (False, after.cycles - before.cycles)
    gaps = data["b"]["gap_cycles"] - data["a"]["gap_cycles"]
    assert sum(op["change"] for op in data["operators"]) + gaps == data["change"]
    for op, a, b in zip(data["operators"], before.rows, after.rows, strict=True):
        assert op["operator"].endswith(a.operator)
        assert op["count"] == a.count == 3
        assert op["change"] == 3 * (b.cycles - a.cycles)
        assert (op["a"]["cycles"], op["b"]["hbm_bytes"]) == (a.cycles, b.hbm_bytes)
        parts = dict.fromkeys(op["a"]["units"] | op["b"]["units"], 0.0)
        for move in op["moves"]:
            for side, row in (("a", a), ("b", b)):
                share = row.units[move["unit"]]
                spent = {"busy": share.busy, "idle": share.idle, **share.stalls}
                assert move[side] == pytest.approx(spent[move["what"]] / share.units)
            parts[move["unit"]] += move["part"]
        assert all(total == pytest.approx(1) for total in parts.values())
        kinds = ("matrix", "vector", "dma")
        order = [(kinds.index(move["unit"]), -move["part"]) for move in op["moves"]]
        assert order == sorted(order)


def test_less_hbm_bandwidth_shows_as_waiting_for_loads(diff):
    data = in_json(diff("a", "slow", "--json"))
    matrix = [move for move in data["operators"][0]["moves"] if move["unit"] == "matrix"]
    assert (matrix[0]["what"], matrix[0]["change"] > 0) == ("dma", True)
    assert {tuple(each.values()) for each in data["settings"]} == {
        ("machine", "hbm.bandwidth", "16 GB/s", "4 GB/s"),
        ("machine", "matrix.overlap_folds", "false", "true"),
        ("option", "chunk_bytes", "16384", "4096"),
    }
    text = diff("a", "slow", "-n", "1").stdout
    for word in (
        "hbm.bandwidth",
        "16 GB/s",
        "wait for dma",
        "layer.up x3",
        "launches and barriers",
        " more",
    ):
        assert word in text


def test_two_equal_traces(diff):
    result = diff("a", "copy")
    assert result.exit_code == 0
    assert "A and B are equal" in result.stdout
    data = in_json(diff("a", "copy", "--json"))
    assert (data["equal"], data["change"], data["settings"]) == (True, 0, [])
    assert all(op["moves"] == [] for op in data["operators"])


def test_operators_of_one_trace_only(traces, diff):
    data = in_json(diff("a", "deeper", "--json"))
    assert [(op["operator"], op["count"], op["a"] is None) for op in data["operators"]] == [
        ("layer.up", 3, False), ("layer.down", 3, False), ("layer.up", 2, True), ("layer.down", 2, True),
    ]  # fmt: skip
    assert not data["equal"]
    assert "only in B" in diff("a", "deeper").stdout
    data = in_json(diff("gemm", "a", "--json"))
    assert {op["operator"]: (op["a"] is None, op["b"] is None) for op in data["operators"]} == {
        "gemm": (False, True), "layer.up": (True, False), "layer.down": (True, False),
    }  # fmt: skip
    assert "workload" in [each["what"] for each in data["settings"]]


def test_documented_keys(diff):
    data = in_json(diff("a", "slow", "--json"))
    text = " ".join(CliRunner().invoke(main, ["diff", "--help"]).stdout.split())
    op = data["operators"][0]
    for record in (data, data["a"], data["settings"][0], op, op["a"], op["moves"][0]):
        assert all(key in text for key in record)


def test_the_same_number_of_cycles_spent_otherwise_is_no_equality(traces, tmp_path):
    path = tmp_path / "other.h5"
    copyfile(traces["a"][0], path)
    with h5py.File(path, "r+") as file:
        events = file["entry/events"]
        busy = int((events["end_cycle"][()] > events["start_cycle"][()]).argmax())
        events["start_cycle"][busy] += 1
        events["stall_dma"][busy] += 1
    with open_trace(traces["a"][0]) as a, open_trace(path) as b:
        found = diff_traces(a, b)
    assert not found.equal
    moves = [(move.what, move.part) for op in found.operators for move in op.moves]
    assert {what for what, _ in moves} == {"busy", "dma"}
    assert {part for _, part in moves} == {None}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("a", "a", "both are the same file"),
        ("a", "nothing.h5", "Error: nothing.h5: no such file"),
        ("text.h5", "a", "Error: text.h5: is not an HDF5 file"),
        ("a", "cut.h5", "Error: cut.h5: cannot be read, damaged or truncated"),
        ("a", "column.h5", "Error: column.h5: cannot be read, damaged or truncated"),
        ("a", "other.h5", "Error: other.h5: is an HDF5 file, but not a kpusim trace"),
        ("a", "machine.h5", "Error: the machine in machine.h5: not valid TOML"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(traces, diff, tmp_path, monkeypatch, a, b, message):
    monkeypatch.chdir(tmp_path)
    whole = Path(traces["a"][0]).read_bytes()
    Path("text.h5").write_text("no trace")
    Path("cut.h5").write_bytes(whole[: len(whole) // 2])
    h5py.File("other.h5", "w").close()
    for name in ("machine.h5", "column.h5"):
        Path(name).write_bytes(whole)
    with h5py.File("column.h5", "r+") as file:
        del file["entry/events/stall_dma"]
    with h5py.File("machine.h5", "r+") as file:
        del file["entry/machine/description"]
        file["entry/machine/description"] = "[broken"
    result = diff(a, b)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
