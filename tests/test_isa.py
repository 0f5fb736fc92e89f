from pathlib import Path

import numpy as np
import pytest
import trace_samples
from click.testing import CliRunner

from kpusim.cli import main
from kpusim.data import data_dir
from kpusim.errors import UserError
from kpusim.isa import Program, assemble, disassemble, read_program
from kpusim.isa.arrays import from_arrays, load_arrays, save_arrays, to_arrays
from kpusim.isa.check import Limits, check_program
from kpusim.isa.expr import Binary, Name, ceiling_division, maximum, minimum, show
from kpusim.isa.program import Const, Instruction, Section
from kpusim.isa.reference import reference
from kpusim.isa.tables import DTYPE_GROUPS, instruction_rows
from kpusim.isa.walk import section_codes
from kpusim.machine import load_machine, machine_names
from kpusim.machine.limits import limits_of
from kpusim.operators.gemm.operator import Gemm
from kpusim.trace.reader import open_trace

ROOT = Path(__file__).parent.parent
KASM = sorted(data_dir("workloads").glob("kasm/*.kasm"))
LIMITS = Limits(tiles=4, engines=4, queues=2, sram_bytes=4096)

GEMM = """\
kasm 1
program gemm
tensor A bf16 [16, 64] in
tensor B bf16 [64, 8] in
tensor C bf16 [16, 8] out
tensor P int4 [8, 8] in
map A_box = A box [4, 8]
map B_box = B box [8, 8]
map C_box = C box [4, 8]
map P_box = P box [8, 8]
sram a bf16 [2][4, 8]
sram b bf16 [2][8, 8]
sram acc fp32 [1][4, 8]
sram out bf16 [1][4, 8]
sram packed int4 [1][8, 8]
semaphore a_full [4][2]
semaphore a_free [4][2] init 1
semaphore b_full [4][2]
semaphore b_free [1][2] init 1 join 4
semaphore acc_full [4][1]
semaphore out_full [4][1]
table rows = [3, 1, 2, 0]

section dma queue 0 engines 0..4
  let first = engine * 4
  for k = 0 .. 8
    load a[k % 2] @ engine, A_box(first, k * 8)  wait a_free[engine][k % 2]  signal a_full[engine][k % 2]
  end
end

section dma queue 1 engines 0..1
  for k = 0 .. 8
    load b[k % 2] @ 0 +: 4, B_box(k * 8, 0)  wait b_free[0][k % 2]  signal b_full[dst][k % 2]
  end
end

section matrix tiles 0..4
  for k = 0 .. 8
    matmul acc[0], a[k % 2], b[k % 2], accumulate=min(k, 1)
        wait a_full[tile][k % 2], b_full[tile][k % 2]
        signal read a_free[tile][k % 2], read b_free[0][k % 2]
  end
  sync signal acc_full[tile][0]
end

section vector tiles 0..4
  cast out[0], acc[0]  wait acc_full[tile][0]  signal out_full[tile][0]
end

section dma queue 1 engines 1..2
  for t = 0 .. 4
    store C_box(t * 4, 0), out[0] @ t  wait out_full[t][0]
  end
end
"""


def edited(old, new):
    assert GEMM.count(old) == 1
    return GEMM.replace(old, new)


# --- text -------------------------------------------------------------------------------------------------------------


def test_canonical_text_comes_back_unchanged():
    text = disassemble(assemble(GEMM))
    assert disassemble(assemble(text)) == text
    assert assemble(text) == assemble(GEMM)
    assert "sram b bf16 [2][8, 8] at 128\n" in text  # placed behind a, 2 * 64 bytes


