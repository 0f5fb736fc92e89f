"""Regions and memories against maps of every byte and element."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kpusim.dtypes import integer_range, is_integer, numpy_dtype
from kpusim.errors import UserError
from kpusim.function.regions import hbm_region, sram_region
from kpusim.function.state import Hbm, Sram
from kpusim.isa.program import Buffer, Program, Tensor, TensorMap
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import BoxAt, RowsAt, ViewAt

SIZE = 600  # bytes that every drawn buffer fits into


@st.composite
def views(draw):
    """A view of some slot of some small buffer."""
    dtype = draw(st.sampled_from(["fp32", "bf16", "int8", "int4", "int2"]))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    buffer = Buffer("x", dtype, draw(st.integers(1, 2)), shape, draw(st.integers(0, 40)))
    starts = tuple(draw(st.integers(0, extent - 1)) for extent in shape)
    sizes = tuple(draw(st.integers(1, extent - start)) for start, extent in zip(starts, shape, strict=True))
    return ViewAt(buffer, draw(st.integers(0, buffer.slots - 1)), starts, sizes, None)


def touched(view):
    """The bytes of a view, one element after the other."""
    bits = DTYPE_BITS[view.dtype]
    base = view.buffer.offset + view.slot * view.buffer.slot_bytes
    result = set()
    for inside in np.ndindex(*view.sizes):
        at = tuple(start + i for start, i in zip(view.starts, inside, strict=True))
        first = int(np.ravel_multi_index(at, view.buffer.shape)) * bits
        result |= set(range(base + first // 8, base + (first + bits - 1) // 8 + 1))
    return result


@given(a=views(), b=views())
def test_regions_of_sram_overlap_where_bytes_do(a, b):
    first, second = sram_region(a, 0), sram_region(b, 0)
    assert first.low == min(touched(a)) and first.high == max(touched(a)) + 1
    assert first.overlaps(second) == second.overlaps(first) == bool(touched(a) & touched(b))
    assert not first.overlaps(sram_region(b, 1))


@given(view=views(), other=views(), data=st.data())
def test_sram_keeps_what_is_written_and_nothing_else(view, other, data):
    sram = Sram(SIZE)
    assert not sram.is_written(view, 3)
    low, high = integer_range(view.dtype) if is_integer(view.dtype) else (-100, 100)
    values = np.random.default_rng(0).integers(low, high, view.sizes, endpoint=True).astype(numpy_dtype(view.dtype))
    sram.write(view, 3, values)
    assert sram.read(view, 3).tolist() == values.tolist()
    assert sram.is_written(view, 3) and not sram.is_written(view, 2)
    assert sram.is_written(other, 3) == (touched(other) <= touched(view))
    assume(not touched(other) & touched(view))
    sram.write(other, 3, np.ones(other.sizes, numpy_dtype(other.dtype)))
    assert sram.read(view, 3).tolist() == values.tolist()


@st.composite
def boxes(draw, shape=(4, 3, 8)):
    tensor = Tensor("t", "fp32", shape, "out")
    starts = tuple(draw(st.integers(-3, extent + 2)) for extent in shape)
    sizes = tuple(draw(st.integers(0, extent)) for extent in shape)
    rows = draw(st.none() | st.lists(st.integers(-5, 5), max_size=4).map(lambda rows: RowsAt("r", tuple(rows))))
    return BoxAt(TensorMap("m", "t", shape), tensor, 0, starts, sizes), rows


def elements(box, rows):
    """For each element of a box's values: the tensor's element that it is, or None outside."""
    result = {}
    sizes = box.sizes if rows is None else (len(rows.values), *box.sizes[1:])
    for index in np.ndindex(*sizes):
        first = index[0] if rows is None else rows.values[index[0]]
        at = tuple(start + i for start, i in zip(box.starts, (first, *index[1:]), strict=True))
        inside = all(0 <= i < extent for i, extent in zip(at, box.tensor.shape, strict=True))
        result[index] = at if inside else None
    return result


@given(a=boxes(), b=boxes())
def test_regions_of_hbm_overlap_where_elements_do(a, b):
    first, second = hbm_region(*a), hbm_region(*b)
    mine, others = (set(elements(*box).values()) - {None} for box in (a, b))
    assert (first is None) == (not mine)
    if first and second:
        assert first.overlaps(second) == second.overlaps(first) == bool(mine & others)


def test_packed_elements_meet_in_a_byte():
    tensor = Tensor("t", "int4", (2, 8), "out")
    left, right = (BoxAt(TensorMap("m", "t", (2, 8)), tensor, 0, (0, start), (2, 3)) for start in (0, 3))
    assert hbm_region(left).overlaps(hbm_region(right))


@given(boxes())
def test_boxes_are_clamped_and_filled_with_zeros(drawn):
    box, rows = drawn
    values = np.arange(1.0, 97, dtype=np.float32).reshape(4, 3, 8)
    program = Program("p", tensors=(Tensor("t", "fp32", (4, 3, 8), "inout"),))
    read = Hbm(program, {"t": values}).read(box, rows)
    for index, at in elements(box, rows).items():
        assert read[index] == (0 if at is None else values[at])


@given(boxes())
def test_stores_drop_what_lies_outside_and_keep_the_last(drawn):
    box, rows = drawn
    hbm = Hbm(Program("p", tensors=(box.tensor,)), {})
    where = elements(box, rows)
    expected = np.zeros(box.tensor.shape, np.float32)
    stored = np.arange(1.0, len(where) + 1, dtype=np.float32)
    sizes = box.sizes if rows is None else (len(rows.values), *box.sizes[1:])
    for value, at in zip(stored, where.values(), strict=True):
        if at is not None:
            expected[at] = value
    assert hbm.is_written(box, rows) == (not any(where.values()))
    hbm.write(box, stored.reshape(sizes), rows)
    assert hbm.is_written(box, rows)
    assert hbm.values(0).tolist() == expected.tolist()
    first = hbm.first_unwritten(0)
    assert first == next((i for i in np.ndindex(4, 3, 8) if expected[i] == 0), None)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "tensor a: this input has no values"),
        ({"a": np.zeros((2, 3), np.int8), "d": np.zeros(1)}, "the program has no such input; found 'd'; allowed: a, b"),
        ({"a": np.zeros((3, 2), np.int8)}, "tensor a: these are not its values; found 'int8 [3, 2]'"),
        ({"a": np.zeros((2, 3), np.int32)}, "found 'int32 [2, 3]'; allowed: int8 [2, 3]"),
        ({"a": np.full((2, 3), 8, np.int8)}, "tensor a: values out of range; found '8 to 8'; allowed: -8 to 7"),
    ],
)
def test_inputs_must_fit(inputs, message):
    tensors = (Tensor("a", "int4", (2, 3), "in"), Tensor("b", "fp32", (2,), "inout"), Tensor("c", "fp32", (2,), "out"))
    with pytest.raises(UserError) as error:
        Hbm(Program("p", tensors=tensors), inputs)
    assert message in str(error.value)
