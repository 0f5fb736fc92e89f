"""Every hazard planted in a small program, simulated, found and named; and its neighbours that are none."""

import numpy as np
import pytest
from attrs import evolve

from kpusim.errors import UserError
from kpusim.function import Executor, HazardError, random_inputs
from kpusim.isa import assemble
from kpusim.isa.walk import section_codes
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

TINY = load_machine("kpu-tiny")
TINY = evolve(TINY, matrix=evolve(TINY.matrix, overlap_folds=True))  # so that results drain after the engine is free
HEAD = """kasm 1
program planted
tensor A bf16 [16, 16] in
tensor B bf16 [16, 16] inout
tensor C bf16 [16, 16] out
map A_box = A box [8, 8]
map B_box = B box [8, 8]
map C_box = C box [8, 8]
sram a bf16 [2][8, 8]
sram b bf16 [1][8, 8]
sram acc fp32 [1][8, 8]
semaphore full [4][2]
semaphore free [4][2] init 1
semaphore left [4][2]
"""


def execute(text, inputs=None):
    """Simulates HEAD + text on data."""
    program = assemble(HEAD + text)
    executor = Executor(program, TINY, random_inputs(program, 1) | (inputs or {}))
    simulate(program, TINY, plain=True, watcher=executor)
    return executor


def hazard(text, kind, *parts):
    """The message of the hazard in HEAD + text, with its kind, and each of `parts` in it."""
    with pytest.raises(HazardError) as error:
        execute(text)
    message = str(error.value)
    assert error.value.kind == kind, message
    for part in parts:
        assert part in message
    return message


LOAD = "section dma queue 0 engines 0..1\n  load a[0] @ 0, A_box(0, 0)  signal full[0][0]\nend\n"


def test_sram_read_before_written():
    hazard(
        "section vector tiles 1..2\n  neg b[0], a[1]\nend\n",
        "read-before-written",
        "pc 0 (neg, line 16) on chip0.tile1.vector at cycle 0: ",
        "reads a[1][0 +: 8, 0 +: 8] of tile 1, which nothing has written",
    )


def test_sram_read_while_a_load_is_under_way():
    text = LOAD + "section vector tiles 0..1\n  neg b[0], a[0]  wait full[0][0]\nend\n"
    execute(text)
    hazard(
        text.replace("  signal full[0][0]", "").replace("  wait full[0][0]", ""),
        "read-before-written",  # the vector engine is the first to issue
        "reads a[0][0 +: 8, 0 +: 8] of tile 0",
    )
    hazard(
        LOAD.replace("  signal full[0][0]", "\n  copy a[1] @ 0, a[0] @ 0"),
        "read-while-written",
        "(copy, line 17) on chip0.dma0.q0",
        "(load, line 16) on chip0.dma0.q0 at cycle 0",
    )


def test_sram_read_while_an_engine_writes():
    text = """section matrix tiles 0..1
  sync  wait full[0][0], full[0][1]
  matmul acc[0], a[0], a[1]  signal {instant}left[0][0]
end
section vector tiles 0..1
  fill a[0], 1
  fill a[1], 1  signal full[0][0]
  sync  signal full[0][1]
  cast b[0], acc[0]  wait left[0][0]
end
"""
    execute(text.format(instant=""))
    hazard(
        text.format(instant="read "),
        "read-while-written",
        "(cast, line 23) on chip0.tile0.vector at cycle ",
        "reads acc[0][0 +: 8, 0 +: 8] of tile 0 before it is written by pc 1 (matmul, line 17) on chip0.tile0.matrix",
        "wait for a `done` signal of it",
    )


def test_sram_overwritten_while_a_store_reads():
    text = """section dma queue 0 engines 0..1
  store C_box(0, 0), b[0] @ 0  wait full[0][0]  signal {instant}left[0][0]
end
section vector tiles 0..1
  fill b[0], 1  signal full[0][0]
  fill a[0][0 +: 2, :], 1  {wait}
  fill b[0][7 +: 1, 7 +: 1], 2
end
"""
    execute(text.format(instant="read ", wait="wait left[0][0]"))
    late = text.format(instant="read ", wait="").replace("  signal read left[0][0]", "")
    hazard(late, "overwritten-while-read", "(fill, line 21) on chip0.tile0.vector", "read by pc 0 (store, line 16)")


