"""What bounds a run, in words and numbers."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from kpusim.costs import vector_bound_cycles
from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.operators import make_operator
from kpusim.operators.given import Given
from kpusim.plan import operator_plan
from kpusim.report.bound import bound_of, uses
from kpusim.report.rows import rows_of, total_of
from kpusim.report.table import number, print_run
from kpusim.simulate.run import Run
from kpusim.simulate.spans import STALLS
from kpusim.simulate.workload import run_plans

TINY = load_machine("kpu-tiny")
PROGRAM = make_operator("gemm(m=16, n=16, k=16)").lower(TINY).program
COUNTERS = (
    "hbm.read_bytes", "hbm.write_bytes", "noc.busiest_link_bytes", "dma.busiest_engine_bytes",
    "sram.busiest_port_bytes", "sram.matrix_bytes", "sram.vector_bytes",
)  # fmt: skip


def made(cycles=1000, busy=(), **counters):
    """A run of 1000 cycles with so many busy cycles by unit, and some counters."""
    units = len(TINY.unit_names)
    accounts = np.zeros(units, np.int64)
    for unit, amount in dict(busy).items():
        accounts[unit] = amount
    names = {name.replace(".", "_"): name for name in COUNTERS}
    found = dict.fromkeys(COUNTERS, 0) | {names[name]: value for name, value in counters.items()}
    return Run(PROGRAM, TINY, cycles, accounts, np.zeros((units, len(STALLS)), np.int64), found)


@pytest.mark.parametrize(
    ("run", "by", "because"),
    [
        (made(busy=[(t, 900) for t in range(4)]), "matrix compute", "the matrix engines are busy 90% of the cycles"),
        (made(busy=[(0, 800)]), "matrix compute", "busy 20% of the cycles; the busiest 80%"),
        (made(busy=[(4, 700)]), "vector engine", "the vector engines are busy"),
        (made(hbm_read_bytes=12000, hbm_write_bytes=3000), "HBM bandwidth", "HBM delivers 0.015 of 0.016 TB/s attain"),
        (made(noc_busiest_link_bytes=7200), "NoC", "the busiest link of the network moves data in 90% of the cycles"),
        (made(dma_busiest_engine_bytes=8000), "DMA engine", "the busiest DMA engine moves data in 100%"),
        (made(sram_busiest_port_bytes=11200), "SRAM port", "the busiest DMA port of an SRAM moves data in 70%"),
        (made(sram_matrix_bytes=4 * 64 * 750), "SRAM port", "the SRAM ports of the matrix engines move data in 75%"),
        (made(sram_vector_bytes=4 * 64 * 910), "SRAM port", "the SRAM ports of the vector engines move data in 91%"),
        (made(), "latency", "the first load takes about 26 of 1,000 cycles; the matrix engines wait for loads in 0%"),
        (made(cycles=0), "launch", "nothing is executed"),
    ],
)
def test_bounds(run, by, because):
    bound = bound_of(run, 0)
    assert bound.by == by
    assert because in bound.because


def test_a_launch_longer_than_the_program_bounds_it():
    bound = bound_of(made(busy=[(0, 900)]), 1500)
    assert (bound.by, bound.because) == ("launch", "the launch takes 1,500 cycles before 1,000 of execution")


def test_uses_are_parts_of_what_there_is():
    (run,) = run_plans((operator_plan(make_operator("gemm(m=64, n=64, k=256)"), TINY),))
    found = {use.resource: use.part for use in uses(run.ops[0].executed.run)}
    assert set(found) == {"matrix compute", "vector engine", "HBM bandwidth", "NoC", "DMA engine", "SRAM port"}
    assert all(0 < part <= 1 for part in found.values())


def test_rows_and_total_agree():
    (run,) = run_plans((operator_plan(make_operator("gemm(m=64, n=64, k=64)"), TINY),))
    (row,), total = rows_of(run), total_of(run)
    assert total.cycles == row.cycles + row.gap_cycles == row.start_cycle + row.cycles
    assert (total.hbm_read_bytes, total.hbm_write_bytes) == (row.hbm_read_bytes, row.hbm_write_bytes)
    assert total.roof_cycles == row.roof_cycles
    assert row.distance >= 1
    assert row.io_bound_bytes >= row.compulsory_bytes


class Softmax(Given):
    """A program of which more is known: its vector engines must add and exponentiate so many elements."""

    @property
    def vector_work(self):
        return {"add": 5000, "exp": 6000}

    def io_bound_bytes(self, machine):
        return 1000


def test_the_vector_engine_is_a_roof():
    assert vector_bound_cycles(TINY, {"add": 15, "exp": 1}) == 2  # 15 + 4 lane-cycles on 4 tiles of 4 lanes
    assert vector_bound_cycles(TINY, {}) == 0
    with pytest.raises(UserError, match="unknown class of vector operations; found 'sine'"):
        vector_bound_cycles(TINY, {"sine": 1})
    (run,) = run_plans((operator_plan(Softmax(PROGRAM), TINY),))
    (row,), total = rows_of(run), total_of(run)
    vector = (5000 + 4 * 6000 + 15) // 16
    assert row.roofs == {"matrix compute": 16**3 // 64, "vector engine": vector, "HBM bandwidth": 3 * 16 * 16 * 2 // 16}
    assert (row.roof, row.roof_cycles, total.roof_cycles) == ("vector engine", 1813, 1813)


def test_traffic_is_held_to_the_bound():
    (run,) = run_plans((operator_plan(Softmax(PROGRAM), TINY),))
    (row,), total = rows_of(run), total_of(run)
    assert row.traffic_over_bound == total.traffic_over_bound == row.hbm_bytes / 1000 > 1
    console = Console(file=StringIO(), width=200)
    print_run(run, console)
    shown = console.file.getvalue().splitlines()
    heads, cells, *_ = (line for line in shown if "x bound" in line or line.startswith(" program "))
    at = heads.index("x bound")
    assert cells[at : at + len("x bound")].strip() == f"{row.hbm_bytes / 1000:.2f}"


def test_the_total_of_a_composite_is_held_to_its_own_bounds():
    """Its parts move scores and probabilities, of 2 and 2 bytes, through HBM, each written once and read once."""
    operator = make_operator("attention(heads=4, queries=128, keys=128, head_dim=64, variant=unfused)")
    (run,) = run_plans((operator_plan(operator, load_machine("kpu-edge")),))
    rows, total = rows_of(run), total_of(run)
    own = 4 * 4 * 128 * 64 * 2  # q, k, v and out
    assert total.io_bound_bytes == operator.compulsory_bytes == own
    assert sum(row.io_bound_bytes for row in rows) == own + 4 * 4 * 128 * 128 * 2
    assert total.hbm_read_bytes + total.hbm_write_bytes == pytest.approx(3 * own)
    assert total.traffic_over_bound == pytest.approx(3)
    assert total.roof_cycles < sum(row.roof_cycles for row in rows)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.0123456, "0.0123"), (4.466, "4.47"), (999.6, "1,000")])
def test_numbers(value, text):
    assert number(value) == text
