"""Fused boundaries: two operators as one, right on data, with the traffic of what lay between them saved exactly."""

import pytest
from gemms import EDGE, preset

from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.fusion import RULES, fuse, partners
from kpusim.plan import parse_workload, plan_workload
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


def measured(plan):
    """(cycles from launch to end, HBM bytes read, HBM bytes written) of a plan, every step verified on data."""
    for step in plan.steps:
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
     "up and sum do not fuse: residual of gemm stands between the two; found 'residual=True'; allowed: residual=False"),
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


def test_partners_are_the_rules():
    assert "add" in partners("gemm")[1]
    assert "gemm" in partners("add")[0]
    assert all(one == "gemm" or two == "gemm" for one, two in RULES if "gemm" in (one, two))


def test_the_port_that_is_read_matters():
    gemm = make_operator("gemm(m=8, n=8, k=8)")
    for port, other in (("a", "b"), ("b", "a")):
        both = fuse(gemm, make_operator("add(rows=8, columns=8)"), port)
        assert both.ports["residual"] == (1, other)
