"""Fused boundaries: two operators as one, right on data, with the traffic of what lay between them saved exactly."""

from math import prod

import numpy as np
import pytest
from gemms import EDGE, preset
from hypothesis import given, settings
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_BITS
from kpusim.operators import FAMILIES, make_operator
from kpusim.operators.describe import describe
from kpusim.operators.fusion import RULES, fuse, partners
from kpusim.plan import load_workload, parse_workload, plan_workload
from kpusim.report.execute import verify_step
from kpusim.simulate.workload import run_plans

UP = """
name = "mlp"
[symbols]
t = 64
[tensors]
x = { role = "input", shape = ["t", 64] }
q = { role = "activation", shape = ["t", 128] }
s = { role = "input", shape = ["t", 128] }
y = { role = "output", shape = ["t", 128] }
w = { role = "weight", shape = [64, 128] }
[[operators]]
name = "up"
family = "gemm"
ports = { a = "x", b = "w", out = "q" }
[[operators]]
name = "sum"
family = "add"
ports = { a = "q", b = "s", out = "y" }
boundary = "fused"
"""


def planned(text, *changes):
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return plan_workload(parse_workload(text, "w.toml"), preset(EDGE))[0]


def measured(plan, *, verify=True):
    """(cycles from launch to end, HBM bytes read, HBM bytes written) of a plan, every step verified on data."""
    for step in plan.steps if verify else ():
        assert all(each.verdict.passed for each in verify_step(step, plan))
    (run,) = run_plans((plan,))
    counters = [op.executed.run.counters for op in run.ops]
    return run.ops[-1].end, *(sum(each[f"hbm.{way}_bytes"] for each in counters) for way in ("read", "write"))


def test_what_lay_between_is_neither_written_nor_read():
    cycles, read, written = measured(planned(UP))
    for boundary in ("launch", "barrier"):
        slow, more_read, more_written = measured(planned(UP, ('"fused"', f'"{boundary}"')))
        assert (more_read - read, more_written - written) == (64 * 128 * 2, 64 * 128 * 2)
        assert slow > cycles


def test_a_fold_is_one_step_under_both_names():
    plan = planned(UP)
    (step,) = plan.steps
    assert (step.name, step.boundary) == ("up+sum", "launch")
    assert step.operator == make_operator("gemm(m=64, n=128, k=64, residual=true)")
    assert {port: standing.tensor for port, standing in step.ports.items()} == {
        "a": "x", "b": "w", "residual": "s", "out": "y"
    }  # fmt: skip
    assert plan.memory.peak_bytes == 2 * (64 * 64 + 64 * 128 + 2 * 64 * 128)  # no room for q


THIRD = """
[[operators]]
name = "third"
family = "add"
ports = { a = "A", b = "s", out = "z" }
"""
Z = ("q = {", 'z = { role = "activation", shape = ["t", 128] }\nq = {')


WIDE = [(f'{name} = {{ role = "{role}"', f'{name} = {{ dtype = "fp32", role = "{role}"')
        for name, role in (("s", "input"), ("q", "activation"))]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [
    ([('name = "up"', 'name = "up"\nboundary = "fused"')],
     "w.toml:13: [operators.0] boundary: up has nothing before it that it could be fused with: the workload"),
    ([('a = "q", b = "s"', 'a = "s", b = "s"')],
     "sum reads nothing of what up writes; found 'a = s, b = s'; allowed: one port with q"),
    ([('b = "s"', 'b = "q"')], "w.toml:19: [operators.1] boundary: sum reads twice what up writes"),
    ([('family = "add"', 'family = "mul"')],
     "up and sum do not fuse: no lowering fuses gemm into mul; allowed: gemm + relu, gemm + gelu"),
    ([('b = "w", out = "q" }', 'b = "w", residual = "s", out = "q" }\noptions = { residual = true }')],
     "up and sum do not fuse: gemm with this residual does not fuse; found 'residual=True'; allowed: residual=False"),
    (WIDE, "the fused gemm reads and writes residual as bf16 [64, 128]; found 'fp32 [64, 128] at port b of add'"),
    ([('q = { role = "activation"', 'q = { role = "output"')],
     "up+sum does not write q, an output; allowed: launch, barrier"),
    ([Z, ('boundary = "fused"\n', 'boundary = "fused"\n' + THIRD.replace("A", "q"))],
     "w.toml:20: [operators.1] boundary: up+sum does not write q, which third reads; allowed: launch, barrier"),
])  # fmt: skip
def test_what_does_not_fuse_is_told_with_its_place(changes, message):
    with pytest.raises(UserError) as caught:
        planned(UP, *changes)
    assert message in str(caught.value)