def test_an_instruction_knows_its_line():
    nodes = [(pc, node.line) for pc, node, _ in assemble(GEMM).instructions() if node is not None]
    assert nodes[:4] == [(0, 26), (1, 27), (3, 32), (4, 33)]


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("kasm 1", "kasm 2", "1:6", "unknown version"),
        ("bf16 [16, 64] in", "bf17 [16, 64] in", "3:10", "did you mean 'bf16'?"),
        ("[16, 64] in", "[16, 0] in", "3:20", "a size must be at least 1"),
        ("[16, 64] in", "[1, 2, 3, 4] in", "3:15", "4 dimensions; found '['; allowed: 1 to 3"),
        ("[16, 64] in", "[16] in blocked [2, 2]", "3:23", "blocks are over the last two dimensions"),
        ("A_box = A box [4, 8]", "A_box = A box [4]", "7:19", "a box of A has 2 dimensions"),
        ("A_box = A", "A_box = a", "7:13", "unknown tensor; found 'a'; allowed: A, B, C, P; did you mean 'A'?"),
        ("sram b", "sram a", "12:6", "this name is taken"),
        ("sram b", "sram end", "12:6", "a reserved word"),
        ("sram b", "sram b!", "12:7", "unexpected character; found '!'"),
        ("[4][2] init 1\n", "[4][2] init -1\n", "17:30", "the initial count must be at least 0"),
        ("rows = [3", "rows = [99999999999999999999", "22:15", "at most 63 bits"),
        ("section vector tiles 0..4", "section vectr tiles 0..4", "46:9", "did you mean 'vector'?"),
        ("section vector tiles 0..4", "section vector tiles 4..4", "46:25", "the end of the places must be at least 5"),
        ("let first", "let engine", "25:7", "a reserved word"),
        ("let first = engine * 4", "let first = engine * engine", "25:22", "one side of a product must be a constant"),
        ("let first = engine * 4", "let first = 4 // engine", "25:17", "a divisor must be a positive constant"),
        ("let first = engine * 4", "let first = cdiv(engine)", "25:15", "cdiv takes a value and a positive constant"),
        ("let first = engine * 4", "let first = min(engine)", "25:15", "min takes two values or more"),
        ("let first = engine * 4", "let first = engin * 4", "25:15", "did you mean 'engine'?"),
        ("(first, k * 8)", "(first)", "27:34", "A_box has 2 dimensions"),
        ("cast out[0]", "cst out[0]", "47:3", "unknown instruction; found 'cst'; allowed: halt"),
        ("cast out[0]", "cast out[0][1]", "47:14", "out has 2 dimensions"),
        ("accumulate=min", "acumulate=min", "39:40", "matmul has no such option; found 'acumulate'"),
        ("accumulate=min(k, 1)", "accumulate=0, accumulate=1", "39:54", "this option is given already"),
        ("signal acc_full", "signal accfull", "43:15", "did you mean 'acc_full'?"),
        ("signal acc_full[tile][0]", "signal acc_full[tile]", "43:29", "syntax; found 'end of line'; allowed: ["),
        (
            "out[0] @ t  wait out_full[t][0]\n  end\nend\n",
            "",
            "52:28",
            "a loop or section without its end; found 'end of file'; allowed: end",
        ),
    ],
)
def test_broken_text_names_line_and_column(old, new, where, message):
    with pytest.raises(UserError) as caught:
        assemble(edited(old, new), "my.kasm")
    text = str(caught.value)
    assert text.startswith(f"my.kasm:{where}: "), text
    assert message in text, text


@pytest.mark.parametrize("lines", range(1, GEMM.count("\n")))
def test_truncated_text_is_an_error_or_whole_sections(lines):
    text = "\n".join(GEMM.split("\n")[:lines]) + "\n"
    try:
        assert len(assemble(text).sections) == text.count("\nend\n")
    except UserError as error:
        assert str(error).startswith("<kasm>:")


def test_a_program_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot read the program"):
        read_program(tmp_path / "no.kasm")
    (tmp_path / "latin.kasm").write_bytes(b"kasm 1\n# \xe9\n")
    with pytest.raises(UserError, match="cannot read the program"):
        read_program(tmp_path / "latin.kasm")


