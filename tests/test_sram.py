"""Shared SRAMs against closed forms worked out on paper, on kpu-tiny, in both modes.

Wherever nothing else is said, the SRAM of a tile is one bank of 16 B/cycle, as wide as the DMA port; DMA engines and
links are made wider (64 B/cycle), so that a store of 256 B, set up in 2 cycles, leaves its tile in the 16 cycles from 2
to 18.
"""

from itertools import product
from random import Random

import pytest
from gemms import execute
from random_programs import random_case
from test_modes import KASM, assert_equal_modes, spans_of
from test_simulate import run, section, stalls, times

from kpusim.engines.sram import Banks
from kpusim.errors import UserError
from kpusim.isa import read_program
from kpusim.isa.program import Buffer
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import ViewAt
from kpusim.machine import draw, load_machine
from kpusim.operators.gemm import Gemm
from kpusim.plan import operator_plan
from kpusim.report.bound import bound_of, uses
from kpusim.simulate.run import simulate
from kpusim.simulate.workload import run_plans

WIDE = ["dma.bandwidth=64 B/cycle", "noc.bandwidth=64 B/cycle"]
ONE_BANK = [*WIDE, "sram.sharing=shared", "sram.banks=1", "sram.bank_bandwidth=16 B/cycle"]
BLOCKS = [
    *WIDE,
    "sram.sharing=shared",
    "sram.interleave=1 KiB",
    "sram.bank_bandwidth=16 B/cycle",
]  # a[0] in bank 0, ...
WORDS = [*WIDE, "sram.sharing=shared", "sram.interleave=64 B", "sram.bank_bandwidth=4 B/cycle"]  # 16 B/cycle together
LEFT = section("vector tiles 1..2", "sync wait r[0][0]")  # it waits until a store has left its tile
STORE = section("dma queue 0 engines 0..1", "store Y_box(0 +: 2, 0 +: 64), a[0][2, 64] @ 0 signal read r[0][0]") + LEFT


# --- one bank ---------------------------------------------------------------------------------------------------------

# 4x4x4: (4*4 + 4*4) * 2 B + 4*4 * 4 B = 128 B, 8 cycles of the port, 4 of the array.
SMALL = "matmul f[0][4, 4], a[1][4, 4], a[1][4, 4]"
# 8x8x16: 1280 B as in test_simulate, 80 cycles of the port, 64 of the array.
LARGE = "matmul f[0][8, 8], a[1][8, 16], a[1][8, 16], transpose_b=1"
NARROW = ["sram.ports.matrix=16 B/cycle", "matrix.overlap_folds=true"]


def test_a_store_and_a_matmul_with_separate_ports_do_not_meet():
    _, spans = run(STORE + section("matrix tiles 0..1", LARGE), WIDE + NARROW)
    assert times(spans, "tile0.matrix")[0][:2] == (80 - 64, 80)
    assert times(spans, "tile1.vector") == [(18, 18, 18)]


def test_a_store_behind_a_matmul_has_the_port_when_the_matmul_is_through():
    result, spans = run(STORE + section("matrix tiles 0..1", LARGE), ONE_BANK + NARROW)
    assert times(spans, "tile0.matrix")[0][:2] == (80 - 64, 80)
    assert times(spans, "tile1.vector") == [(80 + 16,) * 3]  # the sum
    assert result.counters["sram.busiest_bank_bytes"] == 1280 + 256


def test_a_matmul_behind_a_store_has_the_port_when_the_store_is_through():
    # The store asks at 2 and is behind the small matmul, at 8 to 24; the large one asks at 8.
    text = STORE + section("matrix tiles 0..1", SMALL, LARGE)
    result, spans = run(text, ONE_BANK + NARROW)
    assert times(spans, "tile1.vector") == [(8 + 16,) * 3]
    assert [span[:2] for span in times(spans, "tile0.matrix")] == [(8 - 4, 8), (104 - 64, 104)]  # 8 + 16 + 80
    assert stalls(spans, "tile0.matrix", "port") == [4, 104 - 8 - 64]
    assert (result.busy[0], result.stalls[0].sum()) == (4 + 64, 36)


