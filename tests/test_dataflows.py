"""One matmul, simulated on an array with ideal memory (machine `scale-sim`), against the closed forms of its dataflow.

The forms are written out here once more, from the literature; where a cell multiplies when is counted beside them.
"""

import csv
from fractions import Fraction
from math import ceil
from pathlib import Path
from random import Random

import attrs
import numpy as np
import pytest

from kpusim.engines.stalls import PORT
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.operators.gemm.operator import Gemm
from kpusim.simulate.run import simulate

IDEAL = load_machine("scale-sim")
OUTPUT, WEIGHT, INPUT = DATAFLOWS = ["output-stationary", "weight-stationary", "input-stationary"]
CASES = 334  # of each dataflow: 1,002 in all


def array(dataflow, rows, columns, overlap=False, port=None, rate=1):
    """`scale-sim` with another array, or with a matrix port of so many bytes a cycle."""
    matrix = attrs.evolve(
        IDEAL.matrix, dataflow=dataflow, rows=rows, columns=columns, overlap_folds=overlap, macs_per_cell={"bf16": rate}
    )
    ports = attrs.evolve(IDEAL.sram.ports, matrix=port or IDEAL.sram.ports.matrix)
    return attrs.evolve(IDEAL, matrix=matrix, sram=attrs.evolve(IDEAL.sram, ports=ports))


def matmul(machine, m, n, k, accumulate=0, **options):
    """The run of a program that is one matmul of m x k times k x n."""
    text = f"""kasm 1
program one
sram a bf16 [1][{m}, {k}]
sram b bf16 [1][{k}, {n}]
sram f fp32 [1][{m}, {n}]
section matrix tiles 0..1
  matmul f[0], a[0], b[0], accumulate={accumulate}
end
"""
    return simulate(assemble(text), machine, **options)


def closed_form(dataflow, rows, columns, m, n, k):
    """Cycles of folds that do not overlap, as in SCALE-Sim (Samajdar et al., arXiv:1811.02883)."""
    if dataflow == OUTPUT:
        return ceil(m / rows) * ceil(n / columns) * (rows + columns + k - 2)
    if dataflow == WEIGHT:
        return ceil(k / rows) * ceil(n / columns) * (2 * rows + columns + m - 2)
    return ceil(k / rows) * ceil(m / columns) * (2 * rows + columns + n - 2)


with (Path(__file__).parent / "data" / "scale_sim.csv").open(newline="") as file:
    REPORTED = list(csv.DictReader(file))  # "Total Cycles" of SCALE-Sim 3.0.0 (COMPUTE_REPORT.csv)


@pytest.mark.parametrize("case", REPORTED, ids=lambda case: "-".join(case.values()))
def test_scale_sim_reports_the_same(case):
    """One cycle less in each: it reports the number of the last cycle, counted from 0. Memory without stalls."""
    rows, columns, *sizes = (int(case[name]) for name in ("rows", "columns", "m", "n", "k"))
    assert matmul(array(case["dataflow"], rows, columns), *sizes).busy[0] == int(case["total_cycles"]) + 1


def cases(seed, count=CASES):
    """(rows, columns, m, n, k), each now and then at its least, or just at or behind whole folds."""
    random = Random(seed)
    for _ in range(count):
        rows, columns = random.randint(1, 64), random.randint(1, 64)
        sizes = [random.choice([1, rows, columns, 2 * rows + 1, random.randint(1, 400)]) for _ in range(3)]
        yield rows, columns, *sizes


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_thousand_random_cases_take_the_closed_form(dataflow):
    for number, (rows, columns, m, n, k) in enumerate(cases(dataflow)):
        run = matmul(array(dataflow, rows, columns), m, n, k, plain=number % 10 == 0)
        assert run.cycles == run.busy[0] == closed_form(dataflow, rows, columns, m, n, k), (rows, columns, m, n, k)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_closed_form_is_when_the_last_cell_multiplies(dataflow):
    """Cell by cell, for one fold: operands enter one cycle later a row and a column, behind what is shifted in."""
    for rows, columns, size, _, _ in cases(f"cells {dataflow}", 30):
        row, column, step = np.indices((rows, columns, size))
        multiplies = row + column + step + (0 if dataflow == OUTPUT else rows)
        fold = {OUTPUT: (rows, columns, size), WEIGHT: (size, columns, rows), INPUT: (columns, size, rows)}[dataflow]
        assert matmul(array(dataflow, rows, columns), *fold).cycles == multiplies.max() + 1


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_overlapped_folds_follow_each_other_without_a_gap(dataflow):
    """A fold begins when the stream of the one before is through, and what it keeps has been shifted in beside it."""
    for rows, columns, m, n, k in cases(f"overlap {dataflow}", 100):
        streamed, load = {OUTPUT: (k, 0), WEIGHT: (m, rows), INPUT: (n, rows)}[dataflow]
        alone = load + rows + columns + streamed - 2
        folds = closed_form(dataflow, rows, columns, m, n, k) // alone
        starts = [fold * max(streamed, load) for fold in range(folds)]
        run = matmul(array(dataflow, rows, columns, overlap=True), m, n, k)
        assert run.busy[0] == starts[-1] + max(streamed, load)
        assert run.cycles == starts[-1] + alone
        assert run.busy[0] * rows * columns >= m * n * k


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_rates_and_narrow_ports(dataflow):
    """Busy is the array's part, the rest is the stall, and both together what the slower of array and port takes."""
    random, waited = Random(f"ports {dataflow}"), 0
    for number, (rows, columns, m, n, k) in enumerate(cases(f"ports {dataflow}", 150)):
        rate, port = random.choice([1, 2, 3, Fraction(1, 4), Fraction(1, 6)]), Fraction(random.randint(1, 700), 7)
        deep = max(rate, 1)  # factors along K in a cell
        cycles = {
            OUTPUT: closed_form(OUTPUT, rows, columns, m, n, ceil(k / rate)),
            WEIGHT: closed_form(WEIGHT, rows, columns, ceil(m / rate * deep), n, ceil(k / deep)),
            INPUT: closed_form(INPUT, rows, columns, m, ceil(n / rate * deep), ceil(k / deep)),
        }[dataflow]
        more, sums = random.randint(0, 1), ceil(k / (rows * deep))
        moved = {
            OUTPUT: 2 * m * k * ceil(n / columns) + 2 * k * n * ceil(m / rows) + 4 * m * n * (1 + more),
            WEIGHT: 2 * m * k * ceil(n / columns) + 2 * k * n + 4 * m * n * (2 * sums - 1 + more),
            INPUT: 2 * m * k + 2 * k * n * ceil(m / columns) + 4 * m * n * (2 * sums - 1 + more),
        }[dataflow]
        machine = array(dataflow, rows, columns, port=port, rate=rate)
        run = matmul(machine, m, n, k, accumulate=more, plain=number % 5 == 0)
        assert run.busy[0] == cycles
        assert run.stalls[0].sum() == run.stalls[0, PORT] == max(0, ceil(moved / port) - cycles)
        assert run.cycles == max(cycles, ceil(moved / port))
        assert run.counters["sram.matrix_bytes"] == moved
        waited += run.stalls[0, PORT] > 0
    assert 30 < waited < 140


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_lowered_gemm_takes_the_closed_form(dataflow):
    for rows, columns, m, n, k in cases(f"gemm {dataflow}", 8):
        machine = array(dataflow, rows, columns)
        run = simulate(Gemm(m, n, k).lower(machine).program, machine)
        assert run.busy[0] == closed_form(dataflow, rows, columns, m, n, k)
        assert run.stalls[0, PORT] == 0
