"""Operands and indices that leave what they index.

Intervals of all names prove most of them right at once. What they cannot prove is tried on a sample of what is really
executed (the first and last counters of every loop at every place), so that nothing right is ever reported.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.errors import UserError
from kpusim.isa.expr import Expr, Lookup, bounds, names_in, walk
from kpusim.isa.program import Box, Instruction, Loop, Node, Operand, Program, Range, Rows, Section, SemaphoreRef, View
from kpusim.isa.ranges import inner_ranges, section_ranges
from kpusim.isa.sample import sampled_steps
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import BoxAt, ResolvedOperand, SectionCode, Step, ViewAt

__all__ = ["Spans", "extent_problems"]

Span = tuple[int, int]  # least and greatest value


def extent_problems(program: Program, codes: list[SectionCode], tiles: int) -> Iterator[UserError]:
    """Every instruction that certainly leaves a buffer, table, box, semaphore array or the machine's `tiles`."""
    proofs = _Proofs(program, tiles)
    for code in codes:
        unproven, bounds_proven = proofs.unproven(code.section)
        if unproven or not bounds_proven:
            yield from _tried(code, unproven, tiles)


def _tried(code: SectionCode, unproven: set[int], tiles: int) -> Iterator[UserError]:
    """The problems of a sample of executions, one an instruction; `unproven` are the pcs to look at."""
    remaining = set(unproven)
    try:
        for _, step in sampled_steps(code):
            if step.code.pc in remaining:
                problem = _problem(step, tiles)
                if problem is not None:
                    remaining.discard(step.code.pc)
                    yield problem
    except UserError as error:  # a bound or parameter: nothing behind it is known
        yield error


def _problem(step: Step, tiles: int) -> UserError | None:
    """What is wrong with one execution of an instruction, if anything."""
    try:
        operands = step.operands()
        for operand in operands:
            problem = _operand_problem(operand, tiles)
            if problem is not None:
                return UserError(problem, where=step.code.where, found=step.names)
        step.waits()
        destinations = operands[0].tiles if operands and isinstance(operands[0], ViewAt) else None
        for instant in ("read", "done"):
            step.signals(instant, destinations)
    except UserError as error:
        return error
    return None


def _operand_problem(operand: ResolvedOperand, tiles: int) -> str | None:
    if not isinstance(operand, ViewAt | BoxAt):
        return None
    named = operand.tiles if isinstance(operand, ViewAt) else None
    if named is not None and not (named and named[0] >= 0 and named[-1] < tiles):
        return f"tiles {named.start}..{named.stop} are not all among the machine's 0..{tiles}"
    if isinstance(operand, BoxAt):
        for size, extent in zip(operand.sizes, operand.map.box, strict=True):
            if size > extent:
                return f"{size} elements are more than the {extent} of the box of {operand.map.name}"
    bits = DTYPE_BITS[operand.dtype]
    if operand.starts[-1] * bits % 8 or operand.sizes[-1] * bits % 8:
        return f"{operand.starts[-1]} +: {operand.sizes[-1]} of {operand.dtype} starts or ends within a byte"
    return None


class Spans:
    """The intervals of all names at one point of a section, whatever its place and counters."""

    def __init__(self, program: Program, section: Section):
        self.tables = {table.name: table.values for table in program.tables}
        self.names: dict[str, Span] = section_ranges(section, self.tables)
        self.proven = all(self.looks_up_within(value) for _, value in section.lets)

    def enter(self, loop: Loop) -> bool:
        """Brings a loop's counter into scope; False where its body is certainly never executed."""
        self.proven = self.proven and self.looks_up_within(loop.low) and self.looks_up_within(loop.high)
        executed = self.of(loop.low)[0] < self.of(loop.high)[1]
        self.names = inner_ranges(loop, self.names, self.tables)
        return executed

    def of(self, expr: Expr) -> Span:
        """The interval of `expr`."""
        return bounds(expr, self.names, self.tables)

    def within(self, expr: Expr, least: int, most: int) -> bool:
        """Whether `expr` is certainly from `least` to `most`."""
        low, high = self.of(expr)
        return least <= low and high <= most and self.looks_up_within(expr)

    def looks_up_within(self, expr: Expr) -> bool:
        """Whether every look-up in `expr` certainly stays in its table."""
        lookups = [node for node in walk(expr) if isinstance(node, Lookup)]
        return all(self.within(node.index, 0, len(self.tables[node.table]) - 1) for node in lookups)


