"""The simulator's own level of HBM by itself, against times on paper.

On one channel: bursts of 8 B, one a cycle, blocks of 8 bursts, rows of 4 blocks in 2 banks, tRP = tRCD = 4 cycles, 5 to
read, 10 of the controller; no refresh; but for what a test changes.
"""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpusim.engines.footprint import locate
from kpusim.engines.hbm import Hbm
from kpusim.engines.transfer import Chunk, chunk_of
from kpusim.machine import load_machine

OPENING, READ, CONTROLLER = 8, 5, 10
HIT = READ + CONTROLLER  # from a burst's start on the bus, less the burst, to its arrival
ONE = [
    "hbm.stacks=1", "hbm.channels=1", "hbm.banks=2", "hbm.bandwidth=8 B/cycle", "hbm.row=256 B", "hbm.access=8 B",
    "hbm.interleave=64 B", "hbm.hash=none", "hbm.row_activate=4 cycles", "hbm.precharge=4 cycles", "hbm.read=5 cycles",
    "hbm.activate_gap=1 cycle", "hbm.refresh_interval=1000 cycles", "hbm.refresh=0 cycles", "hbm.controller=10 cycles",
]  # fmt: skip


@cache
def machine_with(*sets):
    return load_machine("kpu-tiny", [*ONE, *sets])


def memory(*sets):
    return Hbm(machine_with(*sets))


def bursts(count, block=0):
    """A request for so many bursts of a block (of 8)."""
    return Chunk(8 * count, ((block, 1, 1, count),), 0, 0)


def read(hbm, now, block=0, count=1):
    return hbm.access(bursts(count), block, now, False)


def write(hbm, now, block=0, count=1):
    return hbm.access(bursts(count), block, now, True)


ROW = 4  # blocks of a row
BANK = 2 * ROW  # blocks from a row to the next of its bank


# --- one burst --------------------------------------------------------------------------------------------------------


def test_a_burst_alone():
    hbm = memory()
    assert read(hbm, 100) == 100 + OPENING + HIT
    assert read(hbm, 200) == 200 + HIT  # the row is open
    assert read(hbm, 300, BANK) == 300 + OPENING + HIT  # another row of the bank
    assert read(hbm, 400, ROW) == 400 + OPENING + HIT  # another bank, closed
    assert (hbm.row_hits, hbm.row_misses, hbm.row_conflicts) == (1, 3, 1)


def test_a_barrier_closes_rows():
    hbm = memory()
    read(hbm, 0)
    hbm.close_rows()
    assert read(hbm, 100) == 100 + OPENING + HIT
    assert (hbm.row_hits, hbm.row_misses, hbm.row_conflicts) == (0, 2, 0)


def test_a_row_stays_open_for_its_cycle():
    """tRC counts from opening to opening: 40 after cycle 0, although the burst was over after 9."""
    hbm = memory("hbm.row_cycle=40 cycles")
    read(hbm, 0)
    assert read(hbm, 10, BANK) == 40 + OPENING + HIT
    assert read(hbm, 100, 2 * BANK) == 100 + OPENING + HIT


def test_a_written_row_recovers_before_another_is_opened():
    """The data is on the bus from 8 to 9, CWL 3 later in the row, and tWR 20 behind."""
    hbm = memory("hbm.write_latency=3 cycles", "hbm.write_recovery=20 cycles")
    write(hbm, 0)
    assert read(hbm, 10, BANK) == 9 + 3 + 20 + OPENING + HIT
    write(hbm, 100, ROW)
    assert read(hbm, 110, ROW) == 110 + HIT  # of the open row: at once


# --- many bursts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row_cycle", "each"), [(40, 40), (0, OPENING + 1)])
def test_a_bank_that_is_hammered(row_cycle, each):
    """Every burst in another row of one bank: a row each tRC, or as fast as it is opened and read."""
    hbm = memory(f"hbm.row_cycle={row_cycle} cycles", "hbm.queue=1")
    assert [read(hbm, 0, k * BANK) for k in range(50)] == [k * each + OPENING + HIT for k in range(50)]
    assert (hbm.row_hits, hbm.row_misses, hbm.row_conflicts) == (0, 50, 49)


@pytest.mark.parametrize(("gap", "window", "each"), [(2, 40, 10), (12, 40, 12), (2, 0, 2)])
def test_rows_are_opened_no_faster_than_the_channel_may(gap, window, each):
    """One burst in each of 32 banks: tRRD apart, four of them in tFAW."""
    hbm = memory("hbm.banks=32", f"hbm.activate_gap={gap} cycles", f"hbm.four_activates={window} cycles")
    assert [read(hbm, 0, k * ROW) for k in range(32)] == [k * each + OPENING + HIT for k in range(32)]


