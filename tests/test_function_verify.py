"""The verdict, random inputs, and whole programs against float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.dtypes import convert, gamma, numpy_dtype, unit_roundoff
from kpusim.errors import UserError
from kpusim.function import Executor, compare, random_inputs, sum_bound
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

TINY = load_machine("kpu-tiny")


def execute(text):
    program = assemble("kasm 1\nprogram p\n" + text)
    inputs = random_inputs(program, 7)
    executor = Executor(program, TINY, inputs)
    simulate(program, TINY, plain=True, watcher=executor)
    return inputs, executor.outputs()


def wide(values):
    return values.astype(np.float64)


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_gamma_is_the_textbooks():
    assert gamma(1000, "fp32") == pytest.approx(1000 * 2**-24 / (1 - 1000 * 2**-24))
    assert gamma(0, "fp32") == 0
    assert gamma(256, "bf16") == np.inf


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@given(seed=st.integers(0, 1000), k=st.integers(1, 300))
def test_what_hardware_computes_passes_and_what_is_off_by_more_does_not(dtype, seed, k):
    rng = np.random.default_rng(seed)
    a, b = (convert(rng.standard_normal(shape, np.float32), "bf16") for shape in ((3, k), (k, 4)))
    reference, magnitude = wide(a) @ wide(b), np.abs(wide(a)) @ np.abs(wide(b))
    result = convert(a.astype(np.float32) @ b.astype(np.float32), dtype)
    verdict = compare(result, reference, dtype, bound=sum_bound(k, magnitude))
    assert verdict.passed
    assert verdict.max_abs_error == np.abs(wide(result) - reference).max()
    assert verdict.max_rel_error == pytest.approx(np.max(np.abs(wide(result) - reference) / np.abs(reference)))
    off = result.copy()
    off[2, 1] = convert(
        np.float32(reference[2, 1]) + np.float32(2.5 * unit_roundoff(dtype) * 2 + 1e-3) * magnitude.max(), dtype
    )
    failed = compare(off, reference, dtype, bound=sum_bound(k, magnitude))
    assert not failed.passed and failed.worst == (2, 1) and failed.max_abs_error > failed.tolerance


def test_the_tolerance_tells_its_origin():
    reference = np.array([1.0, -2.0])
    verdict = compare(convert(reference.astype(np.float32), "bf16"), reference, "bf16", origin="a bound", bound=0.5)
    assert verdict.tolerance_origin == "a bound + u of bf16 = 0.00391"
    assert verdict.passed and verdict.max_abs_error == 0 and verdict.tolerance == pytest.approx(0.5 + 1.5 / 256)
    assert compare(reference, reference, "fp32").tolerance_origin == "u of fp32 = 5.96e-08"
    assert compare(np.zeros((0, 2), np.float32), np.zeros((0, 2)), "fp32").passed


def test_terms_may_be_rounded_on_their_way():
    one = np.array([1.0])
    assert not compare(np.array([1.0078125]), one, "fp32", bound=sum_bound(1, one)).passed
    assert compare(np.array([1.0078125]), one, "fp32", bound=sum_bound(1, one, {"bf16": 2})).passed


def test_integers_must_be_equal():
    assert compare(np.array([5, -3]), np.array([5.0, -3.0]), "int32").passed
    verdict = compare(np.array([5, -4]), np.array([5.0, -3.0]), "int32", bound=10.0)
    assert not verdict.passed and verdict.worst == (1,) and verdict.tolerance == 0


def test_what_is_not_finite_is_right_only_where_rounding_makes_it_so():
    reference = np.array([1e6, 1.0])
    assert compare(np.array([np.inf, 1.0], np.float16), reference, "fp16").passed
    for wrong in (np.nan, np.inf):
        verdict = compare(np.array([np.inf, wrong], np.float16), reference, "fp16")
        assert not verdict.passed and verdict.worst == (1,) and verdict.max_abs_error == np.inf


def test_shapes_must_agree():
    with pytest.raises(UserError, match=r"another shape; found \[2\]; allowed: \[3\]"):
        compare(np.zeros(2), np.zeros(3), "fp32")


def test_random_inputs_are_in_range_and_repeat():
    program = assemble("""kasm 1
program p
tensor x bf16 [40, 8] in
tensor y fp8_e4m3 [40, 8] in
tensor z int4 [40, 8] inout
tensor u uint8 [40, 8] in
tensor o fp32 [40, 8] out
tensor list int32 [3] in
table rows assumed list = [2, 0, 1]
""")
    inputs = random_inputs(program, 3)
    assert [*inputs] == ["x", "y", "z", "u", "list"]
    assert {name: values.dtype for name, values in inputs.items()} == {
        tensor.name: numpy_dtype(tensor.dtype) for tensor in program.tensors if tensor.role != "out"
    }
    assert inputs["z"].min() == -8 and inputs["z"].max() == 7 and inputs["list"].tolist() == [2, 0, 1]
    assert all(np.array_equal(values, random_inputs(program, 3)[name]) for name, values in inputs.items())
    assert not np.array_equal(inputs["x"], random_inputs(program, 4)["x"])


# --- whole programs ---------------------------------------------------------------------------------------------------

GEMM = """tensor A bf16 [13, 30] in
tensor B bf16 [10, 30] in
tensor C bf16 [13, 10] out
map A_box = A box [8, 8]
map B_box = B box [8, 8]
map C_box = C box [8, 8]
sram a bf16 [2][8, 8]
sram b bf16 [2][8, 8]
sram acc fp32 [1][8, 8]
sram c bf16 [1][8, 8]
semaphore full [4][2] join 2
semaphore free [4][2] init 1 join 2
semaphore ready [4][1]
semaphore cast [4][1]
section dma queue 0 engines 0..4 step 2
  let row = engine // 2
  for k = 0 .. 4
    load a[k % 2] @ row * 2 +: 2, A_box(row * 8, k * 8)  wait free[row][k % 2]  signal full[dst][k % 2]
  end
  store C_box(row * 8, 0), c[0] @ row * 2  wait cast[row * 2][0]
  store C_box(row * 8, 8), c[0] @ row * 2 + 1  wait cast[row * 2 + 1][0]