def test_other_tiles_have_an_sram_of_their_own():
    _, spans = run(STORE + section("matrix tiles 1..2", LARGE), ONE_BANK + NARROW)
    assert times(spans, "tile1.vector") == [(18, 18, 18)]


def test_matrix_and_vector_engine_of_a_tile_contend_and_the_matrix_engine_is_first():
    # neg moves 512 elements of 2 B in and out, 2048 B: 128 cycles of the bank, 128 of the 4 lanes.
    text = section("matrix tiles 0..1", LARGE) + section("vector tiles 0..1", "neg a[0], a[0]")
    _, spans = run(text, ONE_BANK + NARROW)
    assert times(spans, "tile0.matrix")[0][1] == 80
    assert times(spans, "tile0.vector") == [(80, 80 + 128, 80 + 128)]
    assert stalls(spans, "tile0.vector", "port") == [80]


def test_a_bank_that_keeps_up_holds_nobody_up():
    # At 32 B/cycle the bank has neg's 2048 B after 64 of its 128 cycles, and in pieces of 256 B after 8 of each 16: the
    # store comes in between, at 8 to 16, while its own port takes until 18. In one piece, it has the bank at 64 to 72.
    text, fast = STORE + section("vector tiles 0..1", "neg a[0], a[0]"), ["sram.bank_bandwidth=32 B/cycle"]
    for chunk_bytes, left in ((256, 18), (4096, 72)):
        _, spans = run(text, ONE_BANK + fast, chunk_bytes=chunk_bytes)
        assert times(spans, "tile0.vector") == [(0, 128, 128)]
        assert times(spans, "tile1.vector") == [(left,) * 3]


def test_a_piece_is_asked_for_when_the_one_before_is_through():
    # In pieces of 256 B, 16 cycles of the lanes and of the bank each, the store waits for one of them, and one for it.
    text = STORE + section("vector tiles 0..1", "neg a[0], a[0]")
    _, spans = run(text, ONE_BANK, chunk_bytes=256)
    assert times(spans, "tile1.vector") == [(16 + 16,) * 3]
    assert times(spans, "tile0.vector") == [(16, 128 + 16, 128 + 16)]


def test_a_load_waits_for_the_banks_of_each_of_its_tiles():
    # The 256 B are back from HBM before 128, and 16 cycles behind neg in tile 0; in tile 1, nothing is in their way.
    load = "load a[1][4, 32] @ 0 +: 2, X_box(0 +: 4, 0 +: 32) signal s[dst][0]"
    text = section("dma queue 0 engines 0..1", load) + section("vector tiles 1..2", "sync wait s[1][0]")
    text += section("vector tiles 0..1", "neg a[0], a[0]", "sync wait s[0][0]")
    (_, separate), (_, shared) = run(text, WIDE), run(text, ONE_BANK)
    assert times(shared, "tile1.vector") == times(separate, "tile1.vector")
    assert times(separate, "tile0.vector")[1] == (128, 128, 128)
    assert times(shared, "tile0.vector")[1] == (128 + 16 + 1,) * 3  # with the SRAM's latency
    assert stalls(shared, "tile0.vector", "dma")[1] == 17


def test_a_copy_takes_the_banks_of_both_ends():
    # 16 cycles behind neg in tile 0, and then, at 128 + 16 + 1 hop, behind the second neg of tile 1, which ends at 256.
    copy = "copy a[1][4, 32] @ 1, a[1][4, 32] @ 0 signal s[0][0]"
    text = section("dma queue 0 engines 0..1", copy) + section("vector tiles 0..1", "neg a[0], a[0]")
    text += section("vector tiles 1..2", "neg a[0], a[0]", "neg a[0], a[0]")
    text += section("matrix tiles 1..2", "sync wait s[0][0]")
    _, spans = run(text, ONE_BANK)
    assert times(spans, "tile1.matrix") == [(256 + 16 + 1,) * 3]


def test_a_queue_that_may_have_little_under_way_shows_that_its_sram_is_behind():
    # Four stores of 64 B, of which one may be under way: the first waits for the bank from 2 until neg is through.
    limit = ["dma.outstanding=64 B"]
    text = section("dma queue 0 engines 0..1", *[f"store Y_box({i} +: 1, 0 +: 32), a[0][1, 32] @ 0" for i in range(4)])
    (_, alone), (_, spans) = (
        run(each, ONE_BANK + limit) for each in (text, text + section("vector tiles 0..1", "neg a[0], a[0]"))
    )
    memory = [sum(stalls(each, "dma0.q0", "memory")) for each in (alone, spans)]
    assert memory[1] - memory[0] == 128 - 2


