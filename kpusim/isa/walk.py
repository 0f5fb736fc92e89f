"""Walking a program: the instructions that one queue executes, in order, with every operand a plain number.

This is the sequencer and the address generators without their time: the reference simulation, the DMA queues and the
functional execution all read programs through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from attrs import define, frozen

from kpusim.errors import UserError
from kpusim.isa.expr import Const, Expr, Name, compiled, compiled_tuple, maximum, names_in
from kpusim.isa.operands import BoxAt, ResolvedOperand, RowsAt, ViewAt
from kpusim.isa.program import (
    Box,
    Instruction,
    Loop,
    Node,
    Operand,
    Program,
    Range,
    Rows,
    Section,
    SemaphoreRef,
    Signal,
    View,
)
from kpusim.isa.tables import Row, instruction_rows

__all__ = [
    "BoxAt",
    "Code",
    "ResolvedOperand",
    "RowsAt",
    "SectionCode",
    "SignalCode",
    "Step",
    "ViewAt",
    "instruction_place",
    "section_codes",
]

Names = Mapping[str, int]
Value = Callable[[Names], int]
Values = Callable[[Names], tuple[int, ...]]


@frozen
class SignalCode:
    """A signal: the flat number of its semaphore as a function of the names (`dst` among them where `per_tile`)."""

    number: Value
    instant: str
    per_tile: bool
    stride: int  # where the instance is `dst` itself: from a tile's number to the next tile's; else 0

    def numbers(self, names: Names, tiles: range) -> Sequence[int]:
        """The flat numbers for all destination tiles."""
        ends = [self.number({**names, "dst": tile}) for tile in (tiles[0], tiles[-1])] if self.stride and tiles else []
        if ends:
            return range(ends[0], ends[1] + self.stride * tiles.step, self.stride * tiles.step)
        return [self.number({**names, "dst": tile}) for tile in tiles]


@define
class Code:
    """One instruction of a section, ready to be evaluated for any of its places."""

    node: Instruction
    row: Row
    pc: int
    operands: tuple[Callable[[Names], ResolvedOperand], ...]
    options: dict[str, Value]
    waits: tuple[Value, ...]
    signals: tuple[SignalCode, ...]
    instants: frozenset[str]

    @property
    def where(self) -> str:
        """How a message names this instruction."""
        return instruction_place(self.pc, self.node.op, self.node.line)


@define(eq=False)
class Step:
    """One execution of an instruction: its code, the values of all names, and how often it ran before on this queue."""

    code: Code
    names: dict[str, int]
    iteration: int

    def operands(self) -> tuple[ResolvedOperand, ...]:
        """The operands, evaluated. Raises UserError where one leaves its buffer, table or tile range."""
        try:
            return tuple([operand(self.names) for operand in self.code.operands])
        except (IndexError, ValueError) as error:
            raise UserError(str(error), where=self.code.where, found=self.names) from error

    def option(self, name: str) -> int:
        """The value of an option, or its default. Raises UserError where it looks beyond a table."""
        value = self.code.options.get(name)
        try:
            return self.code.row.options[name] if value is None else value(self.names)
        except IndexError as error:
            raise UserError(str(error), where=self.code.where, found=self.names) from error

    def waits(self) -> list[int]:
        """Flat numbers of the semaphores it waits for. Raises UserError where there is none of that index."""
        try:
            return [wait(self.names) for wait in self.code.waits]
        except IndexError as error:
            raise UserError(str(error), where=self.code.where, found=self.names) from error

    def signals(self, instant: str, tiles: range | None = None) -> list[tuple[int, int]]:
        """(flat number, place of the destination in `tiles` or -1) of what it signals. Raises UserError as `waits`."""
        result: list[tuple[int, int]] = []
        try:
            for signal in self.code.signals:
                if signal.instant != instant:
                    continue
                if signal.per_tile and tiles is not None:
                    result += zip(signal.numbers(self.names, tiles), range(len(tiles)), strict=True)
                else:
                    result.append((signal.number(self.names), -1))
        except IndexError as error:
            raise UserError(str(error), where=self.code.where, found=self.names) from error
        return result


@define
class SectionCode:
    """A section, ready to be walked."""

    section: Section
    body: tuple[_LoopCode | Code, ...]
    lets: tuple[tuple[str, Value], ...]

    def names_at(self, place: int) -> dict[str, int]:
        """The parameters of one place. Raises UserError where one looks up beyond a table."""
        names = {self.section.place_name: place}
        for name, value in self.lets:
            try:
                names[name] = value(names)
            except IndexError as error:
                line = f"line {self.section.line}: " * bool(self.section.line)
                raise UserError(str(error), where=f"{line}let {name}", found=names) from error
        return names

    def steps(self, place: int, thin: Callable[[range], Iterable[int]] = iter) -> Iterator[Step]:
        """What the queue at `place` executes, in order. The names of a step stay as they are.

        `thin` may leave out some of a loop's counters, for who wants samples of what is executed.
        Raises UserError where a bound looks up beyond a table.
        """
        return _run(self.body, self.names_at(place), {}, thin)


@define
class _LoopCode:
    node: Loop
    pc: int
    low: Value
    high: Value
    body: tuple[_LoopCode | Code, ...]

    def counters(self, names: Names) -> range:
        try:
            return range(self.low(names), self.high(names))
        except IndexError as error:
            raise UserError(str(error), where=instruction_place(self.pc, "for", self.node.line), found=names) from error


def instruction_place(pc: int, op: str, line: int) -> str:
    """How a message names an instruction: pc 3 (matmul, line 17)."""
    return f"pc {pc} ({op}, line {line})" if line else f"pc {pc} ({op})"


def _run(
    body: tuple[_LoopCode | Code, ...],
    names: dict[str, int],
    runs: dict[int, int],
    thin: Callable[[range], Iterable[int]],
) -> Iterator[Step]:
    for item in body:
        if isinstance(item, Code):
            iteration = runs.get(item.pc, 0)
            runs[item.pc] = iteration + 1
            yield Step(item, names, iteration)
        else:
            name = item.node.counter
            for counter in thin(item.counters(names)):
                yield from _run(item.body, {**names, name: counter}, runs, thin)


def section_codes(program: Program) -> list[SectionCode]:
    """Every section of `program`, ready to be walked."""
    return _Builder(program).sections()


class _Builder:
    """Turns expressions into functions and names into the things they name, once a program."""

    def __init__(self, program: Program):
        self.program = program
        self.tables = {table.name: table.values for table in program.tables}
        self.buffers = {buffer.name: buffer for buffer in program.buffers}
        self.maps = {item.name: item for item in program.maps}
        self.tensors = {tensor.name: (number, tensor) for number, tensor in enumerate(program.tensors)}
        self.semaphores = program.semaphore_layout()
        self.pc = 0

    def sections(self) -> list[SectionCode]:
        result = []
        for section in self.program.sections:
            lets = tuple((name, self.value(expr)) for name, expr in section.lets)
            result.append(SectionCode(section, self.body(section.body), lets))
        return result

    def body(self, nodes: tuple[Node, ...]) -> tuple[_LoopCode | Code, ...]:
        result: list[_LoopCode | Code] = []
        for node in nodes:
            pc = self.pc
            self.pc += 1
            if isinstance(node, Loop):
                body = self.body(node.body)
                result.append(_LoopCode(node, pc, self.value(node.low), self.value(node.high), body))
                self.pc += 1
            else:
                result.append(self.code(node, pc))
        return tuple(result)

    def code(self, node: Instruction, pc: int) -> Code:
        return Code(
            node=node,
            row=instruction_rows()[node.op],
            pc=pc,
            operands=tuple(self.operand(operand) for operand in node.operands),
            options={name: self.value(expr) for name, expr in node.options},
            waits=tuple(self.semaphore(ref) for ref in node.waits),
            signals=tuple(self.signal(signal) for signal in node.signals),
            instants=frozenset(signal.instant for signal in node.signals),
        )

    def signal(self, signal: Signal) -> SignalCode:
        target = signal.target
        per_tile = "dst" in names_in(target.instance) | names_in(target.slot)
        plain = target.instance == Name("dst") and "dst" not in names_in(target.slot)
        stride = self.semaphores[target.semaphore][1].slots if plain else 0
        return SignalCode(self.semaphore(target), signal.instant, per_tile, stride)

    def value(self, expr: Expr) -> Value:
        return compiled(expr, self.tables)

    def semaphore(self, ref: SemaphoreRef) -> Value:
        base, sem = self.semaphores[ref.semaphore]
        instances, slots = sem.instances, sem.slots
        place = self.values((ref.instance, ref.slot))

        def number(names: Names) -> int:
            i, s = place(names)
            if not (0 <= i < instances and 0 <= s < slots):
                raise IndexError(f"{sem.name} is [{sem.instances}][{sem.slots}]; there is no {sem.name}[{i}][{s}]")
            return base + i * slots + s

        return number

    def operand(self, operand: Operand) -> Callable[[Names], ResolvedOperand]:
        match operand:
            case View():
                return self.view(operand)
            case Box():
                return self.box(operand)
            case Rows(table, start, count):
                return self.rows(table, self.value(start), self.value(count))
            case float():
                return lambda names: operand
            case _:
                return self.value(operand)

    def view(self, view: View) -> Callable[[Names], ViewAt]:
        buffer = self.buffers[view.buffer]
        slot, tiles = self.value(view.slot), self.tiles(view)
        starts_of, sizes_of = self.ranges(view.ranges or (Range(),) * len(buffer.shape), buffer.shape)

        def resolve(names: Names) -> ViewAt:
            starts, sizes = starts_of(names), sizes_of(names)
            at = ViewAt(buffer, slot(names), starts, sizes, tiles(names))
            if not 0 <= at.slot < buffer.slots:
                raise IndexError(
                    f"{buffer.name} is [{buffer.slots}]{[*buffer.shape]}; there is no {buffer.name}[{at.slot}]"
                )
            for start, size, extent in zip(starts, sizes, buffer.shape, strict=True):
                if start < 0 or start + size > extent:
                    raise IndexError(f"{buffer.name} is [{buffer.slots}]{[*buffer.shape]}; {start} +: {size} leaves it")
            return at

        return resolve

    def tiles(self, view: View) -> Callable[[Names], range | None]:
        if view.tiles is None:
            return lambda names: None
        bounds_of, step = self.values((view.tiles.first, view.tiles.count)), view.tiles.step

        def resolve(names: Names) -> range:
            first, count = bounds_of(names)
            return range(first, first + count * step, step)

        return resolve

    def box(self, box: Box) -> Callable[[Names], BoxAt]:
        item = self.maps[box.map]
        number, tensor = self.tensors[item.tensor]
        starts, sizes = self.ranges(box.ranges, item.box)
        return lambda names: BoxAt(item, tensor, number, starts(names), sizes(names))

    def ranges(self, ranges: tuple[Range, ...], extents: tuple[int, ...]) -> tuple[Values, Values]:
        """Starts, and sizes clamped to 0."""
        lengths = [
            Const(extent) if item.length is None else maximum(item.length, 0)
            for item, extent in zip(ranges, extents, strict=True)
        ]
        return self.values([item.start for item in ranges]), self.values(lengths)

    def values(self, exprs: Sequence[Expr]) -> Values:
        return compiled_tuple(exprs, self.tables)

    def rows(self, table: str, start: Value, count: Value) -> Callable[[Names], RowsAt]:
        values = self.tables[table]

        def resolve(names: Names) -> RowsAt:
            low, n = start(names), max(count(names), 0)
            if low < 0 or low + n > len(values):
                raise IndexError(f"table {table} has {len(values)} entries; {low} +: {n} leaves it")
            return RowsAt(table, values[low : low + n])

        return resolve
