"""The memory system under stress: it ends, it is fair, it is the same each time, and its work grows with the chunks.

On kpu-datacenter with a DMA engine in each of its 256 tiles: 32 * 6 channels of 25.6 B/cycle, of which refresh leaves
1 - 350 / 3900 = 91 %. SPREAD reads what it reads one block behind the other, over all channels; ONE, without a hash and
at a pitch of all channels, from a single one.
"""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from test_modes import assert_equal_modes, spans_of

from kpusim.engines.hbm import Hbm
from kpusim.engines.kernel import Kernel
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

LARGE = ["dma.placement=tile", "sram.capacity=2 MiB", "hbm.hash=none"]
CHANNELS, BLOCK = 192, 512
SPREAD, ONE = BLOCK, CHANNELS * BLOCK
CHANNEL_RATE = Fraction(256, 10) * (1 - Fraction(350, 3900))
KIB, MIB = 1 << 10, 1 << 20


def reading(*queues, pitch=SPREAD):
    """A program of (queue, first engine, end of engines, bytes of a load, loads of each), blocks `pitch` apart."""
    lines = ["kasm 1", "program stress", f"tensor X int8 [65536, {BLOCK}] in pitch {pitch}",
             f"map X_box = X box [2048, {BLOCK}]", f"sram a int8 [1][2048, {BLOCK}]"]  # fmt: skip
    for queue, first, end, size, loads in queues:
        rows = size // BLOCK
        box = f"X_box((engine * 977 + i * {rows}) % {65536 - rows} +: {rows}, 0)"
        lines += [f"section dma queue {queue} engines {first}..{end}", f"  for i = 0 .. {loads}",
                  f"    load a[0][{rows}, {BLOCK}] @ engine, {box}", "  end", "end"]  # fmt: skip
    return assemble("\n".join(lines) + "\n")


def served(spans):
    """Bytes that each queue has been served when the first of them has nothing more to ask for."""
    ends = {}
    for _, _, done, unit, *_ in spans:
        ends[unit] = max(ends.get(unit, 0), done)
    until, total = min(ends.values()), Counter()
    for _, _, done, unit, *rest in spans:
        total[unit] += rest[4] * (done <= until)
    return total


def at_once(spans):
    """The most transfers that were under way in any cycle."""
    changes = Counter()
    for start, _, done, *_ in spans:
        changes[start] += 1
        changes[done] -= 1
    under_way = most = 0
    for time in sorted(changes):
        under_way += changes[time]
        most = max(most, under_way)
    return most


@pytest.fixture
def work(monkeypatch):
    """Counts the events of a simulation, and the requests that reach the HBM."""
    counts = Counter()

    def counted(of, name):
        call = getattr(of, name)

        def counting(self, *arguments, **options):
            counts[name] += 1
            return call(self, *arguments, **options)

        monkeypatch.setattr(of, name, counting)

    counted(Kernel, "at")
    counted(Hbm, "access")
    return counts


# --- ten thousand transfers -------------------------------------------------------------------------------------------


def check_many(queues, loads, least):
    machine = load_machine("kpu-datacenter", [*LARGE, f"dma.queues={queues}"])
    program = reading(*[(queue, 0, 256, 4 * KIB, loads) for queue in range(queues)])
    run, spans = spans_of(program, machine)
    assert len(spans) == queues * 256 * loads
    assert run.counters["hbm.read_bytes"] == len(spans) * 4 * KIB
    assert at_once(spans) >= least
    assert run.cycles >= len(spans) * 4 * KIB / (CHANNELS * CHANNEL_RATE)
    assert spans_of(program, machine)[1] == spans
    by_queue = served(spans)
    assert len(by_queue) == queues * 256
    assert max(by_queue.values()) <= 2 * min(by_queue.values())


def test_ten_thousand_transfers_at_once():
    check_many(queues=8, loads=6, least=10_000)


@pytest.mark.slow
def test_a_hundred_thousand_transfers():
    check_many(queues=64, loads=6, least=15_000)  # 64 of 4 KiB under way in each engine


# --- one channel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [512, 4 * KIB])
def test_one_channel_hammered_by_every_tile(size):
    machine = load_machine("kpu-datacenter", LARGE)
    program = reading((0, 0, 256, size, 6), pitch=ONE)
    run, spans = spans_of(program, machine)
    by_queue = served(spans)
    assert len(by_queue) == 256
    assert max(by_queue.values()) <= 2 * min(by_queue.values())
    ideal = 256 * 6 * size / CHANNEL_RATE
    assert ideal <= run.cycles <= 1.1 * ideal + 300
    assert spans_of(program, machine)[1] == spans


