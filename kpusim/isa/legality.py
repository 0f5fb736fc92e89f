"""What is wrong with an instruction by itself: its unit, operands, dtypes, options, signals and constant shapes."""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.errors import UserError
from kpusim.isa.expr import Const, names_in
from kpusim.isa.program import Box, Instruction, Operand, Program, Rows, Section, View
from kpusim.isa.shapes import shape_problem, sizes_of
from kpusim.isa.tables import OperandRow, Row, instruction_rows
from kpusim.isa.walk import instruction_place

__all__ = ["instruction_problems"]

REFERENCES = 2  # waits, and signals, of one instruction


def instruction_problems(program: Program) -> Iterator[UserError]:
    """Every problem that an instruction of `program` has by itself."""
    check = _Check(program)
    for pc, node, section in program.instructions():
        if isinstance(node, Instruction):
            where = instruction_place(pc, node.op, node.line)
            for problem, found, allowed in check.instruction(node, section):
                yield UserError(problem, where=where, found=found, allowed=allowed)
    yield from _instants(program)


def _instants(program: Program) -> Iterator[UserError]:
    """Semaphores that one queue signals at both instants: its signals would not come in its own order."""
    given: dict[tuple[int, str], str] = {}
    for pc, node, section in program.instructions():
        if not isinstance(node, Instruction):
            continue
        for signal in node.signals:
            name = signal.target.semaphore
            first = given.setdefault((id(section), name), signal.instant)
            if signal.instant != first:
                where = instruction_place(pc, node.op, node.line)
                allowed = f"{first}, as before: a queue signals a semaphore always at the same instant"
                problem = f"{name} is signalled at another instant"
                yield UserError(problem, where=where, found=signal.instant, allowed=allowed)


Problem = tuple[str, object, str | list[str]]  # problem, found, allowed


class _Check:
    def __init__(self, program: Program):
        self.buffers = {buffer.name: buffer for buffer in program.buffers}
        self.maps = {item.name: item for item in program.maps}
        self.tensors = {tensor.name: tensor for tensor in program.tensors}

    def instruction(self, node: Instruction, section: Section) -> Iterator[Problem]:
        rows = {name: row for name, row in instruction_rows().items() if name not in ("for", "end")}
        row = rows.get(node.op)
        if row is None:
            yield "unknown instruction", node.op, [*rows]
            return
        if row.unit not in (section.unit, "any"):
            yield f"a {section.unit} queue cannot execute {node.op}", f"{section.unit} section", f"{row.unit} sections"
        for name, _ in node.options:
            if name not in row.options:
                yield f"{node.op} has no such option", name, [*row.options] or "no options"
        yield from self.references(node, row)
        least, most = sum(not operand.optional for operand in row.operands), len(row.operands)
        if not least <= len(node.operands) <= most:
            count = f"{least} or {most}" if least < most else str(most)
            names = ", ".join(operand.name for operand in row.operands)
            yield f"{node.op} takes {count} operands", len(node.operands), names or "none"
            return
        legal = True
        for declared, operand in zip(row.operands, node.operands, strict=False):
            for problem in self.operand(declared, operand):
                legal = False
                yield problem
        if legal:
            yield from self.agreement(row, node)

    def operand(self, declared: OperandRow, operand: Operand) -> Iterator[Problem]:
        kind = _kind(operand)
        if kind not in declared.kinds:
            yield f"operand {declared.name} is of another kind", kind, [*declared.kinds]
            return
        if isinstance(operand, View):
            yield from _tile_set(declared, operand)
        if isinstance(operand, Box) and declared.access != "read":
            tensor = self.tensors[self.maps[operand.map].tensor]
            if tensor.role == "in":
                yield f"{tensor.name} is an input, nothing may write it", tensor.role, ["out", "inout"]
        dtype = self.dtype(operand)
        if dtype and dtype not in declared.dtypes:
            yield f"operand {declared.name} cannot have this dtype", dtype, [*declared.dtypes]
        integers = declared.dtypes and not any(dtype.startswith(("fp", "bf")) for dtype in declared.dtypes)
        if isinstance(operand, float) and integers:
            yield f"operand {declared.name} is an integer", operand, "an expression"

    def dtype(self, operand: Operand) -> str:
        """The dtype of a view or box, else ""."""
        match operand:
            case View(buffer):
                return self.buffers[buffer].dtype
            case Box(name):
                return self.tensors[self.maps[name].tensor].dtype
            case _:
                return ""

    def agreement(self, row: Row, node: Instruction) -> Iterator[Problem]:
        """Between operands that are legal one by one: dtypes and, where they are constant, shapes."""
        names = [operand.name for operand in row.operands]
        dtypes = {name: self.dtype(operand) for name, operand in zip(names, node.operands, strict=False)}
        for group in row.same:
            if len({dtypes[name] for name in group}) > 1:
                found = ", ".join(f"{name} {dtypes[name]}" for name in group)
                yield f"{' and '.join(group)} have one dtype", found, "the same for all"
        if row.timing_class == "matmul" and (dtypes["a"] == "int8") != (dtypes["out"] == "int32"):
            yield "out cannot add up these products", f"{dtypes['out']} for {dtypes['a']}", "int32 for int8, else fp32"
        problem = shape_problem(row, node, [sizes_of(item, self.buffers, self.maps) for item in node.operands])
        if problem is not None:
            yield f"the shapes of {node.op} do not fit", *problem

    def references(self, node: Instruction, row: Row) -> Iterator[Problem]:
        for what, items in (("waits", node.waits), ("signals", node.signals)):
            if len(items) > REFERENCES:
                yield f"too many {what}", len(items), f"up to {REFERENCES}; `sync` takes what is left over"
        if node.op == "halt" and node.waits:
            yield "halt waits for nothing", len(node.waits), "a `sync` before it"
        if node.op in ("halt", "barrier") and node.signals:
            yield f"{node.op} signals nothing", len(node.signals), "a `sync` before it"
        multicast = bool(row.operands) and row.operands[0].tiles == "tiles"
        for signal in node.signals:
            if "dst" in names_in(signal.target.instance) | names_in(signal.target.slot):
                if not multicast:
                    yield "only a transfer to tiles has a `dst`", node.op, "load, gather, copy"
                elif signal.instant != "done":
                    yield "a signal to each `dst` is given when its data is there", signal.instant, "done"


def _kind(operand: Operand) -> str:
    match operand:
        case View():
            return "view"
        case Box():
            return "box"
        case Rows():
            return "list"
        case _:
            return "scalar"


def _tile_set(declared: OperandRow, view: View) -> Iterator[Problem]:
    if not declared.tiles and view.tiles is not None:
        yield f"operand {declared.name} is in the executing tile", "@", f"{view.buffer}[slot] alone"
    elif declared.tiles and view.tiles is None:
        yield f"operand {declared.name} does not say in which tile", view.buffer, f"{view.buffer}[slot] @ tile"
    elif declared.tiles == "tile" and view.tiles is not None and view.tiles.count != Const(1):
        yield f"operand {declared.name} is in one tile", "several", f"{view.buffer}[slot] @ tile"
