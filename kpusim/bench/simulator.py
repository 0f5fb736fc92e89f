"""The simulator's own speed and memory, on a bf16 GEMM of 4096 cubed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kpusim.bench.measure import Pairs, command, timed, timeout_seconds, traffic_over_bound, utilisation
from kpusim.engines.hbm import Hbm
from kpusim.engines.transfer import Chunk
from kpusim.isa.program import Program
from kpusim.machine import Machine, load_machine
from kpusim.operators.gemm import Gemm
from kpusim.simulate.run import simulate

__all__ = ["array128", "gemm4096", "gemm4096_edge", "gemm4096_folds", "memory", "trace", "unit"]

SIZE = 4096
GEMM = Gemm(SIZE, SIZE, SIZE)


def unit() -> Pairs:
    """The unit of all speeds."""
    yield "timeout.microseconds", timeout_seconds() * 1e6


def gemm4096() -> Pairs:
    """A bf16 GEMM of 4096 cubed on the default machine: speed, and quality of its program."""
    machine = load_machine("kpu-datacenter")
    wall, lowered = timed(lambda: GEMM.lower(machine), 3)
    yield "gemm4096.lower.wall_in_timeouts", wall
    wall, run = timed(lambda: simulate(lowered.program, machine), 3)
    yield "gemm4096.local.wall_in_timeouts", wall
    yield "gemm4096.memory_overhead", _memory_overhead(lowered.program, machine)
    wall, _ = timed(lambda: simulate(lowered.program, machine, plain=True))
    yield "gemm4096.plain.wall_in_timeouts", wall
    yield "gemm4096.cycles", run.cycles
    yield "gemm4096.instructions", run.counters["instructions"]
    yield "gemm4096.matrix_utilisation", utilisation(GEMM, run)
    yield "gemm4096.traffic_over_bound", traffic_over_bound(GEMM, run)


def _memory_overhead(program: Program, machine: Machine) -> float:
    """What HBM adds to the time of a simulation, as a part of it with a memory that answers at once, best of five."""

    class IdealHbm(Hbm):
        """Every chunk is back when a first row, closed, would be: no channel is ever in use."""

        def access(self, chunk: Chunk, base: int, now: int, write: bool) -> int:
            return now + latency

    latency = machine.hbm.closed_read_cycles
    best = {each: float("inf") for each in (Hbm, IdealHbm)}
    for _ in range(5):  # by turns: the machine that measures may be slower at times
        for each in best:
            wall, _ = timed(lambda each=each: simulate(program, machine, hbm=each))  # type: ignore[misc]
            best[each] = min(best[each], wall)
    return best[Hbm] / best[IdealHbm] - 1


def gemm4096_folds() -> Pairs:
    """The same with one matmul instruction for each fold of the array."""
    machine = load_machine("kpu-datacenter")
    program = GEMM.lower(machine, fold_instructions=True).program
    wall, run = timed(lambda: simulate(program, machine), 3)
    yield "gemm4096_folds.local.wall_in_timeouts", wall
    wall, _ = timed(lambda: simulate(program, machine, plain=True))
    yield "gemm4096_folds.plain.wall_in_timeouts", wall
    yield "gemm4096_folds.instructions", run.counters["instructions"]


def gemm4096_edge() -> Pairs:
    """The same GEMM on kpu-edge, whose SRAM holds far less than the operands."""
    machine = load_machine("kpu-edge")
    wall, run = timed(lambda: simulate(GEMM.lower(machine).program, machine))
    yield "gemm4096_edge.wall_in_timeouts", wall
    yield "gemm4096_edge.cycles", run.cycles
    yield "gemm4096_edge.matrix_utilisation", utilisation(GEMM, run)
    yield "gemm4096_edge.traffic_over_bound", traffic_over_bound(GEMM, run)


def trace() -> Pairs:
    """What tracing the folds adds to their simulation, a span."""
    from kpusim.operators.given import Given
    from kpusim.plan import operator_plan
    from kpusim.simulate.workload import run_plans
    from kpusim.trace.reader import open_trace
    from kpusim.trace.record import Recorder, trace_meta

    machine = load_machine("kpu-datacenter")
    plans = (operator_plan(Given(GEMM.lower(machine, fold_instructions=True).program), machine),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.h5"

        def traced() -> bool:
            with Recorder(path, trace_meta(machine, "bench", "", {})) as recorder:
                return bool(list(run_plans(plans, listener=recorder)))

        without, _ = timed(lambda: list(run_plans(plans)), 3)
        wall, _ = timed(traced, 3)
        with open_trace(path) as file:
            spans = file.event_count
        yield "trace.spans", spans
        yield "trace.timeouts_per_span", (wall - without) / spans
        yield "trace.bytes_per_span", path.stat().st_size / spans


def memory() -> Pairs:
    """Peak memory of `kpusim run` of the GEMM of 4096 cubed, with trace, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--op", f"gemm(m={SIZE}, n={SIZE}, k={SIZE})", "--trace", f"{folder}/trace.h5"]
        yield "gemm4096.peak_memory_megabytes", command(words)[1] / 1e6


def array128() -> Pairs:
    """A GEMM of 1024 cubed on one 128x128 array, from process start to trace written: best of three."""
    sets = ("tiles.rows=1", "tiles.columns=1", "matrix.rows=128", "matrix.columns=128", "sram.capacity=8 MiB")
    words = ["run", "--op", "gemm(m=1024, n=1024, k=1024)", *(word for change in sets for word in ("--set", change))]
    with tempfile.TemporaryDirectory() as folder:
        yield "array128.wall_seconds", min(command([*words, "--trace", f"{folder}/t.h5"])[0] for _ in range(3))
