"""Completion of words in shells: what click is told, what bash is told, and bash itself."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from click.shell_completion import ShellComplete, get_completion_class
from click.testing import CliRunner

from kpusim.cli import COMMANDS, main
from kpusim.cli.shells import COMPLETE, PROGRAM, Bash, Fish, Zsh
from kpusim.machine import machine_names
from kpusim.machine.keys import entries_of, machine_keys
from kpusim.operators import FAMILIES
from kpusim.plan import workload_names

KEYS = {f"{each}=" for key in machine_keys().values() for each in entries_of(key) or (key.name,)}
FILES = ("a.h5", "b.h5", "p.kasm", "p.npz", "m.toml", "notes.txt", ".hidden.h5", "sub/c.h5", "sub/n.toml")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in FILES:
        (tmp_path / name).touch()


def completed(*words, kind=ShellComplete):
    """The completions of the last word."""
    found = kind(main, {}, PROGRAM, COMPLETE).get_completions(list(words[:-1]), words[-1])
    return {item.value for item in found}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), {*COMMANDS}),
        (("co",), {"compare", "completion"}),
        (("--v",), {"--version"}),
        (("machine", ""), {"list", "show", "check"}),
        (("run", "--sy"), {"--symbol"}),
        (("run", "-m", "kpu-"), {name for name in machine_names() if name.startswith("kpu-")}),
        (("run", "-m", ""), {*machine_names(), "m.toml", "sub/"}),
        (("machine", "show", "sub/"), {"sub/n.toml"}),
        (("machine", "check", "m"), {"m.toml"}),
        (("hbm", "--dram", "hbm2e"), {"hbm2e-3200", "hbm2e-3600"}),
        (("hbm", "-m", "kpu-t"), {"kpu-tiny"}),
        (("hbm", "--mapper", ""), {"RoBaRaCoCh", "ChRaBaRoCo", "MOP4CLXOR"}),
        (("hbm", "--pattern", "str"), {"stream", "strided"}),
        (("hbm", "--pattern", "n"), {"notes.txt"}),
        (("hbm", "--set", "hbm.stack"), {"hbm.stacks="}),
        (("hbm", "--sw"), {"--sweep"}),
        (("validate", "-m", "h2"), {"h200"}),
        (("validate", "--family", "lau"), {"launch"}),
        (("validate", "sub/"), set()),
        (("run", "--set", ""), KEYS),
        (("run", "--set", "hbm.row_"), {"hbm.row_activate=", "hbm.row_cycle="}),
        (("run", "--set", "vector.lane_cycles.e"), {"vector.lane_cycles.exp="}),
        (("run", "--set", "hbm.hash="), {"hbm.hash=rotate", "hbm.hash=xor", "hbm.hash=none"}),
        (("run", "--set", "matrix.overlap_folds=t"), {"matrix.overlap_folds=true"}),
        (("run", "--set", "hbm.stacks="), set()),
        (("run", "--set", "nothing="), set()),
        (("compare", "-m", "kpu-tiny,kpu-e"), {"kpu-tiny,kpu-edge"}),
        (("compare", "-m", "kpu-tiny,m"), {"kpu-tiny,m.toml"}),
        (("compare", "--set", "tiles.rows,tiles.c"), {"tiles.rows,tiles.columns="}),
        (("compare", "--set", "hbm.hash=none,r"), {"hbm.hash=none,rotate"}),
        (("run", "--op", ""), {f"{family}(" for family in FAMILIES}),
        (("compare", "--op", "gem"), {"gemm("}),
        (("fuzz", "--family", "grouped"), {"grouped_gemm"}),
        (("run", ""), {*workload_names(), "m.toml", "sub/"}),
        (("lower", "tiny"), {"tiny-mlp"}),
        (("exec", ""), {"p.kasm", "p.npz", "sub/"}),
        (("asm", ""), {"p.kasm", "sub/"}),
        (("disasm", ""), {"p.npz", "a.h5", "b.h5", "sub/"}),
        (("diff", "a.h5", ""), {"a.h5", "b.h5", "sub/"}),
        (("trace", "top", "sub/"), {"sub/c.h5"}),
        (("trace", "top", "."), {".hidden.h5"}),
        (("trace", "top", "none/"), set()),
        (("regress", ""), {"m.toml", "sub/"}),
        (("explain", "matr"), {"matrix"} | {each.strip("=") for each in KEYS if each.startswith("matr")}
         | {"matrix.macs_per_cell", "matrix.sustained", "matrix"}),
        (("explain", "barr"), {"barrier"}),
        (("explain", "dma", "-m", "kpu-t"), {"kpu-tiny"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
    ],
)  # fmt: skip
def test_completions(folder, words, expected):
    assert completed(*words) == expected


@pytest.mark.parametrize("kind", [Bash, Zsh, Fish])
def test_our_shells_complete_an_option_with_its_value_as_one_word(kind):
    assert get_completion_class(kind.name) is kind
    assert completed("run", "--machine=kpu-t", kind=kind) == {"--machine=kpu-tiny"}
    assert completed("run", "--machine", "kpu-t", kind=kind) == {"kpu-tiny"}
    assert completed("run", "--mach", kind=kind) == {"--machine"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["explain", "busy"], ["plain,busy"]),
        (["run", "--set", "hbm.ha"], ["plain,hbm.hash="]),
        (["run", "--set", "hbm.hash", "="], ["plain,rotate", "plain,xor", "plain,none"]),
        (["run", "--set", "hbm.hash", "=", "ro"], ["plain,rotate"]),
        (["run", "--set", '"hbm.hash=ro'], ["plain,hbm.hash=rotate"]),
        (["run", "--set", "clock", "=", "2 GHz", "--set", "hbm.hash", "=", "ro"], ["plain,rotate"]),
        (["run", "--machine", "=", "kpu-t"], ["plain,kpu-tiny"]),
        (["run", "--set", "=", "hbm.hash", "=", "ro"], ["plain,rotate"]),
        (["run", "--op", "gem"], ['plain,"gemm(']),
        (["run", "--op", '"gem'], ["plain,gemm("]),
        (["diff", "a\\ "], ["plain,a\\ b.h5"]),
        (["diff", '"a '], ["plain,a b.h5"]),
        (["run", "--jobs", ""], ["plain,tiny-mlp"]),
    ],
)
def test_bash_completes_what_is_behind_its_word_breaks(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.h5").touch()
    monkeypatch.setenv("COMP_WORDS", "\n".join(["kpusim", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    found = Bash(main, {}, PROGRAM, COMPLETE).complete().splitlines()
    assert found[-len(expected) :] == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_the_shells(shell):
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"{COMPLETE}={shell}_complete" in result.stdout
    assert "_kpusim_completion" in result.stdout


def test_an_unknown_shell_exits_2():
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr


IN_BASH = """
eval "$(kpusim completion bash)"
compopt() { echo "compopt $2"; }
COMP_WORDS=(kpusim run --set hbm.st) COMP_CWORD=3
_kpusim_completion kpusim
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(which("bash") is None, reason="there is no bash here")
def test_the_script_works_in_bash():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", IN_BASH], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["compopt nospace", "hbm.stacks="]


@pytest.mark.parametrize("words", ["kpusim ", "kpusim run --", "kpusim diff ", "kpusim compare --j"])
def test_commands_and_options_complete_without_slow_imports(words):
    code = (
        "import sys, atexit; atexit.register(lambda: print([m for m in ('numpy', 'h5py', 'simpy', 'cattrs', 'rich') "
        "if m in sys.modules])); sys.argv = ['kpusim']; from kpusim.cli import main; main()"
    )
    env = {**os.environ, COMPLETE: "zsh_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(done.stdout.splitlines()) > (1 if "diff" not in words else 0)
