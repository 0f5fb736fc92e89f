"""The trace: what is written is read again, adds up, and opens in the viewers."""

import gzip
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_samples import META, PROGRAM, UNITS, accounts, spans, write

from kpusim.simulate.spans import NO_SPAN, ROWS, SPAN, STALLS, SpanBuffer
from kpusim.trace.export import export_perfetto
from kpusim.trace.hotspots import accounts_by_kind, hotspots
from kpusim.trace.profile import Accumulator, Timeline
from kpusim.trace.reader import open_trace
from kpusim.trace.schema import BINS, CHUNK, unit_kind
from kpusim.trace.writer import TraceWriter


@pytest.fixture(scope="module")
def two_blocks(tmp_path_factory):
    """A trace of a block longer than a chunk and one shorter; the first runs twice."""
    path = tmp_path_factory.mktemp("trace") / "two.h5"
    blocks = [spans(CHUNK + 5000), spans(3000, seed=1)]
    return path, blocks, [0, 1, 0], write(path, blocks, [0, 1, 0], pieces=10_000)


# Spans


def test_span_buffer_keeps_the_order_of_single_spans_and_blocks():
    got = []
    buffer = SpanBuffer(got.append)
    block = spans(2 * ROWS + 10)
    for number in range(5):
        assert buffer.record(number, number + 2, number + 3, 7, 1, 9, 4, NO_SPAN, 64, 1, 2, 3, 4, 5, 6, 8) == number
    assert buffer.record_block(block) == 5
    assert buffer.record(1, 2, 3, 4, 5, 6, 7) == buffer.count - 1 == len(block) + 5
    buffer.flush()
    assert [len(rows) for rows in got] == [ROWS, ROWS, 16]
    rows = np.concatenate(got)
    assert np.array_equal(rows[5:-1], block)
    assert rows[2].tolist() == (2, 4, 5, 7, 1, 9, 4, NO_SPAN, 64, 1, 2, 3, 4, 5, 6, 8)
    assert rows[-1].tolist() == (1, 2, 3, 4, 5, 6, 7, NO_SPAN, 0, 0, 0, 0, 0, 0, 0, 0)


def test_span_buffer_refuses_what_a_column_cannot_hold():
    import struct

    with pytest.raises(struct.error):
        SpanBuffer(lambda rows: None).record(-1, 0, 0, 0, 0, 0, 0)


# Amounts over time


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5000), st.integers(0, 900), st.integers(0, 99)), max_size=30),
    st.integers(1, 7),
)
def test_accumulator_equals_a_sum_cycle_by_cycle(intervals, piece):
    exact = np.zeros((3, 16 * BINS))
    accumulator = Accumulator(3)
    for row, start, length, amount in intervals:
        exact[row, start : start + max(length, 1)] += amount / max(length, 1)
    for first in range(0, len(intervals), piece):
        row, start, length, amount = (
            np.array(column) for column in zip(*intervals[first : first + piece], strict=True)
        )
        accumulator.add(row, start, start + length, amount.astype(float))
    profile = accumulator.profile()
    edges = np.arange(profile.cumulative.shape[1]) * profile.width
    assert np.allclose(profile.cumulative, np.pad(exact.cumsum(axis=1), ((0, 0), (1, 0)))[:, edges])
    assert np.allclose(profile.at_least(64).cumulative[:, -1], exact.sum(axis=1))


