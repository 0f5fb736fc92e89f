"""Conversion and packing against definitions written in plain Python."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.dtypes import convert, integer_range, numpy_dtype, pack, smallest, unit_roundoff, unpack
from kpusim.isa.tables import DTYPE_BITS

SIGNIFICANDS = {"fp32": 24, "bf16": 8, "fp16": 11, "fp8_e4m3": 4, "fp8_e5m2": 3}


def nearest(value: float, bits: int) -> float:
    """`value` rounded to `bits` significant bits, ties to even, exponents without bounds."""
    if value == 0:
        return 0.0
    exact = Fraction(value)
    step = Fraction(2) ** (math.frexp(value)[1] - bits)
    return float(round(exact / step) * step)  # Python rounds a Fraction's ties to even


@pytest.mark.parametrize("dtype", SIGNIFICANDS)
def test_every_dtype_has_its_roundoff(dtype):
    assert unit_roundoff(dtype) == 2.0 ** -SIGNIFICANDS[dtype]
    assert np.asarray(smallest(dtype)).astype(numpy_dtype(dtype)) > 0
    assert np.asarray(smallest(dtype) / 2).astype(numpy_dtype(dtype)) == 0


@pytest.mark.parametrize("dtype", SIGNIFICANDS)
@given(value=st.floats(2**-5, 400, width=32))
def test_floats_round_once_to_even(dtype, value):
    converted = convert(np.array([value, -value], np.float32), dtype)
    assert converted.dtype == numpy_dtype(dtype)
    assert converted.astype(float).tolist() == [
        nearest(value, SIGNIFICANDS[dtype]),
        -nearest(value, SIGNIFICANDS[dtype]),
    ]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@given(value=st.integers(-(2**31), 2**31 - 1))
def test_integers_round_once_to_even(dtype, value):
    assert float(convert(np.array([value], np.int32), dtype)[0]) == nearest(value, SIGNIFICANDS[dtype])


def test_an_integer_that_two_roundings_get_wrong():
    value = 2**30 + 2**22 + 1  # fp32 rounds it to the tie 2**30 + 2**22, which bf16 would round down
    assert float(convert(np.array([value], np.int32), "bf16")[0]) == 2**30 + 2**23


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "int4", "int2"])
@given(value=st.floats(-(2.0**40), 2.0**40, width=32) | st.integers(-(2**31), 2**31 - 1))
def test_integers_are_truncated_and_saturated(dtype, value):
    low, high = integer_range(dtype)
    source = np.array([value], np.int32 if isinstance(value, int) else np.float32)
    assert convert(source, dtype).tolist() == [min(max(math.trunc(value), low), high)]


def test_what_is_no_number_becomes_zero_and_infinity_the_limit():
    assert convert(np.array([np.nan, np.inf, -np.inf], np.float32), "int8").tolist() == [0, 127, -128]


@pytest.mark.parametrize("dtype", ["int4", "int2"])
@given(data=st.data())
def test_packing_is_undone_by_unpacking(dtype, data):
    low, high = integer_range(dtype)
    values = np.array(data.draw(st.lists(st.integers(low, high), max_size=33)), np.int8)
    packed = pack(values, dtype)
    assert packed.dtype == np.uint8 and len(packed) == -(-len(values) * DTYPE_BITS[dtype] // 8)
    assert unpack(packed, dtype, len(values)).tolist() == values.tolist()


@given(st.binary(max_size=9))
def test_unpacking_is_undone_by_packing(data):
    for dtype in ("int4", "int2"):
        raw = np.frombuffer(data, np.uint8)
        assert pack(unpack(raw, dtype, len(raw) * 8 // DTYPE_BITS[dtype]), dtype).tobytes() == data


@pytest.mark.parametrize("dtype", ["int4", "int2"])
def test_the_lowest_element_is_in_the_lowest_bits(dtype):
    bits = DTYPE_BITS[dtype]
    values = np.arange(*integer_range(dtype), dtype=np.int8)
    expected = 0
    for place, value in enumerate(values.tolist()):
        expected |= (value % 2**bits) << (place * bits)
    assert int.from_bytes(pack(values, dtype).tobytes(), "little") == expected
