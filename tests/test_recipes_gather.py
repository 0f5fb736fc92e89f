"""Recipes of gathers: what is simulated for a row, and its time against bytes, openings of rows and a whole run.

Rates are those without walks for translations, which a program makes at its beginning.
"""

from functools import cache

import pytest
from attrs import evolve

from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.operators.gather import Gather
from kpusim.recipes.gather import gather_kernels
from kpusim.recipes.kernel import Kernel, Sample
from kpusim.recipes.row import Row
from kpusim.recipes.table import recipe_of
from kpusim.validate.predict import time_kernel

H200 = load_machine("h200", ["dma.walk=0 cycles"])
TABLE = 1 << 30  # bytes


def kernel(n, width, dtype="bf16", machine=H200):
    """The one kernel of a gather from a table of 1 Gi elements."""
    (found,) = gather_kernels(n, width, TABLE // width, dtype, machine)
    return found


@cache
def cycles(n, width):
    return time_kernel(kernel(n, width), H200).cycles


@pytest.mark.parametrize("width", [1, 2, 33, 4096, 4097, 50257])
@pytest.mark.parametrize(("dtype", "size"), [("fp8_e4m3", 1), ("bf16", 2), ("fp32", 4)])
def test_all_of_every_row_is_moved(width, dtype, size):
    found = kernel(64, width, dtype)
    operator, pieces = found.operator, -(-width * size // 8192)
    assert operator.count * found.slices == 64 * pieces
    assert 0 <= operator.width * pieces - width < pieces
    assert operator.entries * found.slices >= TABLE // width * pieces
    assert found.mapping.columns == operator.width
    assert found.mapping.rows * operator.width * size <= 8192


@pytest.mark.parametrize(("outstanding", "pieces"), [("64 KiB", 2), ("32 KiB", 4), ("1 KiB", 128)])
def test_four_blocks_take_half_of_what_may_be_under_way(outstanding, pieces):
    """Of rows of 16 KiB."""
    machine = load_machine("h200", [f"dma.outstanding={outstanding}"])
    found = kernel(64, 8192, machine=machine)
    assert found.operator.width == 8192 // pieces
    assert 4 * found.mapping.rows * found.operator.width * 2 == machine.dma.outstanding_bytes / 2


def test_a_block_has_an_element_at_least():
    assert kernel(64, 8192, machine=load_machine("h200", ["dma.outstanding=8 B"])).operator.width == 1


def test_bytes_count_not_elements():
    """Rows of as many bytes take as long, whatever their dtype; of twice as many, twice as long."""
    half, same, twice = kernel(10**6, 2048), kernel(10**6, 1024, "fp32"), kernel(10**6, 2048, "fp32")
    half, same, twice = (time_kernel(each, H200).cycles for each in (half, same, twice))
    assert same == pytest.approx(half, rel=0.01)
    assert twice == pytest.approx(2 * half, rel=0.1)


def test_a_row_of_the_table_finds_the_recipe():
    row = Row("gather", {"kind": "plain", "n": 100, "width": 8, "table_rows": 1000})
    assert recipe_of(row).kernels(row, H200) == gather_kernels(100, 8, 1000, "bf16", H200)
    with pytest.raises(UserError, match="params.kind"):
        recipe_of(Row("gather", {"kind": "sparse", "n": 100, "width": 8, "table_rows": 1000}))
    short = Row("gather", {"kind": "plain", "n": 100, "width": 8})
    with pytest.raises(UserError, match="params.table_rows: missing"):
        recipe_of(short).kernels(short, H200)


def test_a_slice_of_the_machine_tells_the_whole():
    count, width = 4096, 1024
    told = kernel(count, width)
    assert told.slices > 1
    whole = Kernel(
        Gather(TABLE // width, width, count, index_dtype="int64"), evolve(told.mapping, lanes=H200.tiles.count)
    )
    assert cycles(count, width) == pytest.approx(time_kernel(whole, H200).cycles, rel=0.06)


def test_two_short_runs_tell_a_longer_one():
    count, width = 16384, 1024
    told = kernel(count, width)
    assert told.sample.longer is not None
    whole = evolve(told, operator=evolve(told.operator, count=count // told.slices), sample=Sample())
    assert cycles(count, width) == pytest.approx(time_kernel(whole, H200).cycles, rel=0.06)


def steady(width):
    """(rows, cycles) by which the longer of two short runs is longer, on all slices."""
    told = kernel(10**6, width)
    short, long = (evolve(told, operator=each, sample=Sample()) for each in (told.operator, told.sample.longer))
    taken = time_kernel(long, H200).cycles - time_kernel(short, H200).cycles
    return (told.sample.longer.count - told.operator.count) * told.slices * told.operator.width / width, taken


def test_long_rows_go_at_the_bandwidth_of_the_memory():
    rows, taken = steady(4096)
    moved = rows * (2 * 8192 + 8)  # read, written, and the index
    assert 0.75 < moved / taken / H200.hbm.peak_bytes_per_cycle < 0.95


def test_short_rows_go_at_the_rate_of_openings():
    rows, taken = steady(2)
    openings = taken / H200.hbm.opening_cycles * H200.hbm.channel_count
    assert 0.7 < rows / openings < 1  # some are for what is written, and for indices


def test_more_takes_longer():
    taken = [cycles(n, 256) for n in (1, 1000, 8448, 30000, 10**6)]
    assert taken == sorted(set(taken))
    taken = [cycles(1024, width) for width in (1, 30, 500, 4096, 50257)]
    assert taken == sorted(set(taken))
