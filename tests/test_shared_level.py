"""The shared level before HBM: times on paper, what goes on to HBM, equal modes, and nothing where there is none."""

from fractions import Fraction

import pytest
from random_programs import random_case
from test_modes import assert_equal_modes

from kpusim.engines.hbm import Hbm
from kpusim.engines.shared import Buffer, Cache
from kpusim.engines.transfer import chunk_of
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.operators.gemm.operator import Gemm
from kpusim.simulate.run import simulate

LINE, BLOCK, LATENCY = 128, 4096, 7
RATE = Fraction(50)  # bytes a cycle
HBM = 100  # cycles of every request to the memory below
CACHE = [
    "shared.kind=cache", "shared.capacity=16KiB", "shared.block=4KiB", "shared.ways=2", "shared.line=128B",
    f"shared.bandwidth={RATE}B/cycle", f"shared.latency={LATENCY}cycles",
]  # fmt: skip
BUFFER = ["shared.kind=buffer", "shared.capacity=16KiB", "shared.bandwidth=50B/cycle", "shared.latency=7cycles"]


class Below:
    """A memory that takes HBM cycles for everything, and keeps what it is asked for: in all, and each block of it."""

    def __init__(self, machine):
        self.interleave, self.access_bytes = machine.hbm.interleave_bytes, machine.hbm.access_bytes
        self.asked, self.blocks = [], []

    def access(self, chunk, base, now, write):
        at = sorted(
            (base + block + i * step) * self.interleave
            for block, count, step, bursts in chunk.runs
            for i in range(count)
        )
        size = sum(count * bursts for _, count, _, bursts in chunk.runs) * self.access_bytes
        assert size == chunk.size
        self.asked.append((now, "write" if write else "read", at[0], size))
        self.blocks += at
        return now + HBM


def level(sets=(), kind=Cache):
    """(the level, the memory below, read or write so many bytes at an address and cycle)."""
    machine = load_machine("kpu-tiny", [*(CACHE if kind is Cache else BUFFER), *sets])
    below = Below(machine)
    found = kind(machine, below)

    def ask(address, size, now, write=False):
        base, inside = divmod(address, machine.hbm.interleave_bytes)
        chunk = chunk_of([(inside, 1, 1, size)], machine.hbm.interleave_bytes, machine.hbm.access_bytes)
        chunk.stretches = ((inside, 1, 1, size),)
        return found.access(chunk, base, now, write)

    return found, below, ask


