"""What an instruction of a private unit costs."""

from __future__ import annotations

from attrs import define

__all__ = ["NO_WORK", "Work"]


@define(eq=False)
class Work:
    """Cycles that the unit is occupied, further cycles until the result is visible, and what it adds to counters.

    `busy`: of the occupied cycles, those in which the array or the lanes work. The others come first: the unit waits
    for its SRAM port. `count` is how often it was executed.
    """

    occupancy: int
    busy: int
    drain: int
    adds: dict[str, int]
    count: int = 0


NO_WORK = Work(0, 0, 0, {})
