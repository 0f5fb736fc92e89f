"""The Python API: the same numbers as the command line's, as values and arrays."""

import doctest
import json

import numpy as np
import pytest
from click.testing import CliRunner

import kpusim
from kpusim import api
from kpusim.cli import main
from kpusim.errors import UserError


def test_the_example_in_the_docstring():
    assert doctest.testmod(api).failed == 0
    assert doctest.testmod(api).attempted > 5


def test_everything_is_exported():
    assert set(kpusim._EXPORTS) <= set(dir(kpusim))
    for name in kpusim._EXPORTS:
        assert callable(getattr(kpusim, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kpusim.nothing  # noqa: B018


def test_the_command_line_prints_what_the_api_returns(tmp_path):
    machine = kpusim.get_machine("kpu-tiny", {"hbm.bandwidth": "8 B/cycle", "dma.queues": 5})
    result = kpusim.run("tiny-mlp", machine, symbols={"tokens": 12}, trace=tmp_path / "t.h5")
    words = ["run", "tiny-mlp", "-m", "kpu-tiny", "--set", "hbm.bandwidth=8 B/cycle", "--set", "dma.queues=5"]
    words += ["--symbol", "tokens=12", "--trace", str(tmp_path / "t.h5"), "--json"]
    assert json.loads(CliRunner().invoke(main, words).stdout) == json.loads(json.dumps(result.json()))
    with kpusim.open_trace(result.trace) as trace:
        assert trace.total_cycles == result.cycles


def test_arrays_are_by_operator_and_unit():
    result = kpusim.run("tiny-mlp", "kpu-tiny")
    arrays = result.arrays()
    assert arrays["name"].tolist()[:2] == ["layer[0].up", "layer[0].down"]
    assert arrays["busy"].shape == (6, 24)
    assert arrays["stalls"].shape == (6, 24, 7)
    accounted = arrays["busy"] + arrays["stalls"].sum(axis=2)
    assert np.all(accounted <= arrays["cycles"][:, None])
    assert arrays["macs.bf16"].sum() == 3 * 2 * 8 * 16 * 32
    assert arrays["start_cycle"][0] == 100


def test_the_table_prints(capsys):
    kpusim.run("gemm(m=4, n=4, k=4)", "kpu-tiny").table()
    assert "gemm is bound by" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    [
        lambda: kpusim.op("gemm(m=1)"),
        lambda: kpusim.gemm(m=0, n=1, k=1),
        lambda: kpusim.get_machine("kpu-tinny"),
        lambda: kpusim.get_machine("kpu-tiny", {"hbm.stacks": 0}),
        lambda: kpusim.run("nothing.toml"),
        lambda: kpusim.run("tiny-mlp", "kpu-tiny", symbols={"tokens": 0}),
    ],
)
def test_bad_input_raises(call):
    with pytest.raises(UserError):
        call()