class _Proofs:
    """What intervals prove, section by section in program order."""

    def __init__(self, program: Program, tiles: int):
        self.program, self.tiles = program, tiles
        self.buffers = {buffer.name: buffer for buffer in program.buffers}
        self.maps = {item.name: item for item in program.maps}
        self.bits = {tensor.name: DTYPE_BITS[tensor.dtype] for tensor in program.tensors}
        self.semaphores = {sem.name: sem for sem in program.semaphores}
        self.pc = 0

    def unproven(self, section: Section) -> tuple[set[int], bool]:
        """The pcs that are not proven right; and whether all parameters and loop bounds are."""
        spans = Spans(self.program, section)
        pcs = set(self.body(section.body, spans, True))
        return pcs, spans.proven

    def body(self, body: tuple[Node, ...], spans: Spans, executed: bool) -> Iterator[int]:
        for node in body:
            pc = self.pc
            self.pc += 1
            if isinstance(node, Loop):
                yield from self.body(node.body, spans, executed and spans.enter(node))
                self.pc += 1
            elif executed and not self.instruction(node, spans):
                yield pc

    def instruction(self, node: Instruction, spans: Spans) -> bool:
        return (
            all(self.operand(operand, spans) for operand in node.operands)
            and all(spans.looks_up_within(value) for _, value in node.options)
            and all(self.semaphore(ref, spans) for ref in node.waits)
            and self.signals(node, spans)
        )

    def operand(self, operand: Operand, spans: Spans) -> bool:
        match operand:
            case View():
                return self.view(operand, spans)
            case Box():
                return self.box(operand, spans)
            case Rows(table, start, count):
                return _range(Range(start, count), len(spans.tables[table]), spans)
            case float():
                return True
            case _:
                return spans.looks_up_within(operand)

    def box(self, box: Box, spans: Spans) -> bool:
        item = self.maps[box.map]
        return self.bits[item.tensor] >= 8 and all(
            spans.looks_up_within(part.start)
            and (part.length is None or (spans.of(part.length)[1] <= extent and spans.looks_up_within(part.length)))
            for part, extent in zip(box.ranges, item.box, strict=True)
        )

    def view(self, view: View, spans: Spans) -> bool:
        buffer = self.buffers[view.buffer]
        ranges = zip(view.ranges, buffer.shape, strict=True) if view.ranges else ()
        return (
            spans.within(view.slot, 0, buffer.slots - 1)
            and all(_range(part, extent, spans) for part, extent in ranges)
            and (not view.ranges or DTYPE_BITS[buffer.dtype] >= 8)
            and (view.tiles is None or self.destinations(view, spans) is not None)
        )

    def destinations(self, view: View, spans: Spans) -> Span | None:
        """The first and last tile of a view where they are certainly on the machine."""
        assert view.tiles is not None
        first, count = view.tiles.first, view.tiles.count
        if not (spans.within(first, 0, self.tiles - 1) and spans.within(count, 1, self.tiles)):
            return None
        low, high = spans.of(first)
        last = high + (spans.of(count)[1] - 1) * view.tiles.step
        return (low, last) if last < self.tiles else None

    def semaphore(self, ref: SemaphoreRef, spans: Spans) -> bool:
        sem = self.semaphores[ref.semaphore]
        return spans.within(ref.instance, 0, sem.instances - 1) and spans.within(ref.slot, 0, sem.slots - 1)

    def signals(self, node: Instruction, spans: Spans) -> bool:
        for signal in node.signals:
            if "dst" in names_in(signal.target.instance) | names_in(signal.target.slot):
                view = node.operands[0]
                destinations = self.destinations(view, spans) if isinstance(view, View) else None
                if destinations is None:
                    return False
                spans.names["dst"] = destinations
            if not self.semaphore(signal.target, spans):
                return False
        return True


def _range(part: Range, extent: int, spans: Spans) -> bool:
    """Whether a range certainly stays within 0 .. extent."""
    if part.length is None:
        return spans.within(part.start, 0, 0)
    high = spans.of(part.start)[1] + max(spans.of(part.length)[1], 0)
    return spans.within(part.start, 0, extent) and spans.looks_up_within(part.length) and high <= extent