@pytest.mark.parametrize("outstanding", ["16 KiB", "256 KiB"])
@pytest.mark.parametrize("large", [256 * KIB, MIB])
@pytest.mark.parametrize("engines", [1, 2])
def test_large_and_small_requesters_on_one_channel(engines, large, outstanding):
    machine = load_machine("kpu-datacenter", [*LARGE, f"dma.outstanding={outstanding}"])
    small = (1, 0, 1) if engines == 1 else (0, 1, 2)
    program = reading((0, 0, 1, large, 2 * MIB // large), (*small, 4 * KIB, 512), pitch=ONE)
    run, spans = spans_of(program, machine)
    total = served(spans)
    assert len(total) == 2
    assert max(total.values()) <= 1.2 * min(total.values())
    assert run.cycles >= 4 * MIB / CHANNEL_RATE


def test_and_on_a_machine_that_has_less_under_way_than_a_chunk():
    machine = load_machine("kpu-tiny", ["hbm.channels=1", "sram.capacity=64 KiB", "dma.placement=tile"])
    text = """kasm 1
program tiny
tensor X int8 [1048576] in
map X_box = X box [65536]
sram a int8 [1][65536]
section dma queue 0 engines 0..1
  load a[0] @ 0, X_box(0)
end
section dma queue 0 engines 1..2
  for i = 0 .. 64
    load a[0][1024] @ 1, X_box(65536 + i * 1024 +: 1024)
  end
end
"""
    _, spans = spans_of(assemble(text), machine)
    (large,), small = ([span for span in spans if span[3] == unit] for unit in (8, 12))
    before = sum(span[8] for span in small if span[2] <= large[2])
    assert 65536 / 2 <= before <= 65536


def test_a_small_transfer_does_not_wait_for_a_large_one():
    # Behind 1 MiB, of which 256 KiB are under way: it waits for those, and for a chunk of 16 KiB, but not for the rest.
    machine = load_machine("kpu-datacenter", LARGE)
    run, spans = spans_of(reading((0, 0, 1, MIB, 1), (1, 0, 1, 4 * KIB, 1), pitch=ONE), machine)
    small = next(span for span in spans if span[8] == 4 * KIB)
    assert small[2] <= (256 + 16 + 4) * KIB / CHANNEL_RATE + 300 < run.cycles / 3


# --- rows all over the memory -----------------------------------------------------------------------------------------


def gathering(rows, each):
    """A program that gathers rows of 64 B from 64 GiB, `each` at once, by all four queues of 16 engines."""
    span = 1 << 30
    lines = ["kasm 1", "program far", f"tensor X int8 [{span}, 64] in", "map X_box = X box [1, 64]",
             f"sram a int8 [1][{each}, 64]", f"table rows = {Random(4).choices(range(span), k=64 * rows)}"]  # fmt: skip
    for queue in range(4):
        listed = f"rows[(engine * 4 + {queue}) * {rows} + i * {each} +: {each}]"
        lines += [f"section dma queue {queue} engines 0..16", f"  for i = 0 .. {rows // each}",
                  f"    gather a[0] @ engine, X_box(0, 0), {listed}", "  end", "end"]  # fmt: skip
    return assemble("\n".join(lines) + "\n")


def check_gather(rows, each):
    machine = load_machine("kpu-datacenter", [*LARGE, "hbm.hash=rotate"])
    program = gathering(rows, each)
    run, spans = spans_of(program, machine)
    assert run.counters["hbm.read_bytes"] == 64 * rows * 64
    # 96 GiB are 6 * 32 channels of 32 banks: hardly a row of 1 KiB is listed twice before it is closed.
    bursts = 64 * rows * 64 // machine.hbm.access_bytes
    assert run.counters["hbm.row_misses"] == pytest.approx(bursts / 2, rel=0.02)
    assert run.cycles >= 32 + 4 * rows  # at one descriptor a cycle for the four queues of an engine
    assert spans_of(program, machine)[1] == spans
    by_queue = served(spans)
    assert max(by_queue.values()) <= 2 * min(by_queue.values())


def test_short_rows_from_all_of_the_memory():
    check_gather(512, 64)


@pytest.mark.slow
def test_a_million_short_rows():
    check_gather(16384, 1024)


# --- work -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "queues",
    [
        lambda n: [(0, 0, 256, 4 * KIB, n)],
        lambda n: [(queue, 0, 4, 4 * KIB, 16 * n) for queue in range(4)],
        lambda n: [(0, 0, 1, MIB, n), (1, 0, 1, 4 * KIB, 128 * n)],
    ],
)
@pytest.mark.parametrize("pitch", [SPREAD, ONE])
def test_events_grow_with_the_chunks(queues, pitch, work):
    machine = load_machine("kpu-datacenter", LARGE)
    for n in (1, 8):
        work.clear()
        simulate(reading(*queues(n), pitch=pitch), machine)
        chunks = sum((end - first) * loads * max(size // (16 * KIB), 1) for _, first, end, size, loads in queues(n))
        assert work["access"] == chunks
        # Grant and return; an engine without room looks again when a chunk is back, and when a queue comes.
        assert work["at"] <= 5 * chunks


def test_both_modes_agree_under_stress():
    machine = load_machine("kpu-datacenter", [*LARGE, "dma.priorities=[0,0,1,2]", "dma.outstanding=24 KiB"])
    queues = [(queue, 0, 8, 4 * KIB << 2 * queue, 16 >> queue) for queue in range(4)]
    assert_equal_modes(reading(*queues, pitch=ONE), machine)
    assert_equal_modes(reading(*queues), machine)
