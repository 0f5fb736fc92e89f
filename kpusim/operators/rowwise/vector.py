"""What the vector engines of a rowwise operator do with each block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve, frozen

from kpusim.isa.expr import Const, Expr, Name
from kpusim.isa.program import Instruction, Loop, Node, Section, SemaphoreRef, Signal
from kpusim.operators.rowwise.exchange import Exchange
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.place import Place
from kpusim.operators.rowwise.transfers import (
    STEP,
    free,
    full,
    over_pieces,
    over_steps,
    piece_of,
    slot_of,
)
from kpusim.operators.rowwise.work import REDUCTIONS, Stream, Sweep, Temporary, Work, part_of
from kpusim.operators.seats import TILE, ZERO
from kpusim.operators.steps import Step

__all__ = ["Vector"]

ROW = Name("r")
Waits = dict[str, SemaphoreRef]  # by buffer


@frozen
class Vector:
    """The section of the vector engines."""

    work: Work
    map: Mapping
    share: int

    def section(self) -> Section:
        """What stays once, then block by block."""
        before = self._stayed() if self.map.stays(self.work) else ()
        block = self._whole() if self.map.whole(self.work) else self._in_sweeps()
        body = (*over_pieces(self.work, self.map, before), *over_steps(self.work, self.map, block))
        return Section("vector", 0, self.map.tiles, 1, 0, (), body)

    @property
    def _here(self) -> Place:
        """The block and the piece that the loops are at."""
        return Place(self.work, self.map, TILE, STEP, piece_of(self.work, self.map), share=self.share)

    def _stayed(self) -> tuple[Node, ...]:
        """A piece of what stays in the SRAM: it has come, and is prepared."""
        columns = [stream for stream in self.work.streams if stream.kind == "column"]
        waits = [full(stream, TILE, self._here.piece) for stream in columns]
        return *syncs(waits), *self._instructions(self.work.prelude, 0, evolve(self._here, wide=True))

    def _whole(self) -> tuple[Node, ...]:
        """A block whose pieces need nothing of each other."""
        sweep = self.map.sweeps(self.work)[0]
        if self.map.pieces(self.work) == 1:
            return self._piece(sweep, 0, ("block", "row", "column"))
        rows = self._rows
        each = over_pieces(self.work, self.map, self._piece(sweep, 0, ("block", "column")))
        return *self._begun(rows), *each, *self._ended(rows)

    def _in_sweeps(self) -> tuple[Node, ...]:
        """A block whose rows are gone over several times, piece by piece."""
        rows = self._rows
        nodes = [*self._begun(rows)]
        for number, sweep in enumerate(self.work.sweeps):
            totals = self.work.totals(sweep)
            nodes += [self._instruction(_fill(name, op), number, self._here) for name, op in totals.items()]
            nodes += self._instructions(sweep.before, number)
            nodes += over_pieces(self.work, self.map, self._piece(sweep, number, ("block", "column")))
            nodes += Exchange(self.work, self.map).joined(sweep, self._here)
            nodes += self._instructions(sweep.after, number)
        return *nodes, *self._ended(rows)

    @property
    def _streams(self) -> list[Stream]:
        """Operands and results; an index is none: only DMA engines need it."""
        indices = dict(self.work.indices)
        return [stream for stream in self.work.streams if stream.name not in indices]

    @property
    def _rows(self) -> list[Stream]:
        """Those of a block's rows."""
        return [stream for stream in self._streams if stream.kind == "row"]

    # Slots ------------------------------------------------------------------------------------------------------------

    def _begun(self, streams: list[Stream]) -> tuple[Node, ...]:
        """Waits for operands of a block's rows, and for the places of its results."""
        return syncs([self._wait(stream, 0) for stream in streams])

    def _ended(self, streams: list[Stream]) -> tuple[Node, ...]:
        """Gives them up."""
        return syncs((), [self._signal(stream, 0) for stream in streams])

    def _wait(self, stream: Stream, sweep: int) -> SemaphoreRef:
        named = full if stream.role == "in" else free
        return named(stream, TILE, slot_of(self.work, self.map, stream, sweep))

    def _signal(self, stream: Stream, sweep: int) -> SemaphoreRef:
        named = free if stream.role == "in" else full
        return named(stream, TILE, slot_of(self.work, self.map, stream, sweep))

    def _guards(self, number: int, kinds: tuple[str, ...]) -> tuple[Waits, Waits]:
        """(what a sweep takes of semaphores, what it gives) at each piece, by buffer."""
        waits, signals = Waits(), Waits()
        last = len(self.map.sweeps(self.work)) - 1
        for stream in self._streams:
            if stream.kind not in kinds or (stream.kind == "column" and self.map.stays(self.work)):
                continue
            if stream.role == "out" or stream.kind == "row":
                first, end = (last, last)
            else:
                uses, loads = self._uses(stream), self.map.loads(self.work, stream)
                if number not in uses:
                    continue
                first, end = (number if number in loads else -1), (number if len(loads) > 1 else uses[-1])
            if number == first:
                waits[stream.name] = self._wait(stream, number)
            if number == end:
                signals[stream.name] = self._signal(stream, number)
        return waits, signals

    def _uses(self, stream: Stream) -> list[int]:
        """The sweeps that need an operand."""
        sweeps = self.map.sweeps(self.work)
        return [
            number
            for number, sweep in enumerate(sweeps)
            if stream.name in self.work.touched((*self.map.before(self.work, sweep), *sweep.each))
        ]

    # Instructions -----------------------------------------------------------------------------------------------------

    def _piece(self, sweep: Sweep, number: int, kinds: tuple[str, ...]) -> tuple[Node, ...]:
        """A sweep on one piece, between what it takes and gives of semaphores."""
        steps = [*self.map.before(self.work, sweep), *self._joined(sweep)]
        waits, signals = self._guards(number, kinds)
        if self.work.by_row:
            each = self._instructions(steps, number, evolve(self._here, row=ROW))
            one_by_one = Loop(ROW.id, ZERO, self._here.rows, each)
            return *syncs([*waits.values()]), one_by_one, *syncs((), [*signals.values()])
        instructions, touched = [*self._instructions(steps, number)], [self.work.touched([step]) for step in steps]
        if self.map.skips(self.work):
            results = [stream.name for stream in self._streams if stream.role == "out"]
            instructions += [Instruction("fill", (self._here.rest(name, self._slot(name, 0)), 0.0)) for name in results]
            touched += [{name} for name in results]
        return guarded(instructions, touched, waits, signals)

    def _joined(self, sweep: Sweep) -> list[Step]:
        """The steps of a sweep; where pieces are joined, a reduction is of one piece, and joined with those before."""
        totals = {} if self.map.whole(self.work) else self.work.totals(sweep)
        steps = list[Step]()
        for step in sweep.each:
            if totals.get(step.target) != step.op:
                steps.append(step)
                continue
            part = part_of(step.target)
            steps += [evolve(step, target=part), Step(REDUCTIONS[step.op][0], step.target, (step.target, part))]
        return steps

    def _instructions(self, steps: Iterable[Step], sweep: int, place: Place | None = None) -> tuple[Instruction, ...]:
        return tuple(self._instruction(step, sweep, place or self._here) for step in steps)

    def _instruction(self, step: Step, sweep: int, place: Place) -> Instruction:
        if step.op == "iota":  # its source says along which axis it counts, and from where
            axis, base = step.sources
            first, along = (place.first_row, 1) if axis == "rows" else (place.first_column, 0)
            options = ("base", first + int(base)), ("row_step", Const(along)), ("column_step", Const(1 - along))
            return Instruction("iota", (place.view(step.target, self._slot(step.target, sweep)),), options)
        operands = [
            place.view(source, self._slot(source, sweep)) if isinstance(source, str) else float(source)
            for source in step.sources
        ]
        return Instruction(step.op, (place.view(step.target, self._slot(step.target, sweep)), *operands))

    def _slot(self, name: str, sweep: int) -> Expr:
        item = self.work.operands.get(self.work.buffer(name))
        if isinstance(item, Stream):
            return slot_of(self.work, self.map, item, sweep)
        if isinstance(item, Temporary) and self.map.count(self.work, item) > 1:
            return self._here.piece
        return ZERO


