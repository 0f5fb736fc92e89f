"""Attention in workload files, and unfused: three programs, scores and probabilities through HBM."""

from math import sqrt

import pytest
from attrs import evolve
from gemms import EDGE, TINY, preset

from kpusim.errors import UserError
from kpusim.operators import make_operator
from kpusim.operators.attention.operator import Attention, Mla
from kpusim.operators.gemm import Gemm
from kpusim.operators.norm import Softmax
from kpusim.plan import operator_plan, parse_workload, plan_workload
from kpusim.report.execute import verify_step
from kpusim.simulate.workload import run_plans

CHAIN = """
name = "block"
[symbols]
tokens = 24
heads = 4
kv_heads = 2
size = 8
[tensors]
x = { role = "input", shape = ["tokens", 16] }
w = { role = "weight", shape = ["heads * size", 16] }
q = { role = "activation", shape = ["tokens", "heads * size"] }
k = { role = "input", shape = ["tokens", "kv_heads * size"] }
v = { role = "input", shape = ["tokens", "kv_heads * size"] }
y = { role = "output", shape = ["tokens", "heads * size"] }
[[operators]]
name = "project"
family = "gemm"
ports = { a = "x", b = "w", out = "q" }
options = { transpose_b = true }
[[operators]]
name = "attend"
family = "attention"
ports = { q = "q", k = "k", v = "v", out = "y" }
options = { heads = "heads", kv_heads = "kv_heads", head_dim = "size", layout = "tokens", mask = "causal" }
"""
HEADS = """
name = "heads"
[tensors]
q = { role = "input", shape = [4, 6, 8] }
k = { role = "input", shape = [2, 10, 8] }
v = { role = "input", shape = [2, 10, 12] }
y = { role = "output", shape = [4, 6, 12] }
[[operators]]
name = "attend"
family = "attention"
ports = { q = "q", k = "k", v = "v", out = "y" }
options = { heads = 4, kv_heads = 2, mask = "causal" }
"""


def steps(text, machine=TINY):
    (plan,) = plan_workload(parse_workload(text, "w.toml"), preset(machine))
    return plan.steps


def test_sizes_come_from_tensors_and_options():
    project, attend = steps(CHAIN)
    assert attend.operator == Attention(24, 24, 8, heads=4, kv_heads=2, layout="tokens", mask="causal", value_dim=0)
    assert attend.ports["q"].address == project.ports["out"].address
    assert steps(HEADS)[0].operator == Attention(6, 10, 8, heads=4, kv_heads=2, mask="causal", value_dim=12)


def test_stored_dtypes_and_caches_are_told_by_their_tensors():
    text = HEADS.replace("shape = [2, 10, 8]", 'shape = [2, 10, 8], dtype = "int4"')
    text = text.replace("shape = [2, 10, 12]", 'shape = [2, 10, 12], dtype = "int4"').replace(
        "[[operators]]",
        'ks = { role = "input", shape = [2, 1, 8] }\nvs = { role = "input", shape = [2, 10, 1] }\n[[operators]]',
    )
    text = text.replace('v = "v",', 'v = "v", k_scale = "ks", v_scale = "vs",')
    assert steps(text)[0].operator.kv_dtype == "int4"
    paged = HEADS.replace("[2, 10, 8]", "[12, 4, 8]").replace("[2, 10, 12]", "[12, 4, 12]").replace(
        "[[operators]]", 't = { role = "input", shape = [1, 3], dtype = "int32" }\n[[operators]]'
    ).replace('v = "v",', 'v = "v", page_table = "t",')  # fmt: skip
    paged = paged.replace("kv_heads = 2,", "kv_heads = 2, keys = 10, page = 4,")
    (step,) = steps(paged)
    assert (step.operator.keys, step.operator.problem.pages) == (10, 6)


def test_latent_attention_has_the_sizes_of_its_tensors():
    text = """
    name = "mla"
    [tensors]
    q = { role = "input", shape = [3, 2, 20] }
    k = { role = "input", shape = [1, 9, 20] }
    y = { role = "output", shape = [3, 2, 16] }
    [[operators]]
    name = "attend"
    family = "mla"
    ports = { q = "q", k = "k", out = "y" }
    options = { heads = 3, rope_dim = 4 }
    """
    assert steps(text)[0].operator == Mla(2, 9, heads=3, rope_dim=4, latent=16)


