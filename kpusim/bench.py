"""Benchmarks: the simulator's own speed and memory, and the quality of what is lowered.

Speed is counted in timeouts: wall time over that of one bare SimPy timeout in a run of 288 processes that do nothing
else, measured in the same process. Each group of measurements is a function that yields (key, value) pairs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cache
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TypeVar

import simpy
from attrs import frozen

from kpusim.isa.expr import Const, Expr, Name
from kpusim.isa.program import Box, Buffer, Instruction, Loop, Program, Range, Section, Tensor, TensorMap, TileSet, View
from kpusim.machine import Machine, load_machine
from kpusim.operators.gemm import Gemm
from kpusim.simulate.run import Run, simulate

__all__ = ["GROUPS", "TARGETS", "Target", "stream_program", "timeout_seconds"]

PROCESSES, TIMEOUTS = 288, 1000  # timeouts of each process
SIZE = 4096
DECODE = 14336, 4096  # outputs and inputs of a weight
Pairs = Iterator[tuple[str, float]]
T = TypeVar("T")


@frozen
class Target:
    """What a measurement should be: at most (or `at_least`) `limit`."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether `value` is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "gemm4096.local.wall_in_timeouts": Target(250_000),
        "gemm4096.lower.wall_in_timeouts": Target(50_000),
        "gemm4096_folds.local.wall_in_timeouts": Target(400_000),
        "trace.timeouts_per_span": Target(1.0),
        "trace.bytes_per_span": Target(12.0),
        "gemm4096.peak_memory_megabytes": Target(300),
        "array128.wall_seconds": Target(1.0),
        "gemm4096.matrix_utilisation": Target(0.94, at_least=True),
        "gemm4096.traffic_over_bound": Target(1.25),
        "gemm4096_edge.traffic_over_bound": Target(1.5),
        "decode1.bandwidth_over_ideal": Target(0.95, at_least=True),
        "decode32.bandwidth_over_ideal": Target(0.95, at_least=True),
    }
)


@cache
def timeout_seconds() -> float:
    """Seconds of one bare SimPy timeout: the best of five runs."""
    return min(_timeouts() for _ in range(5)) / (PROCESSES * TIMEOUTS)


def _timeouts() -> float:
    environment = simpy.Environment()

    def idle() -> Generator[simpy.Event, None, None]:
        for _ in range(TIMEOUTS):
            yield environment.timeout(1)

    for _ in range(PROCESSES):
        environment.process(idle())
    start = perf_counter()
    environment.run()
    return perf_counter() - start


