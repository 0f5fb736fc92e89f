"""What real hardware would get wrong: two accesses to one place, of which the first is not over.

An access is pending from its instruction's issue until its `read` (if it only reads) or its `done`. A new access must
not touch what a pending one writes, nor write what a pending one reads. Within a matrix or vector unit order protects:
a vector instruction is over before the next starts, and a matmul may add to a result that still drains. Its factors a
and b however are read at once: they must be visible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from kpusim.errors import UserError
from kpusim.function.regions import Region
from kpusim.isa.walk import BoxAt, Step, ViewAt

__all__ = ["Access", "HazardError", "Hazards", "Issue", "place_name"]


class HazardError(UserError):
    """A program whose result hangs on timing.

    kind: read-before-written, read-while-written, overwritten-while-read, overwritten-while-written, own-operand,
    sram-overflow or assumed-table.
    """

    def __init__(self, kind: str, problem: str, *, where: str, hint: str | None = None):
        super().__init__(problem, where=where, hint=hint)
        self.kind = kind


def place_name(at: ViewAt | BoxAt, tile: int = -1) -> str:
    """A view (in `tile`) or a box as a message names it."""
    ranges = ", ".join(f"{start} +: {size}" for start, size in zip(at.starts, at.sizes, strict=True))
    if isinstance(at, BoxAt):
        return f"{at.tensor.name}({ranges})"
    return f"{at.buffer.name}[{at.slot}][{ranges}]" + (f" of tile {tile}" if tile >= 0 else "")


@frozen(eq=False)
class Issue:
    """One execution of an instruction: its step, the number and name of its unit, the cycle."""

    step: Step
    unit: int
    unit_name: str
    time: int

    @property
    def where(self) -> str:
        """How a message names it."""
        return f"{self.step.code.where} on {self.unit_name} at cycle {self.time}"


@frozen(eq=False)
class Access:
    """What one operand of an issued instruction touches; `tile` is -1 in HBM."""

    issue: Issue
    operand: str
    at: ViewAt | BoxAt
    tile: int
    region: Region
    reads: bool
    writes: bool

    @property
    def name(self) -> str:
        """The place in the program's words."""
        return place_name(self.at, self.tile)


@define(eq=False)
class Hazards:
    """The pending accesses of a run, and the check of new ones against them."""

    _pending: defaultdict[tuple[str, int], list[Access]] = field(init=False, factory=lambda: defaultdict(list))
    _of_step: dict[Step, list[Access]] = field(init=False, factory=dict)

    def issue(self, accesses: Sequence[Access]) -> None:
        """Adds the accesses of one issued instruction. Raises HazardError where one conflicts with a pending one."""
        for access in accesses:
            for pending in self._pending[access.region.memory]:
                if _conflicting(access, pending) and access.region.overlaps(pending.region):
                    raise _hazard(access, pending)
        _check_own(accesses)
        for access in accesses:
            self._pending[access.region.memory].append(access)
            self._of_step.setdefault(access.issue.step, []).append(access)

    def read(self, step: Step) -> None:
        """The sources of `step` are free."""
        self._release(step, lambda access: not access.writes)

    def done(self, step: Step, tile: int) -> None:
        """The results of `step` are visible in `tile`, or (-1) all of them."""
        self._release(step, lambda access: tile < 0 or (access.writes and access.region.memory == ("sram", tile)))

    def _release(self, step: Step, over: Callable[[Access], bool]) -> None:
        left = []
        for access in self._of_step.pop(step, ()):
            if over(access):
                self._pending[access.region.memory].remove(access)
            else:
                left.append(access)
        if left:
            self._of_step[step] = left


def _conflicting(access: Access, pending: Access) -> bool:
    """Whether it is wrong for the two to overlap."""
    if not (access.writes or pending.writes):
        return False
    unit = access.issue.step.code.row.unit
    if access.issue.unit != pending.issue.unit or unit == "dma":
        return True
    return unit == "matrix" and access.operand != "out" and pending.writes  # else order protects it


def _hazard(access: Access, pending: Access) -> HazardError:
    """What is wrong with two accesses that overlap."""
    other = f"{pending.issue.where} ({pending.name})"
    hint = f"wait for a `{'done' if pending.writes else 'read'}` signal of it"
    if access.reads and pending.writes:
        kind, problem = "read-while-written", f"reads {access.name} before it is written by {other}"
    elif pending.writes:
        kind, problem = "overwritten-while-written", f"overwrites {access.name} while it is written by {other}"
    else:
        kind, problem = "overwritten-while-read", f"overwrites {access.name} while it is read by {other}"
    return HazardError(kind, problem, where=access.issue.where, hint=hint)


def _check_own(accesses: Sequence[Access]) -> None:
    """An instruction may not write over what it reads, but for a vector instruction or a DMA that works in place."""
    for read in (access for access in accesses if access.reads):
        for written in (access for access in accesses if access.writes and access is not read):
            in_place = read.region == written.region and read.issue.step.code.row.unit != "matrix"
            if not in_place and read.region.overlaps(written.region):
                names = f"{written.name} and {read.name}"
                raise HazardError("own-operand", f"its operands {names} overlap", where=read.issue.where)
