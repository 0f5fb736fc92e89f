"""Operators that memory bounds: how near to what HBM reaches for as many reads and writes."""

from __future__ import annotations

from fractions import Fraction

from kpusim.bench.measure import Pairs, timed
from kpusim.machine import Machine, load_machine
from kpusim.operators import Operator, make_operator
from kpusim.simulate.run import CHUNK_BYTES, simulate
from kpusim.streams.mix import mix_bandwidth
from kpusim.streams.requests import Stream

__all__ = ["attainable", "memory_bound"]

SPAN = 1 << 28  # bytes of each stream's addresses: more than it comes to
APART = 3  # rows; chosen: from there on it makes no difference on any machine
OPERATORS = {  # each moves 256 MiB or more
    "rmsnorm": "rmsnorm(rows=16384, columns=4096)",
    "layernorm": "layernorm(rows=16384, columns=4096)",
    "add": "add(rows=8192, columns=8192)",
    "softmax": "softmax(rows=16384, columns=4096)",
    "softmax_long": "softmax(rows=2048, columns=32768)",
    "swiglu": "swiglu(rows=8192, columns=8192, packed=true)",
}


def memory_bound() -> Pairs:
    """Norms, softmax, a sum and a gate against streams of the same reads and writes without a program."""
    for name in ("kpu-datacenter", "kpu-edge"):
        machine = load_machine(name)
        for row, text in OPERATORS.items():
            operator = make_operator(text)
            program = operator.lower(machine).program
            wall, run = timed(lambda program=program, machine=machine: simulate(program, machine))  # type: ignore[misc]
            reached, mix = operator.compulsory_bytes / run.cycles, attainable(operator, machine)
            yield f"memory_bound.{name}.{row}.wall_in_timeouts", wall
            yield f"memory_bound.{name}.{row}.cycles", run.cycles
            yield f"memory_bound.{name}.{row}.bandwidth_over_mix", reached / mix


def attainable(operator: Operator, machine: Machine) -> float:
    """Bytes/cycle of sequential streams of reads and writes in proportion to an operator's large tensors.

    Each begins some rows behind where the one before would have the same banks.
    """
    span = SPAN + APART * machine.hbm.channel_count * machine.hbm.row_bytes
    sizes = {port: port.size_bytes for port in operator.ports}
    large = {port: size for port, size in sizes.items() if 10 * size > max(sizes.values())}
    return mix_bandwidth(
        machine,
        [
            Stream("sequential", CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, span, Fraction(port.role == "out"))
            for port, size in large.items()
            for _ in range(round(size / min(large.values())))
        ],
    )