# --- several banks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "slot", "left"),
    [(BLOCKS, 0, 128 + 16), (BLOCKS, 1, 18), (WORDS, 0, 128 + 16), (WORDS, 1, 128 + 16)],
    ids=["one bank", "different banks", "interleaved by words", "interleaved by words, another buffer"],
)
def test_who_uses_different_banks_does_not_wait(sets, slot, left):
    _, spans = run(STORE + section("vector tiles 0..1", f"neg a[{slot}], a[{slot}]"), sets)
    assert times(spans, "tile0.vector") == [(0, 128, 128)]
    assert times(spans, "tile1.vector") == [(left,) * 3]


def test_a_buffer_across_two_banks_is_twice_as_fast_for_an_engine_and_not_for_a_stream():
    # 1 KiB of which each half is in another bank of 16 B/cycle; through one behind the other for a store, both for neg.
    text = "sram w bf16 [1][8, 64] at 512\n"
    whole = section("dma queue 0 engines 0..1", "store Y_box(0 +: 8, 0 +: 64), w[0] @ 0 signal read r[0][0]") + LEFT
    _, spans = run(text + whole, [*BLOCKS, "sram.ports.dma=64 B/cycle"], chunk_bytes=512)
    assert times(spans, "tile1.vector") == [(2 + 32 + 8,) * 3]  # granted at 2 and 10; the second half takes until 42
    _, spans = run(text + section("vector tiles 0..1", "neg w[0], w[0]"), [*BLOCKS, "vector.lanes=64"])
    assert times(spans, "tile0.vector")[0][1] == 2 * 512 // 16


def test_narrow_rows_take_the_banks_of_all_of_their_span():
    # 8 rows of 64 B lie 128 B apart, so that their own bytes are in banks 0 and 2 only; their span of 960 B is 15
    # blocks of 64 B, 4 of them in bank 0: 512 B * 4 / 15 = 136.5 B. Twice that (in, out) is 273 B: 69 cycles.
    _, spans = run(section("vector tiles 0..1", "neg a[0][8, 32], a[0][8, 32]"), WORDS)
    assert times(spans, "tile0.vector") == [(69 - 64, 69, 69)]


# --- everything -------------------------------------------------------------------------------------------------------


SEPARATE, ENDLESS = ["sram.sharing=separate"], ["sram.sharing=shared", "sram.bank_bandwidth=1 TB/cycle"]


def assert_equal_spans(program, separate, shared):
    (result, spans), (other, others) = spans_of(program, separate), spans_of(program, shared)
    assert sorted(spans) == sorted(others)
    assert result.counters.items() < other.counters.items()


@pytest.mark.parametrize("path", KASM, ids=lambda path: path.stem)
def test_banks_without_limits_are_separate_ports(path):
    program = read_program(path)
    capacity = f"sram.capacity={max(program.sram_bytes, 4096)} B"
    assert_equal_spans(program, *(load_machine("kpu-tiny", [capacity, *sets]) for sets in (SEPARATE, ENDLESS)))


@pytest.mark.parametrize("seed", range(20))
def test_so_they_are_on_random_programs(seed):
    program, separate, _ = random_case(seed, SEPARATE)
    assert_equal_spans(program, separate, random_case(seed, ENDLESS)[1])


def test_with_separate_ports_banks_do_not_count():
    narrow = ["sram.bank_bandwidth=1 B/cycle", "sram.banks=1"]
    cases = [random_case(1, sets) for sets in (SEPARATE, SEPARATE + narrow)]
    runs = [simulate(program, machine, chunk_bytes=chunk_bytes) for program, machine, chunk_bytes in cases]
    assert runs[0].cycles == runs[1].cycles
    assert runs[0].counters == runs[1].counters


