"""The two modes of one model: local clocks give the spans and accounts of the plain mode, to the cycle.

Random programs (see `random_programs`), lowered GEMMs, and the hand-written programs of `workloads/kasm`.
"""

from operator import add

import pytest
from random_programs import random_case

from kpusim.data import data_dir
from kpusim.engines.stalls import ENGINE, MEMORY
from kpusim.isa import read_program
from kpusim.isa.check import check_program
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.operators.gemm.operator import Gemm
from kpusim.simulate.run import simulate
from kpusim.simulate.spans import STALLS

KASM = sorted(data_dir("workloads").glob("kasm/*.kasm"))
COLUMNS = 9 + len(STALLS)  # of a span; those at its end may be left out where they are 0


def spans_of(program, machine, blocks=False, **options):
    """(the run, every span as a full tuple; those of a unit in its order). `blocks`: takes many alike at once."""
    spans = []

    def take(*span):
        spans.append(span + (0,) * (COLUMNS - len(span)))

    take_block = (lambda rows: spans.extend(map(tuple, rows.tolist()))) if blocks else None
    return simulate(program, machine, span=take, span_block=take_block, **options), spans


def assert_equal_runs(run, reference):
    assert run.cycles == reference.cycles
    assert run.busy.tolist() == reference.busy.tolist()
    assert run.stalls.tolist() == reference.stalls.tolist()
    assert run.counters == reference.counters


def assert_equal_modes(program, machine, **options):
    """Equal spans, accounts and counters; the accounts add up, with and without anybody who listens."""
    reference, expected = spans_of(program, machine, plain=True, **options)
    for blocks in (False, True):
        run, spans = spans_of(program, machine, blocks, **options)
        assert sorted(spans) == sorted(expected)
        assert_equal_runs(run, reference)
    assert_equal_runs(simulate(program, machine, **options), reference)
    assert_accounts(reference, expected)


def assert_accounts(run, spans):
    """For each unit busy + stalls + idle = cycles, by its account and by its spans, which do not overlap."""
    assert run.idle.min() >= 0
    busy, stalls, ends = [0] * len(run.busy), [[0] * len(STALLS) for _ in run.busy], [0] * len(run.busy)
    for start, end, done, unit, _, _, _, _, _, *waited in spans:
        within = sum(waited[cause] for cause in (ENGINE, MEMORY))  # the others are before a span
        before = sum(waited) - within
        assert ends[unit] + before == start <= end <= done <= run.cycles
        assert within <= end - start
        busy[unit] += end - start - within
        ends[unit] = end
        stalls[unit] = list(map(add, stalls[unit], waited))
    assert busy == run.busy.tolist()
    assert stalls == run.stalls.tolist()


def check_case(seed):
    program, machine, chunk_bytes = random_case(seed)
    check_program(program, limits_of(machine))
    assert_equal_modes(program, machine, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("seed", range(0, 300, 25))
def test_random_programs(seed):
    for each in range(seed, seed + 25):
        check_case(each)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 2000, 25))
def test_many_random_programs(seed):
    for each in range(seed, seed + 25):
        check_case(each)


GEMMS = [
    ("kpu-tiny", 1, 1, 1),
    ("kpu-tiny", 8, 8, 16),
    ("kpu-tiny", 33, 50, 70),
    ("kpu-tiny", 5, 100, 9),
    ("kpu-edge", 1, 300, 400),
    ("kpu-edge", 200, 129, 513),
    ("kpu-datacenter", 1, 1024, 2048),
    ("kpu-datacenter", 300, 1000, 700),
    ("kpu-many-small", 200, 700, 300),
    ("tpu-v4-like", 300, 1000, 700),
    ("scale-sim", 100, 70, 90),
]


@pytest.mark.parametrize("fold_instructions", [False, True])
@pytest.mark.parametrize(("machine", "m", "n", "k"), GEMMS)
def test_lowered_gemms(machine, m, n, k, fold_instructions):
    loaded = load_machine(machine)
    lowered = Gemm(m=m, n=n, k=k).lower(loaded, fold_instructions=fold_instructions)
    assert_equal_modes(lowered.program, loaded)


@pytest.mark.parametrize("sets", [(), ("matrix.overlap_folds=true", "dma.setup=0 cycles", "noc.hop=0 cycles")])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_lowered_gemms_of_other_machines(sets, transpose_b):
    machine = load_machine("kpu-tiny", sets)
    program = Gemm(m=40, n=24, k=72, transpose_b=transpose_b).lower(machine).program
    assert_equal_modes(program, machine, chunk_bytes=64)


@pytest.mark.parametrize("machine", ["kpu-tiny", "kpu-edge", "kpu-datacenter", "kpu-many-small", "tpu-v4-like"])
@pytest.mark.parametrize("path", KASM, ids=lambda path: path.stem)
def test_hand_written_programs(path, machine):
    program, loaded = read_program(path), load_machine(machine)
    if program.sram_bytes > loaded.sram.capacity_bytes:
        loaded = load_machine(machine, [f"sram.capacity={program.sram_bytes} B"])
    for chunk_bytes in (64, 16384):
        assert_equal_modes(program, loaded, chunk_bytes=chunk_bytes)