def test_a_gather_opens_rows_as_fast_as_its_bursts_one_by_one():
    hbm = memory("hbm.banks=32", "hbm.activate_gap=2 cycles", "hbm.four_activates=40 cycles")
    rows = Chunk(8 * 32, ((0, 32, ROW, 1),), 0, 0)
    assert hbm.access(rows, 0, 0, False) == 31 * 10 + OPENING + HIT
    assert hbm.row_misses == 32


def test_a_stream_has_the_whole_bus():
    """All of a row's bursts behind its opening; the next bank is opened meanwhile."""
    hbm = memory()
    chunk = chunk_of([(0, 1, 1, 1 << 16)], 64, 8)
    assert hbm.access(chunk, 0, 0, False) == pytest.approx(OPENING + (1 << 13) + HIT, abs=1)
    assert hbm.row_hits + hbm.row_misses == 1 << 13
    assert hbm.row_misses == 1 << 8


def test_a_sequential_stream_reaches_what_refresh_leaves():
    """On HBM3 with everything that holds it up: tFAW, tRC, tCCD_L, refresh; half of it in rows that conflict."""
    machine = load_machine("kpu-datacenter", ["hbm.stacks=1", "hbm.channels=8", "hbm.bandwidth=204.8 GB/s"])
    hbm = Hbm(machine)
    chunk, requests = chunk_of([(0, 1, 1, 16384)], 512, 32), 500
    last = max(hbm.access(chunk, 32 * i, 0, False) for i in range(requests))
    attainable = requests * 16384 / float(machine.hbm.attainable_bytes_per_cycle)
    assert 1 <= last / attainable < 1.02  # rows are closed for each of 10 refreshes, and the answer takes 140 ns
    assert hbm.row_conflicts > 0


def test_writes_are_accepted_until_the_buffer_is_full():
    """With the row open, a burst leaves the buffer of 8 each cycle: the first 8 have room, then one a cycle."""
    hbm = memory("hbm.queue=8")
    read(hbm, 0)
    accepted = [write(hbm, 100) for _ in range(16)]
    assert accepted == [100 + CONTROLLER] * 8 + [100 + CONTROLLER + k for k in range(1, 9)]
    assert (hbm.bytes_read, hbm.bytes_written) == (8, 128)


def test_draining_turns_the_bus():
    """A drain is 6/10 of the buffer of 10, and turns there (10) and back (3 + 6), less a burst: 3 cycles a write."""
    hbm = memory(
        "hbm.queue=10", "hbm.read_to_write=10 cycles", "hbm.write_latency=3 cycles", "hbm.write_to_read=6 cycles"
    )
    read(hbm, 0)
    for _ in range(8):
        write(hbm, 100)
    assert read(hbm, 100) == 100 + 8 * (1 + 3) + HIT


# --- refresh ----------------------------------------------------------------------------------------------------------

REFRESHED = "hbm.refresh=20 cycles"  # every 1000, with tRP before it: 24
STOP = 24


def test_a_refresh_closes_rows_and_stops_the_clock():
    hbm = memory(REFRESHED)
    assert read(hbm, 0) == OPENING + HIT
    assert read(hbm, 900) == 900 + HIT
    assert read(hbm, 1010) == 1000 + STOP + OPENING + HIT
    assert (hbm.row_hits, hbm.row_misses, hbm.row_conflicts) == (1, 2, 0)
    assert read(hbm, 1100, BANK) == 1100 + OPENING + HIT
    assert (hbm.row_misses, hbm.row_conflicts) == (3, 1)
    assert read(hbm, 5500, BANK) == 5500 + OPENING + HIT
    assert (hbm.row_misses, hbm.row_conflicts) == (4, 1)


