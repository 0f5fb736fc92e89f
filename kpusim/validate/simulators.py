"""Cycles here and in other simulators: systolic arrays as SCALE-Sim counts them, memory as Ramulator 2 does."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

from attrs import frozen

from kpusim.dram.measure import measure
from kpusim.dram.patterns import addresses_of
from kpusim.dram.requests import Requests, decode
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.machine.drams import load_dram
from kpusim.processes import map_in_order
from kpusim.simulate.run import simulate

__all__ = ["Channel", "Matmul", "channels", "closed_form", "matmuls"]

DATAFLOWS = ("output-stationary", "weight-stationary", "input-stationary")
SIZES = ((1024, 1024, 1024), (1, 4096, 4096), (100, 4096, 147), (3136, 64, 576))
"""(m, n, k), chosen: a square, a decode step, a ragged one, and a 3 x 3 convolution of ResNet-50 with 64 channels."""

SPAN, SEED = 1 << 30, 1  # of random addresses, as tests/data/ramulator2.csv has them

Sizes = tuple[int, int, int]


@frozen
class Matmul:
    """A matmul of `sizes` (m, n, k) on one array: cycles simulated, by the closed form, and as SCALE-Sim reports."""

    array: tuple[int, int]
    dataflow: str
    sizes: Sizes
    simulated: int
    closed: int
    reported: int | None


@frozen
class Channel:
    """A row of Ramulator's, and the cycles of the DRAM here on the same requests."""

    row: dict[str, str]
    cycles: int
    gb_per_s: float


def matmuls(reports: Path) -> Iterator[Matmul]:
    """Those that SCALE-Sim reports on in a CSV file, then some on its default array of 32 x 32."""
    with reports.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows, columns, m, n, k = (int(row[name]) for name in ("rows", "columns", "m", "n", "k"))
            yield _matmul((rows, columns), row["dataflow"], (m, n, k), int(row["total_cycles"]))
    for sizes in SIZES:
        for dataflow in DATAFLOWS:
            yield _matmul((32, 32), dataflow, sizes, None)


def closed_form(array: tuple[int, int], dataflow: str, sizes: Sizes) -> int:
    """Cycles of folds one after the other: fills, steps and drains (Samajdar et al., arXiv:1811.02883)."""
    (rows, columns), (m, n, k) = array, sizes
    if dataflow == "output-stationary":
        return ceil(m / rows) * ceil(n / columns) * (rows + columns + k - 2)
    streamed, kept = (m, n) if dataflow == "weight-stationary" else (n, m)
    return ceil(k / rows) * ceil(kept / columns) * (2 * rows + columns + streamed - 2)


def _matmul(array: tuple[int, int], dataflow: str, sizes: Sizes, reported: int | None) -> Matmul:
    machine = load_machine(
        "scale-sim", [f"matrix.rows={array[0]}", f"matrix.columns={array[1]}", f"matrix.dataflow={dataflow}"]
    )
    m, n, k = sizes
    run = simulate(assemble(PROGRAM.format(m=m, n=n, k=k)), machine)
    return Matmul(array, dataflow, sizes, int(run.busy[0]), closed_form(array, dataflow, sizes), reported)


PROGRAM = """kasm 1
program one
sram a bf16 [1][{m}, {k}]
sram b bf16 [1][{k}, {n}]
sram f fp32 [1][{m}, {n}]
section matrix tiles 0..1
  matmul f[0], a[0], b[0], accumulate=0
end
"""


def channels(rows: Path, jobs: int) -> Sequence[Channel]:
    """Every row of a CSV file of Ramulator's, simulated here in so many processes."""
    with rows.open(encoding="utf-8", newline="") as file:
        return list(map_in_order(_channel, list(csv.DictReader(file)), jobs, lambda row: None))


def _channel(row: dict[str, str]) -> Channel:
    dram, count = load_dram(row["dram"].lower().replace("_", "-")), int(row["requests"])
    asked = addresses_of(row["pattern"], count, dram.organisation, SPAN, dram.organisation.burst_bytes, SEED)
    requests = Requests(*decode(dram.organisation, row["mapper"], asked), [False] * count, asked)
    found = measure(dram, int(row["queue_depth"]), requests)
    return Channel(row, found.dram_cycles, found.gb_per_s)
