"""Workload files, expressions, and the planner."""

import pytest

from kpusim.errors import UserError
from kpusim.isa.layout import Layout
from kpusim.machine import load_machine
from kpusim.operators import make_operator
from kpusim.plan import load_workload, operator_plan, parse_workload, plan_workload, workload_names
from kpusim.plan.expression import evaluate, resolve_symbols
from kpusim.plan.memory import Lifetime, place
from kpusim.simulate.run import simulate

TINY = load_machine("kpu-tiny")
PERIOD = TINY.hbm.alignment_bytes

CHAIN = """
name = "chain"
[symbols]
layers = 2
rows = 8
[tensors]
x = { role = "input", shape = ["rows", 16] }
w = { role = "weight", shape = [16, 16], per = "layer" }
u = { role = "activation", shape = ["rows", 16] }
v = { role = "output", shape = ["rows", 16], dtype = "fp32" }
w2 = { role = "weight", shape = [16, 16] }
[[operators]]
name = "layer"
repeat = "layers"
[[operators.operators]]
name = "one"
family = "gemm"
ports = { a = "x", b = "w", out = "u" }
[[operators]]
name = "two"
family = "gemm"
ports = { a = "u", b = "w2", out = "v" }
boundary = "barrier"
"""


def planned(text=CHAIN, machine=TINY, **symbols):
    return plan_workload(parse_workload(text, "w.toml"), machine, symbols)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), (7, 7), ("a * (b + 2)", 12), ("(a + b * 4) // 2", 5), (" a - b ", 1)],
)
def test_expressions(text, value):
    assert evaluate(text, {"a": 3, "b": 2}, "here") == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tokns", "unknown symbol; found 'tokns'; allowed: tokens; did you mean 'tokens'?"),
        ("tokens +", "not an expression"),
        ("__import__('os')", "not an expression"),
        ("tokens ** 2", "not an expression"),
        ("2.5", "not an expression"),
        ("True", "not an expression"),
        ("tokens // (tokens - 4)", "division by zero"),
        ("1000000000 * 1000000000 * 1000000000", "too large a number"),
        ("1" * 201, "too long an expression"),
        ("(" * 150, "not an expression"),
        ("a\0", "not an expression"),
    ],
)
def test_bad_expressions(text, problem):
    with pytest.raises(UserError, match="^here: ") as caught:
        evaluate(text, {"tokens": 4}, "here")
    assert problem in str(caught.value)


def test_symbols_use_earlier_ones_and_changes_win():
    declared = {"heads": 8, "size": 16, "hidden": "heads * size"}
    assert resolve_symbols(declared, {}, str) == {"heads": 8, "size": 16, "hidden": 128}
    assert resolve_symbols(declared, {"heads": "2"}, str)["hidden"] == 32
    assert resolve_symbols(declared, {"hidden": 7}, str)["hidden"] == 7
    with pytest.raises(UserError, match="did you mean 'heads'"):
        resolve_symbols(declared, {"head": 2}, str)
    with pytest.raises(UserError, match="unknown symbol"):
        resolve_symbols({"a": "b", "b": 1}, {}, str)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "input"', 'rol = "input"', "w.toml:7: [tensors.x] rol: unknown key; found 'rol'"),
        ('role = "input"', 'role = "inptu"', "did you mean 'input'?"),
        ('["rows", 16] }\nw =', '["rowz", 16] }\nw =', "w.toml:7: [tensors.x] shape: unknown symbol; found 'rowz'"),
        ("rows = 8", "rows = 0", "a size of x is 0 (rows); allowed: at least 1"),
        ("rows = 8", 'rows = "8 GB"', "not an expression"),
        ("rows = 8", "rows = 8.5", "w.toml:5: [symbols] rows: wrong type"),
        ("shape = [16, 16], per", 'shape = "16", per', "[tensors.w] shape: wrong type; found '16'"),
        ("[tensors]", "[tensor]", "unknown key; found 'tensor'; allowed:"),
        ('per = "layer"', 'per = "layre"', "no such repeat block"),
        ("layers = 2", "layers = 0", "impossible number of iterations"),
        ('name = "two"', 'name = "one"', "a second operator of this name"),
        ('family = "gemm"\nports = { a = "u"', 'family = "gem"\nports = { a = "u"', "did you mean 'gemm'?"),
        ('a = "u", b', 'a = "uu", b', "unknown tensor; found 'uu'"),
        ('a = "u", b = "w2"', 'b = "w2"', "two has no tensor at port a; allowed: ports a [m, k], b [k, n], out [m, n]"),
        ('a = "u", b', 'aa = "u", b', "no such port; found 'aa'; allowed: a, b, out; did you mean 'a'?"),
        ('out = "v"', 'out = "v", c = "x"', "no such port; found 'c'"),
        ('boundary = "barrier"', 'boundary = "fused"', "could be fused with: repeat block layer ends"),
        ('boundary = "barrier"', 'boundary = "barier"', "did you mean 'barrier'?"),
        ('boundary = "barrier"', "options = { transpos_b = true }", "did you mean 'transpose_b'?"),
        ('boundary = "barrier"', "options = { transpose_b = 3 }", "impossible transpose_b of gemm"),
        ('boundary = "barrier"', "options = { m = 3 }", "comes from the shapes of the tensors"),
        ('a = "u", b = "w2"', 'a = "u", b = "w"', "two is not in repeat block layer, as w is"),
        ('a = "u", b = "w2", out = "v"', 'a = "u", b = "w2", out = "u"', "two reads and writes u at once"),
        ('a = "u", b = "w2", out = "v"', 'a = "u", b = "w2", out = "x"', "two writes x, whose role is input"),
        ('u = { role = "activation"', 'u = { role = "activation", dtype = "fp16"', "b of two is fp16, but w2 is bf16"),
        ('dtype = "fp32"', 'dtype = "fp33"', "did you mean 'fp32'?"),
        ('a = "x"', 'a = "u"', "one reads the activation u, which no"),
    ],
)
def test_bad_workloads_are_told_with_their_place(old, new, message):
    assert old in CHAIN
    with pytest.raises(UserError, match=r"^w\.toml") as caught:
        planned(CHAIN.replace(old, new))
    assert message in str(caught.value)


