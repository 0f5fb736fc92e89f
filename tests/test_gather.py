"""Gathers and scatters: what a list of rows costs in descriptors, bytes and openings of rows, dense, sorted, shuffled.

Mostly on kpu-tiny with a quick memory (see `test_dma`): an engine of 8 B/cycle and 1 descriptor a cycle.
"""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dma import QUICK
from test_simulate import TINY

from kpusim.engines.transfer import Transfers
from kpusim.isa import assemble
from kpusim.isa.walk import section_codes
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

LIST = """kasm 1
program list
tensor X int8 [{count}, {width}] inout{layout}
map X_box = X box [{count}, {width}]
sram a int8 [1][{listed}, {width}]
table rows = {rows}
section dma queue 0 engines 0..1
  {op}
end
"""
OPS = {
    "gather": "gather a[0][{listed}, {width}] @ 0, X_box(0, 0 +: {width}), rows[0 +: {listed}]",
    "scatter": "scatter X_box(0, 0 +: {width}), a[0][{listed}, {width}] @ 0, rows[0 +: {listed}]",
    "scatter_add": "scatter_add X_box(0, 0 +: {width}), a[0][{listed}, {width}] @ 0, rows[0 +: {listed}]",
}


def listing(rows, width=64, layout="", op="gather", count=None):
    """The program that moves listed rows of `width` bytes."""
    sizes = {"listed": len(rows), "width": width}
    count = count or max(rows) + 1
    return assemble(LIST.format(count=count, layout=layout, rows=rows, op=OPS[op].format(**sizes), **sizes))


def listed(rows, sets=(), machine="kpu-tiny", chunk_bytes=16384, **options):
    """(cycles until the engine is through, all cycles, counters) of moving listed rows."""
    ends = []
    program, loaded = listing(rows, **options), load_machine(machine, sets)
    result = simulate(program, loaded, span=lambda *span: ends.append(span[1]), chunk_bytes=chunk_bytes)
    return ends[0], result.cycles, result.counters