@given(st.integers(0, 3000), st.integers(1, 8), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_what_a_refresh_interrupts_goes_on_behind_it(now, count, queued):
    """Bursts that are under way when a refresh comes are later by its time, by both if there are two."""
    hbm = memory(REFRESHED)
    for _ in range(queued):
        last = read(hbm, now, 0, 8)
    last = read(hbm, now, 0, count)
    done, end = now, now
    for start in range(1000, 10_000, 1000):  # the reference: cycle by cycle, outside of [start, start + STOP)
        if start <= now < start + STOP:
            end = start + STOP
    left = OPENING + 8 * queued + count
    done = end
    while left:
        left -= not (done >= 1000 and done % 1000 < STOP)
        done += 1
    assert last == done - 1 + HIT


# --- where addresses go -----------------------------------------------------------------------------------------------

POWERS = st.sampled_from([1, 2, 4, 8])


@st.composite
def memories(draw):
    kind = draw(st.sampled_from(["none", "rotate", "xor"]))
    number = POWERS if kind == "xor" else st.integers(1, 9)
    turns = draw(st.sampled_from([1, 2]))
    stacks, channels, banks = draw(st.integers(1, 4)), draw(number), turns * draw(number)
    sets = [f"hbm.stacks={stacks}", f"hbm.channels={channels}", f"hbm.banks={banks}", f"hbm.hash={kind}"]
    groups = [f"hbm.bank_groups={turns}", f"hbm.alternating_groups={turns}", "hbm.bank_interleave=8 B"]
    return machine_with(*sets, *groups).hbm


@given(memories())
@settings(max_examples=80, deadline=None)
def test_every_row_of_every_bank_has_its_blocks(hbm):
    """The first rows of all banks: each of them has as many blocks as fit, and only those."""
    rows, turns = 5, hbm.alternating_groups
    blocks = rows * hbm.channel_count * hbm.banks * ROW
    channel, bank, row = locate(np.arange(blocks), hbm)
    assert (bank // (hbm.banks // turns) == channel).all()
    found = Counter(zip(bank.tolist(), row.tolist(), strict=True))
    assert len(found) == rows * hbm.channel_count * hbm.banks // turns
    assert set(found.values()) == {ROW * turns}
    assert set(row.tolist()) == set(range(rows))


def places(kind, stride, count):
    machine = machine_with("hbm.channels=8", "hbm.banks=4", f"hbm.hash={kind}")
    channel, bank, _ = locate(np.arange(count) * stride, machine.hbm)
    return set(channel.tolist()), set((bank % 4).tolist())


@pytest.mark.parametrize(("kind", "channels"), [("none", {0}), ("rotate", {*range(8)}), ("xor", {*range(8)})])
def test_strides_of_all_channels_spread(kind, channels):
    assert places(kind, 8, 8)[0] == channels


@pytest.mark.parametrize(("kind", "banks"), [("none", {0}), ("rotate", {*range(4)}), ("xor", {*range(4)})])
def test_strides_of_all_banks_spread(kind, banks):
    assert places(kind, 8 * 4 * ROW, 4)[1] == banks


# --- one request, told otherwise --------------------------------------------------------------------------------------

SMALL = [
    "hbm.channels=2", "hbm.bandwidth=16 B/cycle", "hbm.banks=4", "hbm.queue=16", "hbm.hash=rotate", REFRESHED,
    "hbm.row_cycle=30 cycles", "hbm.activate_gap=2 cycles", "hbm.four_activates=20 cycles",
    "hbm.read_to_precharge=3 cycles", "hbm.write_recovery=9 cycles",
]  # fmt: skip
BLOCKS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), min_size=1, max_size=12, unique_by=lambda b: b[0])
REQUESTS = st.lists(
    st.tuples(BLOCKS, st.integers(0, 30), st.booleans(), st.randoms(use_true_random=False)), min_size=1, max_size=8
)


def told_otherwise(blocks, shuffle):
    """The same blocks in another order, those of equal steps in one run, counted from another base."""
    base = min(block for block, _ in blocks)
    blocks = [(block - base, count) for block, count in blocks]
    shuffle.shuffle(blocks)
    runs = []
    for block, count in blocks:
        if runs and runs[-1][1] == 1 and runs[-1][3] == count and block > runs[-1][0]:
            runs[-1] = (runs[-1][0], 2, block - runs[-1][0], count)
        else:
            runs.append((block, 1, 1, count))
    return Chunk(0, tuple(runs), 0, 0), base


@given(REQUESTS)
@settings(max_examples=100, deadline=None)
def test_the_order_of_a_requests_runs_does_not_matter(requests):
    first, second, now = memory(*SMALL), memory(*SMALL), 960
    for blocks, later, writes, shuffle in requests:
        now += later
        chunk = Chunk(0, tuple((block, 1, 1, count) for block, count in blocks), 0, 0)
        other, base = told_otherwise(list(blocks), shuffle)
        assert first.access(chunk, 0, now, writes) == second.access(other, base, now, writes)
    assert [first.row_hits, first.row_misses, first.row_conflicts] == [
        second.row_hits, second.row_misses, second.row_conflicts
    ]  # fmt: skip
    assert first.bytes_read + first.bytes_written == sum(8 * n for blocks, *_ in requests for _, n in blocks)


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, 8)), min_size=1, max_size=20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_rate_of_openings_that_holds_nobody_up_changes_nothing(asked, writes):
    """Requests that come alone, in one row of one channel: with a tRRD above their time they go the general way."""
    often, rarely = memory("hbm.banks=8"), memory("hbm.banks=8", "hbm.activate_gap=70 cycles")
    for i, (block, count) in enumerate(asked):
        chunk = bursts(count)
        assert often.access(chunk, block, 100 * i, writes) == rarely.access(bursts(count), block, 100 * i, writes)
    assert (often.row_hits, often.row_misses) == (rarely.row_hits, rarely.row_misses)
