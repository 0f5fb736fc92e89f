"""DMA engines against paper: turns and priorities, outstanding bytes, set-up, gathers, multicast, tile to tile.

Mostly on kpu-tiny (see `test_simulate`): engines of 8 B/cycle that set up in 2 cycles. QUICK is a memory that answers
within a cycle, so that what is left is the engine.
"""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from test_simulate import DMA, SRAM, TINY, load, run, section, stalls, times

from kpusim.engines.arbiter import Arbiter
from kpusim.engines.transfer import Transfers
from kpusim.isa import assemble
from kpusim.isa.walk import section_codes
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

QUICK = ["hbm.bandwidth=4096 B/cycle", "hbm.controller=0 cycles", "hbm.read=0 cycles", "hbm.row_activate=0 cycles",
         "hbm.precharge=0 cycles", "hbm.activate_gap=0 cycles", "dma.outstanding=1 MiB"]  # fmt: skip


# --- whose turn it is -------------------------------------------------------------------------------------------------


class Asker:
    def __init__(self, unit, priority=0):
        self.unit, self.priority, self.tag, self.turn = unit, priority, 0, 0


def served(sizes, turns, priorities=None):
    """Who is served, turn by turn, when everybody always asks for requests of its own size."""
    arbiter, order = Arbiter(), []
    for unit in range(len(sizes)):
        arbiter.ask(Asker(unit, priorities[unit] if priorities else 0), 0)
    for _ in range(turns):
        order.append(arbiter.next(0).unit)
        arbiter.served(sizes[order[-1]], more=True)
    return order


def test_requests_of_one_size_are_served_in_turn():
    assert served([64, 64, 64], 7) == [0, 1, 2, 0, 1, 2, 0]


def test_small_requests_have_more_turns():
    # A tie at 0; then 16 bytes of the one against 4, 8, 12 and 16 of the other; a tie, which the longer wait decides.
    assert served([16, 4], 11) == [0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0]


def test_a_higher_priority_is_always_before():
    assert served([16, 4, 4], 6, [0, 1, 1]) == [1, 2, 1, 2, 1, 2]


def test_who_was_away_has_no_turns_to_make_up_for():
    arbiter, early, late = Arbiter(), Asker(0), Asker(1)
    arbiter.ask(early, 0)
    arbiter.ask(late, 5)
    order = []
    for time in range(10):
        order.append(arbiter.next(time).unit)
        arbiter.served(16, more=True)
    assert order == [0, 0, 0, 0, 0, 1, 0, 1, 0, 1]
    assert late.tag == 4 * 16 + 2 * 16 + 16  # as far as the other was when it came


def test_an_arbiter_says_when_somebody_asks():
    arbiter = Arbiter()
    assert (arbiter.next(3), arbiter.soonest(3)) == (None, None)
    arbiter.ask(Asker(0), 7)
    assert (arbiter.next(3), arbiter.soonest(3), arbiter.newcomer()) == (None, 7, 7)
    assert (arbiter.next(9).unit, arbiter.soonest(9), arbiter.newcomer()) == (0, 9, None)
    arbiter.served(1, more=False)
    assert arbiter.next(9) is None


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=6), min_size=2, max_size=4), st.integers(1, 200))
def test_those_who_always_ask_differ_by_a_request_of_each(sizes, turns):
    arbiter, bytes_served = Arbiter(), [0] * len(sizes)
    for unit in range(len(sizes)):
        arbiter.ask(Asker(unit), 0)
    random = Random(0)
    for _ in range(turns):
        unit = arbiter.next(0).unit
        size = random.choice(sizes[unit])
        bytes_served[unit] += size
        arbiter.served(size, more=True)
        for one, its in enumerate(sizes):
            for other, others in enumerate(sizes):
                assert bytes_served[one] - bytes_served[other] <= max(its) + max(others)


# --- priorities of queues ---------------------------------------------------------------------------------------------

TWO = section(DMA, load(rows=2)) + section("dma queue 1 engines 0..1", load())


@pytest.mark.parametrize(
    ("priorities", "ends"),
    [("[]", (26, 18)), ("[7,7,7,7]", (26, 18)), ("[0,1,0,0]", (26, 10)), ("[1,0,0,0]", (18, 26))],
)
def test_which_of_two_queues_is_served(priorities, ends):
    # Both are set up at 2; chunks of 32 B take 4 cycles, four of queue 0 and two of queue 1.
    _, spans = run(TWO, [*QUICK, f"dma.priorities={priorities}"], chunk_bytes=32)
    assert (times(spans, "dma0.q0")[0][1], times(spans, "dma0.q1")[0][1]) == ends


