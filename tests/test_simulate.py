"""The timing model against closed forms worked out on paper, mostly on kpu-tiny, in both modes.

kpu-tiny: 4x4 arrays whose folds do not overlap; DMA engines of 8 B/cycle that set up in 2 cycles, two at the ends of
each row of tiles; NoC links of 8 B/cycle, 1 cycle a hop; SRAM ports of 16 B/cycle for DMA, latency 1; HBM of 2 channels
of 8 B/cycle that interleave by 64 B, with rows of 256 B; precharge 4 + activate 4, read 5 (a burst
is one of them), controller 10.
"""

import pytest
from test_modes import assert_equal_modes, spans_of

from kpusim.engines.semaphore import NO_SPAN, ProgramError, span_key
from kpusim.engines.stalls import CAUSES
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

HEAD = """kasm 1
program p
tensor X bf16 [32, 64] in
tensor Y bf16 [32, 64] inout
map X_box = X box [32, 64]
map Y_box = Y box [32, 64]
sram a bf16 [2][8, 64]
sram f fp32 [1][16, 16] at 2048
semaphore s [4][1]
semaphore r [4][1]
semaphore both [1][1] join 2
"""
TINY = load_machine("kpu-tiny")
DMA = "dma queue 0 engines 0..1"


def run(text, sets=(), **options):
    """(run, spans) of HEAD + text on kpu-tiny with changes; the same in both modes."""
    program, machine = assemble(HEAD + text), load_machine("kpu-tiny", sets)
    assert_equal_modes(program, machine, **options)
    result, spans = spans_of(program, machine, plain=True, **options)
    return result, sorted(spans)


def times(spans, unit):
    """(start, end, done) of the spans of a unit, by its name."""
    return [span[:3] for span in spans if TINY.unit_names[span[3]] == f"chip0.{unit}"]


def stalls(spans, unit, cause):
    """Cycles by span that a unit lost to a cause."""
    place = 9 + CAUSES.index(cause)
    return [span[place] for span in spans if TINY.unit_names[span[3]] == f"chip0.{unit}"]


def section(unit, *lines):
    return "\n  ".join([f"section {unit}", *lines]) + "\nend\n"


# --- matrix and vector engines ----------------------------------------------------------------------------------------

MATMUL = "matmul f[0][8, 8], a[0][8, 16], a[1][0 +: 8, 0 +: 16], transpose_b=1"
TWICE = section("matrix tiles 0..1", MATMUL, f"{MATMUL}, accumulate=1")


def test_folds_that_do_not_overlap():
    # 8x8 results are 2 * 2 folds, each 4 + 4 + 16 - 2 = 22 cycles. The operands over the port of 64 B/cycle would take
    # ((8*2 + 8*2) * 16 * 2 B + 8 * 8 * 4 B) / 64 = 20 cycles, 24 with the sums read before: less.
    result, spans = run(TWICE)
    assert times(spans, "tile0.matrix") == [(0, 88, 88), (88, 176, 176)]
    assert result.cycles == 176
    assert result.counters["macs.bf16"] == 2 * 8 * 8 * 16


def test_folds_that_overlap():
    # 4 folds occupy the array for 16 cycles each; the last result is visible 4 + 4 - 2 cycles later.
    result, spans = run(TWICE, ["matrix.overlap_folds=true"])
    assert times(spans, "tile0.matrix") == [(0, 64, 70), (64, 128, 134)]
    assert result.cycles == 134
    assert result.busy[0] == 128
    assert result.idle[0] == 6


def test_a_matmul_that_its_port_limits():
    # 20 and 24 cycles at 64 B/cycle are 40 and 48 at 32 B/cycle, 80 and 96 at 16 B/cycle, of which one exceeds 88: the
    # second waits for its port, and then its array is busy as it was.
    result, spans = run(TWICE, ["sram.ports.matrix=16 B/cycle"])
    assert times(spans, "tile0.matrix") == [(0, 88, 88), (96, 184, 184)]
    assert stalls(spans, "tile0.matrix", "port") == [0, 8]
    assert (result.busy[0], result.stalls[0].sum(), result.idle[0]) == (176, 8, 0)


