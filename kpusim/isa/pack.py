"""The records and tags of the array form (see `arrays`), and from a program to them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from kpusim.isa.expr import Binary, Call, Const, Expr, Lookup, Name
from kpusim.isa.printer import declarations
from kpusim.isa.program import Box, Instruction, Loop, Node, Operand, Program, Range, Rows, Section, SemaphoreRef, View
from kpusim.isa.tables import instruction_rows

__all__ = ["INSTRUCTION", "OPERATORS", "SECTION", "UNITS", "Arrays", "Tag", "pack"]

Arrays = Mapping[str, npt.NDArray[Any]]

SECTION = np.dtype(
    [("unit", "u1"), ("lets", "u1"), ("queue", "<u2")]
    + [(name, "<u4") for name in ("first", "last", "step", "line", "code", "instructions")]
)
"""unit: place in UNITS. code: index of its parameters in `code`. instructions: number of its pcs."""

INSTRUCTION = np.dtype(
    [("opcode", "u1"), ("section", "<u2"), ("code", "<u4")]
    + [(name, "u1") for name in ("operands", "options", "waits", "signals")]
)
"""code: index of its operands in `code`, with options, waits and signals behind; of a loop: counter, low, high."""

UNITS = ("matrix", "vector", "dma")
OPERATORS = ("+", "-", "*", "//", "%")


class Tag(IntEnum):
    """What the numbers behind it in `code` are."""

    CONST = 0
    NAME = 1
    ADD, SUBTRACT, MULTIPLY, DIVIDE, REMAINDER = range(2, 7)
    CDIV, MIN, MAX = range(7, 10)
    LOOKUP = 10
    VIEW = 16
    BOX = 17
    ROWS = 18
    FLOAT = 19
    NONE = 20


def pack(program: Program) -> dict[str, npt.NDArray[Any]]:
    """The arrays. Raises OverflowError."""
    return _Writer(program).arrays()


class _Writer:
    def __init__(self, program: Program):
        self.program = program
        self.code: list[int] = []
        self.names: dict[str, int] = {}
        self.buffers = _numbers(program.buffers)
        self.maps = _numbers(program.maps)
        self.tables = _numbers(program.tables)
        self.semaphores = _numbers(program.semaphores)
        self.records: list[tuple[int, ...]] = []
        self.lines: list[int] = []

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        sections = [self.section(number, section) for number, section in enumerate(self.program.sections)]
        text = "\n".join(declarations(self.program)) + "\n"
        return {
            "declarations": np.array(text.encode()),
            "names": np.array([name.encode() for name in self.names], "S") if self.names else np.zeros(0, "S1"),
            "sections": np.array(sections, SECTION),
            "instructions": np.array(self.records, INSTRUCTION),
            "line": np.array(self.lines, "<u4"),
            "code": np.array(self.code, "<i8"),
        }

    def section(self, number: int, section: Section) -> tuple[int, ...]:
        code, before = len(self.code), len(self.records)
        for name, value in section.lets:
            self.code.append(self.name(name))
            self.expression(value)
        self.body(number, section.body)
        pcs = len(self.records) - before
        places = (section.first, section.last, section.step)
        return (UNITS.index(section.unit), len(section.lets), section.queue, *places, section.line, code, pcs)

    def body(self, section: int, body: tuple[Node, ...]) -> None:
        rows = instruction_rows()
        for node in body:
            self.lines.append(node.line)
            if isinstance(node, Loop):
                self.records.append((rows["for"].opcode, section, len(self.code), 0, 0, 0, 0))
                self.code.append(self.name(node.counter))
                self.expression(node.low)
                self.expression(node.high)
                self.body(section, node.body)
                self.lines.append(0)
                self.records.append((rows["end"].opcode, section, len(self.code), 0, 0, 0, 0))
            else:
                counts = [len(items) for items in (node.operands, node.options, node.waits, node.signals)]
                self.records.append((rows[node.op].opcode, section, len(self.code), *counts))
                self.instruction(node)

    def instruction(self, node: Instruction) -> None:
        for operand in node.operands:
            self.operand(operand)
        options = [*instruction_rows()[node.op].options]
        for name, value in node.options:
            self.code.append(options.index(name))
            self.expression(value)
        for ref in node.waits:
            self.semaphore(ref)
        for signal in node.signals:
            self.code.append(int(signal.instant == "read"))
            self.semaphore(signal.target)

    def name(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def semaphore(self, ref: SemaphoreRef) -> None:
        self.code.append(self.semaphores[ref.semaphore])
        self.expression(ref.instance)
        self.expression(ref.slot)

    def operand(self, operand: Operand) -> None:
        match operand:
            case View(buffer, slot, ranges, tiles):
                self.code += [Tag.VIEW, self.buffers[buffer]]
                self.expression(slot)
                self.ranges(ranges)
                self.code.append(tiles.step if tiles else 0)
                if tiles:
                    self.expression(tiles.first)
                    self.expression(tiles.count)
            case Box(name, ranges):
                self.code += [Tag.BOX, self.maps[name]]
                self.ranges(ranges)
            case Rows(table, start, count):
                self.code += [Tag.ROWS, self.tables[table]]
                self.expression(start)
                self.expression(count)
            case float():
                self.code += [Tag.FLOAT, struct.unpack("<q", struct.pack("<d", operand))[0]]
            case _:
                self.expression(operand)

    def ranges(self, ranges: tuple[Range, ...]) -> None:
        self.code.append(len(ranges))
        for item in ranges:
            self.expression(item.start)
            if item.length is None:
                self.code.append(Tag.NONE)
            else:
                self.expression(item.length)

    def expression(self, expr: Expr) -> None:
        parts: tuple[Expr, ...]
        match expr:
            case Const(value):
                self.code += [Tag.CONST, value]
                return
            case Name(name):
                self.code += [Tag.NAME, self.name(name)]
                return
            case Binary(op, left, right):
                self.code.append(Tag.ADD + OPERATORS.index(op))
                parts = (left, right)
            case Call("cdiv", args):
                self.code.append(Tag.CDIV)
                parts = args
            case Call(function, args):
                self.code += [Tag.MIN if function == "min" else Tag.MAX, len(args)]
                parts = args
            case Lookup(table, index):
                self.code += [Tag.LOOKUP, self.tables[table]]
                parts = (index,)
        for part in parts:
            self.expression(part)


def _numbers(declared: tuple[Any, ...]) -> dict[str, int]:
    return {item.name: number for number, item in enumerate(declared)}
