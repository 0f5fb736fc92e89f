"""Trace files: whole or not there, bad ones told in one message; and the commands that print them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from trace_samples import META, spans, write

import kpusim
from kpusim.cli.trace import command
from kpusim.errors import UserError
from kpusim.simulate.spans import SPAN
from kpusim.trace.hotspots import hotspots
from kpusim.trace.reader import open_trace
from kpusim.trace.schema import CHUNK
from kpusim.trace.writer import TraceWriter


def check(file, *arguments):
    result = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, file
    return json.loads(result.stdout) if "--json" in arguments else result.output


@pytest.fixture(scope="module")
def two_blocks(tmp_path_factory):
    """A trace of a block longer than a chunk and one shorter; the first runs twice."""
    path = tmp_path_factory.mktemp("trace") / "two.h5"
    blocks = [spans(CHUNK + 5000), spans(3000, seed=1)]
    return path, blocks, [0, 1, 0], write(path, blocks, [0, 1, 0], pieces=10_000)


def test_a_narrow_port_is_told_everywhere(tmp_path):
    """In the trace's accounts, columns and hotspots as in the run's own, and as what bounds it."""
    machine = kpusim.get_machine("kpu-tiny", {"sram.ports.matrix": "2 B/cycle"})
    result = kpusim.run("gemm(m=16, n=16, k=16)", machine, trace=tmp_path / "t.h5")
    row = result.rows[0]
    assert (row.top_stall.unit, row.top_stall.cause, row.bound.by) == ("matrix", "port", "SRAM port")
    with open_trace(tmp_path / "t.h5") as trace:
        accounts, events = trace.accounts(), trace.events(trace.ops[0])
        waited = np.bincount(events["unit"], events["stall_port"], len(accounts["port"]))
        top = max(hotspots(trace), key=lambda spot: spot.stall_cycles["port"])
    assert accounts["port"].tolist() == waited.tolist() == result.arrays()["stalls"][0, :, -1].tolist()
    assert accounts["port"][:4].sum() > accounts["busy"][:4].sum() > 0
    assert (top.opcode, top.top_stall) == ("matmul", "port")


# Whole or not there


def test_an_exception_leaves_nothing(tmp_path):
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), TraceWriter(tmp_path / "a.h5", META) as trace:
            trace.begin_block("", {})
            trace.rows(spans(2 * CHUNK))
            raise error
        assert list(tmp_path.iterdir()) == []


def test_a_failing_run_leaves_the_trace_before_it(tmp_path):
    write(tmp_path / "a.h5", [spans(10)], [0])
    kept = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(KeyboardInterrupt), TraceWriter(tmp_path / "a.h5", META):
        raise KeyboardInterrupt
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.h5", kept)]


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from trace_samples import CHUNK, META, TraceWriter, spans
with TraceWriter(Path({path!r}), META) as trace:
    trace.begin_block("", {{}})
    trace.rows(spans(3 * CHUNK + 100))
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_writer_leaves_no_trace_but_its_part(tmp_path, how):
    path = tmp_path / "a.h5"
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(how)
    if how == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
        return
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5.part"]
    with pytest.raises(UserError, match=r"a\.h5\.part: is an unfinished trace"):
        open_trace(tmp_path / "a.h5.part")
    os.replace(tmp_path / "a.h5.part", path)
    with pytest.raises(UserError, match="a.h5: cannot be read"):
        open_trace(path)
    with h5py.File(path, "r", swmr=True) as file:
        events = file["entry/events"]
        assert events["n_committed"][()] == 3 * CHUNK
        for name in SPAN.names:
            assert np.array_equal(events[name][: 3 * CHUNK], spans(3 * CHUNK + 100)[name][: 3 * CHUNK]), name


def test_a_trace_can_be_followed_while_it_is_written(tmp_path):
    with TraceWriter(tmp_path / "a.h5", META) as trace:
        trace.begin_block("", {})
        trace.rows(spans(CHUNK + 1))
        with h5py.File(tmp_path / "a.h5.part", "r", swmr=True) as file:
            assert file["entry/events/n_committed"][()] == CHUNK
            assert np.array_equal(file["entry/events/pc"][()], spans(CHUNK + 1)["pc"][:CHUNK])
            trace.end_block()


# Bad input


def test_what_is_no_trace_is_one_message(tmp_path):
    good = tmp_path / "good.h5"
    write(good, [spans(CHUNK)], [0])
    data = good.read_bytes()
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    h5py.File(tmp_path / "other.h5", "w").close()
    (tmp_path / "newer.h5").write_bytes(data)
    with h5py.File(tmp_path / "newer.h5", "r+") as file:
        file["entry/kpusim"].attrs["schema_version"] = 99
    (tmp_path / "part.h5").write_bytes(data)
    with h5py.File(tmp_path / "part.h5", "r+") as file:
        del file["entry/stalls"]
    for name, problem in {
        "none.h5": "no such file",
        "text.h5": "is not an HDF5 file",
        "empty.h5": "is not an HDF5 file",
        ".": "is not an HDF5 file",
        "cut.h5": "cannot be read, damaged or truncated",
        "other.h5": "is an HDF5 file, but not a kpusim trace",
        "newer.h5": "has trace schema 99, this kpusim reads 2",
        "part.h5": "cannot be read, damaged or truncated",
    }.items():
        with pytest.raises(UserError) as caught:
            open_trace(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {problem}")
        assert "\n" not in str(caught.value)


def test_a_damaged_column_is_one_message(tmp_path):
    path = tmp_path / "a.h5"
    write(path, [spans(CHUNK)], [0])
    with h5py.File(path) as file:
        chunk = file["entry/events/pc"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(b"\xff" * 20)
    with open_trace(path) as trace, pytest.raises(UserError, match="a.h5: cannot be read"):
        trace.events(trace.ops[0])


def test_an_output_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.h5"):
        with pytest.raises(UserError), TraceWriter(path, META):
            pass


# Commands


def test_commands_print_tables_and_json(two_blocks, tmp_path):
    path, blocks, _, _ = two_blocks
    facts = check(path, "info", path, "--json")
    assert facts["total_cycles"] and facts["units"] == {"matrix": 4, "vector": 4, "dma": 4}
    assert facts["options"] == {"hbm.stacks": "8"} and facts["ops"][0]["counters"]["launches"] == 1
    assert f"{facts['total_cycles']:,} cycles" in check(path, "info", path)

    spots = check(path, "top", path, "--by", "stalls", "-n", "2", "--json")
    assert len(spots) == 2 and spots[0]["stalled"] >= spots[1]["stalled"]
    assert "matmul c, a, b" in check(path, "top", path)

    table = check(path, "stalls", path, "--units", "chip0.tile3.*", "--json")
    assert list(table["units"]) == ["chip0.tile3.matrix", "chip0.tile3.vector"]
    assert "chip0.tile3.matrix" in check(path, "stalls", path, "--units", "chip0.tile3.*")

    found = check(path, "events", path, "--unit", "chip0.dma1.q1", "--from", 500, "--to", 900, "--json")
    assert found and {event["unit"] for event in found} == {"chip0.dma1.q1"}
    assert all(event["end_cycle"] >= 500 and event["start_cycle"] < 900 for event in found)
    assert "chip0.dma1.q1" in check(path, "events", path, "--unit", "chip0.dma1.q1", "--from", 500)

    assert check(path, "export", path, "-o", tmp_path / "x.json.gz", "--json")["slices"] == sum(
        len(blocks[block]) for block in (0, 1, 0)
    )


def test_a_misspelt_unit_is_one_message(two_blocks):
    result = CliRunner().invoke(command, ["stalls", str(two_blocks[0]), "--units", "chip9.*"])
    assert isinstance(result.exception, UserError) and "no unit matches; found 'chip9.*'" in str(result.exception)