def passed(size):
    return -(-size // RATE) + LATENCY


# --- times of a cache -----------------------------------------------------------------------------------------------


def test_a_miss_goes_on_after_the_latency_and_a_hit_takes_that_and_its_bytes():
    _, below, ask = level()
    assert ask(256, 512, now=1000) == 1000 + LATENCY + HBM
    assert below.asked == [(1000 + LATENCY, "read", 256, 512)]
    assert ask(256, 512, now=2000) == 2000 + passed(512)
    assert len(below.asked) == 1


def test_a_large_miss_takes_as_long_as_its_bytes_take_to_pass():
    _, _, ask = level(["shared.bandwidth=2B/cycle"])
    assert ask(0, 1024, now=0) == 1024 // 2 + LATENCY > LATENCY + HBM


def test_requests_pass_one_behind_the_other_in_exact_fractions_of_cycles():
    _, _, ask = level()
    ask(0, 128, now=0)
    ends = [ask(0, 128, now=500) for _ in range(20)]
    assert ends == [500 + -(-128 * (i + 1) // RATE) + LATENCY for i in range(20)]


def test_a_line_on_its_way_is_waited_for():
    _, below, ask = level()
    first = ask(0, 128, now=0)
    assert ask(0, 128, now=1) == first
    assert ask(0, 128, now=first) == first + passed(128)
    assert len(below.asked) == 1


def test_a_request_that_hits_in_part_asks_for_the_rest():
    found, below, ask = level()
    ask(0, 256, now=0)
    assert ask(128, 512, now=1000) == 1000 + LATENCY + HBM
    assert below.asked[1:] == [(1000 + LATENCY, "read", 256, 384)]
    assert (found.counters["shared.hits"], found.counters["shared.misses"]) == (1, 2 + 3)


def test_part_of_a_line_brings_in_all_of_it():
    _, below, ask = level()
    ask(300, 8, now=0)
    assert below.asked == [(LATENCY, "read", 256, LINE)]
    assert ask(256, LINE, now=1000) == 1000 + passed(LINE)


def test_what_is_written_whole_is_not_fetched_and_stays_until_the_end():
    found, below, ask = level()
    assert ask(0, 4096, now=0, write=True) == passed(4096)
    assert ask(0, 4096, now=1000) == 1000 + passed(4096)
    assert below.asked == []
    assert found.clean(5000) == 5000 + HBM
    assert below.asked == [(5000, "write", 0, 4096)]
    assert found.clean(9000) == 9000
    assert found.counters["shared.writeback_bytes"] == 4096


def test_what_is_written_in_part_is_fetched_and_nobody_waits_for_it():
    _, below, ask = level()
    assert ask(64, 128, now=0, write=True) == passed(128)  # the ends of two lines
    assert below.asked == [(LATENCY, "read", 0, 2 * LINE)]
    _, below, ask = level()
    assert ask(64, 256, now=0, write=True) == passed(256)  # the line between is whole
    assert below.asked == [(LATENCY, "read", 0, 2 * LINE)]


def test_dirty_lines_are_written_back_when_others_take_their_place():
    """8 KiB of 2 ways hold two blocks of 4 KiB: a third throws the first out."""
    found, below, ask = level(["shared.capacity=8KiB"])
    ask(0, 4096, now=0, write=True)
    ask(4096, 4096, now=1000)
    ask(8192, 4096, now=2000)
    assert below.asked[-2:] == [(2000 + LATENCY, "read", 8192, 4096), (2000 + LATENCY, "write", 0, 4096)]
    assert found.counters["shared.writeback_bytes"] == 4096
    assert found.clean(9000) == 9000


def test_through_writes_reach_hbm_at_once_and_bring_in_whole_lines_only():
    found, below, ask = level(["shared.write=through"])
    assert ask(64, 256, now=0, write=True) == LATENCY + HBM
    assert [each[1:] for each in below.asked] == [("write", 64, 256)]
    assert ask(128, 128, now=1000) == 1000 + passed(128)
    assert ask(0, 128, now=2000) == 2000 + LATENCY + HBM
    assert found.clean(9000) == 9000
    assert found.counters["shared.writeback_bytes"] == 0


def asked_for(stretches, write=False):
    """What the memory below is asked for by one request."""
    cache, below, _ = level()
    chunk = chunk_of(stretches, 64, 8)
    chunk.stretches = tuple(stretches)
    cache.access(chunk, 0, 0, write)
    return below


def test_absent_lines_of_a_request_are_one_request_of_whole_lines():
    below = asked_for([(32, 5, 1024, 64)])
    assert below.asked == [(LATENCY, "read", 0, 5 * LINE)]
    assert below.blocks == [at + half for at in range(0, 5 * 1024, 1024) for half in (0, 64)]


@pytest.mark.parametrize("starts", [(0, 512, 768, 1024, 1280, 2048), (0, 4096, 8192, 9000), (300, 200, 5000)])
def test_lines_that_lie_apart_are_asked_for_where_they_are(starts):
    below = asked_for([(start, 1, 1, 8) for start in starts])
    assert sorted(below.blocks) == sorted(start // LINE * LINE + half for start in starts for half in (0, 64))


def test_lines_that_two_stretches_cover_together_are_not_fetched():
    assert asked_for([(0, 4, 64, 64)], write=True).asked == []
    assert asked_for([(0, 1, 1, 96), (96, 1, 1, 160)], write=True).asked == []
    assert asked_for([(0, 1, 1, 64), (256, 1, 1, 64)], write=True).asked == [(LATENCY, "read", 0, 2 * LINE)]


# --- times of a buffer ----------------------------------------------------------------------------------------------


def test_the_buffer_serves_at_its_own_latency_and_bandwidth():
    found, below, ask = level(kind=Buffer)
    start = load_machine("kpu-tiny").hbm.total_capacity_bytes
    assert ask(start + 512, 1000, now=50) == 50 + passed(1000)
    assert ask(start, 1000, now=50) == 50 + passed(2000)
    assert below.asked == []
    assert ask(512, 64, now=50) == 50 + HBM
    assert found.counters == {"shared.read_bytes": 2000, "shared.write_bytes": 0}


# --- a cache in a run -----------------------------------------------------------------------------------------------

PASSES = """kasm 1
program passes
tensor x bf16 [16, 64] in
map rows = x box [16, 64]
sram s bf16 [1][16, 64]
section dma queue 0 engines 0..1
  for i = 0 .. {passes}
    load s[0] @ 0, rows(0, 0)
  end
end
"""


def gemm_counters(sets, m=64, n=64, k=64, **options):
    machine = load_machine("kpu-tiny", sets)
    return simulate(Gemm(m=m, n=n, k=k).lower(machine).program, machine, **options).counters


def test_a_gemm_that_reads_its_factors_again_hits_from_then_on():
    """kpu-tiny holds 16 KiB; a and b are 8 KiB each and read four times over."""
    sets = [*CACHE, "shared.capacity=64KiB", "shared.write=through"]
    factors = 2 * 64 * 64 * 2
    plain, cached = gemm_counters([]), gemm_counters(sets)
    assert plain["hbm.read_bytes"] > 2 * factors
    assert cached["hbm.read_bytes"] == factors
    assert cached["hbm.write_bytes"] == plain["hbm.write_bytes"] == 64 * 64 * 2
    assert cached["shared.read_bytes"] == plain["hbm.read_bytes"]
    assert cached["shared.write_bytes"] == plain["hbm.write_bytes"]


def test_written_back_at_the_end_everything_is_in_hbm_once():
    counters = gemm_counters([*CACHE, "shared.capacity=64KiB"])
    assert counters["hbm.write_bytes"] == counters["shared.writeback_bytes"] == 64 * 64 * 2


@pytest.mark.parametrize("capacity", ["8KiB", "16KiB", "64KiB"])
@pytest.mark.parametrize("write", ["back", "through"])
def test_by_lines_a_run_is_the_same(capacity, write):
    sets = [*CACHE, f"shared.capacity={capacity}", f"shared.write={write}"]
    assert gemm_counters(sets, 40, 72, 56) == gemm_counters([*sets, "shared.lookup=lines"], 40, 72, 56)
    assert gemm_counters(sets, 40, 72, 56)["shared.hits"] > 0


@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 64), (40, 72, 56), (1, 300, 200)])
def test_hbm_reads_what_was_absent_and_writes_what_was_dirty(m, n, k):
    """Of a write-back cache: fetched lines are what HBM reads, to the byte, and no others."""
    machine = load_machine("kpu-tiny", CACHE)
    fetched = []

    class Counting(Hbm):
        def access(self, chunk, base, now, write):
            fetched.append((write, chunk.size))
            return super().access(chunk, base, now, write)

    program = Gemm(m=m, n=n, k=k).lower(machine).program
    counters = simulate(program, machine, hbm=Counting).counters
    read = sum(size for write, size in fetched if not write)
    assert counters["hbm.read_bytes"] == read
    assert read % LINE == 0
    assert read <= counters["shared.misses"] * LINE
    assert counters["hbm.write_bytes"] == counters["shared.writeback_bytes"] == sum(s for w, s in fetched if w)


def test_of_what_is_only_read_hbm_reads_every_missed_line():
    machine = load_machine("kpu-tiny", CACHE)
    text = PASSES.format(passes=3)
    counters = simulate(assemble(text), machine).counters
    assert counters["hbm.read_bytes"] == 16 * 64 * 2 == counters["shared.misses"] * LINE
    assert counters["shared.hits"] == 2 * counters["shared.misses"]
    assert counters["shared.read_bytes"] == 3 * counters["hbm.read_bytes"]


def test_a_cached_pass_is_as_fast_as_the_links():
    """One more pass takes 2048 B at the 8 B/cycle of a link, or at what the HBM has: about 2 B/cycle."""
    cycles = {}
    for sets in ([], CACHE):
        machine = load_machine("kpu-tiny", ["hbm.bandwidth=2B/cycle", *sets])
        first, second = (simulate(assemble(PASSES.format(passes=passes)), machine).cycles for passes in (4, 5))
        cycles[len(sets)] = second - first
    assert cycles[len(CACHE)] == 2048 // 8
    assert cycles[0] >= 2048 // 2


def test_the_program_ends_when_its_results_are_in_hbm():
    """The store of 128 bytes that nothing follows: with write-back the end is later than the store by the clean-up."""
    text = """kasm 1
program store
tensor x bf16 [8, 8] out
map rows = x box [8, 8]
sram s bf16 [1][8, 8]
section dma queue 0 engines 0..1
  store rows(0, 0), s[0] @ 0
end
"""
    machine = load_machine("kpu-tiny", CACHE)
    ends = []
    run = simulate(assemble(text), machine, span=lambda *span: ends.append(span[2]))
    hbm, written = Hbm(machine), chunk_of([(0, 1, 1, 128)], 64, 8)
    assert run.cycles == hbm.access(written, 0, ends[-1], write=True)
    assert run.counters["hbm.write_bytes"] == 128


# --- modes, and nothing without it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_both_modes_are_equal_with_a_cache(seed):
    small = ["shared.capacity=8KiB", "shared.line=32B"] if seed % 2 else []
    through = ["shared.write=through"] if seed % 3 == 0 else []
    program, machine, chunk_bytes = random_case(seed, [*CACHE, *small, *through])
    assert_equal_modes(program, machine, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("sets", [(), ("shared.write=through", "shared.capacity=8KiB")])
def test_both_modes_are_equal_in_a_gemm(sets):
    machine = load_machine("kpu-tiny", [*CACHE, *sets])
    assert_equal_modes(Gemm(m=33, n=50, k=70).lower(machine).program, machine)


@pytest.mark.parametrize("seed", range(8))
def test_without_a_shared_level_nothing_changes(seed):
    """A buffer in which nothing is, and a table that says none."""
    program, machine, chunk_bytes = random_case(seed, ["shared.kind=none"])
    plain = simulate(program, machine, chunk_bytes=chunk_bytes)
    for sets in (["shared.kind=none", "shared.capacity=1MiB"], BUFFER):
        run = simulate(program, random_case(seed, sets)[1], chunk_bytes=chunk_bytes)
        assert run.cycles == plain.cycles
        assert run.counters.items() >= plain.counters.items()
        assert not any(value for name, value in run.counters.items() if name.startswith("shared"))
