"""Operators by index, which only move rows: how near to what HBM reaches for such reads and writes."""

from __future__ import annotations

from fractions import Fraction

from kpusim.bench.measure import Pairs, moved, timed
from kpusim.machine import load_machine
from kpusim.operators.gather import Gather
from kpusim.simulate.run import CHUNK_BYTES, simulate
from kpusim.streams.mix import mix_bandwidth
from kpusim.streams.requests import Stream

__all__ = ["ROW_BYTES", "gather_bandwidth"]

ROW_BYTES = 4096
MOVED = 1 << 28  # bytes of the rows that are gathered


def gather_bandwidth() -> Pairs:
    """Random rows of 4 KiB, 256 MiB of them, against the same reads and writes without a program."""
    gather = Gather(2 * MOVED // ROW_BYTES, ROW_BYTES // 2, MOVED // ROW_BYTES)
    reads = Stream("random", CHUNK_BYTES, ROW_BYTES, ROW_BYTES, 2 * MOVED)
    writes = Stream("sequential", CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, MOVED, Fraction(1))
    for name in ("kpu-datacenter", "kpu-edge"):
        machine = load_machine(name)
        program = gather.lower(machine).program
        wall, run = timed(lambda program=program, machine=machine: simulate(program, machine))  # type: ignore[misc]
        reached, mix = moved(run) / run.cycles, mix_bandwidth(machine, (reads, writes))
        yield f"gather.{name}.wall_in_timeouts", wall
        yield f"gather.{name}.cycles", run.cycles
        yield f"gather.{name}.bytes_per_cycle", reached
        yield f"gather.{name}.mix_bytes_per_cycle", mix
        yield f"gather.{name}.bandwidth_over_mix", reached / mix
