from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.costs import (
    compute_bound_cycles,
    hbm_bound_cycles,
    matmul_cycles,
    matmul_timer,
    vector_cycles,
)
from kpusim.errors import UserError
from kpusim.machine import load_machine

FREE_PORT = "sram.ports.matrix=1 TB/cycle"  # so wide that only the array counts
SIZE = st.integers(1, 300)


def array(rows, columns, overlap, *sets):
    return load_machine(
        "kpu-tiny",
        [f"matrix.rows={rows}", f"matrix.columns={columns}", f"matrix.overlap_folds={str(overlap).lower()}", *sets],
    )


@given(SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(1, 64))
def test_folds_one_after_the_other(m, n, k, rows, columns):
    machine = array(rows, columns, False, FREE_PORT)
    folds = ceil(m / rows) * ceil(n / columns)
    assert matmul_cycles(machine, m, n, k, "bf16") == (folds * (rows + columns + k - 2), 0)
    assert matmul_cycles(machine, m, n, k, "int8") == (folds * (rows + columns + ceil(k / 2) - 2), 0)


@given(SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(1, 64))
def test_overlapped_folds(m, n, k, rows, columns):
    machine = array(rows, columns, True, FREE_PORT)
    folds = ceil(m / rows) * ceil(n / columns)
    assert matmul_cycles(machine, m, n, k, "bf16") == (folds * k, rows + columns - 2)
    assert matmul_cycles(machine, m, n, k, "fp8_e4m3") == (folds * ceil(k / 2), rows + columns - 2)


@pytest.mark.parametrize(("m", "n", "k", "reported"), [(8, 8, 16, 29), (16, 24, 10, 143)])
def test_scale_sim_agrees(m, n, k, reported):
    """What SCALE-Sim 3.0.0 reported for an 8 x 8 output-stationary array: the number of the last cycle, from 0."""
    assert matmul_cycles(array(8, 8, False, FREE_PORT), m, n, k, "bf16") == (reported + 1, 0)


@given(SIZE, SIZE, SIZE, st.booleans())
def test_a_narrow_port_holds_the_array_up(m, n, k, accumulate):
    machine = array(4, 4, True, "sram.ports.matrix=0.3 B/cycle")
    operands = 2 * m * k * ceil(n / 4) + 2 * k * n * ceil(m / 4)
    results = 4 * m * n * (2 if accumulate else 1)
    occupancy, drain = matmul_cycles(machine, m, n, k, "bf16", accumulate=accumulate)
    assert (occupancy, drain) == (ceil((operands + results) * 10 / 3), 6) or (operands + results) * 10 % 3 == 0
    assert occupancy == -(-(operands + results) * 10 // 3)


def test_a_fold_by_hand():
    """One 4 x 4 fold with k = 5 on kpu-tiny: 4 + 4 + 5 - 2 cycles; (20 + 20) * 2 + 64 bytes pass a 64 B port in 3."""
    assert matmul_cycles(load_machine("kpu-tiny"), 4, 4, 5, "bf16") == (11, 0)


@given(st.permutations([0, 5, 7]))
def test_no_work_takes_no_time(sizes):
    assert matmul_cycles(load_machine("kpu-datacenter"), *sizes, "bf16") == (0, 0)


@given(SIZE, SIZE, SIZE)
def test_splitting_never_beats_the_roofline(m, n, k):
    machine = load_machine("kpu-datacenter")
    occupancy, _ = matmul_cycles(machine, m, n, k, "bf16")
    assert occupancy >= compute_bound_cycles(machine, m * n * k, "bf16")


def test_unknown_dtypes_and_classes():
    machine = load_machine("kpu-tiny")
    with pytest.raises(UserError, match="cannot multiply this dtype; found 'fp32'; allowed: bf16"):
        matmul_timer(machine, "fp32")
    with pytest.raises(UserError, match="cannot multiply this dtype"):
        compute_bound_cycles(machine, 1, "fp32")
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


def test_rooflines():
    machine = load_machine("kpu-datacenter")
    assert compute_bound_cycles(machine, 4096**3, "bf16") == 4096**3 // 262_144
    assert hbm_bound_cycles(machine, 0) == 0
    assert hbm_bound_cycles(load_machine("kpu-tiny"), 1601) == 101