def test_sram_overwritten_while_a_load_writes():
    text = """section dma queue 0 engines 0..1
  load a[0] @ 0, A_box(0, 0)
end
section dma queue 1 engines 0..1
  load a[0] @ {tile}, A_box(8, 8)
end
"""
    execute(text.format(tile=1))
    hazard(text.format(tile=0), "overwritten-while-written", "chip0.dma0.q1", "(load, line 16) on chip0.dma0.q0")


def test_hbm_read_before_a_store_is_done():
    text = """section dma queue 0 engines 0..1
  store C_box(0, 0), b[0] @ 0  wait full[0][0]  signal {instant}left[0][0]
  load a[0] @ 1, C_box({row}, 0)  wait left[0][0]
end
section vector tiles 0..1
  fill b[0], 1  signal full[0][0]
end
"""
    execute(text.format(instant="", row=0))
    hazard(
        text.format(instant="read ", row=0),
        "read-while-written",
        "(load, line 17) on chip0.dma0.q0",
        "reads C(0 +: 8, 0 +: 8) before it is written by pc 0 (store, line 16) on chip0.dma0.q0",
    )
    hazard(text.format(instant="read ", row=4), "read-before-written", "reads C(4 +: 8, 0 +: 8), which nothing has")


def test_hbm_written_while_a_load_or_a_store_is_under_way():
    text = """section dma queue 0 engines 0..1
  {first}  wait full[0][0]  signal left[0][0]
end
section dma queue 0 engines 1..2
  store B_box({column}, 0), b[0] @ 1  wait full[1][0]
end
section vector tiles 0..2
  fill b[0], 1  signal full[tile][0]
end
section vector tiles 2..3
  sync  wait left[0][0]
end
"""
    load, store = "load a[0] @ 0, B_box(0, 0)", "store B_box(0, 0), b[0] @ 0"
    execute(text.format(first=load, column=8))
    hazard(text.format(first=load, column=7), "overwritten-while-read", "overwrites B(7 +: 8, 0 +: 8) while it is read")
    hazard(text.format(first=store, column=7), "overwritten-while-written", "(store, line 19) on chip0.dma1.q0")


MATRIX = """section vector tiles 0..1
  fill a[0], 1
  fill a[1], 1  signal full[0][0]
end
section matrix tiles 0..1
  matmul acc[0], a[0], a[1]  wait full[0][0]
  {second}
end
"""


def test_a_matmul_may_add_to_a_result_that_still_drains():
    execute(MATRIX.format(second="matmul acc[0], a[1], a[0], accumulate=1"))
    execute(MATRIX.format(second="matmul acc[0][0 +: 4, :], a[0][0 +: 4, :], a[0]"))


def test_a_factor_of_a_matmul_must_be_visible():
    text = MATRIX.format(second="matmul q[0], p[0], a[1]").replace("acc[0], a[0], a[1]", "acc[0], a[0], a[1]")
    views = "sram p bf16 [1][8, 8] at 384\nsram q fp32 [1][8, 8] at 1024\n"  # p lies in acc, which is at 384
    hazard(
        views + text, "read-while-written", "reads p[0][0 +: 8, 0 +: 8] of tile 0", "(acc[0][0 +: 8, 0 +: 8] of tile 0)"
    )


def test_what_interleaves_does_not_meet():
    text = """section dma queue 0 engines 0..1
  load a[0][:, 0 +: 4] @ 0, A_box(0, 0, 0)  signal full[0][0]
end
section vector tiles 0..1
  fill a[0][:, {column} +: 4], 1
end
section vector tiles 2..3
  sync  wait full[0][0]
end
""".replace("A_box(0, 0, 0)", "A_box(0, 0 +: 4)")
    execute(text.format(column=4))
    hazard(text.format(column=3), "overwritten-while-written")


def test_an_instruction_does_not_overwrite_what_it_reads():
    vector = "section vector tiles 0..1\n  fill a[0], 1\n  {second}\nend\n"
    execute(vector.format(second="neg a[0], a[0]"))
    hazard(
        vector.format(second="row_sum a[0][:, 0 +: 1], a[0]"),
        "own-operand",
        "its operands a[0][0 +: 8, 0 +: 1] of tile 0 and a[0][0 +: 8, 0 +: 8] of tile 0 overlap",
    )


