"""`kpusim run`, `lower` and `exec`, as a user calls them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from kpusim.cli import main

GEMM = "gemm(m=12, n=20, k=24)"
TINY = ("-m", "kpu-tiny")
RUN = ("run", "--op", GEMM, *TINY)


@pytest.fixture
def kpusim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


def in_json(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_run_prints_table_bounds_and_what_opens_the_trace(kpusim, tmp_path):
    result = kpusim(*RUN)
    assert result.exit_code == 0
    for word in ("operator", "shape", "cycles", "us", "TFLOP/s", "matrix", "HBM", "GB/s", "roof", "top stall", "total"):
        assert word in result.stdout
    assert "m=12 n=20 k=24" in result.stdout
    assert re.search(r"^gemm is bound by [\w ]+ because .*\d", result.stdout, re.MULTILINE)
    assert "Peak of HBM: " in result.stdout
    path = "kpusim-out/gemm-m12-n20-k24.kpu-tiny.h5"
    assert f"Trace: {path}" in result.stdout
    assert f"silx view {path}" in result.stdout
    assert (tmp_path / path).exists()
    assert kpusim("trace", "top", path).exit_code == 0


def test_run_json_has_the_documented_keys(kpusim):
    data = in_json(kpusim(*RUN, "--json", "--verify", "--explain", "--trace", "t.h5"))
    assert data.keys() == {"machine", "trace", "runs", "verification", "explain", "tried"}
    (run,) = data["runs"]
    assert run.keys() == {"name", "symbols", "operators", "total"}
    text = " ".join(kpusim("run", "--help").stdout.split())
    for record in (data, run, run["operators"][0], run["total"], data["verification"][0]["verdict"]):
        assert all(key in text for key in record)
    row = run["operators"][0]
    assert row["shape"] == {"m": 12, "n": 20, "k": 24}
    assert row["counters"]["macs.bf16"] == 12 * 20 * 24
    assert row["matrix_utilisation"] == pytest.approx(12 * 20 * 24 / (4 * 16 * row["cycles"]))
    assert row["tflops"] == pytest.approx(2 * 12 * 20 * 24 / row["cycles"] / 1e3)
    assert row["roof_cycles"] == max(12 * 20 * 24 / 64, row["compulsory_bytes"] / 16)
    assert row["distance"] == pytest.approx(row["cycles"] / row["roof_cycles"])
    assert run["total"]["cycles"] == 100 + row["cycles"]
    assert run["total"]["peak_hbm_bytes"] == row["compulsory_bytes"]
    for share in row["units"].values():
        assert share["busy"] + sum(share["stalls"].values()) + share["idle"] == share["units"] * row["cycles"]
    assert data["verification"][0]["verdict"]["passed"]
    assert data["explain"]["gemm"][0].keys() == {"what", "value", "why"}


def test_the_trace_says_what_the_report_says(kpusim):
    data = in_json(kpusim("run", "tiny-mlp", *TINY, "--json", "--trace", "t.h5"))
    info = in_json(kpusim("trace", "info", "t.h5", "--json"))
    total = data["runs"][0]["total"]
    assert info["total_cycles"] == total["cycles"]
    assert [op["name"] for op in info["ops"]] == [f"layer[{i}].{op}" for i in range(3) for op in ("up", "down")]
    assert sum(op["hbm_read_bytes"] for op in info["ops"]) == total["hbm_read_bytes"]
    assert sum(op["launch_cycles"] for op in info["ops"]) == total["gap_cycles"]
    assert len({op["block"] for op in info["ops"]}) == 2
    stalls = in_json(kpusim("trace", "stalls", "t.h5", "--json"))
    for account in stalls["units"].values():
        assert sum(account.values()) == info["total_cycles"]
    top = in_json(kpusim("trace", "top", "t.h5", "--json"))
    assert any("matmul" in spot["source"] for spot in top)


def test_equal_runs_write_equal_traces(kpusim, tmp_path):
    (tmp_path / "b").mkdir()
    for path in ("t.h5", "b/t.h5"):
        assert kpusim(*RUN, "--trace", path).exit_code == 0
    assert (tmp_path / "t.h5").read_bytes() == (tmp_path / "b/t.h5").read_bytes()


def test_plain_mode_gives_the_same_report(kpusim):
    reports = [in_json(kpusim(*RUN, "--no-trace", "--json", "--chunk", "32 B", *more)) for more in ((), ("--plain",))]
    assert reports[0] == reports[1]
    assert reports[0]["trace"] is None


def test_runs_of_a_workload(kpusim):
    data = in_json(kpusim("run", "llama3-8b-layer", "--run", "decode-1", "--no-trace", "--json"))
    (run,) = data["runs"]
    assert run["name"] == "decode-1"
    assert [row["operator"] for row in run["operators"]] == ["qkv", "o", "gate_up", "down"]
    assert all(row["bound"]["by"] == "HBM bandwidth" for row in run["operators"])
    barriers = in_json(kpusim("run", "llama3-8b-layer-barriers", "--run", "decode-1", "--no-trace", "--json"))
    total, other = run["total"], barriers["runs"][0]["total"]
    assert (total["launches"], other["launches"]) == (4, 1)
    assert other["cycles"] - total["cycles"] == 3 * 64  # launches are hidden; a barrier is 64 cycles


def test_symbols_and_sets_change_the_run(kpusim):
    base = in_json(kpusim("run", "tiny-mlp", *TINY, "--no-trace", "--json"))
    more = in_json(kpusim("run", "tiny-mlp", *TINY, "--no-trace", "--json", "--symbol", "layers=5"))
    assert base["runs"][0]["operators"][0]["count"] == 3
    assert more["runs"][0]["operators"][0]["count"] == 5
    wide = in_json(kpusim("run", "tiny-mlp", *TINY, "--no-trace", "--json", "--set", "hbm.bandwidth=4 B/cycle"))
    assert wide["runs"][0]["total"]["cycles"] > base["runs"][0]["total"]["cycles"]


def test_lower_edit_exec(kpusim, tmp_path):
    lowered = kpusim("lower", "--op", GEMM, *TINY, "-o", "p.kasm", "--explain")
    assert lowered.exit_code == 0
    assert "kpusim exec p.kasm" in lowered.stdout
    text = (tmp_path / "p.kasm").read_text()
    assert kpusim("lower", "--op", GEMM, *TINY).stdout == text
    assert in_json(kpusim("lower", "--op", GEMM, *TINY, "--json"))["program"] == text
    ran = in_json(kpusim(*RUN, "--no-trace", "--json"))
    data = in_json(kpusim("exec", "p.kasm", *TINY, "--data", "--reference", GEMM, "--trace", "e.h5", "--json"))
    row, expected = data["runs"][0]["operators"][0], ran["runs"][0]["operators"][0]
    assert row["cycles"] == expected["cycles"]
    assert row["tflops"] == pytest.approx(expected["tflops"])
    assert data["verification"][0]["verdict"]["passed"]
    assert data["outputs"]["out"]["shape"] == [12, 20]
    assert kpusim("exec", "p.kasm", *TINY, "--data", "--reference", GEMM).exit_code == 0
    assert kpusim("asm", "p.kasm", *TINY, "-o", "p.npz").exit_code == 0
    assert in_json(kpusim("exec", "p.npz", *TINY, "--json"))["runs"] == data["runs"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("m=12, n=20, k=25", "gemm has another a; found 'bf16 [12, 24] in'; allowed: bf16 [12, 25] in"),
        ("m=12, n=20, k=24, b_dtype=int8", "gemm has another b; found 'bf16 [24, 20] in'; allowed: int8 [24, 20] in"),
        ("m=12, n=20, k=24, out_dtype=fp32", "another out; found 'bf16 [12, 20] out'; allowed: fp32 [12, 20] out"),
        ("m=12, n=20, k=24, residual=true", "gemm has a tensor residual, the program has none"),
        ("m=12, n=20, k=24", "the program reads what gemm does not have; found 'bias'"),
    ],
)  # fmt: skip
def test_a_reference_with_other_tensors_is_told(kpusim, reference, message):
    bias = ", bias=true" if "bias" in message else ""
    kpusim("lower", "--op", GEMM.replace(")", f"{bias})"), *TINY, "-o", "p.kasm")
    result = kpusim("exec", "p.kasm", *TINY, "--data", "--reference", f"gemm({reference})")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_wrong_result_is_told_and_exits_1(kpusim, tmp_path):
    deep = "gemm(m=4, n=4, k=1024)"  # more than one step along k in an SRAM of 4 KiB
    kpusim("lower", "--op", deep, *TINY, "-o", "p.kasm")
    text = (tmp_path / "p.kasm").read_text()
    (tmp_path / "p.kasm").write_text(re.sub(r"accumulate=\w+", "accumulate=0", text))
    result = kpusim("exec", "p.kasm", *TINY, "--data", "--reference", deep)
    assert result.exit_code == 1
    assert "gemm: out DIFFERS FROM its float64 reference" in result.stdout


def test_lower_an_operator_of_a_workload(kpusim):
    assert kpusim("lower", "tiny-mlp#up", *TINY).stdout.startswith("kasm 1\nprogram gemm")
    result = kpusim("lower", "tiny-mlp#upp", *TINY)
    assert (result.exit_code, "did you mean 'up'?" in result.stderr) == (2, True)
    result = kpusim("lower", "tiny-mlp", *TINY)
    assert (result.exit_code, "allowed: up, down" in result.stderr) == (2, True)


HAZARD = """kasm 1
program early
tensor x bf16 [4, 4] in
tensor y bf16 [4, 4] out
map x_all = x box [4, 4]
map y_all = y box [4, 4]
sram s bf16 [1][4, 4]
section dma queue 0 engines 0..1
  load s[0] @ 0, x_all(0, 0)
  store y_all(0, 0), s[0] @ 0
