"""The pages on norms and elementwise operators: their examples run, and they leave nothing out."""

import re
from pathlib import Path

import attrs
import pytest
from rowwise import EDGE, preset

from kpusim.operators import make_operator
from kpusim.operators.activations import ACTIVATIONS
from kpusim.operators.elementwise import ELEMENTWISE
from kpusim.operators.norm import NORMS
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.simulate.run import simulate

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("norm", "elementwise")}
EXAMPLES = [line for page in PAGES.values() for line in page.split("```")[1].strip().splitlines()]


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_run(text):
    operator, machine = make_operator(text), preset(EDGE)
    run = simulate(operator.lower(machine).program, machine)
    assert run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"] >= operator.compulsory_bytes


@pytest.mark.parametrize(("page", "families"), [("norm", NORMS), ("elementwise", ELEMENTWISE)])
def test_every_family_and_parameter_is_told(page, families):
    told = set(re.findall(r"`(\w+)`", PAGES[page]))
    for family in families:
        assert {family.family, *(field.name for field in attrs.fields(family))} <= told
        assert {port.name for port in family(8, 128).ports} <= told
        assert any(text.startswith(f"{family.family}(") for text in EXAMPLES)


def test_every_key_of_a_mapping_and_activation_is_told():
    told = set(re.findall(r"`?(\w+)`?", PAGES["norm"]))
    assert {*ACTIVATIONS, *(field.name for field in attrs.fields(Mapping))} <= told
