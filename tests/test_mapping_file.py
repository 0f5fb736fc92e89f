"""Mappings in files: written, read back, forced on operators, and told what is wrong with them."""

import json
import re

import attrs
import pytest
from click.testing import CliRunner

import kpusim
from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.isa.printer import disassemble
from kpusim.machine import load_machine
from kpusim.operators import lower_as, make_operator, mapping_toml
from kpusim.operators.given import Given
from kpusim.operators.mapping_file import load_mapping

TINY = load_machine("kpu-tiny")
GEMM = "gemm(m=12, n=20, k=24)"
OP = ("--op", GEMM, "-m", "kpu-tiny")
MINE = """\
grid_m = 2
grid_n = 2
block_m = 6
block_n = 10
block_k = 8
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path / "mine.toml"


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        (GEMM, "kpu-tiny"),
        ("gemm(m=4, n=96, k=256, b_dtype=int4, scale_group=32)", "kpu-edge"),
        ("gemm(m=256, n=512, k=64, batch=3)", "kpu-datacenter"),
        ('grouped_gemm(groups=4, m=32, n=64, k=64, rows="zipf 1.2")', "kpu-edge"),
    ],
)
def test_a_mapping_that_was_written_loads_again(tmp_path, text, machine):
    operator = make_operator(text)
    lowered = operator.lower(load_machine(machine))
    (tmp_path / "m.toml").write_text(mapping_toml(lowered.mapping, f"{text} on\n{machine}"))
    assert load_mapping(tmp_path / "m.toml", operator) == lowered.mapping
    assert (tmp_path / "m.toml").read_text().splitlines()[0] == f"# {text} on {machine}"
    again = lower_as(operator, load_machine(machine), mapping=tmp_path / "m.toml")
    assert disassemble(again.program) == disassemble(lowered.program)


def test_a_mapping_is_forced(command, mine):
    lowered = command("lower", *OP, "--mapping", "mine.toml", "-o", "p.kasm", "--save-mapping", "out.toml")
    assert lowered.exit_code == 0, lowered.output
    assert "force it with: --mapping out.toml" in lowered.stdout
    text = (mine.parent / "p.kasm").read_text()
    assert re.search(r"sram a_tile bf16 \[2\]\[6, 8\]", text)
    assert re.search(r"sram b_tile bf16 \[2\]\[8, 10\]", text)
    saved = (mine.parent / "out.toml").read_text().splitlines()
    assert saved[0] == f"# {GEMM} on kpu-tiny"
    assert saved[1:6] == MINE.splitlines()
    assert command("lower", *OP, "--mapping", "out.toml").stdout == text
    assert json.loads(command("lower", *OP, "--mapping", "mine.toml", "--json").stdout)["mapping"]["block_k"] == 8
    done = command("exec", "p.kasm", "-m", "kpu-tiny", "--data", "--reference", GEMM, "--json")
    assert json.loads(done.stdout)["verification"][0]["verdict"]["passed"]


def test_run_and_compare_simulate_the_mapping_that_is_forced(command, mine):
    def rows(*args):
        result = command(*args, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    command("lower", *OP, "--mapping", "mine.toml", "-o", "p.kasm")
    cycles = rows("exec", "p.kasm", "-m", "kpu-tiny")["runs"][0]["operators"][0]["cycles"]
    forced = rows("run", *OP, "--mapping", "mine.toml", "--no-trace", "--verify")
    assert forced["runs"][0]["operators"][0]["cycles"] == cycles
    assert forced["verification"][0]["verdict"]["passed"]
    free = rows("run", *OP, "--no-trace")
    assert free["runs"][0]["operators"][0]["cycles"] < cycles
    compared = rows("compare", *OP, "--mapping", "mine.toml", "--set", "hbm.stacks=1")
    assert compared[0]["cycles"] == forced["runs"][0]["total"]["cycles"]
    mapping = load_mapping(mine, make_operator(GEMM))
    assert kpusim.run(GEMM, TINY, mapping=mapping).rows[0].cycles == cycles
    assert kpusim.run(GEMM, TINY, mapping=str(mine)).rows[0].cycles == cycles


def test_a_mapping_is_forced_on_an_operator_of_a_workload(command, mine):
    text = command("lower", "tiny-mlp#up", "-m", "kpu-tiny", "--mapping", "mine.toml").stdout
    assert "[2][6, 8]" in text
    saved = command("lower", "tiny-mlp#up", "-m", "kpu-tiny", "--save-mapping", "up.toml", "--set", "hbm.stacks=1")
    assert "up.toml: its mapping" in saved.stderr
    assert saved.stdout.startswith("kasm 1\n")
    assert (mine.parent / "up.toml").read_text().startswith("# tiny-mlp#up on kpu-tiny hbm.stacks=1\ngrid_m = ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("block_k", "blok_k", "mine.toml:5: blok_k: unknown key; found 'blok_k'; allowed: grid_m, "),
        ("block_k", "blok_k", "did you mean 'block_k'?"),
        ("block_k = 8\n", "", "mine.toml: block_k: missing; allowed: a mapping has grid_m, grid_n, block_m, block_n, "),
        ("block_k = 8", "block_k = 8.0", "mine.toml:5: block_k: wrong type; found 8.0; allowed: a whole number"),
        ("block_k = 8", 'block_k = "8"', "mine.toml:5: block_k: wrong type; found '8'; allowed: a whole number"),
        ("block_k = 8", "block_k = true", "mine.toml:5: block_k: wrong type; found True; allowed: a whole number"),
        ("block_k = 8", "block_k = 8\nresident = 1", "mine.toml:6: resident: wrong type; found 1; allowed: text in"),
        ("block_k = 8", "block_k = 8\nresident = 'c'", "mine.toml: kpu-tiny: this mapping cannot run: "),
        ("block_k = 8", "block_k = ", "mine.toml:5: not valid TOML"),
        ("block_k = 8", "block_k = 8\n[grid]\nm = 2", "mine.toml:6: grid: unknown key"),
        ("grid_m = 2", "grid_m = 200", "mine.toml: kpu-tiny: this mapping cannot run: the grid has more tiles than"),
        ("block_n = 10", "block_n = 2000", "its buffers do not fit into a tile's SRAM; found "),
    ],
)
@pytest.mark.parametrize("name", ["lower", "run", "compare"])
def test_bad_mappings_are_told_with_their_place(command, mine, name, old, new, message):
    assert old in MINE
    mine.write_text(MINE.replace(old, new))
    result = command(name, *OP, "--mapping", "mine.toml")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", *OP, "--mapping", "none.toml"], "none.toml: cannot be read"),
        (["run", "tiny-mlp", "--mapping", "mine.toml"], "--mapping belongs to --op"),
        (["compare", "tiny-mlp", "--mapping", "mine.toml"], "--mapping belongs to --op"),
        (["lower", *OP, "--save-mapping", "mine.toml/m.toml"], "mine.toml/m.toml: cannot be written"),
    ],
)
def test_options_that_cannot_be(command, mine, args, message):
    result = command(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_has_no_mapping_cannot_be_forced(mine):
    given = Given(make_operator(GEMM).lower(TINY).program, "p.kasm")
    with pytest.raises(UserError, match="no mapping of a program to force"):
        load_mapping(mine, given)
    with pytest.raises(UserError, match=r"not on a workload"):
        kpusim.run("tiny-mlp", TINY, mapping=str(mine))


def test_folds_are_one_matmul_each(command):
    program = make_operator("gemm(m=8, n=8, k=8)").lower(TINY, fold_instructions=True).program
    text = command("lower", "--op", "gemm(m=8, n=8, k=8)", "-m", "kpu-tiny", "--folds").stdout
    assert text == disassemble(program) != command("lower", "--op", "gemm(m=8, n=8, k=8)", "-m", "kpu-tiny").stdout


@pytest.mark.parametrize("name", ["lower", "run"])
def test_explain_tells_what_was_tried(command, name):
    args = (name, "--op", "gemm(m=512, n=512, k=512)", "--explain", *(("--no-trace",) if name == "run" else ()))
    data = json.loads(command(*args, "--json").stdout)
    tried = data["tried"] if name == "lower" else data["tried"]["gemm"]
    lowered = make_operator("gemm(m=512, n=512, k=512)").lower(load_machine("kpu-datacenter"))
    assert tried == [attrs.asdict(each) for each in lowered.tried]
    assert len(tried) > 5
    assert [each["cycles"] for each in tried] == sorted(each["cycles"] for each in tried)
    assert sum(each["why"].startswith("chosen") for each in tried) == 1
    words = " ".join(command(name, "--help").stdout.split())
    assert all(key in words for key in (*tried[0], "tried"))
    shown = command(*args, *(("-o", "p.kasm") if name == "lower" else ())).stdout
    table = shown[shown.index("Mappings tried for gemm") :]
    assert max(map(len, table.splitlines())) <= 100
    rows = [line.split("  ") for line in table.splitlines()]
    for each in tried:
        grid, cycles = each["mapping"].partition(",")[0], f"{each['cycles']:,}"
        assert any(row[0].strip().startswith(grid) and cycles in map(str.strip, row) for row in rows)


@pytest.mark.parametrize("words", [
    ["lower", "--op", "gemm(m=8, n=8, k=8)", "-o", "x.toml", "--mapping", "x.toml"],
    ["lower", "--op", "gemm(m=8, n=8, k=8)", "-o", "x.toml", "--save-mapping", "x.toml"],
    ["run", "--op", "gemm(m=8, n=8, k=8)", "--mapping", "x.toml", "--trace", "./x.toml"],
    ["exec", "x.toml", "--trace", "x.toml"],
    ["trace", "export", "x.toml", "-o", "x.toml"],
])  # fmt: skip
def test_no_output_replaces_another_file_of_the_command(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "x.toml is another file of this command: give the output another name." in done.output
    assert (tmp_path / "x.toml").read_text(encoding="utf-8") == "mine"


def test_symbols_and_runs_belong_to_workloads():
    done = CliRunner().invoke(main, ["lower", "--op", "gemm(m=8, n=8, k=8)", "--run", "x"])
    assert done.exit_code == 2 and "--symbol and --run belong to a workload file." in done.output