def test_expressions_are_built_folded():
    k = Name("k")
    assert show((k + 0) * 2 - (3 - k) // 1) == "k * 2 - (3 - k)"
    assert (k % 1, k * 0, minimum(3, 4), maximum(3, 4)) == (Const(0), Const(0), Const(3), Const(4))
    assert ceiling_division(7, 2) == Const(4)
    assert show(Const(-1) + k) == "(-1) + k"


# --- check ------------------------------------------------------------------------------------------------------------


def test_a_right_program_passes():
    check_program(assemble(GEMM), LIMITS)


EXTRA = "section vector tiles 0..4\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # declarations
        ("sram out bf16 [1][4, 8]", "sram out bf16 [1][4, 8] at 1", "sram out: a buffer starts at a whole element"),
        (
            "sram out bf16 [1][4, 8]",
            "sram out bf16 [1][4, 8] at 130",
            "overlaps b; found 'at 130'; allowed: from 384 on",
        ),
        ("sram out bf16 [1][4, 8]", "sram out bf16 [64][4, 8]", "sram out: ends behind the SRAM of a tile; found '4"),
        ("tensor P int4 [8, 8]", "tensor P int4 [8, 7]", "tensor P: an innermost size of int4 fills whole bytes"),
        ("P box [8, 8]", "P box [8, 3]", "map P_box: an innermost size of int4 fills whole bytes; found 3"),
        ("table rows =", "table rows assumed C =", "table rows: no tensor to assume; found '4 values, tensor C bf16"),
        ("acc_full [4][1]", "acc_full [9999][9999]", "too many semaphores"),
        # sections
        ("vector tiles 0..4", "vector tiles 0..5", "section vector tiles 0..5 (line 46): no such place; found '0..5'"),
        ("queue 1 engines 1..2", "queue 2 engines 1..2", "a DMA engine has no such queue; found 2; allowed: 0 to 1"),
        ("queue 1 engines 1..2", "queue 0 engines 1..2", "engine 1 has a section for this queue already"),
        ("  cast out", "  halt\n  cast out", "halt ends a queue; found 'line 47'; allowed: last in a section"),
        # instructions
        ("  cast out[0], acc[0]", "  matmul acc[0], a[0], a[0]", "a vector queue cannot execute matmul"),
        ("  cast out[0], acc[0]", "  cast out[0]", "cast takes 2 operands; found 1; allowed: out, src"),
        ("  cast out[0], acc[0]", "  cast out[0], 1", "operand src is of another kind; found 'scalar'; allowed: view"),
        ("  cast out[0], acc[0]", "  cast out[0] @ tile, acc[0]", "operand out is in the executing tile"),
        ("  cast out[0], acc[0]", "  cast packed[0], acc[0]", "operand out cannot have this dtype; found 'int4'"),
        ("  cast out[0], acc[0]", "  move out[0], acc[0]", "out and src have one dtype; found 'out bf16, src fp32'"),
        (
            "  cast out[0], acc[0]",
            "  cast out[0], acc[0][3, :]",
            "the shapes of cast do not fit; found '[3, 8] for [4, 8]'",
        ),
        ("  cast out[0], acc[0]", "  transpose out[0], out[0]", "the shapes of transpose do not fit; found '[4, 8]'"),
        ("  cast out[0], acc[0]", "  row_max out[0], acc[0]", "allowed: [4, 1]: one element for each row of src"),
        (
            "cast out[0], acc[0]  wait acc_full",
            "cast out[0], acc[0]  wait a_full[0][0], a_full[0][1], acc_full",
            "too many waits",
        ),
        (
            "acc[0]  wait acc_full[tile][0]  signal out_full[tile]",
            "acc[0]  wait acc_full[tile][0]  signal out_full[dst]",
            "only a transfer to tiles has a `dst`",
        ),
        (
            "  sync signal acc_full[tile][0]\nend",
            "  sync signal acc_full[tile][0]\n  sync signal read acc_full[tile][0]\nend",
            "acc_full is signalled at another instant; found 'read'; allowed: done, as before",
        ),
        ("  sync signal acc_full", "  barrier signal acc_full", "barrier signals nothing; found 1; allowed: a `sync`"),
        ("  sync signal acc_full", "  halt signal acc_full", "halt signals nothing; found 1"),
        ("  sync signal acc_full[tile][0]", "  halt wait a_full[tile][0]", "halt waits for nothing; found 1"),
        ("signal b_full[dst]", "signal read b_full[dst]", "a signal to each `dst` is given when its data is there"),
        ("load a[k % 2] @ engine", "load a[k % 2]", "operand dst does not say in which tile"),
        ("out[0] @ t  wait", "out[0] @ t +: 2  wait", "operand src is in one tile"),
        ("load b[k % 2]", "load acc[0]", "dst and src have one dtype; found 'dst fp32, src bf16'"),
        (
            "B_box(k * 8, 0)",
            "B_box(k * 8, 0 +: 4)",
            "found '[8, 8] from [8, 4]'; allowed: as many elements in dst as in src",
        ),
        (
            "matmul acc[0], a[k % 2], b[k % 2]",
            "matmul acc[0], a[k % 2], b[k % 2][4, :]",
            "the shapes of matmul do not fit",
        ),
        # extents
        (
            "load a[k % 2]",
            "load a[k % 3]",
            "pc 1 (load, line 27): a is [2][4, 8]; there is no a[2]; found {'engine': 0",
        ),
        ("load a[k % 2]", "load a[k // 4 * 2]", "a is [2][4, 8]; there is no a[2]"),
        (
            "out[0], acc[0]",
            "out[0][tile +: 2, :], acc[0][2, :]",
            "out is [1][4, 8]; 3 +: 2 leaves it; found {'tile': 3}",
        ),
        ("@ 0 +: 4", "@ 0 +: 5", "tiles 0..5 are not all among the machine's 0..4"),
        (
            "A_box(first, k * 8)",
            "A_box(first, k * 8 +: 9 + k * 0)",
            "9 elements are more than the 8 of the box of A_box",
        ),
        ("for t = 0 .. 4", "for t = 0 .. rows[4]", "table rows has 4 entries; index 4 is outside"),
        ("let first = engine * 4", "let first = rows[engine + 1]", "line 24: let first: table rows has 4 entries"),
        ("wait acc_full[tile]", "wait acc_full[tile + 1]", "acc_full is [4][1]; there is no acc_full[4][0]"),
        ("signal b_full[dst]", "signal b_full[dst + 1]", "there is no b_full[4][0]"),
        # semaphores
        ("init 1 join 4", "init 1 join 5", "too few queues signal b_free[0][0]; found '4'; allowed: 5, its `join`"),
        ("init 1 join 4", "init 1 join 3", "too many queues signal b_free[0][0]; found '4'; allowed: 3, its `join`"),
        (
            "  sync signal acc_full[tile][0]\n",
            "",
            "pc 9 (cast, line 46): too few queues signal acc_full[0][0]; found '0'",
        ),
        (
            "wait out_full[t][0]",
            "wait out_full[t][0], acc_full[t][0]",
            "two queues wait for acc_full[0][0]; found 'pc 10 (cast",
        ),
        ("out[0] @ t  wait out_full[t][0]", "out[0] @ t", "nothing waits for out_full[0][0]"),
    ],
)
def test_what_is_certainly_wrong_is_found(old, new, message):
    with pytest.raises(UserError) as caught:
        check_program(assemble(edited(old, new)), LIMITS, "my.kasm")
    assert str(caught.value).startswith("my.kasm: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("let first = engine * 4", "let first = rows[min(engine, 3)] * 4"),
        ("a_full[engine][k % 2]", "a_full[engine // 2 * 2 + engine % 2][k % 2]"),  # intervals alone cannot say
        ("out[0], acc[0]", "out[0][min(2, 4 - tile) +: tile // 4, :], acc[0][0, :]"),
        ("for t = 0 .. 4", "for t = 4 .. 4"),  # never executed
        ("B_box(k * 8, 0)", "B_box(k * 8 - 16, 0)"),  # outside the tensor: zeros
    ],
)
def test_what_may_be_right_is_left_to_run_time(old, new):
    check_program(assemble(edited(old, new)), LIMITS)


