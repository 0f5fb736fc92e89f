"""Work in several processes, with its results in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from kpusim.errors import UserError

__all__ = ["cores", "map_in_order"]

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of all cores together, in a period of so many

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may keep busy: those that it may run on, or fewer where a container has a quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroups, or "max": no quota
        quota, period = QUOTA.read_text(encoding="ascii").split()
        return min(allowed, max(1, int(quota) // int(period)))
    return allowed


def map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, begins: Callable[[Item], object]
) -> Iterator[Result]:
    """`function` of each item, in their order, from so many processes; 1 stays in this one.

    begins: called with an item when its turn to be yielded comes. The first exception ends the work; a process that
    was killed is a UserError.
    """
    workers = min(jobs, len(items))
    if workers <= 1:
        for item in items:
            begins(item)
            yield function(item)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _die_quietly) as pool:
        results = pool.map(function, items)
        try:
            for item in items:
                begins(item)
                yield next(results)
        except BrokenProcessPool as error:
            raise UserError("a process was killed: out of memory?", hint="try fewer --jobs") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _die_quietly() -> None:
    """An interrupted process ends without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
