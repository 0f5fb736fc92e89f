"""`kpusim explain` and the reference page of machines: every table's words, each with its meaning."""

import json
import tomllib
from pathlib import Path
from typing import get_args

import attrs
import pytest
from click.testing import CliRunner

from kpusim.cli import main
from kpusim.engines.stalls import CAUSES
from kpusim.isa.tables import DTYPE_BITS, instruction_rows
from kpusim.machine import Machine, load_machine, machine_file, machine_names
from kpusim.machine.keys import entries_of, machine_keys, machine_tables
from kpusim.plan.spec import Boundary
from kpusim.report.reference import reference

ROOT = Path(__file__).parents[1]


@pytest.fixture
def explain():
    return lambda *args: CliRunner().invoke(main, ["explain", *args])


def found(result):
    assert result.exit_code == 0, result.output
    return {(entry["name"], entry["kind"].partition(" (")[0]): entry for entry in json.loads(result.stdout)}


def flat(table, path=()):
    """The dotted keys of a machine file that hold no table."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield ".".join((*path, key))


def has_default(key):
    """Whether a machine file need not have it."""
    cls, found = Machine, False
    for name in key.attributes:
        attribute = attrs.fields_dict(cls)[name]
        cls, found = attribute.type, found or attribute.default is not attrs.NOTHING
    return found


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "machine.md").read_text(encoding="utf-8") == reference(), (
        "run: python -m kpusim.report.reference > docs/machine.md"
    )


@pytest.mark.parametrize("name", machine_names())
def test_every_key_of_a_machine_file_is_known_and_told(name, explain):
    keys = machine_keys().values()
    known = {each for key in keys for each in entries_of(key) or (key.name,)}
    written = set(flat(machine_file(name).table))
    assert written <= known
    optional = {each for key in keys for each in entries_of(key) or [key.name] * has_default(key)}
    of_dram = {each for each in known if each.startswith("hbm.") and "hbm.dram" in written}  # its file has them
    assert known - written <= optional | of_dram
    page = (ROOT / "docs" / "machine.md").read_text(encoding="utf-8")
    for key in machine_keys().values():
        assert f"| `{key.name}` |" in page
        assert key.about.endswith(".")


def test_choices_are_what_a_machine_takes(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(machine_file("kpu-tiny").text + '\n[shared]\ncapacity = "1 MiB"\nbandwidth = "16 B/cycle"\n')
    for key in machine_keys().values():
        for choice in key.choices:
            load_machine(path, [f"{key.name}={choice}"])


def test_boundaries_of_workload_files_are_explained(explain):
    """By the words that a file may have."""
    for word in get_args(Boundary):
        entry = found(explain(word, "--json", "-m", "kpu-edge"))[word, "boundary between operators of a workload file"]
        assert entry["facts"]["written as"] == f'boundary = "{word}"'
    assert "rmsnorm + gemm, " in entry["facts"]["fuses"]
    launch = found(explain("launch", "--json", "-m", "kpu-edge"))
    assert launch["launch", "boundary between operators of a workload file"]["facts"]["front_end.launch"].startswith(
        f"1 us = {load_machine('kpu-edge').front_end.launch_cycles:,} cycles: "
    )
    assert ("front_end.launch", "machine key") in launch
    assert {kind for _, kind in found(explain("barrier", "--json"))} >= {"stall cause", "instruction"}


def test_everything_listed_is_explained(explain):
    listed = json.loads(explain("--json").stdout)
    names = {name for names in listed.values() for name in names}
    assert names >= {*CAUSES, *instruction_rows(), *DTYPE_BITS, *machine_keys(), *machine_tables(), "busy", "idle"}
    assert names >= {row.timing_class for row in instruction_rows().values()}
    for name in names:
        entries = found(explain(name, "--json"))
        assert any(each == name for each, _ in entries)
        assert all(entry["text"] for entry in entries.values())
    text = explain().stdout
    assert all(name in text for name in names)


def test_a_word_with_several_meanings_gets_all():
    result = CliRunner().invoke(main, ["explain", "barrier", "--json"])
    assert set(found(result)) == {
        ("barrier", "boundary between operators of a workload file"), ("barrier", "stall cause"),
        ("barrier", "instruction"), ("front_end.barrier", "machine key"),
    }  # fmt: skip


def test_an_instruction_says_what_its_row_says(explain):
    row = tomllib.loads((ROOT / "isa" / "matrix.toml").read_text(encoding="utf-8"))["matmul"]
    entry = found(explain("matmul", "--json"))["matmul", "instruction"]
    assert entry["text"] == row["summary"]
    assert (entry["facts"]["does"], entry["facts"]["takes"]) == (row["semantics"], row["timing"])
    assert entry["facts"]["operand a"].startswith("view; read; ")
    text = " ".join(explain("matmul").stdout.split())
    assert row["semantics"] in text


@pytest.mark.parametrize(
    ("word", "machine", "value"),
    [
        ("matrix.dataflow", "kpu-edge", "output-stationary"),
        ("sram.sharing", "kpu-edge", "separate (default)"),
        ("sram.interleave", "kpu-edge", "64 B (default)"),
        ("weight-stationary", "kpu-edge", "output-stationary"),
        ("overlap_folds", "kpu-tiny", "false"),
        ("row_activate", "kpu-edge", "18 ns = 18 cycles"),
        ("sram.latency", "kpu-tiny", "1 cycle"),
        ("SRAM.capacity", "kpu-edge", "384 KiB = 393,216 B"),
        ("hbm.bandwidth", "kpu-tiny", "16 B/cycle"),
        ("vector.lane_cycles.exp", "kpu-tiny", "4"),
        ("sram.ports.matrix", "kpu-tiny", "64 B/cycle"),
        ("int4", "kpu-tiny", None),
        ("int8", "kpu-tiny", "2"),
        ("stacks", "changed.toml", "8"),
    ],
)
def test_values_on_a_machine(explain, tmp_path, monkeypatch, word, machine, value):
    monkeypatch.chdir(tmp_path)
    text = machine_file("kpu-tiny").text.replace('name = "kpu-tiny"', 'name = "changed.toml"')
    (tmp_path / "changed.toml").write_text(text.replace("stacks = 1", "stacks = 8"))
    (entry,) = found(explain(word, "-m", machine, "--json")).values()
    assert entry["facts"].get(f"on {machine}") == value
    assert f"on {machine}" not in str(found(explain(word, "--json")))


def test_a_table_shows_all_of_its_values(explain):
    facts = found(explain("tiles", "-m", "kpu-edge", "--json"))["tiles", "machine table"]["facts"]
    assert list(facts) == ["tiles.rows", "tiles.columns"]
    assert facts["tiles.rows"].startswith("8: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("hbm.row_activat",), "did you mean 'hbm.row_activate'?"),
        (("matmull",), "did you mean 'matmul'?"),
        (("qqqq",), "`kpusim explain` alone lists what can be asked"),
        (("dma", "-m", "kpu-tinny"), "did you mean 'kpu-tiny'?"),
        (("-m", "kpu-tiny"), "--machine needs a word to explain."),
    ],
)
def test_unknown_words_exit_2_with_one_message(explain, args, message):
    result = explain(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1