@pytest.mark.parametrize("banks", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_no_bank_moves_more_than_it_can_and_nothing_is_lost(seed, banks):
    one = ["tiles.rows=1", "tiles.columns=1", "sram.sharing=shared", "sram.bank_bandwidth=7.5 B/cycle"]
    program, machine, chunk_bytes = random_case(seed, [*one, f"sram.banks={banks}"])
    assert_equal_modes(program, machine, chunk_bytes=chunk_bytes)
    result = simulate(program, machine, chunk_bytes=chunk_bytes)
    users = [result.counters.get(f"sram.{user}_bytes", 0) for user in ("dma", "matrix", "vector")]
    most = result.counters["sram.busiest_bank_bytes"]
    assert most <= sum(users) <= banks * most
    assert most <= 7.5 * result.cycles


@pytest.mark.parametrize("sets", [[], ["sram.bank_bandwidth=2 B/cycle"], ["sram.interleave=1 KiB"]])
def test_gemms_are_right_where_the_sram_is_shared(sets):
    execute(Gemm(m=33, n=24, k=40, transpose_b=True), load_machine("kpu-tiny", ["sram.sharing=shared", *sets]))


def test_a_shared_sram_can_be_the_bound():
    machine = load_machine("kpu-tiny", ["sram.sharing=shared", "sram.bank_bandwidth=2 B/cycle"])
    (done,) = run_plans((operator_plan(Gemm(m=64, n=64, k=64), machine),))
    result = done.ops[0].executed.run
    bound = bound_of(result, 0)
    assert (bound.by, bound.because.partition(";")[0].rpartition(" in ")[0]) == (
        "SRAM port", "the busiest bank of the shared SRAMs moves data"
    )  # fmt: skip
    part = result.counters["sram.busiest_bank_bytes"] / 2 / result.cycles
    assert max(use.part for use in uses(result)) == pytest.approx(part)
    assert 0.6 < part <= 1


def test_a_machine_tells_its_banks_where_they_count():
    assert "banks: 2.5 B/cycle each, 10 together, interleaved by 64 B" in draw(
        load_machine("kpu-tiny", ["sram.sharing=shared", "sram.bank_bandwidth=2.5 B/cycle"])
    )
    assert "banks:" not in draw(load_machine("kpu-tiny"))


def test_more_banks_than_the_capacity_has_blocks_are_impossible():
    with pytest.raises(UserError, match=r"some of 128 banks would hold nothing, interleaved by 64 B; .* <= 4096 B"):
        load_machine("kpu-tiny", ["sram.sharing=shared", "sram.banks=128"])
    load_machine("kpu-tiny", ["sram.banks=128"])
    with pytest.raises(UserError, match="did you mean 'shared'"):
        load_machine("kpu-tiny", ["sram.sharing=sharde"])


@pytest.mark.parametrize("seed", range(20))
def test_a_bank_gives_the_first_time_that_is_not_taken(seed):
    random, bank, free, now = Random(seed), Banks(1), set(range(4000)), 0
    for _ in range(100):
        now += random.choice([0, 0, 1, 5, 30])
        start, length = now + random.choice([0, 0, 3, 60]), random.randint(1, 20)
        given = sorted(tick for tick in free if tick >= start)[:length]
        free -= set(given)
        assert bank.take(start, length, now) == given[-1] + 1


def test_the_span_of_a_view_is_from_its_first_byte_to_its_last():
    random = Random(1)
    for _ in range(200):
        shape = tuple(random.randint(1, 6) for _ in range(random.randint(1, 3)))
        buffer = Buffer("b", random.choice(["int4", "int8", "bf16", "fp32"]), 3, shape, random.randrange(100))
        starts = tuple(random.randrange(extent) for extent in shape)
        sizes = tuple(random.randint(1, extent - start) for start, extent in zip(starts, shape, strict=True))
        number = {at: i for i, at in enumerate(product(*map(range, shape)))}  # of every element, by its coordinates
        inside = product(*(range(start, start + size) for start, size in zip(starts, sizes, strict=True)))
        each = DTYPE_BITS[buffer.dtype]
        bits = [number[at] * each + bit for at in inside for bit in (0, each - 1)]
        base = buffer.offset + 2 * buffer.slot_bytes
        assert ViewAt(buffer, 2, starts, sizes, None).span == (base + min(bits) // 8, base + max(bits) // 8 + 1)