def test_timeline_keeps_all_amounts_and_puts_them_where_they_were():
    accumulator = Accumulator(1)
    accumulator.add(np.array([0, 0]), np.array([0, 90]), np.array([10, 100]), np.array([10.0, 10.0]))
    timeline = Timeline(1)
    for start in range(0, 100_000, 1000):
        timeline.add(timeline.trim(accumulator.profile()), start, 100)
    rates = timeline.rates()[0]
    assert timeline.width == 256 and len(rates) == -(-99_100 // 256)
    assert rates[:-1].sum() * 256 + rates[-1] * (99_100 % 256) == pytest.approx(2000)
    assert rates[1] == 0 and rates[0] == pytest.approx(20 / 256)


# Round trip


def test_all_columns_come_back(two_blocks):
    path, blocks, runs, starts = two_blocks
    with open_trace(path) as trace:
        assert trace.meta == META
        assert trace.event_count == sum(map(len, blocks)) and trace.block_count == 2
        assert trace.program_text(1) == PROGRAM and trace.program_arrays(0)["line"].tolist() == [2, 3, 4]
        assert [op.start_cycle for op in trace.ops] == starts and [op.block for op in trace.ops] == runs
        assert trace.ops[1].counters == {"bytes.hbm": int(blocks[1]["bytes"].sum()), "launches": 1}
        assert trace.ops[2].end_cycle == trace.total_cycles
        for op in trace.ops:
            columns = trace.events(op)
            for name in SPAN.names:
                assert columns[name].dtype == SPAN[name] and np.array_equal(columns[name], blocks[op.block][name]), name
            pieces = [piece["pc"] for piece in trace.chunks(op, ("pc",))]
            assert np.array_equal(np.concatenate(pieces), blocks[op.block]["pc"])


@pytest.mark.parametrize("units", [None, (0, 9)])
def test_a_window_equals_a_full_scan(two_blocks, units):
    path, blocks, runs, starts = two_blocks
    with open_trace(path) as trace:
        total = trace.total_cycles
        for low, high in [
            (0, 100),
            (starts[1] - 300, starts[1] + 300),
            (total // 3, total // 3 + 777),
            (total, total + 9),
        ]:
            expected = set()
            for number, (block, moved) in enumerate(zip(runs, starts, strict=True)):
                start, end = (blocks[block][key].astype(int) + moved for key in ("start_cycle", "end_cycle"))
                hit = (start < high) & ((end > low) | ((end == start) & (start >= low)))
                hit &= np.isin(blocks[block]["unit"], range(99) if units is None else units)
                expected |= {(number, row, start[row]) for row in np.flatnonzero(hit).tolist()}
            found = trace.window(low, high, units)
            got = list(zip(*(found[key].tolist() for key in ("op", "row", "start_cycle")), strict=True))
            assert set(got) == expected and len(got) == len(expected)
            assert (np.diff(found["start_cycle"].astype(int)) >= 0).all()


def test_accounts_add_up(two_blocks):
    path, blocks, runs, _ = two_blocks
    with open_trace(path) as trace:
        table = trace.accounts()
        assert (sum(table.values()) == trace.total_cycles).all()
        busy = sum(accounts(blocks[block])[0] for block in runs)
        assert np.array_equal(table["busy"], busy)
        shares, cycles = trace.utilization()
        width = np.diff(np.append(cycles, trace.total_cycles))
        assert np.allclose(shares @ width, busy) and shares.min() >= 0 and shares.max() < 1.0001
        assert len(cycles) <= BINS and len(set(np.diff(cycles).tolist())) == 1
        rates, _ = trace.hbm_bandwidth()
        assert rates @ width == pytest.approx(sum(int(blocks[block]["bytes"].sum()) for block in runs))
        kinds = accounts_by_kind(trace)
        assert list(kinds) == ["matrix", "vector", "dma"]
        for sums in kinds.values():
            assert sum(sums[key] for key in table) == sums["total"] == sums["units"] * trace.total_cycles


def test_more_work_than_time_is_refused(tmp_path):
    units = len(UNITS)
    with (
        pytest.raises(ValueError, match=r"chip0.tile0.matrix: busy \+ stalls exceed 10 cycles by 1"),
        TraceWriter(tmp_path / "a.h5", META) as trace,
    ):
        block = trace.begin_block("", {})
        trace.end_block()
        trace.op(
            name="a", type="gemm", start=0, block=block, cycles=10, flops=0, hbm_read_bytes=0, hbm_write_bytes=0,
            busy=np.full(units, 11), stalls=np.zeros((units, len(STALLS)), int),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_hotspots_count_every_run(two_blocks):
    path, blocks, _, _ = two_blocks
    with open_trace(path) as trace:
        spots = {(spot.block, spot.pc): spot for spot in hotspots(trace)}
    assert len(spots) == 6
    mine = blocks[0][blocks[0]["pc"] == 1]
    spot = spots[0, 1]
    assert (spot.opcode, spot.source, spot.ops) == ("matmul", "matmul c, a, b", ("op0", "op2"))
    assert spot.count == 2 * len(mine) and spot.stall_cycles["dma"] == 2 * int(mine["stall_dma"].sum())
    assert spot.busy_cycles == 2 * accounts(mine)[0].sum() and spot.top_stall == "dma"


@pytest.mark.parametrize("blocks", [[], [np.zeros(0, SPAN)]])
def test_an_empty_trace_is_a_trace(tmp_path, blocks):
    write(tmp_path / "a.h5", blocks, range(len(blocks)))
    with open_trace(tmp_path / "a.h5") as trace:
        assert trace.event_count == 0 and hotspots(trace) == []
        assert len(trace.window(0, 10**9)["pc"]) == 0
        assert export_perfetto(trace, tmp_path / "a.json.gz") == 0
    assert_conforms(tmp_path / "a.h5")


def test_equal_runs_write_equal_bytes(tmp_path):
    rows = spans(5000)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "run.h5", [rows], [0])
        with open_trace(tmp_path / name / "run.h5") as trace:
            export_perfetto(trace, tmp_path / name / "run.json.gz")
    for name in ("run.h5", "run.json.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_span_takes_at_most_12_bytes_and_opening_is_fast(two_blocks):
    path, blocks, _, _ = two_blocks
    assert path.stat().st_size / sum(map(len, blocks)) < 12
    began = time.perf_counter()
    with open_trace(path):
        assert time.perf_counter() - began < 0.2


# Viewers


def assert_conforms(path):
    """No error and no warning from nxcheck (whose exit code is always 0), and a valid default plot for silx."""
    nxcheck = Path(sys.executable).parent / "nxcheck"
    said = subprocess.run([nxcheck, path], capture_output=True, text=True, check=True).stdout
    assert "Total number of errors: 0" in said and "Total number of warnings: 0" in said, said
    from silx.io.nxdata import get_default

    with h5py.File(path) as file:
        default = get_default(file, validate=True)
        assert default is not None and default.is_valid and default.signal.name == "/entry/utilization/utilization"
        assert default.signal.shape == (len(file["entry/machine/unit_name"]), len(default.axes[1]))
        for name in ("hbm_bandwidth", "stalls", "roofline"):
            plot = get_default(file["entry"][name], validate=True)
            assert plot is not None and plot.is_valid, name


def test_file_conforms_to_nexus(two_blocks):
    assert_conforms(two_blocks[0])


def test_the_hbm_is_labelled_with_what_is_attainable(two_blocks):
    with h5py.File(two_blocks[0]) as file:
        title = file["entry/hbm_bandwidth/title"][()].decode()
        assert title.startswith("HBM bandwidth (byte/cycle), attainable 256: ")
        assert file["entry/machine/peak_hbm"].attrs["long_name"] == "Attainable HBM bandwidth"


def test_default_leads_to_the_utilization(two_blocks):
    with h5py.File(two_blocks[0]) as file:
        entry = file[file.attrs["default"]]
        plot = entry[entry.attrs["default"]]
        signal = plot[plot.attrs["signal"]]
        assert (file.attrs["NX_class"], entry.attrs["NX_class"], plot.attrs["NX_class"]) == (
            "NXroot",
            "NXentry",
            "NXdata",
        )
        assert signal.name == "/entry/utilization/utilization"
        assert signal.shape == tuple(len(plot[axis]) for axis in plot.attrs["axes"])
        missing = []
        file.visititems(
            lambda name, item: (
                missing.append(name)
                if isinstance(item, h5py.Dataset) and not {"units", "long_name"} <= set(item.attrs)
                else None
            )
        )
        assert missing == []


def test_roofline_shows_each_operator_below_the_roof(two_blocks):
    with open_trace(two_blocks[0]) as trace, h5py.File(two_blocks[0]) as file:
        chart = file["entry/roofline"]
        names = chart["op_name"].asstr()[()].tolist()
        for op in trace.ops:
            at = names.index(op.name)
            assert chart["intensity"][at] == pytest.approx(op.flops / op.hbm_read_bytes)
            assert chart["performance"][at] == pytest.approx(1000 * META.clock_hz / 1e12)
            assert chart["performance"][at - 1] == pytest.approx(chart["roof"][at]) and np.isnan(
                chart["performance"][at + 1]
            )


def test_perfetto_export(two_blocks, tmp_path):
    path, blocks, runs, starts = two_blocks
    with open_trace(path) as trace:
        count = export_perfetto(trace, tmp_path / "x.json.gz")
    assert count == sum(len(blocks[block]) for block in runs)
    events = json.loads(gzip.decompress((tmp_path / "x.json.gz").read_bytes()))["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == count + len(runs) and all(event["tid"] >= 1000 for event in slices)
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {unit_kind(name) for name in names.values()} == {"operators", "matrix", "vector", "dma"}
    tracks = {}
    for event in slices:
        tracks.setdefault(names[event["tid"]], []).append(event)
    assert len(tracks) == len(UNITS) + 1
    row = blocks[0][0]
    first = tracks[UNITS[0]][0]
    assert first["ts"] == pytest.approx((starts[0] + int(row["start_cycle"])) / 1830, abs=1e-6)
    assert first["name"] == "matmul" and first["args"]["stall dma"] == row["stall_dma"]
    for track in tracks.values():
        for before, after in pairwise(track):
            assert int(before["ts"] * 1e3) + int(before["dur"] * 1e3) <= int(after["ts"] * 1e3)