def _fill(total: str, op: str) -> Step:
    """Nothing has been joined in a total yet."""
    return Step("fill", total, (REDUCTIONS[op][1],))


def syncs(waits: Sequence[SemaphoreRef], signals: Sequence[SemaphoreRef] = ()) -> tuple[Instruction, ...]:
    """Instructions that only wait and signal: two semaphores of each at most."""
    taken = tuple(Instruction("sync", waits=tuple(waits[i : i + 2])) for i in range(0, len(waits), 2))
    given = [Signal(ref) for ref in signals]
    return *taken, *(Instruction("sync", signals=tuple(given[i : i + 2])) for i in range(0, len(given), 2))


def guarded(
    instructions: Sequence[Instruction], touched: Sequence[set[str]], waits: Waits, signals: Waits
) -> tuple[Node, ...]:
    """Instructions, each of which waits for the buffers that it is the first to touch, and the last gives them up."""
    nodes: list[Node] = []
    for at, instruction in enumerate(instructions):
        earlier, later = set[str]().union(*touched[:at]), set[str]().union(*touched[at + 1 :])
        taken = [ref for name, ref in waits.items() if name in touched[at] - earlier]
        given = [ref for name, ref in signals.items() if name in touched[at] - later]
        nodes += syncs(taken[2:])
        nodes.append(evolve(instruction, waits=tuple(taken[:2]), signals=tuple(Signal(ref) for ref in given[:2])))
        nodes += syncs((), given[2:])
    return tuple(nodes)
