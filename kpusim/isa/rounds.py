"""The semaphore rule: one queue waits for a semaphore, and as many queues signal it as it joins.

Who certainly waits and signals comes from a sample of what is executed. That a semaphore lacks producers is told only
if not even the intervals of all indices allow enough of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

from kpusim.errors import UserError
from kpusim.isa.expr import names_in
from kpusim.isa.extents import Spans
from kpusim.isa.program import Instruction, Loop, Node, Program, Section, View
from kpusim.isa.sample import sampled_steps
from kpusim.isa.walk import Code, SectionCode, ViewAt

__all__ = ["semaphore_problems"]

Queue = tuple[int, int]  # number of the section, place
Users = dict[int, dict[Queue, Code]]  # flat semaphore -> the queues that use it, each with an instruction that does


def semaphore_problems(program: Program, codes: list[SectionCode]) -> Iterator[UserError]:
    """Every semaphore that two queues wait for, that too few or too many signal, or that nothing waits for."""
    waits: Users = defaultdict(dict)
    signals: Users = defaultdict(dict)
    for number, section in enumerate(codes):
        _use(number, section, waits, signals)
    told: set[tuple[int, str]] = set()  # one complaint of a kind an instruction
    for problem, code, semaphore, found, allowed in _broken(program, waits, signals):
        if (code.pc, problem) not in told:
            told.add((code.pc, problem))
            yield UserError(f"{problem} {_name(program, semaphore)}", where=code.where, found=found, allowed=allowed)


def _use(number: int, section: SectionCode, waits: Users, signals: Users) -> None:
    """Notes who certainly waits and signals in one section."""
    for place, step in sampled_steps(section):
        queue = (number, place)
        for semaphore in step.waits():
            waits[semaphore].setdefault(queue, step.code)
        if step.code.signals:
            tiles = None
            if any(signal.per_tile for signal in step.code.signals):
                target = step.operands()[0]
                tiles = target.tiles if isinstance(target, ViewAt) else None
            for semaphore, _ in step.signals("read", tiles) + step.signals("done", tiles):
                signals[semaphore].setdefault(queue, step.code)


Broken = tuple[str, Code, int, str, str]  # problem, instruction, semaphore, found, allowed


def _broken(program: Program, waits: Users, signals: Users) -> Iterator[Broken]:
    possible = _Producers(program)
    waited = _waited(program)
    for name, (base, sem) in program.semaphore_layout().items():
        for semaphore in range(base, base + sem.instances * sem.slots):
            waiting, producers = waits.get(semaphore, {}), signals.get(semaphore, {})
            if len(waiting) > 1:
                first, second = list(waiting.values())[:2]
                yield "two queues wait for", second, semaphore, first.where, "one waiting queue each"
            if len(producers) > sem.join:
                code = list(producers.values())[-1]
                yield "too many queues signal", code, semaphore, str(len(producers)), f"{sem.join}, its `join`"
            if waiting and len(producers) < sem.join:
                most = possible.count(name, *divmod(semaphore - base, sem.slots))
                if most < sem.join:
                    code = next(iter(waiting.values()))
                    yield "too few queues signal", code, semaphore, str(most), f"{sem.join}, its `join`"
            if producers and name not in waited:
                code = next(iter(producers.values()))
                yield "nothing waits for", code, semaphore, "a signal", "as many waits as signals"


def _name(program: Program, semaphore: int) -> str:
    layout = [*program.semaphore_layout().values()]
    base, sem = layout[bisect_right([base for base, _ in layout], semaphore) - 1]
    instance, slot = divmod(semaphore - base, sem.slots)
    return f"{sem.name}[{instance}][{slot}]"


def _waited(program: Program) -> set[str]:
    nodes = [node for _, node, _ in program.instructions() if isinstance(node, Instruction)]
    return {ref.semaphore for node in nodes for ref in node.waits}


Box = tuple[int, int, int, int]  # least and greatest instance and slot


class _Producers:
    """How many queues could signal a semaphore, by the intervals of the indices of their signals at each place."""

    def __init__(self, program: Program):
        self.program = program
        self.boxes: dict[str, dict[Queue, list[Box]]] | None = None

    def count(self, name: str, instance: int, slot: int) -> int:
        """Queues that could signal name[instance][slot]."""
        if self.boxes is None:
            self.boxes = self._boxes()
        queues = self.boxes.get(name, {}).values()
        return sum(any(a <= instance <= b and c <= slot <= d for a, b, c, d in boxes) for boxes in queues)

    def _boxes(self) -> dict[str, dict[Queue, list[Box]]]:
        result: dict[str, dict[Queue, list[Box]]] = defaultdict(lambda: defaultdict(list))
        for number, section in enumerate(self.program.sections):
            for place in section.places:
                spans = Spans(self.program, _at(section, place))
                for name, box in _signalled(section.body, spans):
                    result[name][number, place].append(box)
        return result


def _at(section: Section, place: int) -> Section:
    return Section(section.unit, place, place + 1, 1, section.queue, section.lets, section.body)


def _signalled(body: tuple[Node, ...], spans: Spans) -> Iterator[tuple[str, Box]]:
    for node in body:
        if isinstance(node, Loop):
            if spans.enter(node):
                yield from _signalled(node.body, spans)
            continue
        for signal in node.signals:
            ref = signal.target
            view = node.operands[0] if node.operands else None
            if "dst" in names_in(ref.instance) | names_in(ref.slot) and isinstance(view, View) and view.tiles:
                (low, high), most = spans.of(view.tiles.first), spans.of(view.tiles.count)[1]
                spans.names["dst"] = (low, high + max(most - 1, 0) * view.tiles.step)
            yield ref.semaphore, (*spans.of(ref.instance), *spans.of(ref.slot))
