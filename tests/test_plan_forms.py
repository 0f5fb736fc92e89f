"""Workloads with every form of GEMM: each tensor finds its port, and what is wrong with one is told in one message."""

import pytest

from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.operators import make_operator
from kpusim.plan import parse_workload, plan_workload

EDGE = load_machine("kpu-edge")

FULL = """
name = "full"
[symbols]
m = 8
[tensors]
x = { role = "input", shape = ["m", 64] }
w = { role = "weight", shape = [64, 32], dtype = "int4" }
s = { role = "weight", shape = [2, 32] }
cs = { role = "weight", shape = [32], dtype = "fp32" }
bi = { role = "weight", shape = [32] }
r = { role = "input", shape = ["m", 32] }
y = { role = "output", shape = ["m", 32] }
[[operators]]
name = "one"
family = "gemm"
ports = { a = "x", b = "w", b_scale = "s", scale = "cs", bias = "bi", residual = "r", out = "y" }
options = { scale_group = "4 * m", column_scale = true, bias = true, residual = true, activation = "silu", alpha = 0.5 }
"""
BATCH = """
name = "batch"
[symbols]
heads = 4
[tensors]
x = { role = "input", shape = ["heads", 8, 64] }
w = { role = "weight", shape = ["heads", 64, 32] }
y = { role = "output", shape = ["heads", 8, 32] }
[[operators]]
name = "one"
family = "gemm"
ports = { a = "x", b = "w", out = "y" }
options = { batch = "heads" }
"""
GROUPS = """
name = "groups"
[symbols]
tokens = 16
[tensors]
x = { role = "input", shape = ["tokens", 64] }
w = { role = "weight", shape = [4, 64, 32] }
n = { role = "input", shape = [4], dtype = "int32" }
y = { role = "output", shape = ["tokens", 32] }
[[operators]]
name = "one"
family = "grouped_gemm"
ports = { a = "x", b = "w", rows = "n", out = "y" }
options = { rows = "zipf 1.2" }
"""


def bound(text):
    (plan,) = plan_workload(parse_workload(text, "w.toml"), EDGE)
    return plan.steps[0]


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        (FULL, "gemm(m=8, n=32, k=64, b_dtype=int4, scale_group=32, column_scale=true, bias=true, residual=true, "
         "activation=silu, alpha=0.5)"),
        (BATCH, "gemm(m=8, n=32, k=64, batch=4)"),
        (GROUPS, 'grouped_gemm(groups=4, m=16, n=32, k=64, rows="zipf 1.2")'),
        (GROUPS.replace("zipf 1.2", "1 2 3 10"), 'grouped_gemm(groups=4, m=16, n=32, k=64, rows="1 2 3 10")'),
    ],
)  # fmt: skip
def test_an_operator_follows_from_its_tensors(text, operator):
    step = bound(text)
    assert step.operator == make_operator(operator)
    assert list(step.ports) == [port.name for port in step.operator.ports]


def test_the_dtype_in_which_weights_are_stored_follows_from_the_tensor_or_an_option():
    assert bound(FULL.replace("int4", "fp8_e4m3")).operator.b_dtype == "fp8_e4m3"
    told = bound(FULL.replace("scale_group", 'b_dtype = "int4", scale_group'))
    assert told.operator == bound(FULL).operator
    eight = BATCH.replace("64]", '64], dtype = "int8"').replace("32] }\ny", '32], dtype = "int8" }\ny')
    assert (bound(eight).operator.dtype, bound(eight).operator.b_dtype) == ("int8", "")


