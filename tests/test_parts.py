"""Operators that are several programs: a plan has a step for each, which hand tensors to each other through memory."""

import pytest
from gemms import TINY, preset

from kpusim.errors import UserError
from kpusim.operators import Part, Port, lower_as, make_operator, text_of
from kpusim.operators.gemm import Gemm
from kpusim.plan import operator_plan
from kpusim.report.execute import verify_step
from kpusim.simulate.workload import run_plans

UP, DOWN = Gemm(8, 16, 8), Gemm(8, 4, 16)


class Chain:
    """out = x w1 w2, x [2, 4, 8], through `hidden`, which is [8, 16] for both."""

    family = "chain"

    @property
    def ports(self):
        shapes = {"x": (2, 4, 8), "w1": (8, 16), "w2": (16, 4), "out": (8, 4)}
        return tuple(Port(name, "out" if name == "out" else "in", (), shape, "bf16") for name, shape in shapes.items())

    @property
    def parts(self):
        return (
            Part("up", UP, {"a": "x", "b": "w1", "out": "hidden"}),
            Part("down", DOWN, {"a": "hidden", "b": "w2", "out": "out"}),
        )


def test_a_plan_of_parts():
    plan = operator_plan(Chain(), preset(TINY))
    assert [step.name for step in plan.steps] == ["chain.up", "chain.down"]
    up, down = plan.steps
    assert up.operator == UP
    assert up.ports["out"].address == down.ports["a"].address  # the tensor between them
    assert [at.tensor for at in down.ports.values()] == ["hidden", "w2", "out"]
    addresses = {at.tensor: at.address for step in plan.steps for at in step.ports.values()}
    assert len(set(addresses.values())) == len(addresses) == 5
    assert plan.memory.peak_bytes == 2 * (2 * 4 * 8 + 8 * 16 + 16 * 4 + 8 * 4 + 8 * 16)
    (run,) = run_plans((plan,))
    assert run.launches == 2
    assert [op.executed.run.counters["macs.bf16"] for op in run.ops] == [8 * 16 * 8, 8 * 4 * 16]
    assert all(found.verdict.passed for step in plan.steps for found in verify_step(step, plan))


def test_what_is_handed_on_is_there_only_meanwhile():
    class Long(Chain):
        @property
        def parts(self):
            square = Gemm(8, 16, 16)
            return (
                super().parts[0],
                Part("one", square, {"a": "hidden", "b": "w3", "out": "b"}),
                Part("two", square, {"a": "b", "b": "w3", "out": "c"}),
                Part("down", DOWN, {"a": "c", "b": "w2", "out": "out"}),
            )

        @property
        def ports(self):
            return (*super().ports, Port("w3", "in", (), (16, 16), "bf16"))

    plan = operator_plan(Long(), preset(TINY), "long")
    own = 2 * (2 * 4 * 8 + 8 * 16 + 16 * 4 + 8 * 4 + 16 * 16)
    assert plan.memory.peak_bytes == own + 2 * (2 * 8 * 16)  # of three that are handed on never more than two
    assert [step.label for step in plan.steps] == ["long.up", "long.one", "long.two", "long.down"]


def test_parts_are_lowered_one_by_one():
    with pytest.raises(UserError) as caught:
        lower_as(Chain(), preset(TINY))
    told = "chain: several programs; allowed: one of its parts: "
    assert str(caught.value) == f"{told}{text_of(UP)} or {text_of(DOWN)}"
    assert make_operator(text_of(UP)) == UP
    with pytest.raises(UserError, match="several programs"):
        operator_plan(Chain(), preset(TINY), mapping="m.toml")
