"""The text form of a program (`.kasm`). `assemble(disassemble(p)) == p`, and canonical text comes back unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.isa.expr import Const, show
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
    Tensor,
    TileSet,
    View,
)

__all__ = ["declarations", "disassemble", "instruction_text"]

WIDTH = 110
INDENT = "  "


def disassemble(program: Program) -> str:
    """The program as assembly text."""
    lines = [*declarations(program)]
    for section in program.sections:
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def declarations(program: Program) -> Iterator[str]:
    """The lines of the side tables."""
    yield "kasm 1"
    yield f"program {program.name}"
    for tensor in program.tensors:
        yield _tensor(tensor)
    for item in program.maps:
        yield f"map {item.name} = {item.tensor} box {_dims(item.box)}"
    for buffer in program.buffers:
        yield f"sram {buffer.name} {buffer.dtype} [{buffer.slots}]{_dims(buffer.shape)} at {buffer.offset}"
    for sem in program.semaphores:
        extra = f" init {sem.init}" * (sem.init != 0) + f" join {sem.join}" * (sem.join != 1)
        yield f"semaphore {sem.name} [{sem.instances}][{sem.slots}]{extra}"
    for table in program.tables:
        assumed = f" assumed {table.assumed}" * bool(table.assumed)
        yield f"table {table.name}{assumed} = [{', '.join(map(str, table.values))}]"


def instruction_text(node: Instruction, indent: str = "") -> str:
    """One instruction; waits and signals on lines of their own where one line would be too long."""
    parts = [_operand(operand) for operand in node.operands]
    parts += [f"{name}={show(value)}" for name, value in node.options]
    head = " ".join([node.op, ", ".join(parts)]).rstrip()
    tails = []
    if node.waits:
        tails.append("wait " + ", ".join(_semaphore(ref) for ref in node.waits))
    if node.signals:
        tails.append("signal " + ", ".join(_signal(signal) for signal in node.signals))
    line = indent + "  ".join([head, *tails])
    if len(line) <= WIDTH:
        return line
    return f"\n{indent}{INDENT * 2}".join([indent + head, *tails])


def _tensor(tensor: Tensor) -> str:
    block = f" blocked {_dims(tensor.block)}" if tensor.block else ""
    pitch = f" pitch {tensor.pitch}" if tensor.pitch else ""
    return f"tensor {tensor.name} {tensor.dtype} {_dims(tensor.shape)} {tensor.role}{block}{pitch}"


def _section(section: Section) -> Iterator[str]:
    place = "engines" if section.unit == "dma" else "tiles"
    queue = f" queue {section.queue}" if section.unit == "dma" else ""
    step = f" step {section.step}" if section.step != 1 else ""
    yield f"section {section.unit}{queue} {place} {section.first}..{section.last}{step}"
    for name, value in section.lets:
        yield f"{INDENT}let {name} = {show(value)}"
    yield from _body(section.body, INDENT)
    yield "end"


def _body(body: tuple[Node, ...], indent: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, Loop):
            yield f"{indent}for {node.counter} = {show(node.low)} .. {show(node.high)}"
            yield from _body(node.body, indent + INDENT)
            yield f"{indent}end"
        else:
            yield instruction_text(node, indent)


def _operand(operand: Operand) -> str:
    match operand:
        case View(buffer, slot, ranges, tiles):
            return f"{buffer}[{show(slot)}]{_ranges(ranges)}{_tiles(tiles)}"
        case Box(map_name, ranges):
            return f"{map_name}({', '.join(_coordinate(item) for item in ranges)})"
        case Rows(table, start, count):
            return f"{table}[{show(start)} +: {show(count)}]"
        case float():
            return repr(operand)
        case _:
            return show(operand)


def _ranges(ranges: tuple[Range, ...]) -> str:
    return f"[{', '.join(_range(item) for item in ranges)}]" if ranges else ""


def _range(item: Range) -> str:
    """Within a slot: `:` (all), `n` (the first n) or `start +: n`."""
    if item.length is None:
        return ":"
    return show(item.length) if item.start == Const(0) else f"{show(item.start)} +: {show(item.length)}"


def _coordinate(item: Range) -> str:
    """In a tensor: `start`, or `start +: n` where the box is narrowed."""
    return show(item.start) if item.length is None else f"{show(item.start)} +: {show(item.length)}"


def _tiles(tiles: TileSet | None) -> str:
    if tiles is None:
        return ""
    count = "" if tiles.count == Const(1) and tiles.step == 1 else f" +: {show(tiles.count)}"
    step = "" if tiles.step == 1 else f" step {tiles.step}"
    return f" @ {show(tiles.first)}{count}{step}"


def _semaphore(ref: SemaphoreRef) -> str:
    return f"{ref.semaphore}[{show(ref.instance)}][{show(ref.slot)}]"


def _signal(signal: Signal) -> str:
    prefix = "read " if signal.instant == "read" else ""
    return prefix + _semaphore(signal.target)


def _dims(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