def test_a_tensor_written_anew_may_be_read():
    """The third operator reads the q of its own iteration's start, which is written again before."""
    again = THIRD.replace("A", "q") + UP[UP.index("[[operators]]") : UP.index('[[operators]]\nname = "sum"')].replace(
        '"up"', '"again"'
    )
    first, _, third = again.partition('[[operators]]\nname = "again"')
    text = UP.replace("q = {", 'z = { role = "activation", shape = ["t", 128] }\nq = {')
    plan = planned(text + '[[operators]]\nname = "again"' + third + first)
    assert [step.name for step in plan.steps] == ["up+sum", "again", "third"]
    measured(plan)


TWO_RESULTS = """
name = "norm"
[tensors]
x = { role = "input", shape = [8, 16] }
r = { role = "input", shape = [8, 16] }
w = { role = "weight", shape = [16] }
s = { role = "activation", shape = [8, 16] }
n = { role = "output", shape = [8, 16] }
y = { role = "output", shape = [8, 16] }
[[operators]]
name = "norm"
family = "rmsnorm"
ports = { x = "x", residual = "r", weight = "w", sum = "s", out = "n" }
options = { residual = true }
[[operators]]
name = "relu"
family = "relu"
ports = { x = "s", out = "y" }
boundary = "fused"
"""


def test_only_a_result_is_fused_with():
    with pytest.raises(UserError, match="relu reads sum of norm: what fuses is its result; found 'port sum'"):
        planned(TWO_RESULTS)


def repeated(text):
    """Both operators in a block of two iterations."""
    block = '[[operators]]\nname = "layer"\nrepeat = 2\n'
    first = text.index("[[operators]]")
    return text[:first] + block + text[first:].replace("[[operators]]", "[[operators.operators]]")


def test_every_iteration_is_fused():
    plan = planned(repeated(UP))
    assert [step.name for step in plan.steps] == ["layer[0].up+sum", "layer[1].up+sum"]


def test_the_next_iteration_counts_as_a_reader():
    early = THIRD.replace("A", "q").replace("[[operators]]", "[[operators.operators]]")
    text = repeated(UP).replace("repeat = 2\n", "repeat = 2\n" + early).replace(*Z)
    with pytest.raises(UserError, match="up.sum does not write q, which third reads"):
        planned(text)


def test_the_file_may_say_it_for_all():
    text = UP.replace('\nboundary = "fused"', "").replace('name = "mlp"', 'name = "mlp"\nboundary = "fused"')
    assert [step.name for step in planned(text).steps] == ["up+sum"]
    with pytest.raises(UserError, match="w.toml:3: boundary: up has nothing .* repeat block layer begins there"):
        planned(repeated(text))


# --- every rule -------------------------------------------------------------------------------------------------------

REALS = st.sampled_from(["bf16", "fp16", "fp32"])


def text(family, **options):
    return f"{family}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def norm_text(family, rows, columns, dtype, out_dtype):
    return text(family, rows=rows, columns=columns, dtype=dtype, out_dtype=out_dtype, eps=1e-3)