def test_problems_come_together():
    text = edited("load a[k % 2]", "load a[k % 2 + 1]").replace("out[0] @ t ", "out[1] @ t ")
    with pytest.raises(UserError, match="program gemm: 2 problems\n  pc 1 .*\n  pc 12 "):
        check_program(assemble(text), LIMITS)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_are_one_record_an_instruction(tmp_path):
    program = assemble(GEMM)
    arrays = to_arrays(program)
    assert len(arrays["instructions"]) == len(arrays["line"]) == len(list(program.instructions())) == 14
    assert arrays["line"][:3].tolist() == [26, 27, 0]
    save_arrays(arrays, tmp_path / "p.npz")
    assert from_arrays(load_arrays(tmp_path / "p.npz")) == program
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_a_number_of_more_than_64_bits_has_no_array_form():
    body = (Instruction("sync", options=(), operands=(Binary("+", Const(1 << 63), Const(1)),)),)
    with pytest.raises(UserError, match="no array form"):
        to_arrays(Program("p", sections=(Section("vector", 0, 1, body=body),)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("code", None),
        ("code", np.zeros(3, "<i8")),
        ("code", np.full(400, 10, "<i8")),
        ("names", np.array([1])),
        ("names", np.array([b"\xff"])),
        ("declarations", np.array(GEMM.encode())),
        ("line", np.zeros(1, "<u4")),
        ("instructions", np.zeros(14)),
        ("sections", "nothing"),
    ],
)
def test_broken_arrays(name, value):
    arrays = {**to_arrays(assemble(GEMM)), name: value}
    with pytest.raises(UserError, match="the array form of a program is broken|declarations"):
        from_arrays(arrays)


def test_files_that_hold_no_arrays(tmp_path):
    for content in (b"", b"PK\x03\x04", b"kasm 1\n"):
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(UserError, match="not an assembled program"):
            load_arrays(tmp_path / "p.npz")
    with pytest.raises(UserError, match="cannot read the program"):
        load_arrays(tmp_path / "no.npz")


# --- tables, page, programs -------------------------------------------------------------------------------------------