W = 'w = { role = "weight", shape = [64, 32], dtype = "int4"'
X, BI, R, Y = (
    line
    for name in ("x", "bi", "r", "y")
    for line in FULL.splitlines()
    if line.startswith(f"{name} = ")
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        *(
            (f'{port} = "{name}"', "", f"one has no tensor at port {port}; allowed: ports a [m, k], b [k, n], b_sc")
            for port, name in (("a", "x"), ("b_scale", "s"), ("bias", "bi"), ("residual", "r"), ("out", "y"))
        ),
        (' scale = "cs",', "", "one has no tensor at port scale; allowed: ports a [m, k], b"),
        ("bias = true", "", "allowed: a, b, b_scale, scale, residual, out; option bias makes it one"),
        ("residual = true", "", "allowed: a, b, b_scale, scale, bias, out; option residual makes it one"),
        ("column_scale = true", "", "out; option column_scale makes it one"),
        ("shape = [2, 32]", "shape = [3, 32]", "port b_scale of one is [2, 32], but s is [3, 32]"),
        ("shape = [2, 32]", "shape = [2, 33]", "but 33 in s [2, 33] at port b_scale [*, n]"),
        ("shape = [2, 32]", "shape = [32]", "port b_scale of one is [*, n], but s is [32]"),
        ("shape = [2, 32]", 'dtype = "fp32", shape = [2, 32]', "port b_scale of one is bf16, but s is fp32"),
        ('shape = [32], dtype = "fp32"', "shape = [32]", "port scale of one is fp32, but cs is bf16"),
        ('shape = [32], dtype = "fp32"', 'shape = [1], dtype = "fp32"', "but 1 in cs [1] at port scale [n]"),
        (BI, BI.replace("[32]", "[31]"), "but 31 in bi [31] at port bias [n]"),
        (BI, BI.replace("[32]", "[1, 32]"), "port bias of one is [n], but bi is [1, 32]"),
        (BI, BI.replace("]", '], dtype = "fp32"'), "port bias of one is bf16, but bi is fp32"),
        (R, R.replace('"m"', '"m + 1"'), "but 9 in r [9, 32] at port residual [m, n]"),
        (R, R.replace("]", '], dtype = "int8"'), "port residual of one is bf16, but r is int8"),
        (Y, Y.replace("]", '], dtype = "int4"'), "w.toml:13: one: impossible out_dtype of gemm; found 'int4'"),
        (Y, Y.replace("]", '], dtype = "int32"'), "w.toml:13: one: impossible gemm: int32 results are the sums"),
        (Y, Y.replace('role = "output"', 'role = "weight"'), "one writes y, whose role is weight"),
        (X, X.replace("]", '], dtype = "int8"'), "w.toml:13: one: impossible gemm: B is dequantised to the dtype of A"),
        (X, X.replace("64", "96"), "k of one is 96 in x [8, 96] at port a [m, k], but 64 in w [64, 32] at"),
        (W, W.replace("int4", "bf16"), "no such port; found 'b_scale'"),
        (W, W.replace("int4", "fp16"), "no such port; found 'b_scale'"),
        (W, W.replace("int4", "int5"), "unknown; found 'int5'; allowed: fp32, "),
        ("scale_group", 'b_dtype = "int2", scale_group', "port b of one is int2, but w is int4"),
        ("scale_group", 'b_dtype = "int44", scale_group', '[operators.0] options: impossible b_dtype of gemm; found '
         "'int44'; allowed: \"\", fp8_e4m3, "),
        ("scale_group", "batch = 2, scale_group", "port a of one is [batch, m, k], but x is [8, 64]"),
        ('"4 * m"', "1.5", "impossible scale_group of gemm; found 1.5; allowed: a value of type int"),
        ('"4 * m"', '"4 * n"', "unknown symbol; found 'n'"),
        ("0.5", '"half"', "impossible alpha of gemm; found 'half'"),
        ("silu", "swish", "impossible activation of gemm; found 'swish'; allowed: none, relu, "),
    ],
)  # fmt: skip
def test_each_port_of_a_quantised_gemm_with_an_epilogue(old, new, message):
    told(FULL, old, new, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = ", "scale_group = ", "port a of one is [m, k], but x is [4, 8, 64]; with option batch all would fit"),
        ('"heads" }', "3 }", "batch of one is 3 in its options, but 4 in x [4, 8, 64] at port a [batch, m, k]"),
        ('w = { role = "weight", shape = ["heads"', 'w = { role = "weight", shape = [5', "but 5 in w [5, 64"),
        ('w = { role = "weight", shape = ["heads", ', 'w = { role = "weight", shape = [', "port b of one is [batch, "),
        ('"heads" }', '"heads", bias = true }', "at port bias; allowed: ports a [batch, m, k], b [batch, k, n], bias"),
    ],
)  # fmt: skip
def test_a_batch(old, new, message):
    told(BATCH, old, new, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("zipf 1.2", "1 2 3 11", "w.toml:10: one: impossible grouped_gemm: rows of the groups"),
        ("zipf 1.2", "zip 1.2", "found 'zip 1.2'; allowed: \"even\""),
        ('"zipf 1.2"', "4", "impossible rows of grouped_gemm; found 4"),
        ('rows = "zipf', 'batch = 4, rows = "zipf', "no such option; found 'batch'"),
        ('rows = "zipf', 'groups = 4, rows = "zipf', "comes from the shapes of the tensors; found 'groups'"),
        ('rows = "n", ', "", "no tensor at port rows; allowed: ports a [m, k], b [groups, k, n], rows [groups]"),
        ("shape = [4], ", "shape = [5], ", "groups of one is 4 in w [4, 64, 32] at port b [groups, k, n], but 5 in"),
        (', dtype = "int32"', "", "port rows of one is int32, but n is bf16"),
        ("[4, 64, 32]", "[64, 32]", "port b of one is [groups, k, n], but w is [64, 32]"),
    ],
)  # fmt: skip
def test_groups(old, new, message):
    told(GROUPS, old, new, message)


def told(text, old, new, message):
    assert text.count(old) == 1
    changed = text.replace(old, new).replace("{ ,", "{").replace(", ,", ",").replace(",  }", " }")
    with pytest.raises(UserError, match=r"^w\.toml:\d+: ") as caught:
        bound(changed)
    assert message in str(caught.value)
