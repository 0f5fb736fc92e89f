"""Every instruction against a computation in plain Python, element by element, in float64 or exact integers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.dtypes import convert, integer_range, is_integer, numpy_dtype, unit_roundoff
from kpusim.function.semantics import SEMANTICS, evaluate
from kpusim.function.values import Operand, scalar
from kpusim.isa.tables import instruction_rows

ROWS = instruction_rows()
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
DTYPES = st.sampled_from(["fp32", "bf16", "fp16", "int32", "int8", "uint8"])
FLOATS = st.sampled_from(["fp32", "bf16", "fp16"])


def make(data, dtype, shape, low=-8, high=8):
    """An operand of small values of `dtype`, all exact in it."""
    if is_integer(dtype):
        least, greatest = integer_range(dtype)
        values = st.integers(max(math.ceil(low), least), min(math.floor(high), greatest))
    else:
        values = st.integers(math.ceil(low * 8), math.floor(high * 8)).map(lambda n: n / 8)
    count = math.prod(shape)
    drawn = data.draw(st.lists(values, min_size=count, max_size=count))
    return Operand(dtype, np.array(drawn, np.float64).astype(numpy_dtype(dtype)).reshape(shape))


def empty(dtype, shape):
    return Operand(dtype, np.zeros(shape, numpy_dtype(dtype)))


def run(name, written, *read, **options):
    options = {**ROWS[name].options, **options}
    results = evaluate(name, list(written), list(read), options)
    for result, out in zip(results, written, strict=True):
        assert result.dtype == numpy_dtype(out.dtype) and result.shape == out.data.shape
    return results if len(results) > 1 else results[0]


def close(result, expected, dtype, ulps=2.0):
    """Equal for integers; within rounding of float64 values else (2: arithmetic in fp32, then to the dtype)."""
    expected = np.asarray(expected, np.float64)
    if is_integer(dtype):
        low, high = integer_range(dtype)
        assert np.array_equal(result, np.clip(np.trunc(expected), low, high))
    else:
        tolerance = ulps * unit_roundoff(dtype) * np.abs(expected) + ulps * 2.0**-24
        assert np.all(np.abs(result.astype(np.float64) - expected) <= tolerance)


def test_the_table_is_the_instruction_set():
    assert set(SEMANTICS) == set(ROWS)


def test_written_operands_come_first():
    for row in ROWS.values():
        written = ["write" in operand.access for operand in row.operands]
        assert written == sorted(written, reverse=True)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": max,
    "min": min,
    "lt": lambda a, b: float(a < b),
    "le": lambda a, b: float(a <= b),
    "eq": lambda a, b: float(a == b),
}


@pytest.mark.parametrize("name", BINARY)
@given(data=st.data(), shape=SHAPES, a_dtype=DTYPES, b_dtype=DTYPES, out_dtype=DTYPES)
def test_binary(name, data, shape, a_dtype, b_dtype, out_dtype):
    out_dtype = "uint8" if name in ("lt", "le", "eq") else out_dtype
    a, b = make(data, a_dtype, shape), make(data, b_dtype, shape)
    result = run(name, [empty(out_dtype, shape)], a, b)
    pairs = zip(a.data.ravel().tolist(), b.data.ravel().tolist(), strict=True)
    close(result.ravel(), [BINARY[name](float(x), float(y)) for x, y in pairs], out_dtype)


@pytest.mark.filterwarnings("error")
def test_a_number_beyond_fp32_is_infinite():
    assert [scalar(number).data.item() for number in (1e300, -1e300, 3e38)] == [math.inf, -math.inf, np.float32(3e38)]


@given(data=st.data(), rows=st.integers(1, 4), columns=st.integers(1, 4), number=st.integers(-4, 4))
def test_operands_broadcast(data, rows, columns, number):
    a, b = make(data, "fp32", (rows, columns)), make(data, "fp32", (rows, 1))
    result = run("sub", [empty("fp32", (rows, columns))], a, b)
    assert result.tolist() == [[x - y for x in row] for row, (y,) in zip(a.data.tolist(), b.data.tolist(), strict=True)]
    assert run("add", [empty("fp32", a.data.shape)], a, scalar(number)).tolist() == (a.data + number).tolist()


INTEGER = {"floordiv": lambda a, b: math.floor(a / b), "mod": lambda a, b: a - b * math.floor(a / b)}


@pytest.mark.parametrize("name", INTEGER)
@given(data=st.data(), shape=SHAPES, divisor=st.integers(1, 7) | st.integers(-7, -1))
def test_index_arithmetic(name, data, shape, divisor):
    a = make(data, "int32", shape, -100, 100)
    result = run(name, [empty("int32", shape)], a, scalar(divisor))
    assert result.ravel().tolist() == [INTEGER[name](value, divisor) for value in a.data.ravel().tolist()]


UNARY = {
    "neg": lambda x: -x,
    "abs": abs,
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "erf": math.erf,
    "tanh": math.tanh,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}


@pytest.mark.parametrize("name", UNARY)
@given(data=st.data(), shape=SHAPES, src_dtype=FLOATS, out_dtype=FLOATS)
def test_unary(name, data, shape, src_dtype, out_dtype):
    src = make(data, src_dtype, shape, low=0.125 if name in ("rsqrt", "reciprocal") else -8)
    result = run(name, [empty(out_dtype, shape)], src)
    close(result.ravel(), [UNARY[name](x) for x in src.data.astype(float).ravel().tolist()], out_dtype)


def test_functions_at_their_edges():
    zero = Operand("fp32", np.array([0.0], np.float32))
    big = Operand("fp32", np.array([1000.0], np.float32))
    assert run("rsqrt", [empty("fp32", (1,))], zero) == np.inf
    assert run("exp", [empty("bf16", (1,))], big) == np.inf
    assert run("reciprocal", [empty("fp32", (1,))], zero) == np.inf
    assert run("fma", [empty("fp32", (1,))], big, scalar(1 / 3), scalar(-1000 / 3)).item() == pytest.approx(0, abs=1e-4)


@given(data=st.data(), shape=SHAPES, dtype=FLOATS)
def test_fma(data, shape, dtype):
    a, b, c = (make(data, dtype, shape) for _ in range(3))
    triples = zip(*(x.data.astype(float).ravel().tolist() for x in (a, b, c)), strict=True)
    close(run("fma", [empty(dtype, shape)], a, b, c).ravel(), [x * y + z for x, y, z in triples], dtype)


def test_arithmetic_is_int32_only_among_integers():
    a = Operand("int32", np.array([2**24 + 1], np.int32))
    assert run("add", [empty("int32", (1,))], a, scalar(0)).item() == 2**24 + 1
    assert run("add", [empty("int32", (1,))], a, scalar(0.0)).item() == 2**24  # fp32 in between
    top = Operand("int32", np.array([2**31 - 1], np.int32))
    assert run("add", [empty("int32", (1,))], top, scalar(1)).item() == -(2**31)
    assert run("add", [empty("int8", (1,))], top, scalar(0)).item() == 127


@given(data=st.data(), shape=SHAPES, dtype=DTYPES)
def test_select(data, shape, dtype):
    mask, a, b = make(data, "uint8", shape, 0, 1), make(data, dtype, shape), make(data, dtype, shape)
    result = run("select", [empty(dtype, shape)], mask, a, b)
    triples = zip(*(x.data.ravel().tolist() for x in (mask, a, b)), strict=True)
    assert result.ravel().tolist() == [x if m else y for m, x, y in triples]
    assert run("select", [empty(dtype, shape)], mask, a, scalar(0)).tolist() == (a.data * mask.data).tolist()


@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(["bf16", "fp8_e4m3", "int4", "int32"]))
def test_moves(data, shape, dtype):
    src = make(data, dtype, shape, -2, 1)
    assert run("move", [empty(dtype, shape)], src).tolist() == src.data.tolist()
    swapped = (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else None
    if swapped:
        result = run("transpose", [empty(dtype, swapped)], src)
        for index in np.ndindex(*shape):
            assert result[(*index[:-2], index[-1], index[-2])] == src.data[index]


@given(data=st.data(), shape=SHAPES, src_dtype=DTYPES, out_dtype=DTYPES)
def test_cast(data, shape, src_dtype, out_dtype):
    src = make(data, src_dtype, shape)
    close(run("cast", [empty(out_dtype, shape)], src), src.data.astype(np.float64), out_dtype)


@given(shape=SHAPES, value=st.integers(-100, 100), dtype=DTYPES)
def test_fill(shape, value, dtype):
    close(run("fill", [empty(dtype, shape)], scalar(value)), np.full(shape, value), dtype)


@given(shape=SHAPES, base=st.integers(-9, 9), row=st.integers(-9, 9), column=st.integers(-9, 9))
def test_iota(shape, base, row, column):
    result = run("iota", [empty("int32", shape)], base=base, row_step=row, column_step=column)
    rows, width = math.prod(shape[:-1]), shape[-1]
    assert result.reshape(rows, width).tolist() == [
        [base + row * i + column * j for j in range(width)] for i in range(rows)
    ]


REDUCTIONS = {"sum": math.fsum, "max": max, "min": min}


@pytest.mark.parametrize("kind", REDUCTIONS)
@given(data=st.data(), rows=st.integers(1, 6), columns=st.integers(1, 6), dtype=DTYPES)
def test_reductions(kind, data, rows, columns, dtype):
    src = make(data, dtype, (rows, columns), -7, 7)
    out_dtype = "int32" if is_integer(dtype) else "fp32"
    values = src.data.astype(float).tolist()
    by_row = run(f"row_{kind}", [empty(out_dtype, (rows, 1))], src)
    close(by_row, [[REDUCTIONS[kind](row)] for row in values], out_dtype)
    by_column = run(f"col_{kind}", [empty(out_dtype, (1, columns))], src)
    close(by_column, [[REDUCTIONS[kind](column) for column in zip(*values, strict=True)]], out_dtype)


def test_reductions_of_nothing():
    nothing = Operand("fp32", np.zeros((2, 0), np.float32))
    assert run("row_sum", [empty("fp32", (2, 1))], nothing).tolist() == [[0.0], [0.0]]
    assert run("row_max", [empty("fp32", (2, 1))], nothing).tolist() == [[-np.inf], [-np.inf]]
    integers = Operand("int32", np.zeros((1, 0), np.int32))
    assert run("row_min", [empty("int32", (1, 1))], integers).item() == 2**31 - 1


@given(data=st.data(), rows=st.integers(1, 4), columns=st.integers(1, 6), dtype=DTYPES)
def test_prefix_sum_and_ranking(data, rows, columns, dtype):
    src = make(data, dtype, (rows, columns), -7, 7)
    values = src.data.astype(float).tolist()
    out_dtype = "int32" if is_integer(dtype) else "fp32"
    running = run("prefix_sum", [empty(out_dtype, src.data.shape)], src)
    close(running, [list(itertools.accumulate(row)) for row in values], out_dtype)
    assert run("row_argmax", [empty("int32", (rows, 1))], src).tolist() == [[row.index(max(row))] for row in values]
    k = data.draw(st.integers(1, columns))
    best, places = run("top_k", [empty(dtype, (rows, k)), empty("int32", (rows, k))], src)
    ranked = [sorted(range(columns), key=lambda j, row=row: (-row[j], j))[:k] for row in values]
    assert places.tolist() == ranked
    assert best.astype(float).tolist() == [[row[j] for j in order] for row, order in zip(values, ranked, strict=True)]


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
@given(data=st.data(), rows=st.integers(1, 4), columns=st.integers(1, 5))
def test_quantize_to_integers(dtype, data, rows, columns):
    src = make(data, "bf16", (rows, columns), -200, 200)
    scale, zero = make(data, "fp32", (rows, 1), 0.5, 4), make(data, "fp32", (rows, 1), -2, 2)
    result = run("quantize", [empty(dtype, src.data.shape)], src, scale, zero)
    low, high = integer_range(dtype)
    for index in np.ndindex(rows, columns):
        exact = np.float32(src.data[index]) / scale.data[index[0], 0] + zero.data[index[0], 0]
        assert result[index] == min(max(round(float(exact)), low), high)
    back = run("dequantize", [empty("fp32", src.data.shape)], Operand(dtype, result), scale, zero)
    assert back.tolist() == ((result - zero.data) * scale.data).tolist()


def test_quantize_to_fp8_saturates():
    src = Operand("fp32", np.array([1e6, -1e6, 1.0625, 1.1], np.float32))
    result = run("quantize", [empty("fp8_e4m3", (4,))], src, scalar(1), scalar(0))
    assert result.astype(float).tolist() == [448, -448, 1.0, 1.125]


@pytest.mark.parametrize("swap_a", [0, 1])
@pytest.mark.parametrize("swap_b", [0, 1])
@pytest.mark.parametrize("accumulate", [0, 1])
@given(data=st.data(), m=st.integers(1, 6), n=st.integers(1, 6), k=st.integers(0, 6))
def test_matmul(swap_a, swap_b, accumulate, data, m, n, k):
    dtype = data.draw(st.sampled_from(ROWS["matmul"].operands[1].dtypes))
    out = make(data, "int32" if dtype == "int8" else "fp32", (m, n))
    a, b = (make(data, dtype, shape, -2, 2) for shape in ((k, m) if swap_a else (m, k), (n, k) if swap_b else (k, n)))
    result = run("matmul", [out], a, b, accumulate=accumulate, transpose_a=swap_a, transpose_b=swap_b)
    left, right = a.data.astype(float), b.data.astype(float)
    for i, j in np.ndindex(m, n):
        products = [(left[p, i] if swap_a else left[i, p]) * (right[j, p] if swap_b else right[p, j]) for p in range(k)]
        assert result[i, j] == math.fsum(products) + accumulate * out.data[i, j]  # exact: few small numbers


def test_leading_dimensions_are_rows():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-5, 5, (2, 3, 4)).astype(np.int8), rng.integers(-5, 5, (2, 2, 5)).astype(np.int8)
    result = run("matmul", [empty("int32", (6, 5))], Operand("int8", a), Operand("int8", b))
    assert result.tolist() == (a.reshape(6, 4).astype(int) @ b.reshape(4, 5)).tolist()


def test_int8_products_are_summed_exactly_modulo_2_to_the_32():
    k = 140_000
    a = Operand("int8", np.full((1, k), -128, np.int8))
    b = Operand("int8", np.full((k, 1), -128, np.int8))
    result = run("matmul", [empty("int32", (1, 1))], a, b)
    assert result.item() == (k * 2**14 + 2**31) % 2**32 - 2**31


def test_transfers_keep_the_order_of_elements():
    box = Operand("bf16", np.arange(8).astype(numpy_dtype("bf16")).reshape(1, 2, 4))
    for name in ("load", "store", "gather", "scatter"):
        lists = [Operand("int32", np.array([0]))] if name in ("gather", "scatter") else []
        assert run(name, [empty("bf16", (2, 4))], box, *lists).tolist() == box.data[0].tolist()
    assert run("copy", [empty("bf16", (4, 2))], box).ravel().tolist() == box.data.ravel().tolist()


@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(["fp32", "bf16", "int8", "int4"]))
def test_copy_may_accumulate(data, shape, dtype):
    dst, src = make(data, dtype, shape, -5, 5), make(data, dtype, shape, -5, 5)
    result = run("copy", [dst], src, accumulate=1)
    close(result, dst.data.astype(float) + src.data.astype(float), dtype)


@given(data=st.data(), rows=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_scatter_add_rounds_after_each_addition(data, rows):
    tensor = make(data, "bf16", (4, 2))
    src = make(data, "bf16", (len(rows), 2), -100, 100)
    dst = Operand("bf16", tensor.data[rows])
    result = run("scatter_add", [dst], src, Operand("int32", np.array(rows)))
    expected = tensor.data.copy()
    for i, row in enumerate(rows):
        expected[row] = convert(expected[row].astype(np.float32) + src.data[i].astype(np.float32), "bf16")
        assert result[i].tolist() == expected[row].tolist()


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("add", [(2, 3), (2, 4), (2, 4)]),
        ("transpose", [(2, 3), (2, 3)]),
        ("load", [(2, 3), (2, 4)]),
        ("row_sum", [(3, 1), (2, 4)]),
    ],
)
def test_what_does_not_fit_is_an_error(name, shapes):
    out, *read = (empty("fp32", shape) for shape in shapes)
    with pytest.raises(ValueError, match="shape|broadcast|transpose|not"):
        run(name, [out], *read)
    with pytest.raises(ValueError, match="do not multiply"):
        run("matmul", [empty("fp32", (2, 2))], empty("bf16", (2, 3)), empty("bf16", (4, 2)))
    with pytest.raises(ValueError, match="3 elements have no 4 greatest"):
        run("top_k", [empty("fp32", (1, 4)), empty("int32", (1, 4))], empty("fp32", (1, 3)))
    with pytest.raises(ValueError, match="no int32"):
        scalar(2**31)