def _timed(work: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """(timeouts of the fastest of `repeats` calls, result)."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = perf_counter()
        result = work()
        best = min(best, perf_counter() - start)
    assert result is not None
    return best / timeout_seconds(), result


def _gemm(m: int = SIZE, n: int = SIZE, k: int = SIZE, transpose_b: bool = False) -> Gemm:
    return Gemm(m, n, k, transpose_b=transpose_b)


def unit() -> Pairs:
    """The unit of all speeds."""
    yield "timeout.microseconds", timeout_seconds() * 1e6


def gemm4096() -> Pairs:
    """A bf16 GEMM of 4096 cubed on the default machine: speed, and quality of its program."""
    machine, operator = load_machine("kpu-datacenter"), _gemm()
    wall, lowered = _timed(lambda: operator.lower(machine), 3)
    yield "gemm4096.lower.wall_in_timeouts", wall
    wall, run = _timed(lambda: simulate(lowered.program, machine), 3)
    yield "gemm4096.local.wall_in_timeouts", wall
    wall, _ = _timed(lambda: simulate(lowered.program, machine, plain=True))
    yield "gemm4096.plain.wall_in_timeouts", wall
    yield "gemm4096.cycles", run.cycles
    yield "gemm4096.instructions", run.counters["instructions"]
    yield "gemm4096.matrix_utilisation", float(operator.macs / machine.peak_macs_per_cycle("bf16") / run.cycles)
    yield "gemm4096.traffic_over_bound", _traffic(run) / operator.io_bound_bytes(machine)


def gemm4096_folds() -> Pairs:
    """The same with one matmul instruction for each fold of the array."""
    machine = load_machine("kpu-datacenter")
    program = _gemm().lower(machine, fold_instructions=True).program
    wall, run = _timed(lambda: simulate(program, machine), 3)
    yield "gemm4096_folds.local.wall_in_timeouts", wall
    wall, _ = _timed(lambda: simulate(program, machine, plain=True))
    yield "gemm4096_folds.plain.wall_in_timeouts", wall
    yield "gemm4096_folds.instructions", run.counters["instructions"]


def gemm4096_edge() -> Pairs:
    """The same GEMM on kpu-edge, whose SRAM holds far less than the operands."""
    machine, operator = load_machine("kpu-edge"), _gemm()
    wall, run = _timed(lambda: simulate(operator.lower(machine).program, machine))
    yield "gemm4096_edge.wall_in_timeouts", wall
    yield "gemm4096_edge.cycles", run.cycles
    yield "gemm4096_edge.matrix_utilisation", float(operator.macs / machine.peak_macs_per_cycle("bf16") / run.cycles)
    yield "gemm4096_edge.traffic_over_bound", _traffic(run) / operator.io_bound_bytes(machine)


def trace() -> Pairs:
    """What tracing the folds adds to their simulation, a span."""
    from kpusim.operators.given import Given
    from kpusim.plan import operator_plan
    from kpusim.simulate.workload import run_plans
    from kpusim.trace.reader import open_trace
    from kpusim.trace.record import Recorder, trace_meta

    machine = load_machine("kpu-datacenter")
    plans = (operator_plan(Given(_gemm().lower(machine, fold_instructions=True).program), machine),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.h5"

        def traced() -> bool:
            with Recorder(path, trace_meta(machine, "bench", "", {})) as recorder:
                return bool(list(run_plans(plans, listener=recorder)))

        without, _ = _timed(lambda: list(run_plans(plans)), 3)
        wall, _ = _timed(traced, 3)
        with open_trace(path) as file:
            spans = file.event_count
        yield "trace.spans", spans
        yield "trace.timeouts_per_span", (wall - without) / spans
        yield "trace.bytes_per_span", path.stat().st_size / spans


def memory() -> Pairs:
    """Peak memory of `kpusim run` of the GEMM of 4096 cubed, with trace, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--op", f"gemm(m={SIZE}, n={SIZE}, k={SIZE})", "--trace", f"{folder}/trace.h5"]
        yield "gemm4096.peak_memory_megabytes", _command(words)[1] / 1e6


def array128() -> Pairs:
    """A GEMM of 1024 cubed on one 128x128 array, from process start to trace written: best of three."""
    sets = ("tiles.rows=1", "tiles.columns=1", "matrix.rows=128", "matrix.columns=128", "sram.capacity=8 MiB")
    words = ["run", "--op", "gemm(m=1024, n=1024, k=1024)", *(word for change in sets for word in ("--set", change))]
    with tempfile.TemporaryDirectory() as folder:
        yield "array128.wall_seconds", min(_command([*words, "--trace", f"{folder}/t.h5"])[0] for _ in range(3))


def decode1() -> Pairs:
    """One row times a weight, against an ideal read stream."""
    yield from _decode(1)


def decode32() -> Pairs:
    """32 rows times a weight, against an ideal read stream."""
    yield from _decode(32)


def _decode(m: int) -> Pairs:
    """Both bandwidths are bytes that must move over cycles after the first byte; the launch is in neither."""
    machine = load_machine("kpu-datacenter")
    n, k = DECODE
    operator = _gemm(m, n, k, transpose_b=True)
    run = simulate(operator.lower(machine).program, machine)
    first = simulate(stream_program(machine, machine.hbm.access_bytes), machine).cycles
    size = n * k * 2
    stream = size / (simulate(stream_program(machine, size), machine).cycles - first)
    reached = operator.compulsory_bytes / (run.cycles - first)
    yield f"decode{m}.cycles", run.cycles
    yield f"decode{m}.launch_cycles", machine.front_end.launch_cycles
    yield f"decode{m}.first_byte_cycles", first
    yield f"decode{m}.bytes_per_cycle", reached
    yield f"decode{m}.ideal_bytes_per_cycle", stream
    yield f"decode{m}.bandwidth_over_ideal", reached / stream
    yield f"decode{m}.ideal_over_attainable", stream / float(machine.hbm.attainable_bytes_per_cycle)


def stream_program(machine: Machine, size: int, piece: int = 16384) -> Program:
    """A program that does nothing but read `size` bytes in order, `piece` at a time, on all DMA queues by turns."""
    piece = min(piece, size)
    pieces, dma = -(-size // piece), machine.dma
    lanes = machine.dma_engines * dma.queues
    engine = Name("engine")
    tile: Expr = engine
    if dma.placement == "row-ends":
        tile = engine // 2 * machine.tiles.columns + engine % 2 * (machine.tiles.columns - 1)

    def section(queue: int) -> Section:
        number = Name("i") * lanes + engine * dma.queues + queue
        box = Box("piece", (Range(number * piece),))
        load = Instruction("load", (View("landing", Const(0), (), TileSet(tile)), box))
        loop = Loop("i", Const(0), Const(-(-pieces // lanes)), (load,))
        return Section("dma", 0, machine.dma_engines, 1, queue, (), (loop,))

    return Program(
        name="stream",
        tensors=(Tensor("data", "int8", (size,), "in"),),
        maps=(TensorMap("piece", "data", (piece,)),),
        buffers=(Buffer("landing", "int8", 1, (piece,), 0),),
        sections=tuple(section(queue) for queue in range(dma.queues)),
    )


def _traffic(run: Run) -> int:
    return run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"]


_MEASURED = """
import sys
from kpusim.cli import main
try:
    main(sys.argv[1:])
finally:
    try:
        text = open("/proc/self/status").read()
        peak = int(text.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(peak, file=sys.stderr)
"""


def _command(words: list[str]) -> tuple[float, int]:
    """(seconds from start to end, peak bytes) of a kpusim command in a process of its own."""
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *words],
        check=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    return perf_counter() - start, int(done.stderr.split()[-1])


GROUPS: Mapping[str, Callable[[], Pairs]] = MappingProxyType(
    {
        group.__name__: group
        for group in (unit, gemm4096, gemm4096_folds, gemm4096_edge, trace, memory, array128, decode1, decode32)
    }
)
