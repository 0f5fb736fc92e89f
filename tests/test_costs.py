from fractions import Fraction
from math import ceil

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.costs import (
    compute_bound_cycles,
    fold_sizes,
    hbm_bound_cycles,
    matmul_array_timer,
    matmul_cycles,
    matmul_sram_bytes,
    matmul_timer,
    vector_cycles,
)
from kpusim.errors import UserError
from kpusim.machine import load_machine

TINY = load_machine("kpu-tiny")
FREE = Fraction(10**12)  # bytes a cycle of a port so wide that only the array counts
START = TINY.vector.startup_cycles
SIZE = st.integers(1, 300)


def array(rows, columns, overlap, dataflow="output-stationary", port=FREE, **rates):
    """kpu-tiny with another array; made without a file, which takes a while."""
    matrix = attrs.evolve(
        TINY.matrix, rows=rows, columns=columns, dataflow=dataflow, overlap_folds=overlap,
        macs_per_cell={**TINY.matrix.macs_per_cell, **rates},
    )  # fmt: skip
    sram = attrs.evolve(TINY.sram, ports=attrs.evolve(TINY.sram.ports, matrix=port))
    return attrs.evolve(TINY, matrix=matrix, sram=sram)


@given(SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(1, 64))
def test_folds_one_after_the_other(m, n, k, rows, columns):
    machine = array(rows, columns, False)
    folds = ceil(m / rows) * ceil(n / columns)
    assert matmul_cycles(machine, m, n, k, "bf16") == (folds * (rows + columns + k - 2), 0)
    assert matmul_cycles(machine, m, n, k, "int8") == (folds * (rows + columns + ceil(k / 2) - 2), 0)


@given(SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(1, 64))
def test_overlapped_folds(m, n, k, rows, columns):
    machine = array(rows, columns, True)
    folds = ceil(m / rows) * ceil(n / columns)
    assert matmul_cycles(machine, m, n, k, "bf16") == (folds * k, rows + columns - 2)
    assert matmul_cycles(machine, m, n, k, "fp8_e4m3") == (folds * ceil(k / 2), rows + columns - 2)


KEPT = st.sampled_from(["weight-stationary", "input-stationary"])


def stationary(dataflow, m, n):
    """(what is streamed, what lies across the columns)."""
    return (m, n) if dataflow == "weight-stationary" else (n, m)


@given(KEPT, SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(1, 64))
def test_folds_that_keep_factors(dataflow, m, n, k, rows, columns):
    """A cell that multiplies twice a cycle keeps two factors, so that a fold covers twice as much of K."""
    machine = array(rows, columns, False, dataflow)
    streamed, across = stationary(dataflow, m, n)
    fold = 2 * rows + columns + streamed - 2
    assert matmul_cycles(machine, m, n, k, "bf16") == (ceil(k / rows) * ceil(across / columns) * fold, 0)
    assert matmul_cycles(machine, m, n, k, "int8") == (ceil(k / (2 * rows)) * ceil(across / columns) * fold, 0)


@given(KEPT, SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(1, 64))
def test_overlapped_folds_that_keep_factors(dataflow, m, n, k, rows, columns):
    """A fold is as long as its stream, or as shifting in the next factors takes; alone it is visible when it was."""
    machine = array(rows, columns, True, dataflow)
    streamed, across = stationary(dataflow, m, n)
    folds, fold = ceil(k / rows) * ceil(across / columns), 2 * rows + columns + streamed - 2
    occupancy, drain = matmul_cycles(machine, m, n, k, "bf16")
    assert occupancy == folds * max(streamed, rows)
    assert occupancy + drain == (folds - 1) * max(streamed, rows) + fold


RATES = st.fractions(Fraction(1, 9), 9, max_denominator=9)
DATAFLOWS = st.sampled_from(["output-stationary", "weight-stationary", "input-stationary"])


@given(DATAFLOWS, st.booleans(), RATES, SIZE, SIZE, SIZE)
def test_any_rate(dataflow, overlap, rate, m, n, k):
    """What a cell does a cycle: `rate` products; of factors it keeps, the whole part of that for each one streamed."""
    machine = array(4, 8, overlap, dataflow, fp32=rate)
    depth = max(1, int(rate))
    folds, load, steps = {
        "output-stationary": (ceil(m / 4) * ceil(n / 8), 0, ceil(k / rate)),
        "weight-stationary": (ceil(k / (4 * depth)) * ceil(n / 8), 4, ceil(m * depth / rate)),
        "input-stationary": (ceil(k / (4 * depth)) * ceil(m / 8), 4, ceil(n * depth / rate)),
    }[dataflow]
    alone = load + 4 + 8 - 2 + steps
    each = max(steps, load) if overlap else alone
    assert matmul_cycles(machine, m, n, k, "fp32") == (folds * each, alone - each)


@given(DATAFLOWS, st.booleans(), RATES, SIZE, SIZE, SIZE)
def test_no_dataflow_beats_its_own_cells(dataflow, overlap, rate, m, n, k):
    machine = array(4, 8, overlap, dataflow, fp32=rate)
    assert matmul_cycles(machine, m, n, k, "fp32")[0] >= Fraction(m * n * k) / (32 * rate)