@st.composite
def pairs(draw, one, two):
    """Two operators of these families that fuse, and the port of the second that reads the first."""
    rows, columns, k = (draw(st.integers(1, 40)) for _ in range(3))
    dtype, out, port = draw(REALS), draw(REALS), "x"
    gemm = {"m": rows, "n": columns, "k": k} | ({"groups": 2} if "grouped_gemm" in (one, two) else {})
    if one in ("gemm", "grouped_gemm"):
        first = text(one, **gemm, dtype=dtype, out_dtype=dtype, transpose_b=draw(st.booleans()))
    elif one == "rope":
        head = 2 * draw(st.integers(1, 8))
        first = text("rope", rows=rows, columns=3 * head, head_dim=head, dtype=dtype)
        second = text("attention", heads=3, queries=rows, keys=rows, head_dim=head, dtype=dtype, layout="tokens")
        return make_operator(first), make_operator(second), "q"
    elif one == "add":
        first = text("add", rows=rows, columns=columns, dtype=dtype)
    else:
        columns = k if two in ("gemm", "grouped_gemm") else columns
        first = norm_text(one, rows, columns, dtype, dtype)
    if two in ("gemm", "grouped_gemm"):
        port, second = "a", text(two, **(gemm | {"n": draw(st.integers(1, 40))}), dtype=dtype, out_dtype=out)
    elif two == "add":
        port = draw(st.sampled_from("ab"))
        second = text("add", rows=rows, columns=columns, dtype=dtype)
    elif two in ("rmsnorm", "layernorm"):
        second = norm_text(two, rows, columns, dtype, out)
    else:
        second = text(two, rows=rows, columns=columns, dtype=dtype, out_dtype=out)
    return make_operator(first), make_operator(second), port


@pytest.mark.parametrize("rule", RULES, ids="+".join)
@settings(max_examples=6)
@given(st.data())
def test_the_fused_operator_computes_what_both_do(rule, data):
    """In float64, where nothing is rounded between the two."""
    first, second, port = data.draw(pairs(*rule))
    both = fuse(first, second, port)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    inputs = [{each.name: rng.standard_normal(each.shape) for each in op.ports} for op in (first, second)]
    if rule[1] == "grouped_gemm":
        inputs[1]["rows"] = np.array(second.problem.groups)
    between = first.reference(inputs[0])["out"]
    expected = second.reference(inputs[1] | {port: between})
    found = both.operator.reference({name: inputs[which][at] for name, (which, at) in both.ports.items()})
    assert found["out"] == pytest.approx(expected["out"], rel=1e-9, abs=1e-9)
    if "sum" in found:
        assert found["sum"] == pytest.approx(between)


GEMM = {"m": 512, "n": 128, "k": 128}
SHAPES = {
    "gemm": GEMM, "grouped_gemm": {"groups": 2} | GEMM,
    "attention": {"heads": 2, "queries": 128, "keys": 128, "head_dim": 64, "layout": "tokens"},
    "rope": {"rows": 128, "columns": 128, "head_dim": 64},
}  # fmt: skip
OPTIONS = {"heads", "head_dim", "layout"}  # that no tensor tells


def workload(rule, boundary):
    """A file with both operators, and a tensor at each port."""
    shapes = [SHAPES.get(family, {"rows": 512, "columns": 128}) for family in rule]
    operators = [make_operator(text(family, **shape)) for family, shape in zip(rule, shapes, strict=True)]
    tensors, stages = [], []
    for number, (operator, shape) in enumerate(zip(operators, shapes, strict=True)):
        names = {port.name: f"t{number}_{port.name}" for port in operator.ports}
        if number:
            names[operator.ports[0].name] = "t0_out"
        for port in operator.ports[number:]:
            role = "input" if port.role == "in" else "output" if number or port.name != "out" else "activation"
            tensors.append(
                f"{names[port.name]} = {{ role = '{role}', shape = {[*port.shape]}, dtype = '{port.dtype}' }}"
            )
        ports = ", ".join(f"{port} = '{tensor}'" for port, tensor in names.items())
        options = ", ".join(f"{name} = {value!r}" for name, value in shape.items() if name in OPTIONS)
        stages += ["[[operators]]", f"name = 'o{number}'", f"family = '{operator.family}'", f"ports = {{ {ports} }}"]
        stages += [f"options = {{ {options} }}"]
    return "\n".join(["name = 'two'", "[tensors]", *tensors, *stages, f"boundary = '{boundary}'"])