def test_shapes_that_disagree_are_told_with_both_tensors():
    text = CHAIN.replace('w2 = { role = "weight", shape = [16', 'w2 = { role = "weight", shape = [12')
    with pytest.raises(UserError) as caught:
        planned(text)
    assert "k of two is 16 in u [8, 16] at port a [m, k], but 12 in w2 [12, 16] at port b [k, n]" in str(caught.value)


def test_an_activation_is_written_before_it_is_read():
    text = CHAIN.replace('out = "u"', 'out = "v"').replace('dtype = "fp32"', 'dtype = "bf16"')
    with pytest.raises(UserError, match=r'two reads the activation u, which .* "input"'):
        planned(text.replace('a = "u", b = "w2", out = "v"', 'a = "u", b = "w2", out = "v"'))


def test_an_output_is_written_before_it_is_read():
    text = CHAIN.replace(', dtype = "fp32"', "")
    with pytest.raises(UserError) as caught:
        planned(text.replace('a = "x"', 'a = "v"'))
    assert str(caught.value).startswith("w.toml:18: [operators.0.operators.0] ports: one reads the output v, which no")
    (plan,) = planned(text.replace('role = "activation"', 'role = "output"'))  # one writes u, two reads it
    assert plan.steps[1].ports["out"].address == plan.steps[2].ports["a"].address


def test_a_repeat_block_is_unrolled_with_tensors_of_its_own():
    (plan,) = planned()
    assert [step.name for step in plan.steps] == ["layer[0].one", "layer[1].one", "two"]
    assert [step.boundary for step in plan.steps] == ["launch", "launch", "barrier"]
    one, other, two = plan.steps
    assert one.operator == other.operator
    assert one.ports["a"].address == other.ports["a"].address
    assert one.ports["b"].address != other.ports["b"].address
    assert other.ports["out"].address == two.ports["a"].address
    assert two.operator.out_dtype == "fp32"
    assert all(standing.address % PERIOD == 0 for step in plan.steps for standing in step.ports.values())


def test_peak_bytes_count_each_iteration_and_only_live_activations():
    (plan,) = planned()
    size, weight = 8 * 16 * 2, 16 * 16 * 2
    resident = size + 3 * weight + 2 * size  # x, w[0], w[1], w2, and v in fp32
    assert plan.memory.peak_bytes == resident + size
    (plan,) = planned(layers=5)
    assert plan.memory.peak_bytes == resident + 3 * weight + size
    assert plan.memory.peak_padded_bytes == (2 + 6 + 1) * PERIOD


