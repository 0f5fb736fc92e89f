"""Attention at 16K: utilisation and traffic; decode against streams of reads; and how long a long one takes."""

from __future__ import annotations

from kpusim.bench.measure import Pairs, command, moved, timed, traffic_over_bound, utilisation
from kpusim.bench.memory import SPAN
from kpusim.machine import Machine, load_machine
from kpusim.operators import Operator, make_operator
from kpusim.simulate.run import CHUNK_BYTES, Run, simulate
from kpusim.streams.mix import mix_bandwidth
from kpusim.streams.requests import Stream

__all__ = ["attention16k", "attention_decode", "attention_scale"]

LONG = "queries=16384, keys=16384, head_dim=128"
DECODE = {  # keys and values of 256 MiB and more
    "one": "attention(queries=1, keys=131072, head_dim=128, heads=32, kv_heads=8)",
    "batch": "attention(queries=1, keys=4096, head_dim=128, heads=32, kv_heads=8, batch=16)",
    "multi_head": "attention(queries=1, keys=4096, head_dim=128, heads=32, batch=4)",
    "paged": "attention(queries=1, keys=4096, head_dim=128, heads=32, kv_heads=8, batch=16, page=64)",
}


def attention16k() -> Pairs:
    """One head of 16K queries and keys, full and causal, of both variants that stream."""
    for name in ("kpu-datacenter", "kpu-edge"):
        machine = load_machine(name)
        for mask in ("none", "causal"):
            for variant in ("flash", "pipelined"):
                operator = make_operator(f"attention({LONG}, mask={mask}, variant={variant})")
                run = _simulated(operator, machine)
                row = f"attention16k.{name}.{'full' if mask == 'none' else mask}_{variant}"
                yield f"{row}.cycles", run.cycles
                yield f"{row}.matrix_utilisation", utilisation(operator, run)
                yield f"{row}.traffic_over_bound", traffic_over_bound(operator, run)
                yield f"{row}.traffic_over_compulsory", moved(run) / operator.compulsory_bytes


def attention_decode() -> Pairs:
    """One query a sequence, against a stream that only reads."""
    for name in ("kpu-datacenter", "kpu-edge"):
        machine = load_machine(name)
        reads = mix_bandwidth(machine, [Stream("sequential", CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, SPAN)])
        for row, text in DECODE.items():
            run = _simulated(make_operator(text), machine)
            yield f"attention_decode.{name}.{row}.cycles", run.cycles
            yield f"attention_decode.{name}.{row}.bandwidth_over_mix", moved(run) / run.cycles / reads
            attainable = float(machine.hbm.attainable_bytes_per_cycle)
            yield f"attention_decode.{name}.{row}.bandwidth_over_attainable", moved(run) / run.cycles / attainable


def attention_scale() -> Pairs:
    """32 causal heads: at 16K as they are simulated and whole, at 128K in a process of its own."""
    machine, text = load_machine("kpu-datacenter"), f"attention({LONG}, heads=32, mask=causal)"
    lowered = make_operator(text).lower(machine)
    assert lowered.equal is not None
    share = lowered.equal.program
    wall, run = timed(lambda: simulate(share, machine))
    yield "attention_scale.16k.wall_in_timeouts", wall
    whole, all_of_it = timed(lambda: simulate(lowered.program, machine))
    yield "attention_scale.16k.whole_wall_in_timeouts", whole
    yield "attention_scale.16k.share_over_whole_cycles", run.cycles / all_of_it.cycles
    text = text.replace("16384", "131072")
    wall, (_, peak) = timed(lambda: command(["run", "--op", text, "--no-trace"]))
    yield "attention_scale.128k.wall_in_timeouts", wall
    yield "attention_scale.128k.peak_memory_megabytes", peak / 1e6


def _simulated(operator: Operator, machine: Machine) -> Run:
    return simulate(operator.lower(machine).program, machine)
