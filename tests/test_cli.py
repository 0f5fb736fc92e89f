import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kpusim import __version__
from kpusim.cli import COMMANDS, main
from kpusim.errors import UserError
from kpusim.machine import load_machine, machine_names


@pytest.fixture
def kpusim():
    return lambda *args: CliRunner().invoke(main, args)


def test_help_lists_every_command_without_importing_one(kpusim):
    result = kpusim("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    assert "Examples:" in result.stdout
    code = "import sys, kpusim.cli; print([m for m in ('numpy', 'h5py', 'simpy', 'cattrs') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version(kpusim):
    assert kpusim("--version").stdout == f"kpusim, version {__version__}\n"


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "kpusim", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kpusim, version {__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["machne"], "Did you mean 'machine'?"),
        (["zzz"], "No such command 'zzz'."),
        (["machine", "shw"], "Did you mean 'show'?"),
        (["machine", "show", "kpu-tiny", "--tml"], "--toml"),
        (["machine", "show", "kpu-tiny", "--toml", "--json"], "exclude each other"),
        (["machine", "show", "kpu-tinny"], "did you mean 'kpu-tiny'?"),
        (["machine", "show", "kpu-tiny", "--set", "hbm.stacks=0"], "Error: --set hbm.stacks: too small"),
        (["machine", "check"], "Missing argument"),
        (["machine", "check", "no.toml"], "Error: no.toml: cannot be read: No such file or directory"),
        (["trace", "events", "t.h5", "--from", "9", "--to", "3"], "--to: the window ends before it begins; found 3"),
    ],
)
def test_bad_input_exits_2_with_one_message(kpusim, args, message):
    result = kpusim(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(UserError("bad"), 2, "Error: bad\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_errors_are_handled_in_one_place(kpusim, monkeypatch, error, code, message):
    def fail():
        raise error

    monkeypatch.setattr("kpusim.cli.machine.machine_names", fail)
    result = kpusim("machine", "list")
    assert (result.exit_code, result.stderr) == (code, message)


def test_a_reader_that_left_is_no_error():
    command = f"{sys.executable} -c 'from kpusim.cli import main; main()' machine show kpu-tiny | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_machine_list(kpusim):
    assert [line.split()[0] for line in kpusim("machine", "list").stdout.splitlines()] == list(machine_names())
    assert [row["name"] for row in json.loads(kpusim("machine", "list", "--json").stdout)] == list(machine_names())


def test_machine_show(kpusim):
    assert "dma 3" in kpusim("machine", "show", "kpu-tiny").stdout
    shown = json.loads(kpusim("machine", "show", "kpu-datacenter", "--json").stdout)
    assert shown["hbm"]["bytes_per_cycle"] == 819.2
    assert shown["peak_flops"]["bf16"] == 524_288_000_000_000


@pytest.mark.parametrize("sets", [[], ["hbm.stacks=8", "clock=1.83 GHz"]])
@pytest.mark.parametrize("name", machine_names())
def test_machine_toml_loads_again(kpusim, tmp_path, name, sets):
    args = [word for change in sets for word in ("--set", change)]
    toml = kpusim("machine", "show", name, "--toml", *args).stdout
    (tmp_path / "my.toml").write_text(toml)
    assert load_machine(tmp_path / "my.toml") == load_machine(name, sets)
    assert "is a possible machine" in kpusim("machine", "check", str(tmp_path / "my.toml")).stdout
    assert ("#" in toml) == (not sets)