@pytest.mark.parametrize("rows_per_cycle", ["1/8", "0.3"])
def test_short_rows_go_at_the_rate_of_descriptors(rows_per_cycle):
    # 100 rows of 8 B take the engine 100 cycles as bytes, and at fewer descriptors a cycle as long as those.
    value = {"1/8": "0.125", "0.3": "0.3"}[rows_per_cycle]
    end, _, _ = listed([(7 * i) % 101 for i in range(100)], [*QUICK, f"dma.rows={value} rows/cycle"], width=8)
    assert end == 2 + -(-100 // float(value))


def test_long_rows_go_at_the_rate_of_bytes():
    end, cycles, _ = listed([(7 * i) % 31 for i in range(30)], QUICK, width=64, chunk_bytes=64)
    assert end == 2 + 30 * 64 // 8
    assert cycles <= end + 8 + 3  # the last over the link, HBM and SRAM


def test_rows_that_each_open_a_row_of_the_memory_go_at_the_rate_of_openings():
    # One channel, 512 rows 256 B apart, each in a row (of the next bank) of its own: one opening in 20 cycles.
    sets = ["hbm.channels=1", "hbm.banks=16", "hbm.activate_gap=20 cycles", "dma.outstanding=1 MiB"]
    _, cycles, counters = listed(list(range(512)), sets, width=8, layout=" pitch 256", chunk_bytes=64)
    assert counters["hbm.row_misses"] == 512
    assert cycles == pytest.approx(512 * 20, rel=0.01)


def descriptors(rows, width, reach):
    """How many a list of whole rows needs, from address 0 on; row by row."""
    count = 0
    for before, row in pairwise([-2, *rows]):
        inside = before * width // reach == (row * width + width - 1) // reach
        count += not (row == before + 1 and inside)
    return count


@pytest.mark.parametrize(
    ("rows", "reach", "needed"),
    [
        (list(range(32)), 1, 32),  # none
        (list(range(32)), 64, 32),  # no room for two
        (list(range(32)), 256, 8),  # four rows in each block
        (list(range(2, 34)), 256, 9),  # two blocks in part
        (list(range(32)), 192, 11),  # three rows in each block of 3
        (list(range(31, -1, -1)), 256, 32),  # neighbours, but not one behind the other
        ([5, 5, 5, 6, 6, 7], 256, 4),  # 5; 5; 5 and 6; 6 and 7
        ([0, 2, 4, 6], 256, 4),
    ],
)
@pytest.mark.parametrize("op", ["gather", "scatter", "scatter_add"])
def test_neighbours_are_one_descriptor_inside_a_block(rows, reach, needed, op):
    sets = [*QUICK, "dma.bandwidth=64 B/cycle", "dma.rows=0.0625 rows/cycle", f"dma.coalesce={reach} B"]
    end, _, counters = listed(rows, sets, op=op)
    assert descriptors(rows, 64, reach) == needed
    assert end == 2 + 16 * needed
    moved = counters["hbm.read_bytes"], counters["hbm.write_bytes"]
    assert moved == {"gather": (64 * len(rows), 0), "scatter": (0, 64 * len(rows))}.get(op, (64 * len(rows),) * 2)


def test_sorted_lists_cost_fewer_descriptors_and_open_fewer_rows():
    # 512 of 1024 rows of 64 B. Over two channels, 512 B of addresses lie in two rows of the HBM, one of each channel.
    rows = Random(0).sample(range(1024), 512)
    sets = ["dma.rows=0.0625 rows/cycle", "dma.bandwidth=64 B/cycle", "dma.coalesce=4 KiB", "dma.outstanding=64 KiB"]
    ends, cycles, misses = {}, {}, {}
    for name, order in {"shuffled": rows, "sorted": sorted(rows)}.items():
        ends[name], cycles[name], counters = listed(order, sets, count=1024)
        misses[name] = counters["hbm.row_misses"]
        assert ends[name] == 2 + 16 * descriptors(order, 64, 4096)
        assert counters["hbm.read_bytes"] == 512 * 64
    assert misses["sorted"] == len({(row * 64 // 512, row % 2) for row in rows})
    assert misses["shuffled"] > 1.4 * misses["sorted"]  # rows of one chunk are opened once
    assert descriptors(rows, 64, 4096) > 505 > 300 > descriptors(sorted(rows), 64, 4096)
    assert cycles["shuffled"] > 1.5 * cycles["sorted"]


def test_a_dense_list_on_a_large_machine_is_as_quick_as_a_load():
    # 64 B at one descriptor a cycle are a quarter of 256 B/cycle; 64 neighbours in 4 KiB are one descriptor.
    dense, shuffled = list(range(2048)), Random(0).sample(range(2048), 2048)
    assert listed(dense, machine="kpu-datacenter")[0] == 32 + 2048 * 64 // 256
    assert listed(dense, ["dma.coalesce=1 B"], "kpu-datacenter")[0] == 32 + 2048
    assert listed(shuffled, machine="kpu-datacenter")[0] == 32 + descriptors(shuffled, 64, 4096)


@st.composite
def lists(draw):
    """(rows, bytes of a row, pitch, reach, bytes of a chunk) with many neighbours."""
    starts = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=6))
    rows = [row for start, count in starts for row in range(start, start + count)]
    width = draw(st.sampled_from([1, 4, 8, 12, 24, 64, 100, 200]))
    pitch = width + draw(st.sampled_from([0, 0, 4]))
    return rows, width, pitch, draw(st.sampled_from([1, 16, 64, 96, 4096])), draw(st.sampled_from([32, 64, 1000]))


@settings(max_examples=150)
@given(lists())
def test_a_list_is_read_in_its_order_by_as_few_descriptors_as_may_be(drawn):
    rows, width, pitch, reach, chunk_bytes = drawn
    machine = evolve(TINY, dma=evolve(TINY.dma, coalesce_bytes=reach))
    program = listing(rows, width, f" pitch {pitch}" if pitch > width else "")
    (step,) = section_codes(program)[0].steps(0)
    chunks = Transfers((0,), chunk_bytes, machine).of(step).chunks
    pieces = [(row * pitch + at, min(chunk_bytes, width - at)) for row in rows for at in range(0, width, chunk_bytes)]
    assert sum(chunk.size for chunk in chunks) == len(rows) * width
    for chunk in chunks:
        here, size = [], 0
        while size < chunk.size:
            here.append(pieces.pop(0))
            size += here[-1][1]
        assert size == chunk.size <= chunk_bytes
        assert not pieces or size + pieces[0][1] > chunk_bytes  # full
        wanted = stretches_of(here, reach)
        assert chunk.descriptors == len(wanted)
        blocks = [(block + i * step, bursts) for block, count, step, bursts in chunk.runs for i in range(count)]
        assert blocks == [part for start, end in wanted for part in bursts_of(start, end)]


def stretches_of(pieces, reach):
    """Neighbours joined as long as first and last byte are in one block of `reach`; byte by byte."""
    joined = []
    for start, length in pieces:
        if joined and joined[-1][1] == start and joined[-1][0] // reach == (start + length - 1) // reach:
            joined[-1] = joined[-1][0], start + length
        else:
            joined.append((start, start + length))
    return joined


def bursts_of(start, end):
    """(block of 64 B, bursts of 8 B in it) for some bytes, burst by burst."""
    return Counter(at // 64 for at in range(start // 8 * 8, end, 8)).items()