def test_memory_of_the_dead_is_taken_again():
    lives = [Lifetime("a", 1, 0, 1), Lifetime("b", 1, 1, 2), Lifetime("c", 2 * PERIOD, 2, 3), Lifetime("w", 1, 0, 3)]
    memory = place(lives, 4, TINY, "w.toml")
    address = {found.tensor.name: found.address // PERIOD for found in memory.places}
    assert address == {"w": 0, "a": 1, "b": 2, "c": 3}
    assert (memory.peak_bytes, memory.peak_padded_bytes) == (2 * PERIOD + 2, 4 * PERIOD)
    memory = place([Lifetime("a", 1, 0, 0), Lifetime("b", 1, 1, 1)], 2, TINY, "w.toml")
    assert memory.extent_bytes == PERIOD


def test_a_tensor_too_large_for_the_hbm_is_named():
    with pytest.raises(UserError, match=r"w\.toml: tensor x does not fit into the HBM of kpu-tiny: it needs"):
        planned(rows=10**6)


def test_layouts_reach_the_program():
    from kpusim.simulate.workload import run_plans

    plans = planned(CHAIN.replace('per = "layer"', 'per = "layer", layout = "blocked [8, 8]"'))
    programs = [op.executed.lowered.program for run in run_plans(plans) for op in run.ops]
    assert {tensor.block for program in programs for tensor in program.tensors} == {(), (8, 8)}
    with pytest.raises(UserError, match="unknown layout"):
        planned(CHAIN.replace('per = "layer"', 'layout = "blokced [8, 8]"'))


def test_runs_and_symbols():
    loaded = load_workload("llama3-8b-layer")
    machine = load_machine("kpu-datacenter")
    plans = plan_workload(loaded, machine)
    assert [plan.name for plan in plans] == ["prefill", "decode-1", "decode-32"]
    assert [plan.steps[0].operator.m for plan in plans] == [2048, 1, 32]
    sizes = [tuple(step.operator.dimensions.values())[1:] for step in plans[0].steps]
    assert sizes == [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
    assert all(step.operator.transpose_b for step in plans[0].steps)
    (plan,) = plan_workload(loaded, machine, {"tokens": "64"})
    assert (plan.name, plan.steps[0].operator.m) == ("tokens=64", 64)
    (plan,) = plan_workload(loaded, machine, {"tokens": "64"}, ["decode-1"])
    assert (plan.name, plan.steps[0].operator.m) == ("decode-1 tokens=64", 64)
    assert len(plan_workload(loaded, machine, {"hidden": 2048})) == 3
    with pytest.raises(UserError, match="did you mean 'prefill'"):
        plan_workload(loaded, machine, runs=["prefil"])


@pytest.mark.parametrize("name", workload_names())
def test_shipped_workloads_load(name):
    loaded = load_workload(name)
    assert loaded.workload.name == name
    assert plan_workload(loaded, load_machine("kpu-datacenter"))


def test_a_workload_is_found_by_path_or_name(tmp_path):
    (tmp_path / "mine.toml").write_text(CHAIN)
    assert load_workload(tmp_path / "mine.toml").workload.name == "chain"
    with pytest.raises(UserError, match="did you mean 'tiny-mlp'"):
        load_workload("tiny-mpl")
    with pytest.raises(UserError, match="cannot be read"):
        load_workload(tmp_path / "none.toml")


def test_one_operator_alone():
    from kpusim.operators import make_operator

    plan = operator_plan(make_operator("gemm(m=4, n=4, k=4)"), TINY)
    assert [item.tensor.name for item in plan.memory.places] == ["a", "b", "out"]
    with pytest.raises(UserError, match="tensor a does not fit"):
        operator_plan(make_operator("gemm(m=1000000, n=4, k=4000)"), TINY)


def test_blocks_of_a_step_save_row_openings():
    """In blocks of 64 x 64 a load of B is whole runs of 8 KiB; row-major it is runs of 64 elements, a row each."""
    machine, operator = load_machine("kpu-edge"), make_operator("gemm(m=64, n=4096, k=1024)")
    misses = [
        simulate(operator.lower(machine, layouts).program, machine).counters["hbm.row_misses"]
        for layouts in ({}, {"b": Layout((64, 64))})
    ]
    assert 4 * misses[1] < misses[0]


def test_a_negative_seed_is_named():
    with pytest.raises(UserError, match=r"w\.toml:7: .*a seed cannot be negative; found -1"):
        planned(CHAIN.replace('role = "input"', 'role = "input", seed = -1'))
