"""Who waits for whom when nobody can go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from kpusim.engines.semaphore import ProgramError, Semaphore
from kpusim.isa.program import Instruction, Program, Section
from kpusim.isa.walk import instruction_place

__all__ = ["Stuck", "deadlock"]

SHOWN = 8


class Stuck(Protocol):
    """A queue that has not come to its end: what it waits for (None: the barrier), and the pc where."""

    unit: int

    @property
    def pc(self) -> int:
        """The instruction at which it waits."""

    waiting_for: Semaphore | None


def deadlock(
    program: Program, stuck: Sequence[Stuck], sections: Mapping[int, Section], names: Sequence[str], cycle: int
) -> ProgramError:
    """The error that says, for each queue, at which instruction it waits and which queues would have to signal.

    sections and names are those of the units, by their numbers.
    """
    ordered = sorted(stuck, key=lambda queue: (queue.waiting_for is None, queue.unit))
    lines = [f"  {line}" for line in _lines(program, ordered, sections, names)]
    more = [f"  and {len(stuck) - SHOWN} more"] if len(stuck) > SHOWN else []
    problem = "\n".join([f"deadlock at cycle {cycle}: nobody can go on", *lines, *more])
    return ProgramError(problem, where=program.name)


def _lines(
    program: Program, stuck: Sequence[Stuck], sections: Mapping[int, Section], names: Sequence[str]
) -> Iterator[str]:
    nodes = {pc: node for pc, node, _ in program.instructions() if isinstance(node, Instruction)}
    signallers: dict[str, list[Section]] = {}
    for _, node, section in program.instructions():
        if isinstance(node, Instruction):
            for signal in node.signals:
                signallers.setdefault(signal.target.semaphore, []).append(section)
    for queue in stuck[:SHOWN]:
        node = nodes[queue.pc]
        at = f"{names[queue.unit]} waits at {instruction_place(queue.pc, node.op, node.line)}"
        if queue.waiting_for is None:
            yield f"{at} for the others"
            continue
        signals = signallers.get(queue.waiting_for.array, [])
        others = [names[other.unit] for other in stuck if any(sections[other.unit] is section for section in signals)]
        who = f"{', '.join(others[:3])}{' and others' * (len(others) > 3)}" if others else "nobody that still runs"
        yield f"{at} for semaphore {queue.waiting_for.name}, which {who} would signal"