def test_rows_are_consistent():
    rows = instruction_rows().values()
    assert len({row.opcode for row in rows}) == len(rows)
    assert all(row.summary.endswith(".") and row.semantics.endswith(".") and row.timing.endswith(".") for row in rows)
    for row in rows:
        names = [operand.name for operand in row.operands]
        assert all(set(group) <= set(names) for group in row.same)
        assert all(("view" in operand.kinds) or not operand.tiles for operand in row.operands)
    assert all(set(group) <= set(DTYPE_GROUPS["any"]) for group in DTYPE_GROUPS.values())


def test_the_reference_page_is_up_to_date():
    assert (ROOT / "docs" / "isa.md").read_text(encoding="utf-8") == reference(), (
        "run: python -m kpusim.isa.reference > docs/isa.md"
    )


def test_the_program_of_the_guide_is_right():
    text = reference().split("```\n")[1]
    check_program(assemble(text), LIMITS)


@pytest.mark.parametrize("path", KASM, ids=lambda path: path.stem)
def test_hand_written_programs(path):
    machine = load_machine("kpu-edge" if path.stem == "flash_attention" else "kpu-tiny")
    program = read_program(path)
    check_program(program, limits_of(machine))
    assert assemble(disassemble(program)) == program
    assert len(path.read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("machine", machine_names())
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 100, 257), (512, 64, 300)])
def test_lowered_programs_pass_and_come_back(machine, shape):
    loaded = load_machine(machine)
    program = Gemm(*shape).lower(loaded).program
    check_program(program, limits_of(loaded))
    assert assemble(disassemble(program)) == program == from_arrays(to_arrays(program))


def test_steps_say_where_they_leave_what_they_index():
    program = assemble(edited("load a[k % 2]", "load a[k]"))
    step = list(section_codes(program)[0].steps(3))[2]
    with pytest.raises(UserError, match=r"pc 1 \(load, line 27\): .* no a\[2\]; found {'engine': 3"):
        step.operands()


# --- command line -----------------------------------------------------------------------------------------------------


def test_asm_and_disasm(tmp_path):
    source, assembled, text = tmp_path / "p.kasm", tmp_path / "p.npz", tmp_path / "back.kasm"
    source.write_text(GEMM)
    run = CliRunner()
    done = run.invoke(main, ["asm", str(source), "-m", "kpu-tiny"])
    assert done.exit_code == 0, done.output
    assert "gemm: 5 sections, 6 instructions in 4 loops" in done.output
    assert run.invoke(main, ["asm", str(source), "--json"]).output.startswith('{\n  "program": "gemm"')
    assert run.invoke(main, ["disasm", str(assembled)]).output == disassemble(assemble(GEMM))
    assert run.invoke(main, ["disasm", str(assembled), "-o", str(text)]).output == ""
    assert text.read_text() == disassemble(assemble(GEMM))


def test_asm_writes_nothing_when_the_program_is_wrong(tmp_path):
    source = tmp_path / "p.kasm"
    source.write_text(edited("load a[k % 2]", "load a[k]"))
    done = CliRunner().invoke(main, ["asm", str(source)])
    assert (done.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["p.kasm"])
    assert "p.kasm: pc 1 (load, line 27): a is [2][4, 8]; there is no a[2]" in done.stderr


def test_disasm_of_a_trace(tmp_path, monkeypatch):
    program, path = assemble(GEMM), tmp_path / "run.h5"
    monkeypatch.setattr(trace_samples, "PROGRAM", disassemble(program))
    monkeypatch.setattr(trace_samples, "LINES", to_arrays(program))
    trace_samples.write(path, [trace_samples.spans(9), trace_samples.spans(5)], [0, 1, 0])
    with open_trace(path) as trace:
        assert from_arrays(trace.program_arrays(1)) == program
    run = CliRunner()
    assert run.invoke(main, ["disasm", str(path), "--op", "op2"]).output == disassemble(program)
    done = run.invoke(main, ["disasm", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "ran several programs; choose one with --op; allowed: op0, op1, op2" in done.stderr
    assert "has no such operator; found 'op3'" in run.invoke(main, ["disasm", str(path), "--op", "op3"]).stderr


@pytest.mark.parametrize("content", [None, b"text", b"\x89HDF nothing", b"PK\x03\x04 nothing"])
def test_disasm_of_something_else(tmp_path, content):
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    done = CliRunner().invoke(main, ["disasm", str(path)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {path}: ")


def test_nothing_writes_an_input():
    text = """kasm 1
program p
tensor x fp32 [4, 4] in
map whole = x box [4, 4]
sram s fp32 [1][4, 4]
section dma queue 0 engines 0..1
  store whole(0, 0), s[0] @ 0
end
"""
    with pytest.raises(UserError, match="x is an input, nothing may write it; found 'in'; allowed: out, inout"):
        check_program(assemble(text), Limits(1, 1, 1, 4096))
