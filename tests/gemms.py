"""GEMMs for tests: machines, shapes, and a run on data that must agree with float64 and with the local clocks."""

from functools import cache

from hypothesis import strategies as st

from kpusim.function import Executor, compare, random_inputs
from kpusim.isa import assemble, disassemble
from kpusim.isa.check import check_program
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.operators.gemm import Gemm, GroupedGemm
from kpusim.simulate.run import simulate

TINY, EDGE, DATACENTER = PRESETS = ["kpu-tiny", "kpu-edge", "kpu-datacenter"]
preset = cache(load_machine)
variant = cache(lambda changes: load_machine(TINY, changes.split()))
REAL = st.sampled_from(["fp32", "bf16", "fp16"])
FLAG = st.booleans()


def size(most, steps=1):
    """A size up to `most`, often 1, a multiple of `steps`."""
    return st.one_of(st.just(1), st.integers(1, most // steps)).map(lambda count: count * steps)


def plain_gemms(most, steps=1):
    """GEMMs without anything else."""
    sizes = size(most, steps)
    return st.builds(
        Gemm, sizes, sizes, sizes, dtype=st.sampled_from(["bf16", "fp16"]), out_dtype=REAL, transpose_a=FLAG,
        transpose_b=FLAG,
    )  # fmt: skip


@st.composite
def gemms(draw, most):
    """GEMMs in all their forms."""
    m, n, k = (draw(size(most)) for _ in range(3))
    dtype = draw(st.sampled_from(["fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "int8"]))
    options = {"dtype": dtype, "transpose_a": draw(FLAG), "transpose_b": draw(FLAG)}
    options["out_dtype"] = draw(st.sampled_from(["fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"]))
    if dtype in ("fp32", "bf16", "fp16") and draw(FLAG):
        stored = draw(st.sampled_from(["fp8_e4m3", "fp8_e5m2", "int8", "int4", "int2"]))
        n, k = -(-n // 4) * 4, -(-k // 4) * 4
        options |= {"b_dtype": stored, "scale_group": draw(st.sampled_from([0, 4, 8, 16]))}
    if draw(FLAG):
        options |= {"alpha": draw(st.sampled_from([1.0, 0.125])), "column_scale": draw(FLAG), "bias": draw(FLAG)}
        options["activation"] = draw(st.sampled_from(["none", "relu", "gelu", "gelu_tanh", "silu"]))
        options["residual"] = draw(FLAG)
    elif dtype == "int8" and draw(FLAG):
        options["out_dtype"] = "int32"
    groups = draw(st.sampled_from([0, 0, 0, 1, 3]))
    if groups and draw(FLAG):
        rows = draw(st.lists(st.integers(0, m), min_size=groups, max_size=groups).filter(any))
        return GroupedGemm(groups, sum(rows), n, k, rows=" ".join(map(str, rows)), **options)
    return Gemm(m, n, k, batch=groups, **options)


def checked(gemm, machine, **choices):
    """The lowered program, which passes the static check and comes back from its text."""
    program = gemm.lower(machine, **choices).program
    check_program(program, limits_of(machine))
    assert assemble(disassemble(program)) == program
    return program


def verdict(gemm, inputs, result):
    reference, bound = gemm.reference(inputs)["out"], gemm.error_bound(inputs)["out"]
    return compare(result, reference, gemm.out_dtype, bound=bound)


def execute(gemm, machine, **choices):
    """Runs on data in plain mode, hazards on, and compares with float64; the local clocks agree on the cycles."""
    gemm.check()
    program = checked(gemm, machine, **choices)
    inputs = random_inputs(program, 1)
    executor = Executor(program, machine, inputs)
    run = simulate(program, machine, plain=True, watcher=executor)
    assert simulate(program, machine).cycles == run.cycles
    assert run.counters[f"macs.{gemm.dtype}"] == gemm.macs
    result = executor.outputs()["out"]
    assert verdict(gemm, inputs, result).passed
    return inputs, result
