"""GEMMs in all dtypes and forms, on all dataflows and machines: the quality of what is lowered, and both modes.

A row `group.name` is one GEMM on one machine. Rows named "decode" have 1 or 32 rows of A, so that HBM bounds them; the
others are bound by the matrix engines.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.bench.decode import WEIGHT
from kpusim.bench.measure import Pairs, traffic_over_bound, utilisation
from kpusim.costs import compute_bound_cycles, hbm_bound_cycles
from kpusim.machine import Machine, load_machine
from kpusim.operators.gemm import Gemm, GroupedGemm
from kpusim.operators.gemm.estimate import cost
from kpusim.simulate.run import Run, simulate

__all__ = ["gemm_dataflows", "gemm_dtypes", "gemm_forms", "gemm_machines", "measured"]

PREFILL = 2048, 4096, 4096
FACTORS = ("fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "int8")
WEIGHTS = ("int8", "int4", "int2")
DATAFLOWS = ("output-stationary", "weight-stationary", "input-stationary")
MACHINES = ("kpu-edge", "kpu-many-small", "tpu-v4-like")
Operator = Gemm | GroupedGemm


def gemm_dtypes() -> Pairs:
    """Every dtype of the factors, and bf16 with narrower weights, of which 128 along K share a scale."""
    machine = load_machine("kpu-datacenter")
    for dtype in FACTORS:
        yield from measured(f"gemm_dtypes.{dtype}", Gemm(*PREFILL, dtype=dtype), machine)
    for dtype in WEIGHTS:
        for name, operator in _quantised(dtype):
            yield from measured(f"gemm_dtypes.bf16_{dtype}{name}", operator, machine)


def _quantised(dtype: str) -> Iterator[tuple[str, Gemm]]:
    yield "", Gemm(*PREFILL, b_dtype=dtype, scale_group=128)
    for m in (1, 32):
        yield f"_decode{m}", Gemm(m, *WEIGHT, b_dtype=dtype, scale_group=128, transpose_b=True)


def gemm_dataflows() -> Pairs:
    """kpu-datacenter with arrays of each dataflow."""
    for dataflow in DATAFLOWS:
        machine = load_machine("kpu-datacenter", [f"matrix.dataflow={dataflow}"])
        yield from measured(f"gemm_dataflows.{dataflow}", Gemm(*PREFILL), machine)
        decode = Gemm(32, *WEIGHT, transpose_b=True)
        yield from measured(f"gemm_dataflows.{dataflow}_decode32", decode, machine)


def gemm_machines() -> Pairs:
    """The other machines."""
    for name in MACHINES:
        machine = load_machine(name)
        yield from measured(f"gemm_machines.{name}", Gemm(2048, 2048, 2048), machine)
        for m in (1, 32):
            decode = Gemm(m, 4096, 4096, transpose_b=True)
            yield from measured(f"gemm_machines.{name}_decode{m}", decode, machine)
    scale_sim = load_machine("scale-sim")  # whose memory takes no time: there is no decode of its own
    yield from measured("gemm_machines.scale-sim", Gemm(2048, 2048, 2048), scale_sim)


def gemm_forms() -> Pairs:
    """What else a GEMM can be, in bf16 on the default machine."""
    forms: dict[str, Operator] = {
        "batched": Gemm(512, 512, 512, batch=32),
        "batched_scores": Gemm(1024, 1024, 128, batch=32, transpose_b=True),
        "grouped_even": GroupedGemm(8, 4096, 2048, 2048),
        "grouped_zipf": GroupedGemm(8, 4096, 2048, 2048, rows="zipf 1.2"),
        "grouped_decode32": GroupedGemm(8, 32, 4096, 4096, rows="zipf 1.2", transpose_b=True),
        "split_k_decode1": Gemm(1, 1024, 14336, transpose_b=True),
        "split_k_decode32": Gemm(32, 1024, 14336, transpose_b=True),
        "epilogue": Gemm(*PREFILL, bias=True, activation="gelu", residual=True),
        "transposed": Gemm(*PREFILL, transpose_a=True, transpose_b=True),
        "ragged": Gemm(2047, 4095, 4097),
    }
    machine = load_machine("kpu-datacenter")
    for name, operator in forms.items():
        yield from measured(f"gemm_forms.{name}", operator, machine)


def measured(row: str, operator: Operator, machine: Machine) -> Pairs:
    """The measurements of one GEMM on one machine."""
    lowered = operator.lower(machine)
    run = simulate(lowered.program, machine)
    compute = compute_bound_cycles(machine, operator.macs, operator.dtype)
    memory = hbm_bound_cycles(machine, operator.compulsory_bytes)
    yield f"{row}.cycles", run.cycles
    yield f"{row}.matrix_utilisation", utilisation(operator, run)
    yield f"{row}.roofline_over_cycles", max(compute, memory) / run.cycles
    yield f"{row}.traffic_over_bound", traffic_over_bound(operator, run)
    yield f"{row}.estimate_over_cycles", cost(lowered.mapping, operator.problem, machine).cycles / run.cycles
    yield f"{row}.plain_equals_local", int(_equal(run, simulate(lowered.program, machine, plain=True)))


def _equal(run: Run, other: Run) -> bool:
    """Whether two runs agree in cycles, in what every unit did and waited for, and in all counters."""
    accounts = (run.busy == other.busy).all() and (run.stalls == other.stalls).all()
    return bool(run.cycles == other.cycles and accounts and run.counters == other.counters)