@pytest.mark.parametrize("accumulate", [False, True])
@given(m=SIZE, n=SIZE, k=SIZE)
def test_sram_bytes_by_dataflow(accumulate, m, n, k):
    """bf16 on 4 x 8 cells: what is kept once, what is streamed for each fold beside, sums for each fold along K."""
    a, b, sums, more = 2 * m * k, 2 * k * n, 4 * m * n, int(accumulate)
    deep = ceil(k / 4)
    expected = {
        "output-stationary": a * ceil(n / 8) + b * ceil(m / 4) + sums + more * sums,
        "weight-stationary": b + a * ceil(n / 8) + sums * deep + sums * (deep - 1 + more),
        "input-stationary": a + b * ceil(m / 8) + sums * deep + sums * (deep - 1 + more),
    }
    for dataflow, moved in expected.items():
        machine = array(4, 8, True, dataflow, Fraction(3, 10))
        assert matmul_sram_bytes(machine, m, n, k, "bf16", accumulate=accumulate) == moved
        assert matmul_cycles(machine, m, n, k, "bf16", accumulate=accumulate)[0] == ceil(Fraction(10 * moved, 3))


@given(DATAFLOWS, SIZE, SIZE, SIZE)
def test_folds_cover_the_work(dataflow, m, n, k):
    """What `fold_sizes` says takes one fold and one more element two, along every dimension but the streamed one."""
    machine = array(4, 8, False, dataflow)
    sizes, time = fold_sizes(machine, "int8"), matmul_array_timer(machine, "int8")
    one, whole = time(1, 1, 1)[0], [min(size, limit) for size, limit in zip((m, n, k), sizes, strict=True)]
    stream = [size if limit > 300 else 1 for size, limit in zip((m, n, k), sizes, strict=True)]
    assert time(*whole) == time(*stream) and one <= time(*whole)[0]
    for axis, limit in enumerate(sizes):
        if limit <= 300:
            double = [limit + 1 if other == axis else size for other, size in enumerate(whole)]
            assert time(*double)[0] == 2 * time(*whole)[0]


@given(SIZE, SIZE, SIZE, st.booleans())
def test_a_narrow_port_holds_the_array_up(m, n, k, accumulate):
    machine = array(4, 4, True, port=Fraction(3, 10))
    operands = 2 * m * k * ceil(n / 4) + 2 * k * n * ceil(m / 4)
    results = 4 * m * n * (2 if accumulate else 1)
    occupancy, drain = matmul_cycles(machine, m, n, k, "bf16", accumulate=accumulate)
    assert (occupancy, drain) == (ceil((operands + results) * 10 / 3), 6) or (operands + results) * 10 % 3 == 0
    assert occupancy == -(-(operands + results) * 10 // 3)


def test_a_fold_by_hand():
    """One 4 x 4 fold with k = 5 on kpu-tiny: 4 + 4 + 5 - 2 cycles; (20 + 20) * 2 + 64 bytes pass a 64 B port in 3."""
    assert matmul_cycles(load_machine("kpu-tiny"), 4, 4, 5, "bf16") == (11, 0)


@given(st.permutations([0, 5, 7]), DATAFLOWS)
def test_no_work_takes_no_time(sizes, dataflow):
    machine = load_machine("kpu-datacenter", [f"matrix.dataflow={dataflow}"])
    assert matmul_cycles(machine, *sizes, "bf16", accumulate=True) == (0, 0)
    assert matmul_sram_bytes(machine, *sizes, "bf16", accumulate=True) == 0


@given(SIZE, SIZE, SIZE)
def test_splitting_never_beats_the_roofline(m, n, k):
    machine = load_machine("kpu-datacenter")
    occupancy, _ = matmul_cycles(machine, m, n, k, "bf16")
    assert occupancy >= compute_bound_cycles(machine, m * n * k, "bf16")


def test_unknown_dtypes_and_classes():
    machine = load_machine("kpu-tiny")
    with pytest.raises(
        UserError, match="^kpu-tiny: the matrix engine cannot multiply this dtype; found 'int4'; allowed: bf16"
    ):
        matmul_timer(machine, "int4")
    with pytest.raises(UserError, match="cannot multiply this dtype"):
        compute_bound_cycles(machine, 1, "int4")
    with pytest.raises(UserError, match="unknown class of vector operations; found 'tanh'"):
        vector_cycles(machine, "tanh", 1, 1)


@given(st.integers(1, 10**6), st.sampled_from(["add", "exp"]))
def test_vector_cycles(elements, operation):
    machine = load_machine("kpu-datacenter")
    passes = machine.vector.lane_cycles[operation]
    compute = ceil(elements * passes / 64)
    assert vector_cycles(machine, operation, elements, 0) == 8 + compute
    assert vector_cycles(machine, operation, elements, 12 * elements) == 8 + max(compute, ceil(12 * elements / 1024))
    assert vector_cycles(machine, operation, 0, 100) == 0


@given(st.integers(1, 10**4), st.integers(1, 10**4))
def test_few_elements_leave_lanes_idle(elements, fill):
    """As long as so many, on 4 lanes with 4 lane-cycles an exponential; the SRAM port knows no filling."""
    machine = attrs.evolve(TINY, vector=attrs.evolve(TINY.vector, startup_cycles=3, fill=fill))
    assert vector_cycles(machine, "exp", elements, 0) == 3 + max(elements, fill)
    assert vector_cycles(machine, "exp", elements, 10**6) == vector_cycles(TINY, "exp", elements, 10**6) + 3 - START
    assert vector_cycles(machine, "exp", 0, 0) == 0


def test_rooflines():
    machine = load_machine("kpu-datacenter")
    assert compute_bound_cycles(machine, 4096**3, "bf16") == 4096**3 // 262_144
    slow = array(4, 4, True, fp32=Fraction(1, 7))
    assert compute_bound_cycles(slow, 640, "fp32") == 70
    assert compute_bound_cycles(slow, 641, "fp32") == 71
    assert hbm_bound_cycles(machine, 0) == 0
    assert hbm_bound_cycles(load_machine("kpu-tiny"), 1601) == 101
