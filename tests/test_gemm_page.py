"""The page on GEMM: its examples run, and it leaves nothing out."""

import re
from pathlib import Path

import attrs
import pytest
from gemms import EDGE, preset

from kpusim.operators import FAMILIES, make_operator
from kpusim.operators.activations import ACTIVATIONS
from kpusim.operators.gemm import Gemm
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import PROLOGUES
from kpusim.simulate.run import simulate

PAGE = (Path(__file__).parent.parent / "docs" / "gemm.md").read_text(encoding="utf-8")
EXAMPLES = PAGE.split("```")[1].strip().splitlines()


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_run(text):
    machine, gemm = preset(EDGE), make_operator(text)
    if gemm.macs > 10**9:
        assert gemm.lower(machine).tried
    else:
        run = simulate(gemm.lower(machine).program, machine)
        assert run.counters[f"macs.{gemm.dtype}"] == gemm.macs


def test_the_cycles_of_prologues_are_those_of_the_page():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| kpu-edge")
    ]
    assert len(rows) == 2
    for _, sizes, *cycles, _ in rows:
        shape = dict(zip("mnk", map(int, sizes.split(",")), strict=True))
        kinds = [{"prologue": name} for name in PROLOGUES] + [{"bias": True}]
        gemms = [Gemm(**shape, transpose_b=True, **kind) for kind in kinds]
        found = [simulate(gemm.lower(preset(EDGE)).program, preset(EDGE)).cycles for gemm in gemms]
        assert [f"{each:,}" for each in found] == cycles


def test_every_parameter_and_key_is_told():
    told = set(re.findall(r"`(\w+)`", PAGE))
    for kind in (FAMILIES["gemm"], FAMILIES["grouped_gemm"], Mapping):
        assert {field.name for field in attrs.fields(kind)} <= told
    assert all(name in PAGE for name in (*ACTIVATIONS, *PROLOGUES))
