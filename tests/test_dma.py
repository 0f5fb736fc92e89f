"""DMA engines against paper: turns and priorities, outstanding bytes, set-up, multicast, tile to tile.

Mostly on kpu-tiny (see `test_simulate`): engines of 8 B/cycle that set up in 2 cycles. QUICK is a memory that answers
within a cycle, so that what is left is the engine.
"""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_simulate import DMA, SRAM, load, run, section, stalls, times

from kpusim.engines.arbiter import Arbiter
from kpusim.isa import assemble
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
