"""The catalogue of operators: the page is that of the families, its lines run, and `kpusim explain` knows them."""

import json
import shlex
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.operators import FAMILIES, make_operator
from kpusim.operators.describe import describe
from kpusim.report.catalogue import catalogue, run_line

PAGE = (Path(__file__).parents[1] / "docs" / "operators.md").read_text(encoding="utf-8")
EXAMPLES = [example.text for family in FAMILIES.values() for example in family.examples]


def run(*args):
    return CliRunner().invoke(main, args)


def test_the_page_is_up_to_date():
    assert catalogue() == PAGE, "run: python -m kpusim.report.catalogue > docs/operators.md"


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_line_runs(text):
    assert f"`{run_line(text)}`" in PAGE
    program, *args = shlex.split(run_line(text))
    assert program == "kpusim"
    small = make_operator(text).compulsory_bytes < 2**17  # runs on data in a second, too
    result = run(*args, "-m", "kpu-edge", "--no-trace", *["--verify"] * small)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("agrees with its float64 reference") >= small


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_told_whole(family):
    kind = FAMILIES[family]
    found = describe(family)
    assert found.summary and kind.examples
    assert {each.name for each in found.parameters} == {field.name for field in attrs.fields(kind)}
    assert all(each.allowed for each in found.parameters)
    for example in kind.examples:
        operator = make_operator(example.text)
        assert operator.family == family
        assert {port.name for port in operator.ports} <= {port.name for port in found.ports}
        assert example.shows


@pytest.mark.parametrize("family", FAMILIES)
def test_explain_knows_it(family):
    entries = json.loads(run("explain", family, "--json").stdout)
    (entry,) = [each for each in entries if each["kind"] == "operator"]
    assert FAMILIES[family].examples[0].text in entry["facts"]["example 1"]
    text = run("explain", family).stdout
    assert all(f"parameter {field.name} " in text for field in attrs.fields(FAMILIES[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_read_back(family):
    """A parameter given as the page writes its default is at its default."""
    for example in FAMILIES[family].examples[:1]:
        operator = make_operator(example.text)
        given = {field.name for field in attrs.fields(type(operator)) if f"{field.name}=" in example.text}
        rest = [each for each in describe(family).parameters if each.default and each.name not in given]
        defaults = "".join(f", {each.name}={each.default}" for each in rest)
        assert make_operator(example.text.rstrip()[:-1] + defaults + ")") == operator


def test_what_the_page_says_of_a_parameter():
    told = {each.name: (each.default, each.allowed) for each in describe("gemm").parameters}
    assert told["m"] == ("", "a whole number, >= 1")
    assert told["batch"] == ("0", "a whole number, >= 0, <= 4096")
    assert told["transpose_a"] == ("false", "true or false")
    assert told["alpha"] == ("1.0", "a number")
    assert told["activation"] == ("none", "none, relu, gelu, gelu_tanh, silu")
    assert told["b_dtype"][0] == '""'
    with pytest.raises(UserError, match="allowed: <= 4096"):
        make_operator("gemm(m=1, n=1, k=1, batch=4097)")


def test_ports_have_their_axes():
    ports = {port.name: (port.role, port.axes) for port in describe("grouped_gemm").ports}
    assert ports["b"] == ("in", ("groups", "k", "n"))
    assert [*ports][-1] == "out"