def test_an_urgent_queue_waits_for_no_more_than_a_chunk():
    # Queue 0 is served at 2, 6, 10, ..., eight chunks. Queue 1 may begin at 60 / 4 = 15 and is set up at 17: it is
    # served at 18 and 22, and then the rest of queue 0.
    text = section(DMA, load(rows=4)) + section("dma queue 1 engines 0..1", load(extra="wait s[0][0]"))
    text += section("vector tiles 0..1", "fill f[0][4, 15], 1 signal s[0][0]")
    _, spans = run(text, [*QUICK, "dma.priorities=[0,1,0,0]"], chunk_bytes=32)
    assert times(spans, "dma0.q1")[0][:2] == (15, 26)
    assert times(spans, "dma0.q0")[0][:2] == (0, 2 + 10 * 4)
    assert stalls(spans, "dma0.q1", "engine") == [1]
    assert stalls(spans, "dma0.q0", "engine") == [8]


def test_a_lower_priority_has_what_the_higher_leaves():
    # Two urgent queues without set-up leave nothing until they have read their 3 * 64 B each.
    urgent = [section(f"dma queue {queue} engines 0..1", *[load()] * 3) for queue in (1, 2)]
    sets = [*QUICK, "dma.setup=0 cycles", "dma.priorities=[0,1,1,0]"]
    _, spans = run(section(DMA, load()) + "".join(urgent), sets, chunk_bytes=32)
    assert times(spans, "dma0.q0")[0][:2] == (0, 2 * 3 * 8 + 8)
    assert stalls(spans, "dma0.q0", "engine") == [2 * 3 * 8]


