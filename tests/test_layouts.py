"""How tensors lie in HBM: addresses, bytes and rows of pitched ones, by hand and element by element."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_modes import assert_equal_modes

from kpusim.errors import UserError
from kpusim.function import Executor, random_inputs
from kpusim.isa import assemble, disassemble
from kpusim.isa.arrays import from_arrays, to_arrays
from kpusim.isa.check import check_program
from kpusim.isa.layout import Layout
from kpusim.isa.program import Program, Tensor
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.operators import make_operator
from kpusim.operators.given import Given
from kpusim.plan import parse_workload, plan_workload
from kpusim.simulate.run import simulate
from kpusim.simulate.workload import run_plans

TINY = load_machine("kpu-tiny")  # HBM: 2 channels that interleave by 64 B, rows of 256 B, accesses of 8 B

LOAD = """kasm 1
program p
tensor X {dtype} [{shape}] in{layout}
map X_box = X box [{shape}]
table rows = [{rows}]
sram x {dtype} [1][{shape}]
section dma queue 0 engines 0..1
  {op}
end
"""


def load(shape, layout="", dtype="bf16", starts=None, sizes=None, rows=None):
    """The program that loads a box of X (all of it; with `rows`, these) into the SRAM."""
    starts, sizes = starts or (0,) * len(shape), sizes or shape
    ranges = [f"{start} +: {size}" for start, size in zip(starts, sizes, strict=True)]
    view = ", ".join(map(str, sizes if rows is None else (len(rows), *sizes[1:])))
    op = f"load x[0][{view}] @ 0, X_box({', '.join(ranges)})"
    if rows is not None:
        op = f"gather x[0][{view}] @ 0, X_box({', '.join([str(starts[0]), *ranges[1:]])}), rows[0 +: {len(rows)}]"
    listed = ", ".join(map(str, rows or [0]))
    return assemble(LOAD.format(dtype=dtype, shape=", ".join(map(str, shape)), layout=layout, rows=listed, op=op))


# --- bytes and rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "size", "read", "misses", "hits"),
    [
        ("", 32, 32, 1, 3),  # 32 B in a row: 4 accesses
        (" pitch 4", 32, 32, 1, 3),
        (" pitch 5", 40, 56, 1, 6),  # rows at 0, 10, 20 and 30: accesses 0; 1, 2; 2, 3; 3, 4
        (" pitch 32", 256, 32, 2, 2),  # 64 B apart: both channels in turn, one HBM row each
        (" pitch 64", 512, 32, 1, 3),  # 128 B apart: the same channel, 64 B apart there
        (" pitch 256", 2048, 32, 4, 0),  # 512 B apart: the same channel, an HBM row each
    ],
)
def test_rows_apart_by_hand(layout, size, read, misses, hits):
    program = load((4, 4), layout)
    assert program.tensors[0].size_bytes == size
    assert_equal_modes(program, TINY)
    counters = simulate(program, TINY).counters
    assert (counters["hbm.read_bytes"], counters["hbm.row_misses"], counters["hbm.row_hits"]) == (read, misses, hits)


def test_each_row_apart_is_counted_whole():
    assert Tensor("t", "bf16", (2, 3, 4), "in", pitch=6).size_bytes == 2 * 3 * 6 * 2
    assert Tensor("t", "int4", (3, 6), "in", pitch=10).size_bytes == 3 * 10 // 2
    assert Tensor("t", "fp32", (5,), "in", pitch=8).size_bytes == 8 * 4
    assert Tensor("t", "fp32", (5, 5), "in", (2, 4)).size_bytes == 6 * 8 * 4


def test_what_lies_between_rows_is_no_compulsory_traffic():
    assert Given(load((4, 4), " pitch 64")).compulsory_bytes == 32


@st.composite
def loads(draw):
    """A load or gather of part of a pitched tensor, and the first element and length of each row that it reads."""
    dtype = draw(st.sampled_from(["fp32", "bf16", "int8", "int4"]))
    each = max(8 // DTYPE_BITS[dtype], 1)
    sizes = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(0, 2)))]
    shape = (*sizes, draw(st.integers(1, 20)) * each)
    pitch = shape[-1] + draw(st.integers(0, 40)) * each
    starts = [draw(st.integers(0, extent - 1)) for extent in shape[:-1]] + [draw(st.integers(0, shape[-1] - each))]
    starts[-1] = starts[-1] // each * each
    sizes = [draw(st.integers(1, extent - start)) for extent, start in zip(shape, starts, strict=True)]
    sizes[-1] = -(-sizes[-1] // each) * each
    rows = None
    if len(shape) > 1 and draw(st.booleans()):
        rows = draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=shape[0]))
        starts[0] = 0
    program = load(shape, f" pitch {pitch}", dtype, starts, sizes, rows)
    firsts = []
    for index in np.ndindex(*(sizes[:-1] if rows is None else (len(rows), *sizes[1:-1]))):
        at = [start + i for start, i in zip(starts, index, strict=False)]
        if rows is not None:
            at[0] = rows[index[0]]
        number = 0
        for i, extent in zip(at, shape[:-1], strict=True):
            number = number * extent + i
        firsts.append(number * pitch + starts[-1])
    return program, firsts, sizes[-1], pitch == sizes[-1]


@settings(max_examples=150)
@given(loads())
def test_every_row_is_read_where_it_lies(drawn):
    program, firsts, length, dense = drawn
    bits = DTYPE_BITS[program.tensors[0].dtype]
    rows = [(first * bits // 8, (first + length) * bits // 8) for first in firsts]
    if dense and program.sections[0].body[0].op == "load":  # one stretch each, not one a row
        rows = merged(rows)
    accesses = sum(-(-end // 8) - start // 8 for start, end in rows)
    assert_equal_modes(program, TINY)
    counters = simulate(program, TINY).counters
    assert counters["hbm.read_bytes"] == 8 * accesses
    assert counters["hbm.row_misses"] >= len({(start // 64 % 2, start // 512) for start, _ in rows})


def merged(rows):
    """Stretches of bytes, those that touch as one."""
    found = []
    for start, end in rows:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


# --- data -------------------------------------------------------------------------------------------------------------

DOUBLE = """kasm 1
program double
tensor X bf16 [6, 10] in{x}
tensor Y bf16 [6, 10] inout{y}
map X_box = X box [4, 4]
map Y_box = Y box [4, 4]
sram x bf16 [1][4, 4]
semaphore s [1][1]
semaphore d [1][1]
section dma queue 0 engines 0..1
  load x[0] @ 0, X_box(4, 8) signal s[0][0]
  store Y_box(4, 8), x[0] @ 0 wait d[0][0]
