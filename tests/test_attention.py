"""Attention lowered: on data against float64, in every form, on every machine; and what each form costs."""

import re
from pathlib import Path
from random import Random

import attrs
import numpy as np
import pytest
from gemms import DATACENTER, EDGE, PRESETS, TINY, preset, variant
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.function import Executor, compare, random_inputs
from kpusim.isa import assemble, disassemble
from kpusim.isa.check import check_program
from kpusim.machine.limits import limits_of
from kpusim.operators import make_operator, text_of
from kpusim.operators.attention import items
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.attention.operator import Attention, Mla
from kpusim.operators.attention.search import search
from kpusim.plan import operator_plan
from kpusim.simulate.run import simulate
from kpusim.simulate.workload import run_plans

MACHINES = [
    "tiles.rows=1 tiles.columns=1 sram.capacity=16KiB",
    "tiles.rows=3 tiles.columns=5 sram.capacity=32KiB",
    "tiles.rows=4 tiles.columns=4 matrix.dataflow=weight-stationary matrix.overlap_folds=true sram.capacity=16KiB",
    "matrix.dataflow=input-stationary sram.capacity=16KiB",
]


def execute(attention, machine, mapping=None):
    """Runs on data in plain mode, hazards on, and compares with float64; the local clocks agree on the cycles."""
    attention.check()
    lowered = attention.lower(machine, mapping=mapping)
    program = lowered.program
    check_program(program, limits_of(machine))
    assert assemble(disassemble(program)) == program
    assert [(tensor.name, tensor.shape, tensor.dtype, tensor.role) for tensor in program.tensors] == [
        (port.name, port.shape, port.dtype, port.role) for port in attention.ports
    ]
    inputs = random_inputs(program, 1)
    executor = Executor(program, machine, inputs)
    run = simulate(program, machine, plain=True, watcher=executor)
    assert simulate(program, machine).cycles == run.cycles
    assert run.counters[f"macs.{attention.dtype}"] >= attention.macs
    out = executor.outputs()["out"]
    reference, bound = attention.reference(inputs)["out"], attention.error_bound(inputs)["out"]
    assert compare(out, reference, attention.out_dtype, bound=bound).passed
    return lowered, run


def drawn(family, random):
    attention = family.draw(random)
    assume(attention.variant != "unfused")  # its parts are other families
    try:
        attention.check()
    except UserError:
        assume(False)
    return attention


def executed_if_it_fits(attention, machine):
    try:
        execute(attention, machine)
    except UserError as error:
        assert "no block of this attention fits" in str(error)
        assert machine.name == TINY


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.sampled_from(MACHINES))
def test_every_form_on_small_machines(random, changes):
    executed_if_it_fits(drawn(Attention, random), variant(changes))


@settings(max_examples=6)
@given(st.randoms(use_true_random=False), st.sampled_from(MACHINES))
def test_latent_attention_on_small_machines(random, changes):
    executed_if_it_fits(drawn(Mla, random), variant(changes))


@settings(max_examples=5)
@given(st.randoms(use_true_random=False), st.sampled_from([EDGE, "kpu-many-small"]))
def test_every_form_on_larger_machines(random, name):
    execute(drawn(Attention, random), preset(name))


@settings(max_examples=12)
@given(st.randoms(use_true_random=False), st.data())
def test_every_mapping_is_right(random, data):
    attention, machine = drawn(Attention, random), variant(MACHINES[1])
    try:
        found = search(attention.problem, machine, attention.variant)
    except UserError:
        assume(False)
    mapping = data.draw(st.sampled_from([mapping for mapping, _ in found.weighed]))
    lowered, _ = execute(attention, machine, mapping)
    assert lowered.mapping == mapping


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("text", [
    "attention(queries=1, keys=1, head_dim=1)",
    "attention(heads=2, queries=33, keys=65, head_dim=16, mask=causal)",
    "attention(heads=4, kv_heads=1, queries=1, keys=200, head_dim=16, mask=causal, batch=2)",
])  # fmt: skip
def test_every_machine(name, text):
    execute(make_operator(text), preset(name))