def test_sram_overflow():
    text = "sram late fp32 [2][8, 8] at 3712\nsection vector tiles 0..1\n  fill late[{slot}], 1\nend\n"
    execute(text.format(slot=0))
    hazard(
        text.format(slot=1),
        "sram-overflow",
        "(fill, line 17) on chip0.tile0.vector at cycle 0",
        "late[1][0 +: 8, 0 +: 8] ends at byte 4224 of an SRAM of 4096",
    )


ASSUMED = """tensor T int32 [4] in
map T_box = T box [4]
sram t int32 [1][4]
table list assumed T = [3, 0, 9, 15]
section dma queue 0 engines 0..1
  load t[0] @ 0, T_box(0)  signal full[0][0]
  gather a[0][0 +: 4, :] @ 0, A_box(0, 0), list[0 +: 4], t[0] @ 0  wait full[0][1]  signal left[0][0]
end
section vector tiles 0..1
  add t[0], t[0], {offset}  wait full[0][0]  signal full[0][1]
  sync  wait left[0][0]
end
"""


def test_an_index_list_is_what_its_table_assumes():
    execute(ASSUMED.format(offset=0))
    hazard(
        ASSUMED.format(offset=1),
        "assumed-table",
        "(gather, line 21) on chip0.dma0.q0",
        "t[0][0 +: 4] of tile 0 is not the list that table list assumes: element 0 is 4, not 3",
    )


def test_a_tensor_is_what_its_table_assumes():
    text = ASSUMED.format(offset=0)
    with pytest.raises(
        HazardError, match="table list: tensor T is not what the program assumes: element 2 is 8, not 9"
    ):
        execute(text, {"T": np.array([3, 0, 8, 15], np.int32)})


@pytest.mark.parametrize(("value", "correct"), [(7, True), (6, False)])
def test_a_computed_tensor_is_compared_at_the_end(value, correct):
    text = f"""tensor N int32 [1] out
map N_box = N box [1]
sram n int32 [1][1]
table rows assumed N = [7]
section vector tiles 0..1
  fill n[0], {value}  signal full[0][0]
end
section dma queue 0 engines 0..1
  store N_box(0), n[0] @ 0  wait full[0][0]
end
"""
    if correct:
        execute(text)
    else:
        with pytest.raises(HazardError, match="table rows: tensor N .* element 0 is 6, not 7"):
            execute(text)


def test_what_the_static_check_leaves_to_run_time():
    with pytest.raises(UserError, match="the operands do not fit"):
        execute("section vector tiles 0..1\n  fill a[0], 1\n  add b[0][0 +: 3, :], a[0], 1\nend\n")
    with pytest.raises(UserError, match="an input is not written; found 'A"):
        execute("section vector tiles 0..1\n  fill b[0], 1  signal full[0][0]\nend\n"
                "section dma queue 0 engines 0..1\n  store A_box(0, 0), b[0] @ 0  wait full[0][0]\nend\n")  # fmt: skip
    with pytest.raises(UserError, match="tensor C: this output is incomplete"):
        execute("section vector tiles 0..1\n  fill b[0], 1\nend\n").outputs()


def test_each_destination_of_a_multicast_is_released_by_itself():
    text = "section dma queue 0 engines 0..1\n  load a[0] @ 0 +: 2, A_box(0, 0)\nend\n"
    program = assemble(HEAD + text + "section vector tiles 0..2\n  neg b[0], a[0]\nend\n")
    executor = Executor(program, TINY, random_inputs(program, 1))
    dma, vector = section_codes(program)
    load, near, far = next(dma.steps(0)), next(vector.steps(0)), next(vector.steps(1))
    executor.issue(8, 0, load, 0)
    executor.read(load, 5)
    executor.done(load, 7, 0)
    executor.issue(4, 0, near, 7)
    with pytest.raises(HazardError, match="chip0.tile1.vector at cycle 7: reads a.* before it is written by pc 0"):
        executor.issue(5, 1, far, 7)
    executor.done(load, 8, 1)
    executor.issue(5, 1, far, 8)


def test_a_store_reads_only_what_lands_in_its_tensor():
    text = """section vector tiles 0..1
  fill b[0][0 +: {rows}, :], 1  signal full[0][0]
end
section dma queue 0 engines 0..1
  store C_box({start}, 0), b[0] @ 0  wait full[0][0]
end
"""
    execute(text.format(rows=6, start=10))
    execute(text.format(rows=1, start=16))
    hazard(text.format(rows=5, start=10), "read-before-written", "reads b[0][0 +: 6, 0 +: 8] of tile 0")
