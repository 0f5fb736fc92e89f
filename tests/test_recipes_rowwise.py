"""Recipes of norms and elementwise operators: which kernels, how they are dealt, and against measurements."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.machine import load_machine, share
from kpusim.plan import operator_plan
from kpusim.recipes import blocks
from kpusim.recipes.row import Row
from kpusim.recipes.rowwise import KINDS, rowwise_kernels
from kpusim.recipes.table import recipe_of
from kpusim.validate.predict import predict, time_kernel

H200, A100 = load_machine("h200"), load_machine("a100-80gb")
SIZES = [1, 3, 128, 768, 2048, 2049, 5120, 16384, 50257, 128256]


def row(kind, rows, dim, dtype="bf16"):
    family = "norm" if kind in ("layernorm", "rmsnorm", "softmax", "batchnorm") else "eltwise"
    return Row(family, {"kind": kind, "rows": rows, "dim": dim}, dtype)


def us(kind, rows, dim, dtype="bf16", machine=H200):
    (prediction,) = predict([row(kind, rows, dim, dtype)], machine)
    return prediction.us


def last(kind, rows, dim, dtype="bf16", machine=H200):
    """The launch that has all elements."""
    return rowwise_kernels(kind, rows, dim, dtype, machine)[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_recipe(kind):
    recipe = recipe_of(row(kind, 8, 64))
    assert tuple(recipe.kernels(row(kind, 8, 64), H200)) == rowwise_kernels(kind, 8, 64, "bf16", H200)
    assert recipe.reason and recipe.source


@given(st.integers(1, 10**6), st.integers(1, 200), st.integers(1, 64))
def test_equal_shares(rows, tiles, resident):
    """Blocks are no larger than may be, as many a tile as there must be, and none larger than that needs."""
    share = blocks.equal_share(rows, tiles, resident)
    steps = ceil(ceil(rows / tiles) / resident)
    assert 1 <= share <= resident
    assert share * steps * tiles >= rows
    assert (share - 1) * steps * tiles < rows


@pytest.mark.parametrize("machine", [H200, A100], ids=["h200", "a100"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_size_has_a_program(kind, machine):
    """Whose blocks fit, on every tile, whatever the shape, of that dtype."""
    for rows, dim in [*((1, dim) for dim in SIZES), *((rows, 1000) for rows in SIZES), (4099, 50257)]:
        for dtype in ("bf16", "fp16", "fp32"):
            kernel = last(kind, rows, dim, dtype, machine)
            seen, work = kernel.seen(machine), kernel.operator.work
            assert kernel.operator.dtype == dtype and kernel.operator.out_dtype in ("", dtype)
            assert kernel.mapping.sram_bytes(work) <= machine.tile_bytes
            assert kernel.mapping.row_tiles <= seen.tiles.count
            operator_plan(kernel.operator, seen, mapping=kernel.mapping)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "dim"), [(1, 700), (5, 4096), (3000, 1030), (20000, 512)])
def test_no_element_is_left_out(kind, rows, dim):
    """What is simulated, and so many rounds more of it, is all of a slice, or at most a line or a block a tile more."""
    kernel = last(kind, rows, dim)

    def elements(operator):
        return operator.rows * operator.columns

    found = elements(kernel.operator)
    if kernel.sample.longer is not None:
        found += kernel.sample.rounds * (elements(kernel.sample.longer) - elements(kernel.operator))
    spare = kernel.mapping.block_rows * kernel.mapping.row_tiles * kernel.operator.columns
    assert 0 <= found * kernel.slices - rows * dim <= spare * kernel.slices


@pytest.mark.parametrize(("kind", "dim", "dtype", "threads", "elements"), [
    ("layernorm", 4096, "bf16", 128, 1024), ("rmsnorm", 1500, "fp32", 128, 1024), ("softmax", 1024, "bf16", 32, 256),
    ("gelu", 4096, "bf16", 128, 1024), ("copy", 333, "fp16", 128, 1024),
])  # fmt: skip
def test_a_tile_has_2048_threads_of_eight_elements(kind, dim, dtype, threads, elements):
    """As many rows at once as threads allow, each so many elements at a time."""
    kernel = last(kind, 10**6, dim, dtype)
    assert (kernel.mapping.block_rows, kernel.mapping.block_columns) == (2048 // threads, elements)


@pytest.mark.parametrize("kind", ["copy", "add"])
def test_bytes_count_where_memory_is_the_bound(kind):
    """Elements of twice the size take twice as long, beside the launch."""
    narrow, wide = (time_kernel(last(kind, 50000, 4096, dtype), H200).cycles for dtype in ("bf16", "fp32"))
    assert wide == pytest.approx(2 * narrow, rel=0.1)
    moved = (3 if kind == "add" else 2) * 50000 * 4096 * 2
    assert 0.75 < moved / narrow / H200.hbm.peak_bytes_per_cycle < 0.95


@pytest.mark.parametrize(("dim", "dtype", "warp"), [
    (2048, "bf16", True), (2049, "bf16", False), (2048, "fp32", True), (100, "fp16", True), (4096, "bf16", False),
])  # fmt: skip
def test_a_warp_takes_short_rows_of_softmax(dim, dtype, warp):
    """It keeps them in registers: each is read once. A tile has one of the others at a time."""
    kernel = last("softmax", 10**5, dim, dtype)
    assert (kernel.operator.exponentials == "kept") is warp
    assert (kernel.mapping.block_rows > 1) is warp
    assert not warp or kernel.mapping.resident(kernel.operator.work)


@pytest.mark.parametrize(("kind", "rows", "dim", "loads"), [
    ("layernorm", 512, 768, 1), ("layernorm", 9999, 4096, 1), ("layernorm", 9999, 16384, 2), ("layernorm", 9, 16384, 1),
    ("rmsnorm", 9999, 8192, 2), ("softmax", 9999, 2048, 1), ("softmax", 9999, 24000, 1), ("softmax", 9999, 50257, 3),
])  # fmt: skip
def test_rows_are_read_again_where_the_sram_has_no_room(kind, rows, dim, loads):
    """16 rows of LayerNorm in 228 KiB; of softmax one, in 48 KiB, which is gone through three times."""
    kernel = last(kind, rows, dim)
    (stream,) = (stream for stream in kernel.operator.work.streams if stream.name == "x")
    assert len(kernel.mapping.loads(kernel.operator.work, stream)) == loads


@pytest.mark.parametrize(
    ("kind", "rows", "dim"), [("layernorm", 28000, 256), ("softmax", 2500, 4096), ("add", 60000, 520)]
)
def test_few_rounds_of_a_slice_tell_all(kind, rows, dim, monkeypatch):
    """As all rounds on all tiles do."""
    told = last(kind, rows, dim)
    monkeypatch.setattr(share, "SLICES", 1)
    monkeypatch.setattr(blocks, "ROUNDS", (10**6, 10**6))
    whole = last(kind, rows, dim)
    assert told.sample.longer is not None and told.slices > 1 and whole.sample.longer is None and whole.slices == 1
    assert float(time_kernel(told, H200).cycles) == pytest.approx(float(time_kernel(whole, H200).cycles), rel=0.05)


@pytest.mark.parametrize("kind", ["layernorm", "softmax", "silu"])
def test_more_takes_longer(kind):
    """More rows, or longer ones, but for where the library changes kernels."""
    by_rows = [us(kind, rows, 768) for rows in (1, 500, 3000, 20000)]
    assert by_rows == sorted(by_rows)
    by_columns = [us(kind, 200, dim) for dim in (2500, 6000, 20000)]
    assert by_columns == sorted(by_columns)


@pytest.mark.parametrize(("kind", "rows", "dim", "measured"), [
    ("layernorm", 1, 4096, 6.8602), ("layernorm", 32768, 1024, 78.8294), ("rmsnorm", 8192, 4096, 43.8286),
    ("softmax", 512, 768, 6.818), ("softmax", 8192, 4096, 108.1854), ("batchnorm", 4096, 512, 10.9318),
    ("gelu", 2048, 14336, 35.4982), ("copy", 16384, 8192, 130.1583), ("add", 2048, 3072, 10.2968),
])  # fmt: skip
def test_against_measurements(kind, rows, dim, measured):
    """Of an H200, tests/data/h200_public.csv; far within what a bare roofline is off (46 %)."""
    assert us(kind, rows, dim) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(("changed", "message"), [
    ({"kind": "batch"}, "row: params.kind: cannot be; found 'batch'; allowed: layernorm"),
    ({"rows": 0}, "row: params.rows: cannot be; found 0; allowed: a whole number from 1 to 2,147,483,647"),
    ({"dim": None}, "row: params.dim: missing"),
])  # fmt: skip
def test_impossible_parameters(changed, message):
    wrong = Row("norm", {"kind": "softmax", "rows": 4, "dim": 4} | changed)
    with pytest.raises(UserError) as caught:
        recipe_of(wrong).kernels(wrong, H200)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["softmax", "gelu"])
def test_impossible_dtypes(kind):
    wrong = row(kind, 4, 4, "int8")
    with pytest.raises(UserError, match="row: dtype: cannot be; found 'int8'; allowed: fp32, bf16, fp16"):
        recipe_of(wrong).kernels(wrong, H200)