@pytest.mark.parametrize(("head_dim", "value_dim"), [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)])
def test_head_sizes_of_models(head_dim, value_dim):
    execute(Attention(40, 72, head_dim, value_dim=value_dim, mask="causal"), preset(EDGE))


@pytest.mark.parametrize("size", [1e4, -1e4, 1e30])
@pytest.mark.parametrize("text", [
    "attention(queries=20, keys=12, head_dim=4, mask=causal, scale=1.0, variant=flash)",  # the first 8 see nothing
    "attention(queries=20, keys=12, head_dim=4, mask=causal, scale=1.0, dtype=fp32, variant=pipelined)",
    "attention(queries=1, keys=300, head_dim=4, scale=1.0, dtype=fp32)",
    "attention(queries=1, keys=300, head_dim=4, scale=1.0, window=9, mask=causal)",
])  # fmt: skip
def test_large_scores_and_rows_without_keys_are_no_nan(text, size):
    attention, machine = make_operator(text), variant(MACHINES[1])
    program = attention.lower(machine).program
    inputs = random_inputs(program, 3)
    inputs["q"] = (np.sign(inputs["q"].astype(np.float32)) * size).astype(inputs["q"].dtype)
    executor = Executor(program, machine, inputs)
    simulate(program, machine, plain=True, watcher=executor)
    out = executor.outputs()["out"].astype(np.float64)
    reference, bound = attention.reference(inputs)["out"], attention.error_bound(inputs)["out"]
    assert np.isfinite(out).all()
    assert compare(executor.outputs()["out"], reference, attention.out_dtype, bound=bound).passed
    if attention.queries > attention.keys:
        assert not out[0, : attention.queries - attention.keys].any()


def test_streams_of_equal_length_begin_at_different_blocks(monkeypatch):
    attention, machine = Attention(1, 4096, 128, heads=32, kv_heads=8), preset(DATACENTER)

    def cycles():
        items.schedule.cache_clear()
        return simulate(attention.lower(machine).program, machine).cycles

    try:
        apart = cycles()
        monkeypatch.setattr(items, "_turn", lambda *_: 0)
        assert apart < 0.95 * cycles()  # where all meet in the same channels
    finally:
        items.schedule.cache_clear()


@pytest.mark.parametrize("text", [example.text for family in (Attention, Mla) for example in family.examples])
def test_examples_are_operators(text):
    operator = make_operator(text)
    assert make_operator(text_of(operator)) == operator


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_more_on_every_machine(seed):
    random = Random(seed)
    for _ in range(20):
        attention = (Mla if random.random() < 0.2 else Attention).draw(random)
        try:
            attention.check()
        except UserError:
            continue
        if attention.parts:
            continue
        machine = random.choice([*map(preset, PRESETS[:2]), *map(variant, MACHINES)])
        executed_if_it_fits(attention, machine)


# --- the page --------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "attention.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", PAGE.split("```")[1].strip().splitlines())
def test_examples_on_the_page_run(text):
    (run,) = run_plans((operator_plan(make_operator(text), preset(EDGE)),))
    assert run.cycles > 0


def test_every_parameter_and_key_is_told():
    told = set(re.findall(r"`(\w+)[`=]", PAGE))
    for kind in (Attention, Mla, Mapping):
        assert {field.name for field in attrs.fields(kind)} <= told


def test_split_keys_where_streams_have_different_numbers_of_items():
    """A condition in another: a stream has the item, and is not the first of its team."""
    operator = make_operator("attention(queries=5, keys=10, head_dim=8, value_dim=4)")
    mapping = Mapping("flash", tokens=1, heads=1, token_tiles=2, block_keys=4, splits=2)
    execute(operator, variant("tiles.columns=5"), mapping=mapping)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("sizes", ["queries=20, keys=64, page=4, sinks=4", "queries=1, keys=90, page=2, sinks=9"])
def test_pages_between_sinks_and_window_are_listed_though_not_read(sizes, splits):
    operator = make_operator(f"attention({sizes}, head_dim=8, heads=2, mask=causal, window=8)")
    mapping = Mapping("flash", tokens=1, heads=1, token_tiles=1, block_keys=4, splits=splits)
    execute(operator, variant("sram.capacity=16KiB"), mapping=mapping)