end
section dma queue 0 engines 1..4 step 2
  let column = engine // 2
  for k = 0 .. 4
    load b[k % 2] @ column +: 2 step 2, B_box(column * 8, k * 8)  wait free[column + 2][k % 2]  signal full[dst][k % 2]
  end
end
section matrix tiles 0..4
  let row = tile // 2
  let column = tile % 2
  for k = 0 .. 4
    matmul acc[0], a[k % 2], b[k % 2], accumulate=k, transpose_b=1
      wait full[tile][k % 2]
      signal read free[row][k % 2], read free[column + 2][k % 2]
  end
  sync signal ready[tile][0]
end
section vector tiles 0..4
  cast c[0], acc[0]  wait ready[tile][0]  signal cast[tile][0]
end
"""


def test_a_gemm_with_multicast_and_ragged_edges():
    inputs, outputs = execute(GEMM)
    a, b = wide(inputs["A"]), wide(inputs["B"]).T
    verdict = compare(outputs["C"], a @ b, "bf16", bound=sum_bound(32, np.abs(a) @ np.abs(b)))
    assert verdict.passed, verdict
    assert 0 < verdict.max_rel_error < 1


def test_packed_weights_are_dequantized():
    inputs, outputs = execute("""tensor W int4 [16, 8] in
tensor S fp32 [16, 1] in
tensor O bf16 [16, 8] out
map W_box = W box [16, 8]
map S_box = S box [16, 1]
map O_box = O box [16, 8]
sram w int4 [1][16, 8]
sram s fp32 [1][16, 1]
sram o bf16 [1][16, 8]
semaphore loaded [1][1]
semaphore ready [1][1]
section dma queue 0 engines 0..1
  load w[0] @ 1, W_box(0, 0)
  load s[0] @ 1, S_box(0, 0)  signal loaded[0][0]
  store O_box(0, 0), o[0] @ 1  wait ready[0][0]
end
section vector tiles 1..2
  dequantize o[0], w[0], s[0], 0  wait loaded[0][0]  signal ready[0][0]
end
""")
    reference = wide(inputs["W"]) * wide(inputs["S"])
    assert compare(outputs["O"], reference, "bf16", bound=2.0**-24 * np.abs(reference)).passed


def test_rows_are_gathered_and_scattered_by_lists():
    inputs, outputs = execute("""tensor A fp32 [3, 4, 8] in
tensor Y fp32 [5, 8] inout
tensor Z fp32 [5, 8] inout
map A_box = A box [1, 4, 8]
map Y_box = Y box [1, 8]
map Z_box = Z box [1, 8]
sram x fp32 [1][8, 8]
semaphore loaded [2][1]
table pages = [2, 0]
table rows = [1, 4, 1, 9, 0, 0, 0, 3]
section dma queue 0 engines 0..1
  gather x[0] @ 0, A_box(0, 0, 0), pages[0 +: 2]  signal loaded[0][0]
  scatter Y_box(0, 0), x[0] @ 0, rows[0 +: 8]  wait loaded[0][0]  signal loaded[1][0]
  scatter_add Z_box(0, 0), x[0] @ 0, rows[0 +: 8]  wait loaded[1][0]
end
""")
    x = inputs["A"][[2, 0]].reshape(8, 8)
    y, z = inputs["Y"].copy(), inputs["Z"].copy()
    for row, values in zip([1, 4, 1, 9, 0, 0, 0, 3], x, strict=True):
        if row < 5:
            y[row] = values
            z[row] += values
    assert np.array_equal(outputs["Y"], y) and np.array_equal(outputs["Z"], z)


def test_partial_sums_are_added_in_another_tile():
    inputs, outputs = execute("""tensor A fp32 [2, 8, 8] in
tensor O fp32 [8, 8] out
map A_box = A box [1, 8, 8]
map O_box = O box [8, 8]
sram x fp32 [1][8, 8]
semaphore turn [2][1]
section dma queue 0 engines 0..1
  load x[0] @ 0, A_box(0, 0, 0)
  load x[0] @ 3, A_box(1, 0, 0)  signal turn[0][0]
  copy x[0] @ 3, x[0] @ 0, accumulate=1  wait turn[0][0]  signal turn[1][0]
  store O_box(0, 0), x[0] @ 3  wait turn[1][0]
end
""")
    assert np.array_equal(outputs["O"], inputs["A"][0] + inputs["A"][1])