end
section vector tiles 0..1
  mul x[0], x[0], 2.0 wait s[0][0] signal d[0][0]
end
"""


@pytest.mark.parametrize(("x", "y"), [("", ""), (" pitch 12", " pitch 11"), (" pitch 32", " blocked [4, 4]")])
def test_data_does_not_know_how_it_lies(x, y):
    """A box that crosses both edges: zeros behind a row's end, not what lies there; nothing is stored there."""
    program = assemble(DOUBLE.format(x=x, y=y))
    inputs = random_inputs(program, 1)
    executor = Executor(program, TINY, inputs)
    run = simulate(program, TINY, plain=True, watcher=executor)
    expected = inputs["Y"].copy() if "Y" in inputs else np.zeros((6, 10))
    expected[4:, 8:] = 2 * inputs["X"][4:, 8:]
    assert np.array_equal(executor.outputs()["Y"].astype(float), expected.astype(float))
    if x == " pitch 32":  # two rows of 4 B each way: an access each
        assert (run.counters["hbm.read_bytes"], run.counters["hbm.write_bytes"]) == (16, 16)


# --- text and messages ------------------------------------------------------------------------------------------------


def test_a_pitch_is_in_both_forms_of_a_program():
    program = load((3, 60), " pitch 64")
    assert program.tensors[0].pitch == 64
    assert "tensor X bf16 [3, 60] in pitch 64\n" in disassemble(program)
    assert from_arrays(to_arrays(program)) == program != load((3, 60))


WRONG = [
    ((3, 60), "bf16", Layout(pitch=59), "a pitch is not less than a row; found 59; allowed: at least 60"),
    ((3, 8), "bf16", Layout((2, 2), 8), "blocks have no row pitch; found 'blocked [2, 2] and pitch 8'"),
    ((3, 8), "int4", Layout(pitch=9), "rows of int4 start at whole bytes; found 9; allowed: a multiple of 2"),
    ((3, 8), "int2", Layout((1, 6)), "rows of int2 start at whole bytes; found 6; allowed: a multiple of 4"),
    ((8,), "bf16", Layout((2, 2)), "blocks are over the last two dimensions; found [8]"),
]