def test_an_instruction_takes_its_credit_before_its_port_holds_it_up():
    # (8*2 + 8*2) * 16 * 2 B + 8 * 8 * 4 B take 1280 cycles at 1 B/cycle, of which the array needs 88.
    text = section(DMA, load(extra="signal s[0][0]"))
    text += section("matrix tiles 0..1", f"{MATMUL} wait s[0][0] signal r[1][0]")
    text += section("vector tiles 0..1", "sync wait r[1][0]")
    _, spans = run(text, ["sram.ports.matrix=1 B/cycle"])
    arrived = times(spans, "dma0.q0")[0][2]
    end = arrived + 1280
    assert times(spans, "tile0.matrix") == [(end - 88, end, end)]
    assert stalls(spans, "tile0.matrix", "dma") == [arrived]
    assert stalls(spans, "tile0.matrix", "port") == [1280 - 88]
    assert times(spans, "tile0.vector") == [(end, end, end)]
    assert stalls(spans, "tile0.vector", "matrix") == [end]


def test_vector_lanes_that_their_port_limits():
    # 64 elements, 4 lanes: 16 cycles behind a start-up of 5; in and out they are 512 B, 128 cycles at 4 B/cycle.
    text = section("vector tiles 0..1", "neg f[0][8, 8], f[0][8, 8]", "exp f[0][8, 8], f[0][8, 8]")
    result, spans = run(text, ["vector.startup=5 cycles", "sram.ports.vector=4 B/cycle"])
    assert times(spans, "tile0.vector") == [(112, 133, 133), (133 + 64, 266, 266)]
    assert stalls(spans, "tile0.vector", "port") == [112, 64]
    assert result.busy[4] == 5 + 16 + 5 + 64