@pytest.mark.parametrize(
    ("columns", "limit", "priorities", "served"),
    [(16, 96, "[]", 17), (32, 96, "[]", 32), (32, 64, "[]", 32), (32, 64, "[0,1,0,0]", 32), (32, 64, "[1,0,0,0]", 54)],
)
def test_who_waits_for_room_holds_up_nobody_with_a_better_claim(columns, limit, priorities, served):
    # Each chunk of 64 B is back after 30 cycles. Queue 0 is served at 2 and has no room for its second chunk until 32.
    # Queue 1, which has had fewer bytes, comes at 15 + 2 = 17: with 32 B there is room at once; with 64 B at 32, or, if
    # queue 0 goes first, behind both of its chunks, of which the second hits an open row: 8 bursts + 14.
    text = section(DMA, load(rows=2)) + section("dma queue 1 engines 0..1", load(columns=columns, extra="wait s[0][0]"))
    text += section("vector tiles 0..1", "fill f[0][4, 15], 1 signal s[0][0]")
    _, spans = run(text, [f"dma.outstanding={limit} B", f"dma.priorities={priorities}"], chunk_bytes=64)
    assert times(spans, "dma0.q1")[0][:2] == (15, served + columns * 2 // 8)


# --- the limit of bytes under way: Little's law -----------------------------------------------------------------------

READ = """kasm 1
program read
tensor X int8 [{size}] in
map X_box = X box [4096]
sram a int8 [1][4096]
section dma queue 0 engines 0..{engines}
  for i = 0 .. {pieces}
    load a[0] @ engine, X_box((i * {engines} + engine) * 4096)
  end
end
"""


def rate(outstanding, sets=(), engines=1, pieces=8):
    """Bytes a cycle of reading 4 KiB at a time in chunks of 256 B, at so many bytes under way for each engine.

    An engine moves 64 B/cycle; an access takes 200 cycles and one more for its bytes. What the start and the end take
    is in both of two runs, of which one has `pieces` more.
    """
    machine = load_machine("kpu-tiny", [
        *QUICK, "hbm.controller=200 cycles", "dma.bandwidth=64 B/cycle", "noc.bandwidth=64 B/cycle",
        "sram.ports.dma=64 B/cycle", "dma.setup=0 cycles", "dma.placement=tile", f"dma.outstanding={outstanding} B",
        *sets,
    ])  # fmt: skip
    size = engines * pieces * 4096
    programs = [assemble(READ.format(size=2 * size, engines=engines, pieces=count)) for count in (pieces, 2 * pieces)]
    less, more = (simulate(program, machine, chunk_bytes=256).cycles for program in programs)
    return size / (more - less)


@pytest.mark.parametrize("chunks", [1, 2, 4, 8, 16, 32])
def test_bandwidth_is_what_is_under_way_over_the_latency(chunks):
    assert rate(256 * chunks) == pytest.approx(chunks * 256 / 201, rel=1e-9)


@pytest.mark.parametrize("outstanding", [400, 511])
def test_part_of_a_chunk_is_not_asked_for(outstanding):
    assert rate(outstanding) == rate(256)


@pytest.mark.parametrize("outstanding", [8, 64, 128])
def test_less_than_a_chunk_is_asked_for_in_small_chunks(outstanding):
    assert rate(outstanding, pieces=1) == pytest.approx(outstanding / 201, rel=1e-9)


def test_the_roof_is_the_engine():
    # 51 chunks are more than 201 cycles of 64 B.
    assert rate(256 * 51) == rate(1 << 20) == 64
    # A transfer begins in a whole cycle: 4096 / 24 = 170.7.
    assert rate(1 << 20, ["dma.bandwidth=24 B/cycle"]) == 4096 / 171


@pytest.mark.parametrize("outstanding", [2048, 1 << 20])
def test_or_all_of_the_memory(outstanding):
    # Four engines with 2 KiB each under way could have 4 * 2048 / 201 = 40.8 B/cycle; the HBM has 16.
    assert rate(outstanding, ["hbm.bandwidth=16 B/cycle"], engines=4) == pytest.approx(16, rel=0.01)


# --- set-up, dimensions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", [0, 2, 9])
def test_set_up_is_paid_by_each_transfer_and_hidden_by_other_queues(setup):
    # A queue alone: set-up and 64 B, 8 cycles, three times. Two queues: while one is set up the other is served.
    sets = [*QUICK, f"dma.setup={setup} cycles"]
    _, spans = run(section(DMA, *[load()] * 3), sets)
    assert [end for _, end, _ in times(spans, "dma0.q0")] == [setup + 8, 2 * (setup + 8), 3 * (setup + 8)]
    both = section(DMA, *[load()] * 3) + section("dma queue 1 engines 0..1", *[load()] * 3)
    _, spans = run(both, sets)
    assert times(spans, "dma0.q1")[-1][1] == setup + 5 * 8 + max(8, 2 * max(setup - 8, 0) + 8)


@pytest.mark.parametrize(
    ("shape", "starts", "sizes"),
    [
        ("256", "16", "96"),
        ("16, 16", "2, 4", "12, 8"),
        ("4, 8, 8", "1, 1, 0", "3, 4, 8"),
        ("4, 8, 8", "0, 0, 0", "4, 6, 4"),
    ],
)
def test_a_box_takes_its_bytes_in_any_dimensions(shape, starts, sizes):
    # 96 elements of 2 B: 192 B at 8 B/cycle, whole accesses of 8 B everywhere.
    ranges = ", ".join(f"{start} +: {size}" for start, size in zip(starts.split(", "), sizes.split(", "), strict=True))
    text = f"tensor T bf16 [{shape}] in\nmap T_box = T box [{shape}]\nsram t bf16 [1][{shape}] at 3072\n"
    result, spans = run(text + section(DMA, f"load t[0][{sizes}] @ 0, T_box({ranges})"), QUICK)
    assert times(spans, "dma0.q0")[0][:2] == (0, 2 + 192 // 8)
    assert result.counters["hbm.read_bytes"] == 192


# --- multicast, tile to tile ------------------------------------------------------------------------------------------


def test_a_multicast_takes_the_time_of_one_and_the_way_to_the_farthest():
    # Eight rows of 64 B to tile 0, or to all four of which one is two hops away; or one after the other to each.
    (alone, one), (tree, all_four), (apart, each) = (
        run(section(DMA, *[load(tiles, rows=8) for tiles in lists]), [*QUICK, "dma.setup=0 cycles"], chunk_bytes=64)
        for lists in (["0"], ["0 +: 4"], ["0", "1", "2", "3"])
    )
    ends = [times(spans, "dma0.q0")[-1][1:] for spans in (one, all_four, each)]
    assert [end for end, _ in ends] == [64, 64, 4 * 64]
    assert ends[1][1] - ends[0][1] == 2
    assert [result.counters["hbm.read_bytes"] for result in (alone, tree, apart)] == [512, 512, 2048]
    assert alone.counters["noc.link_bytes"] == 0
    assert tree.counters["noc.link_bytes"] == 3 * 512  # a tree over four tiles
    assert apart.counters["noc.link_bytes"] == (0 + 1 + 1 + 2) * 512


def copy(source, target, rows=8):
    return f"copy a[0][{rows}, 32] @ {target}, a[1][{rows}, 32] @ {source}"


@pytest.mark.parametrize(("source", "target", "hops"), [(0, 0, 0), (0, 1, 1), (3, 0, 2)])
def test_a_copy_moves_at_the_rate_of_its_links(source, target, hops):
    # 512 B in chunks of 64 B, 8 B/cycle on engine and links: the last leaves at 2 + 56, and takes 8 cycles and its way.
    _, spans = run(section(DMA, copy(source, target)), chunk_bytes=64)
    assert times(spans, "dma0.q0") == [(0, 2 + 64, 2 + 56 + hops + 8 + SRAM)]


def test_two_copies_into_a_tile_share_its_port():
    # Along two links into tile 0, from tile 1 and from tile 2, by two engines: 512 B each at 8 B/cycle into a port of
    # 16 B/cycle, where of two chunks that arrive at once one waits for 4 cycles, or into one of 8 B/cycle, which has
    # 1024 B to take from 2 + 1 on.
    text = section(DMA, copy(1, 0)) + section("dma queue 0 engines 1..2", copy(2, 0))
    wide, _ = run(text, chunk_bytes=64)
    narrow, _ = run(text, ["sram.ports.dma=8 B/cycle"], chunk_bytes=64)
    assert (wide.cycles, narrow.cycles) == (2 + 1 + 4 + 64 + SRAM, 2 + 1 + 128 + SRAM)


# --- gather and scatter -----------------------------------------------------------------------------------------------

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
    assert misses["shuffled"] > 1.8 * misses["sorted"]
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