@pytest.mark.parametrize(("text", "old", "new", "message"), [
    (CHAIN, ' head_dim = "size",', "", "attend needs the option head_dim: no axis of its tensors is that"),
    (HEADS, "heads = 4,", "heads = 4, queries = 6,", "from the shapes of the tensors; found 'queries'; allowed: ba"),
    (HEADS, "heads = 4,", "hedas = 4,", "no such option; found 'hedas'"),
    (CHAIN, 'head_dim = "size"', "head_dim = 9", "port q of attend is [24, 36], but q is [24, 32]"),
    (HEADS, "[4, 6, 12]", "[4, 6, 11]", "value_dim of attend is 12 in v [2, 10, 12] at port v"),
    (HEADS, "kv_heads = 2", "kv_heads = 3", "as many heads share each head of keys; found 'heads=4, kv_heads=3'"),
    (HEADS, 'k = "k"', 'k = "k", page_table = "q"', "'page_table'; allowed: q, k, v, out; option page makes it one"),
])  # fmt: skip
def test_what_disagrees_is_one_message(text, old, new, message):
    with pytest.raises(UserError) as caught:
        steps(text.replace(old, new))
    assert message in str(caught.value)


# --- unfused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "scores", "probabilities"), [
    ({}, "bf16", "bf16"),
    ({"dtype": "fp32", "out_dtype": "fp32"}, "fp32", "fp32"),
    ({"dtype": "fp8_e4m3"}, "bf16", "fp8_e4m3"),
])  # fmt: skip
def test_three_programs(options, scores, probabilities):
    attention = Attention(
        10, 12, 8, heads=6, kv_heads=2, batch=2, value_dim=4, mask="causal", variant="unfused", **options
    )
    dtype, out = options.get("dtype", "bf16"), options.get("out_dtype", "bf16")
    qk, softmax, pv = attention.parts
    assert qk.operator == Gemm(30, 12, 8, batch=4, transpose_b=True, alpha=1 / sqrt(8), dtype=dtype, out_dtype=scores)
    assert softmax.operator == Softmax(10, 12, batch=12, mask="causal", dtype=scores, out_dtype=probabilities)
    assert pv.operator == Gemm(30, 4, 12, batch=4, dtype=dtype, out_dtype=out)
    plan = operator_plan(attention, preset(TINY))
    assert [step.name for step in plan.steps] == ["attention.qk", "attention.softmax", "attention.pv"]
    assert all(found.verdict.passed for step in plan.steps for found in verify_step(step, plan))


@pytest.mark.parametrize("options", [{}, {"heads": 4, "kv_heads": 2, "mask": "causal"}], ids=str)
def test_scores_and_probabilities_go_through_hbm(options):
    flash = Attention(256, 256, 32, **{"heads": 2} | options)

    def ran(attention):
        (run,) = run_plans((operator_plan(attention, preset(EDGE)),))
        counters = [op.executed.run.counters for op in run.ops]
        return run, *(sum(each[f"hbm.{way}_bytes"] for each in counters) for way in ("read", "write"))

    fused, fused_read, fused_written = ran(flash)
    unfused, read, written = ran(evolve(flash, variant="unfused"))
    tensor = 256 * 32 * 2  # a head of q, k, v or out, bf16
    scores = flash.heads * 256 * 256 * 2
    assert fused_written == flash.heads * tensor
    assert written == fused_written + 2 * scores  # scores and probabilities
    seen = read - (flash.heads * tensor + 2 * flash.problem.kv_heads * tensor + scores)  # of the scores, by softmax
    causal = flash.mask == "causal"  # then about a half: rows of a block as far as the last of them sees
    assert flash.heads * 256 * 257 // 2 * 2 <= seen <= 0.6 * scores if causal else seen == scores
    assert fused_read <= 1.5 * (read - seen - scores)  # causal: prefixes of keys and values by band of queries
    assert unfused.cycles > 1.5 * fused.cycles
    assert unfused.launches == 3


def test_a_workload_has_the_parts_as_steps():
    text = HEADS.replace('mask = "causal"', 'mask = "causal", variant = "unfused"')
    qk, softmax, pv = steps(text)
    assert [step.label for step in (qk, softmax, pv)] == ["attend.qk", "attend.softmax", "attend.pv"]
    assert qk.ports["out"].address == softmax.ports["x"].address
    assert pv.operator == Gemm(12, 12, 10, batch=2)
    assert {step.boundary for step in (qk, softmax, pv)} == {"launch"}
    pitch = text.replace("shape = [4, 6, 8]", 'shape = [4, 6, 8], layout = "row-major pitch 16"')
    with pytest.raises(UserError) as caught:
        steps(pitch)
    told = (
        "attend is several programs, and q has other shapes in them; found 'row-major pitch 16'; allowed: layout row-m"
    )
    assert told in str(caught.value)


def test_parts_are_named_where_one_program_is_wanted():
    attention = make_operator("attention(queries=4, keys=4, head_dim=8, variant=unfused)")
    with pytest.raises(UserError, match="the unfused variant is several programs; found 'unfused'; allowed: flash"):
        attention.lower(preset(TINY))
    with pytest.raises(
        UserError, match="too many matmuls in one batch of the unfused variant; found 'batch . kv_heads = 5"
    ):
        make_operator("attention(queries=4, keys=4, head_dim=8, variant=unfused, heads=5000)")
