"""What the units that a program uses did with their cycles, by kind of unit."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from kpusim.isa.program import Program
from kpusim.machine import Machine
from kpusim.simulate.run import Run
from kpusim.simulate.spans import STALLS

__all__ = ["Share", "shares", "top_stall", "used_units"]

KINDS = ("matrix", "vector", "dma")


@frozen
class Share:
    """Unit-cycles of the used units of one kind: for each unit busy + stalls + idle = cycles."""

    kind: str
    units: int
    busy: int
    stalls: Mapping[str, int]
    idle: int

    @property
    def total(self) -> int:
        """All cycles of all units."""
        return self.busy + sum(self.stalls.values()) + self.idle

    def part(self, cycles: int) -> float:
        """So many unit-cycles as a part of all."""
        return cycles / max(self.total, 1)


def used_units(program: Program, machine: Machine) -> dict[str, list[int]]:
    """Unit numbers by kind (matrix, vector, dma; those that it uses) on which `program` has a section."""
    tiles, queues = machine.tiles.count, machine.dma.queues
    used: dict[str, set[int]] = {}
    for section in program.sections:
        units = used.setdefault(section.unit, set())
        if section.unit == "dma":
            units.update(2 * tiles + engine * queues + section.queue for engine in section.places)
        else:
            units.update(tile + tiles * (section.unit == "vector") for tile in section.places)
    return {kind: sorted(used[kind]) for kind in KINDS if kind in used}


def shares(run: Run) -> dict[str, Share]:
    """The accounts of a run by kind of unit, over the units that its program uses."""
    result = {}
    for kind, units in used_units(run.program, run.machine).items():
        stalls = run.stalls[units].sum(axis=0).tolist()
        result[kind] = Share(
            kind=kind, units=len(units), busy=int(run.busy[units].sum()),
            stalls=dict(zip(STALLS, stalls, strict=True)), idle=int(run.idle[units].sum()),
        )  # fmt: skip
    return result


def top_stall(run: Run) -> tuple[str, str, float]:
    """(kind of unit, cause, part of its cycles) of what a run waited for most: ("", "", 0.0) for nothing.

    Asked of the matrix engines if the program uses them, else of the vector engines, else of the DMA queues: the others
    wait for these most of the time, as they should.
    """
    by_kind = shares(run)
    for share in by_kind.values():
        cause = max(STALLS, key=lambda cause: share.stalls[cause])
        if share.stalls[cause]:
            return share.kind, cause, share.part(share.stalls[cause])
        break
    return "", "", 0.0