@pytest.mark.parametrize(("shape", "dtype", "layout", "message"), WRONG)
def test_a_layout_that_is_none_is_told_by_text_and_check(shape, dtype, layout, message):
    words = f"blocked {list(layout.block)}" if layout.block else f"pitch {layout.pitch}"
    if not (layout.block and layout.pitch):  # the text cannot say both
        with pytest.raises(UserError) as caught:
            assemble(f"kasm 1\nprogram p\ntensor X {dtype} {list(shape)} in {words}\n", "p.kasm")
        assert str(caught.value).startswith("p.kasm:3:") and message in str(caught.value)
    program = Program("p", (Tensor("X", dtype, shape, "in", layout.block, layout.pitch),))
    with pytest.raises(UserError) as caught:
        check_program(program, limits_of(TINY))
    assert f"tensor X: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pitch 0", "31: a pitch must be at least 1"),
        ("pitch -3", "31: a pitch must be at least 1"),
        ("pitch x", "31: syntax; found 'x'; allowed: an integer"),
        ("pitch", "30: syntax; found 'end of line'; allowed: an integer"),
        ("ptich 8", "25: unexpected word; found 'ptich'; allowed: blocked, pitch; did you mean 'pitch'?"),
        ("pitch 8 blocked [2, 2]", "33: a second layout; found 'blocked'; allowed: blocked or pitch"),
        ("blocked [2, 2] pitch 8", "40: a second layout; found 'pitch'; allowed: blocked or pitch"),
        ("pitch 8 pitch 9", "33: a second layout; found 'pitch'"),
    ],
)
def test_a_layout_is_one_word_and_its_numbers(words, message):
    with pytest.raises(UserError) as caught:
        assemble(f"kasm 1\nprogram p\ntensor X bf16 [3, 8] in {words}\n")
    assert str(caught.value).startswith(f"<kasm>:3:{message}")


# --- workloads --------------------------------------------------------------------------------------------------------

WORKLOAD = """
name = "w"
[symbols]
n = 60
[tensors]
x = { role = "input", shape = [8, 16] }
w = { role = "weight", shape = [16, "n"], layout = "row-major" }
y = { role = "output", shape = [8, "n"] }
v = { role = "weight", shape = [16, "n"], layout = "LAYOUT" }
z = { role = "output", shape = [8, "n"] }
[[operators]]
name = "one"
family = "gemm"
ports = { a = "x", b = "w", out = "y" }
[[operators]]
name = "two"
family = "gemm"
ports = { a = "x", b = "v", out = "z" }
"""


def planned(layout, **symbols):
    return plan_workload(parse_workload(WORKLOAD.replace("LAYOUT", layout), "w.toml"), TINY, symbols)


def test_a_workload_with_a_pitch():
    (dense,), (plan,) = planned("row-major"), planned("row-major pitch 256")
    assert plan.memory.peak_bytes - dense.memory.peak_bytes == 16 * (256 - 60) * 2
    (run,) = run_plans((plan,))
    one, two = (op.executed for op in run.ops)
    assert [tensor.pitch for tensor in two.lowered.program.tensors] == [0, 256, 0]
    assert one.run.counters["hbm.row_misses"] < two.run.counters["hbm.row_misses"]  # every row of v opens one


@pytest.mark.parametrize("layout", [Layout(), Layout(pitch=64), Layout((8, 4))])
def test_a_layout_is_read_as_it_is_shown(layout):
    workload = parse_workload(WORKLOAD.replace("LAYOUT", f" {layout} ")).workload
    assert workload.tensors["v"].layout == layout


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("row-major pitch 59", "a pitch is not less than a row; found 59; allowed: at least 60"),
        ("row-major pitch 0", 'unknown layout; found \'row-major pitch 0\'; allowed: "row-major", "row-major pitch'),
        ("row-major pitch", "unknown layout"),
        ("row-major pitch n", "unknown layout"),
        ("pitch 64", "unknown layout"),
        ("blocked [8, 8] pitch 64", "unknown layout"),
        ("blocked [8, 0]", "unknown layout"),
    ],
)
def test_bad_layouts_of_a_workload_are_told_with_their_place(layout, message):
    with pytest.raises(UserError) as caught:
        planned(layout)
    assert str(caught.value).startswith("w.toml:9: [tensors.v] layout: ") and message in str(caught.value)


def test_a_pitch_must_fit_every_value_of_a_symbol():
    assert planned("row-major pitch 64", n=64)
    with pytest.raises(UserError, match=r"layout: a pitch is not less than a row; found 64; allowed: at least 65"):
        planned("row-major pitch 64", n=65)


@pytest.mark.parametrize("layouts", [{"a": Layout(pitch=40)}, {"b": Layout(pitch=33), "out": Layout(pitch=50)}])
def test_an_operator_lowered_to_a_pitch_opens_more_rows(layouts):
    gemm = make_operator("gemm(m=24, n=32, k=32)")
    program = gemm.lower(TINY, layouts).program
    assert {tensor.name: tensor.layout for tensor in program.tensors if tensor.pitch} == layouts
    assert_equal_modes(program, TINY)
    run, dense = (simulate(each, TINY).counters for each in (program, gemm.lower(TINY).program))
    assert run["hbm.row_misses"] > dense["hbm.row_misses"]
