"""What measurements are made of: wall time in timeouts, commands in processes of their own, and quality of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from functools import cache
from time import perf_counter
from typing import TypeVar

import simpy

from kpusim.operators import Operator
from kpusim.simulate.run import Run

__all__ = ["Pairs", "command", "moved", "timed", "timeout_seconds", "traffic_over_bound", "utilisation"]

PROCESSES, TIMEOUTS = 288, 1000  # timeouts of each process
Pairs = Iterator[tuple[str, float]]
T = TypeVar("T")


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


def timed(work: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """(timeouts of the fastest of `repeats` calls, result)."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = perf_counter()
        result = work()
        best = min(best, perf_counter() - start)
    assert result is not None
    return best / timeout_seconds(), result


def utilisation(operator: Operator, run: Run) -> float:
    """Multiply-accumulates over what all arrays could do in the same cycles."""
    return float(operator.macs / run.machine.peak_macs_per_cycle(operator.math_dtype) / run.cycles)


def traffic_over_bound(operator: Operator, run: Run) -> float:
    """HBM bytes over the I/O bound."""
    return moved(run) / operator.io_bound_bytes(run.machine)


def moved(run: Run) -> int:
    """Bytes between HBM and chip."""
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


def command(words: list[str]) -> tuple[float, int]:
    """(seconds from start to end, peak bytes) of a kpusim command in a process of its own."""
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *words],
        check=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    return perf_counter() - start, int(done.stderr.split()[-1])