end
"""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "Give either a workload file or --op."),
        (["run", "x.toml", "--op", GEMM], "Give either a workload file or --op."),
        (["run", "--op", GEMM, "--trace", "t.h5", "--no-trace"], "exclude each other"),
        (["run", "--op", GEMM, "--symbol", "m=2"], "belong to a workload file"),
        (["run", "--op", "gem(m=1)"], "Error: --op: unknown operator; found 'gem'"),
        (["run", "--op", "gemm(m=1, n=2, kk=3)"], "gemm has no such parameter; found 'kk'"),
        (["run", "--op", "gemm(m=1, n=2"], "Error: --op: not an operator"),
        (["run", "--op", "gemm(m=0, n=2, k=3)"], "impossible m of gemm; found 0"),
        (["run", "--op", "gemm(m=-4, n=2, k=3)"], "impossible m of gemm; found -4"),
        (["run", "--op", "gemm(m=2, n=2, k=3, dtype=bf61)"], "impossible dtype of gemm"),
        (["run", "--op", GEMM, "-m", "kpu-tinny"], "did you mean 'kpu-tiny'?"),
        (["run", "--op", GEMM, "--set", "hbm.channels=0"], "Error: --set hbm.channels: too small"),
        (["run", "--op", GEMM, "--set", "hbm.stakcs=8"], "did you mean 'stacks'?"),
        (["run", "--op", GEMM, "--set", "sram.capacity=0 B"], "Error: --set sram.capacity: too small"),
        (["run", "--op", GEMM, "--set", "sram.capacity=4 GHz"], "wrong unit"),
        (["run", "--op", GEMM, "--chunk", "16"], "Error: --chunk: has no unit"),
        (["run", "--op", GEMM, "--chunk", "0 B"], "Error: --chunk: too small"),
        (["run", "tiny-mlp", "--symbol", "layer=2"], "Error: --symbol layer: unknown symbol; found 'layer'"),
        (["run", "tiny-mlp", "--symbol", "layers"], "Error: --symbol layers: not a symbol with its value"),
        (["run", "tiny-mlp", "--symbol", "layers=0"], "an impossible number of iterations; found 0"),
        (["run", "tiny-mlp", "--run", "prefill"], "no such run"),
        (["run", "tiny-mpl"], "did you mean 'tiny-mlp'?"),
        (["run", "none.toml"], "Error: none.toml: cannot be read"),
        (["run", "broken.toml"], "Error: broken.toml:2: not valid TOML"),
        (["run", "--op", "gemm(m=4096, n=4096, k=4096)", *TINY], "tensor a does not fit into the HBM of kpu-tiny"),
        ([*RUN, "--trace", "file/t.h5"], "Error: file/t.h5: cannot be written"),
        ([*RUN, "--trace", "."], "Error: .: is a directory, not a file"),
        (["lower", "--op", GEMM, "-o", "file/p.kasm"], "Error: file/p.kasm: cannot be written"),
        (["lower"], "Give either"),
        (["exec", "none.kasm"], "Error: none.kasm: cannot read the program"),
        (["exec", "cut.kasm", *TINY], "Error: cut.kasm:"),
        (["exec", "broken.toml", *TINY], "Error: broken.toml:1:"),
        (["exec", "hazard.kasm", *TINY, "--data"], "pc 1 (store, line 10) on chip0.dma0.q0 at cycle 6: reads s[0]"),
        (["exec", "hazard.kasm", "--reference", GEMM], "--reference needs --data"),
        (["exec", "file.npz"], "Error: file.npz: "),
        (["trace", "top", "broken.toml"], "Error: broken.toml: is not an HDF5 file"),
        (["bench", "--only", "gem4096"], "did you mean 'gemm4096'?"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(kpusim, tmp_path, args, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "file.npz").write_text("no numpy")
    (tmp_path / "broken.toml").write_text("name = 'x'\n[tensors\n")
    (tmp_path / "hazard.kasm").write_text(HAZARD)
    (tmp_path / "cut.kasm").write_text(HAZARD[: HAZARD.index("y_all(0")])
    before = sorted(tmp_path.rglob("*"))
    result = kpusim(*args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert result.stdout == ""
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [path for path in before if path.is_file()]


@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")])
def test_a_run_that_is_ended_leaves_nothing_half_written(tmp_path, number, told):
    operator = ["--op", "gemm(m=8192, n=8192, k=8192)", "-m", "kpu-edge", "--plain", "--trace", "t.h5"]
    code = f"from kpusim.cli import main; main(['run', *{operator}])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for _ in range(400):
        if (tmp_path / "t.h5.part").exists():
            break
        time.sleep(0.02)
    assert os.listdir(tmp_path) == ["t.h5.part"]
    time.sleep(0.3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (128 + number, told)
    assert os.listdir(tmp_path) == []


def test_run_begins_to_simulate_soon():
    """No library is imported that `run` does not need; the time itself depends on the machine."""
    code = (
        "import sys; from kpusim import api; from kpusim.simulate import workload; "
        "print([m for m in ('rich', 'h5py', 'ml_dtypes', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