def read_again(plan):
    """Bytes that a fused operator reads more often than the two did: see the docs of each."""
    operator = plan.steps[0].operator
    if operator.family == "attention":
        return 2 * 128 * 32 * 4  # cos and sin, for the second head
    if operator.family not in ("gemm", "grouped_gemm") or operator.prologue == "none":
        return 0
    mapping = operator.lower(plan.machine).mapping
    down, across = mapping.rounds(operator.problem)
    vectors = [port for port in operator.ports if port.name.startswith("norm_")]
    each = sum(prod(port.shape) * DTYPE_BITS[port.dtype] // 8 for port in vectors)
    return (mapping.grid_batch * down * across - 1) * each


@pytest.mark.parametrize("rule", [
    ("rmsnorm", "gemm"), ("layernorm", "gemm"), ("batchnorm", "gemm"), ("rmsnorm", "grouped_gemm"), ("gemm", "gelu"),
    ("gemm", "cast"), ("rmsnorm", "silu"), ("batchnorm", "relu"), ("add", "rmsnorm"), ("add", "layernorm"),
    ("rope", "attention"),
], ids="+".join)  # fmt: skip
def test_what_lay_between_is_saved_by_every_kind_of_rule(rule):
    plan = planned(workload(rule, "fused"))
    cycles, read, written = measured(plan)
    slow, more_read, more_written = measured(planned(workload(rule, "launch")), verify=False)
    moved = (128 if "rope" in rule else 512) * 128 * 2  # bytes of what lies between
    assert more_read - read == moved - read_again(plan)
    assert more_written - written == (0 if rule[0] == "add" else moved)  # of a norm's residual the sum is an output
    if rule != ("layernorm", "gemm"):  # columns of B are added up, too, which so few rows do not make up for
        assert slow > cycles
        assert measured(planned(workload(rule, "barrier")), verify=False)[0] > cycles


def test_a_layernorm_is_fused_to_advantage_where_rows_are_many():
    def cycles(boundary):
        file = workload(("layernorm", "gemm"), boundary).replace("shape = [512, 128]", "shape = [2048, 128]")
        return measured(planned(file), verify=False)[0]

    assert cycles("fused") < cycles("launch")


def test_partners_are_the_rules():
    assert partners("gemm") == (
        ["rmsnorm", "layernorm", "batchnorm"], ["relu", "gelu", "gelu_tanh", "silu", "cast", "add"]
    )  # fmt: skip
    assert partners("rmsnorm")[0] == ["add"]
    assert {family for rule in RULES for family in rule} <= {*FAMILIES}


def test_the_port_that_is_read_matters():
    gemm = make_operator("gemm(m=8, n=8, k=8)")
    for port, other in (("a", "b"), ("b", "a")):
        both = fuse(gemm, make_operator("add(rows=8, columns=8)"), port)
        assert both.ports["residual"] == (1, other)
    rope = make_operator("rope(rows=8, columns=16, head_dim=8, table=8)")
    attention = make_operator("attention(heads=2, queries=8, keys=8, head_dim=8, layout=tokens)")
    with pytest.raises(UserError, match="rope with this table does not fuse; found 'table=8'"):
        fuse(rope, attention, "q")
    two = make_operator("attention(heads=2, queries=4, keys=8, head_dim=8, layout=tokens, batch=2)")
    with pytest.raises(UserError, match="attention with this batch does not fuse"):
        fuse(make_operator("rope(rows=8, columns=16, head_dim=8)"), two, "q")
    with pytest.raises(UserError, match="a GEMM normalises A on its way, nothing else; found 'port b'"):
        fuse(make_operator("rmsnorm(rows=8, columns=8)"), gemm, "b")


def test_a_family_says_what_it_fuses_with():
    assert describe("rope").fusions == ("rope + attention",)
    assert "rmsnorm + gemm" in describe("gemm").fusions
    assert not describe("gather").fusions


def test_a_whole_decoder_layer():
    """The workload that comes with kpusim, small enough for data: every fold and what stands between."""
    sizes = {"tokens": 24, "hidden": 64, "heads": 4, "kv_heads": 2, "head_size": 16, "intermediate": 48}
    (plan,) = plan_workload(load_workload("llama3-8b-layer-fused"), preset(EDGE), sizes)
    assert [step.name for step in plan.steps] == [
        "norm_k+k", "rope_k", "norm_v+v", "norm_q+q", "rope_q+attention", "o+add_x", "norm_h+gate_up", "swiglu",
        "down+add_h",
    ]  # fmt: skip
    measured(plan)