def test_a_narrow_port_of_the_dma_shows_where_it_holds_up():
    # 8 stores of 64 B each from one tile, one chunk each; 1 B/cycle through the tile's port against 8 on links. With
    # 64 B under way at most, the queue waits for memory; the tile's loads let its matrix engine wait for dma.
    stores = [f"store Y_box({i} +: 1, 0 +: 32), a[0][1, 32] @ 0" for i in range(8)]
    narrow, limit = "sram.ports.dma=1 B/cycle", "dma.outstanding=64 B"
    wide, _ = run(section(DMA, *stores), [limit])
    result, spans = run(section(DMA, *stores), [limit, narrow])
    assert result.cycles > 8 * 64 and result.cycles > wide.cycles + 7 * 48
    assert sum(stalls(spans, "dma0.q0", "memory")) > 6 * 56
    text = section(DMA, load(rows=1, extra="signal s[0][0]"))
    text += section("matrix tiles 0..1", f"{MATMUL} wait s[0][0]")
    _, spans = run(text)
    waited = stalls(spans, "tile0.matrix", "dma")[0]
    _, spans = run(text, [narrow])
    assert stalls(spans, "tile0.matrix", "dma") == [waited + 64 - 64 // 8]


@pytest.mark.parametrize(("instant", "start"), [("read", 64), ("", 70)])
def test_who_waits_for_a_matmul(instant, start):
    text = section("matrix tiles 0..1", f"{MATMUL} signal {instant} s[0][0]")
    text += section("vector tiles 0..1", "neg f[0][8, 8], f[0][8, 8] wait s[0][0]")
    _, spans = run(text, ["matrix.overlap_folds=true"])
    assert times(spans, "tile0.vector") == [(start, start + 16, start + 16)]  # 64 elements on 4 lanes
    assert stalls(spans, "tile0.vector", "matrix") == [start]
    assert spans[-1][7] == span_key(0, 0)  # it released it


@pytest.mark.parametrize("waits", ["s[0][0], s[1][0]", "s[1][0], s[0][0]"])
def test_of_two_that_release_at_once_the_higher_unit_counts(waits):
    text = section("matrix tiles 0..2", f"{MATMUL} signal s[tile][0]")
    _, spans = run(text + section("vector tiles 0..1", f"sync wait {waits}"))
    assert times(spans, "tile0.vector") == [(88, 88, 88)]
    assert spans[-1][7] == span_key(1, 0)
    late = section("vector tiles 0..1", "fill f[0], 1", "fill f[0], 1", f"sync wait {waits}")  # 2 * 256 / 4 cycles
    _, spans = run(text + late)
    assert times(spans, "tile0.vector")[-1] == (128, 128, 128)
    assert spans[-1][7] == NO_SPAN  # it waited for nobody


def test_vector_passes_and_no_elements():
    # 64 elements, 4 lanes: 16 cycles a pass; exp takes 4 lane-cycles; top-3 reduces 3 times; start-up only for work.
    ops = ["neg f[0][8, 8], f[0][8, 8]", "exp f[0][8, 8], f[0][8, 8]", "prefix_sum f[0][8, 8], f[0][8, 8]",
           "top_k f[0][8, 3], i[0][8, 3], f[0][8, 8]", "neg f[0][0, 8], f[0][0, 8]"]  # fmt: skip
    text = "sram i int32 [1][8, 8]\n" + section("vector tiles 0..1", *ops)
    result, spans = run(text, ["vector.startup=5 cycles"])
    lengths = [end - start for start, end, _ in times(spans, "tile0.vector")]
    assert lengths == [5 + 16, 5 + 64, 5 + 32, 5 + 48, 0]
    assert result.counters["vector.exp"] == 64
    assert result.counters["vector.reduce"] == 2 * 64 + 3 * 64
    assert result.counters["sram.vector_bytes"] == 512 + 512 + 2 * 512 + 3 * (256 + 2 * 96)


# --- one transfer -----------------------------------------------------------------------------------------------------


def load(tiles="0", rows=1, columns=32, extra=""):
    return f"load a[0][{rows}, {columns}] @ {tiles}, X_box(0 +: {rows}, 0 +: {columns}) {extra}"


# Set-up 2. A row miss: 4 + 4 to open the row, 8 bursts of 8 B, then 5 - 1 + 10: 30 after the request. SRAM: 1.
BACK, SRAM = 2 + 30, 1


@pytest.mark.parametrize(("tile", "hops"), [(0, 0), (1, 1), (2, 1), (3, 2)])
def test_a_load_of_one_block(tile, hops):
    _, spans = run(section(DMA, load(str(tile))))
    assert times(spans, "dma0.q0") == [(0, 2 + 64 // 8, BACK + hops + 64 // 8 + SRAM)]


def test_a_load_from_several_blocks():
    # 64 columns are 128 B: two blocks, one a channel, at once. Two such rows: two blocks a channel, one behind the
    # other in the same row, 8 more bursts; then 256 B over the NoC.
    _, spans = run(section(DMA, load(columns=64)))
    assert times(spans, "dma0.q0") == [(0, 2 + 16, BACK + 16 + SRAM)]
    result, spans = run(section(DMA, load(rows=2, columns=64)))
    assert times(spans, "dma0.q0") == [(0, 2 + 32, BACK + 8 + 32 + SRAM)]
    assert (result.counters["hbm.row_misses"], result.counters["hbm.row_hits"]) == (2, 30)


def test_chunks_overlap_hbm_and_noc():
    # 256 B from one channel: 32 bursts. As one chunk all of it is back before any goes on: 2 + 8 + 32 + 14 = 56, then
    # 32 + 1. As four chunks the first is back at 32, and the NoC is then busy for 32 cycles: each of the others is
    # there in time (40, 48 and 56).
    sets, text = ["hbm.channels=1", "hbm.bandwidth=8 B/cycle"], section(DMA, load(rows=2, columns=64))
    assert times(run(text, sets)[1], "dma0.q0") == [(0, 34, 56 + 32 + SRAM)]
    assert times(run(text, sets, chunk_bytes=64)[1], "dma0.q0") == [(0, 34, 32 + 32 + SRAM)]


def test_a_store():
    # Set-up 2, one hop, 64 B at 8 B/cycle and SRAM 1: at the HBM at 12, whose controller takes 10 to accept it. The
    # source's port is faster, 16 B/cycle: it is free 4 cycles after it started.
    text = section(DMA, "store Y_box(0 +: 1, 0 +: 32), a[0][1, 32] @ 1 signal read s[0][0]")
    text += section("vector tiles 0..1", "sync wait s[0][0]")
    result, spans = run(text)
    assert times(spans, "dma0.q0") == [(0, 10, 12 + 10)]
    assert times(spans, "tile0.vector") == [(6, 6, 6)]
    assert result.counters["hbm.write_bytes"] == 64
    assert result.counters["hbm.read_bytes"] == 0


def test_a_copy():
    # From tile 0 to 3 and 1: set-up 2, two hops and one, 64 B at 8 B/cycle, SRAM 1.
    text = section(DMA, "copy a[0][1, 32] @ 1 +: 2 step 2, a[1][1, 32] @ 0 signal s[dst][0]")
    text += section("vector tiles 1..4 step 2", "sync wait s[tile][0]")
    _, spans = run(text)
    assert times(spans, "dma0.q0") == [(0, 10, 2 + 2 + 8 + 1)]
    assert [times(spans, f"tile{tile}.vector") for tile in (1, 3)] == [[(12, 12, 12)], [(13, 13, 13)]]


def test_a_multicast_arrives_by_distance():
    text = section(DMA, load("0 +: 4", extra="signal s[dst][0]"))
    result, spans = run(text + section("vector tiles 0..4", "sync wait s[tile][0]"))
    arrivals = [times(spans, f"tile{tile}.vector")[0][0] for tile in range(4)]
    assert arrivals == [BACK + hops + 8 + SRAM for hops in (0, 1, 1, 2)]
    assert result.counters["hbm.read_bytes"] == 64  # once
    assert result.counters["sram.dma_bytes"] == 4 * 64
    assert result.counters["noc.link_bytes"] == 3 * 64  # a tree over 4 tiles has 3 links


@pytest.mark.parametrize(("rate", "end", "done"), [(2, 34, 41), (1, 66, 66)])
def test_an_engine_slower_than_the_noc(rate, end, done):
    # The NoC alone delivers 64 B at 41. The engine is through at 2 + 64 / rate, and nothing is visible before.
    _, spans = run(section(DMA, load()), [f"dma.bandwidth={rate} B/cycle"])
    assert times(spans, "dma0.q0") == [(0, end, done)]


def test_rows_of_a_gather():
    # 8 rows of 4 elements: 64 B are 8 cycles of the engine, as are 8 rows at 1 a cycle; at a quarter a cycle 32.
    gather = "gather a[0][8, 4] @ 0, X_box(0, 0 +: 4), rows[0 +: 8]"
    text = "table rows = [0, 2, 4, 6, 8, 10, 12, 14]\n" + section(DMA, gather)
    assert times(run(text)[1], "dma0.q0")[0][:2] == (0, 10)
    result, spans = run(text, ["dma.rows=0.25 rows/cycle"])
    assert times(spans, "dma0.q0")[0][:2] == (0, 2 + 32)
    assert result.counters["hbm.read_bytes"] == 8 * 8


@pytest.mark.parametrize(("first", "columns", "moved"), [(0, 4, 8), (5, 3, 8), (5, 4, 16), (1, 10, 24), (0, 0, 0)])
def test_hbm_bytes_are_whole_accesses(first, columns, moved):
    # Accesses of 8 B are 4 columns: 5 to 7 lie in one of them, 5 to 8 in two, 1 to 10 in three.
    text = section(DMA, f"load a[0][1, {columns}] @ 0, X_box(0 +: 1, {first} +: {columns})")
    assert run(text)[0].counters["hbm.read_bytes"] == moved


def test_a_scatter_add_reads_and_writes():
    scatter = "scatter_add Y_box(0, 0 +: 4), a[0][2, 4] @ 0, rows[0 +: 2]"
    text = "table rows = [3, 9]\n" + section(DMA, scatter)
    counters = run(text)[0].counters
    assert (counters["hbm.read_bytes"], counters["hbm.write_bytes"]) == (16, 16)


# --- several transfers ------------------------------------------------------------------------------------------------


def test_two_queues_take_turns():
    # Chunks of 32 B take 4 cycles: queue 0 at 2 and 10, queue 1 at 6 and 14. Queue 0 waits once for the other, 4
    # cycles; queue 1 twice.
    text = section(DMA, load())
    text += section("dma queue 1 engines 0..1", "load a[1][1, 32] @ 0, X_box(8 +: 1, 32 +: 32)")
    _, spans = run(text, chunk_bytes=32)
    assert [span[:2] for span in times(spans, "dma0.q0") + times(spans, "dma0.q1")] == [(0, 14), (0, 18)]
    assert stalls(spans, "dma0.q0", "engine") == [4]
    assert stalls(spans, "dma0.q1", "engine") == [8]


def test_an_engine_goes_on_where_it_left_off():
    # 20 B are 2.5 cycles: two queues of two such chunks each are through after 10 cycles, not 4 * 3.
    text = section(DMA, load(columns=20)) + section("dma queue 1 engines 0..1", load(columns=20))
    _, spans = run(text, chunk_bytes=20)
    assert max(end for _, end, _ in times(spans, "dma0.q0") + times(spans, "dma0.q1")) == 2 + 10


def test_the_limit_of_bytes_under_way():
    # Little's law: with one chunk of 64 B under way, each takes its whole latency from the engine: a miss 30 on either
    # channel, then hits of 8 bursts + 14 = 22. Eight chunks: requests at 2, 32, 62, 84, ..., 172, the last back at 194.
    text = section(DMA, load(rows=4, columns=64))
    result, spans = run(text, ["dma.outstanding=64 B"], chunk_bytes=64)
    assert times(spans, "dma0.q0") == [(0, 172 + 8, 194 + 8 + SRAM)]
    assert stalls(spans, "dma0.q0", "memory") == [2 * (30 - 8) + 5 * (22 - 8)]
    assert result.busy[8] == 2 + 64
    # Without a limit the engine never waits.
    _, spans = run(text, chunk_bytes=64)
    assert times(spans, "dma0.q0")[0][:2] == (0, 2 + 64)


def test_no_chunk_is_larger_than_the_limit():
    # 16 B at once, in accesses of 8 B, are 16 B: four chunks of a row that is open from the first on. The first is back
    # after 4 + 4 + 2 bursts + 14 = 24 cycles, the others after 2 + 14 = 16 each.
    _, spans = run(section(DMA, load()), ["dma.outstanding=23 B"])
    assert times(spans, "dma0.q0") == [(0, 2 + 24 + 2 * 16 + 2, 2 + 24 + 3 * 16 + 2 + SRAM)]
    # Less than an access cannot be asked for: it goes alone.
    _, alone = run(section(DMA, load()), ["dma.outstanding=1 B"])
    _, accesses = run(section(DMA, load()), ["dma.outstanding=8 B"])
    assert alone == accesses


def test_completion_is_in_order():
    # The second transfer moves nothing and is through at once, but is done only with the first; so is the `sync`.
    ops = [load(), "load a[1][1, 32] @ 0, X_box(32 +: 1, 0 +: 32) signal s[0][0]", "sync signal r[0][0]"]
    text = section(DMA, *ops)
    text += section("vector tiles 0..1", "sync wait s[0][0]", "sync wait r[0][0]")
    _, spans = run(text)
    assert times(spans, "dma0.q0") == [(0, 10, 41), (10, 10, 41), (10, 10, 41)]
    assert times(spans, "tile0.vector") == [(41, 41, 41), (41, 41, 41)]


def test_sources_are_free_in_order():
    # The load is back from HBM at 2 + 16 + 104 = 122; long before that the store behind it has left its SRAM.
    ops = [load(extra="signal read s[0][0]"), "store Y_box(0 +: 1, 0 +: 32), a[1][1, 32] @ 0 signal read s[0][0]"]
    text = section(DMA, *ops)
    text += section("vector tiles 0..1", "sync wait s[0][0]", "sync wait s[0][0]")
    _, spans = run(text, ["hbm.controller=100 cycles"])
    assert times(spans, "tile0.vector") == [(122, 122, 122), (122, 122, 122)]


# --- semaphores and barriers ------------------------------------------------------------------------------------------


def test_a_join_waits_for_each_producer():
    # Tile 0 signals at 88 and 176, tile 1 at 10 * 88 and later: the first round is complete at 880, not at 176.
    texts = [section("matrix tiles 0..1", *[f"{MATMUL} signal both[0][0]"] * 2),
             section("matrix tiles 1..2", *[MATMUL] * 9, *[f"{MATMUL} signal both[0][0]"] * 2),
             section("vector tiles 0..1", "sync wait both[0][0]", "sync wait both[0][0]")]  # fmt: skip
    program = assemble(HEAD + "".join(texts))
    _, spans = spans_of(program, TINY)
    assert times(spans, "tile0.vector") == [(880, 880, 880), (968, 968, 968)]
    with pytest.raises(ProgramError, match="twice before the other producers"):
        simulate(program, TINY, plain=True)


def test_a_barrier_waits_for_everybody():
    # The load is done at 41, the matmul at 88; all leave 4 cycles later. The HBM's rows are then closed: a miss again.
    text = section(DMA, load(), "barrier", load())
    text += section("matrix tiles 0..1", MATMUL, "barrier") + section("vector tiles 0..2", "barrier", "fill f[0], 1")
    result, spans = run(text)
    assert times(spans, "dma0.q0") == [(0, 10, 41), (92, 92, 92), (92, 102, 92 + 41)]
    assert stalls(spans, "dma0.q0", "barrier") == [0, 82, 0]
    assert stalls(spans, "tile0.matrix", "barrier") == [0, 4]
    assert [stalls(spans, f"tile{tile}.vector", "barrier") for tile in (0, 1)] == [[92, 0], [92, 0]]
    assert result.counters["hbm.row_misses"] == 2


def test_a_barrier_waits_for_what_drains_and_what_is_under_way():
    sets = ["matrix.overlap_folds=true"]
    _, spans = run(section("matrix tiles 0..1", MATMUL, "barrier"), sets)
    assert times(spans, "tile0.matrix") == [(0, 64, 70), (74, 74, 74)]
    _, spans = run(section(DMA, load(), "barrier"))
    assert times(spans, "dma0.q0") == [(0, 10, 41), (45, 45, 45)]


def test_a_sync_signals_what_is_visible():
    text = section("matrix tiles 0..1", MATMUL, "sync signal s[0][0]", "sync signal read r[0][0]")
    text += section("vector tiles 0..1", "sync wait r[0][0]", "sync wait s[0][0]")
    _, spans = run(text, ["matrix.overlap_folds=true"])
    assert times(spans, "tile0.vector") == [(64, 64, 64), (70, 70, 70)]
