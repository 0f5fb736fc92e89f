"""From the array form (see `arrays`) back to a program, whoever made the arrays."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from kpusim.errors import UserError
from kpusim.isa.assembler import LOOPS, assemble
from kpusim.isa.expr import HEIGHT, Binary, Call, Const, Expr, Lookup, Name
from kpusim.isa.pack import INSTRUCTION, OPERATORS, SECTION, UNITS, Arrays, Tag
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
    TileSet,
    View,
)
from kpusim.isa.tables import instruction_rows, row_of_opcode

__all__ = ["unpack"]

T = TypeVar("T")


def unpack(arrays: Arrays, source: str) -> Program:
    """The program of its array form. Raises UserError where the arrays do not hang together.

    Names, dtypes and ranks that no text could say are not looked at: `arrays.from_arrays` does.
    """
    return _Reader(arrays, source).program()


class _Reader:
    def __init__(self, arrays: Arrays, source: str):
        self.source = source
        (text,) = self.texts(arrays, "declarations", 0)
        self.declared = assemble(text, f"{source}: declarations")
        self.names = self.texts(arrays, "names", 1)
        self.sections = self.array(arrays, "sections", SECTION)
        self.instructions = self.array(arrays, "instructions", INSTRUCTION)
        self.line = self.array(arrays, "line", np.dtype("<u4"))
        self.code = self.array(arrays, "code", np.dtype("<i8")).tolist()
        if len(self.line) != len(self.instructions):
            self.fail("there is not one line for each instruction")
        self.at = self.pc = 0

    # --- arrays ---------------------------------------------------------------------------------------------------

    def fail(self, problem: str) -> NoReturn:
        raise UserError(f"the array form of a program is broken: {problem}", where=self.source)

    def texts(self, arrays: Arrays, name: str, dimensions: int) -> list[str]:
        """Text as numpy stores it, or as HDF5 gives it back."""
        array = np.asarray(arrays.get(name))
        items = array.ravel().tolist()
        if array.ndim != dimensions or not all(isinstance(item, str | bytes) for item in items):
            self.fail(f"no text {name!r}")
        try:
            return [item if isinstance(item, str) else item.decode() for item in items]
        except UnicodeDecodeError:
            self.fail(f"{name!r} is not UTF-8")

    def array(self, arrays: Arrays, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        array = np.asarray(arrays.get(name))
        if array.dtype != dtype or array.ndim != 1:
            self.fail(f"no array {name!r} of {dtype}")
        return array

    def take(self) -> int:
        """The next number of the code."""
        if not 0 <= self.at < len(self.code):
            self.fail(f"nothing at {self.at} of the code")
        self.at += 1
        value: int = self.code[self.at - 1]
        return value

    def pick(self, items: Sequence[T], what: str) -> T:
        """One of `items` by the next number."""
        number = self.take()
        if not 0 <= number < len(items):
            self.fail(f"no {what} {number}")
        return items[number]

    def count(self) -> int:
        """The next number, as a count of what follows."""
        number = self.take()
        if not 0 <= number <= len(self.code) - self.at:
            self.fail(f"a count of {number}")
        return number

    # --- the program ----------------------------------------------------------------------------------------------

    def program(self) -> Program:
        declared = self.declared
        if declared.sections:
            self.fail("sections among the declarations")
        sections = tuple([self.section(number, record.item()) for number, record in enumerate(self.sections)])
        if self.pc != len(self.instructions):
            self.fail("instructions behind the last section")
        return Program(
            declared.name,
            declared.tensors,
            declared.maps,
            declared.buffers,
            declared.semaphores,
            declared.tables,
            sections,
        )

    def section(self, number: int, record: tuple[int, ...]) -> Section:
        unit, lets, queue, first, last, step, line, code, pcs = record
        if unit >= len(UNITS) or pcs > len(self.instructions) - self.pc:
            self.fail(f"section {number}")
        self.at = code
        parameters = tuple([(self.pick(self.names, "name"), self.expression()) for _ in range(lets)])
        body = self.body(number, self.pc + pcs, 0)
        return Section(UNITS[unit], first, last, step, queue, parameters, body, line=line)

    def body(self, section: int, last: int, depth: int) -> tuple[Node, ...]:
        """Nodes up to pc `last`, or to the end of the loop they are in."""
        nodes: list[Node] = []
        while self.pc < last:
            opcode, number, self.at, *counts = self.instructions[self.pc].item()
            line = int(self.line[self.pc])
            self.pc += 1
            op = self.mnemonic(opcode)
            if number != section:
                self.fail(f"pc {self.pc - 1} is in another section")
            if op == "end" and depth:
                return tuple(nodes)
            nodes.append(self.loop(section, last, depth, line) if op == "for" else self.instruction(op, counts, line))
        if depth:
            self.fail("a loop without an end")
        return tuple(nodes)

    def mnemonic(self, opcode: int) -> str:
        try:
            return row_of_opcode(opcode).name
        except KeyError:
            self.fail(f"no instruction has opcode {opcode}")

    def loop(self, section: int, last: int, depth: int, line: int) -> Loop:
        if depth >= LOOPS:
            self.fail(f"more than {LOOPS} loops within each other")
        counter = self.pick(self.names, "name")
        low, high = self.expression(), self.expression()
        return Loop(counter, low, high, self.body(section, last, depth + 1), line=line)

    def instruction(self, op: str, counts: Sequence[int], line: int) -> Instruction:
        operands, options, waits, signals = counts
        names = [*instruction_rows()[op].options]
        return Instruction(
            op,
            tuple([self.operand() for _ in range(operands)]),
            tuple([(self.pick(names, "option"), self.expression()) for _ in range(options)]),
            tuple([self.semaphore() for _ in range(waits)]),
            tuple([self.signal() for _ in range(signals)]),
            line=line,
        )

    # --- operands -------------------------------------------------------------------------------------------------

    def semaphore(self) -> SemaphoreRef:
        return SemaphoreRef(self.pick(self.declared.semaphores, "semaphore").name, self.expression(), self.expression())

    def signal(self) -> Signal:
        instant = self.pick(("done", "read"), "instant")
        return Signal(self.semaphore(), instant)

    def operand(self) -> Operand:
        tag = self.take()
        if tag == Tag.VIEW:
            return View(self.pick(self.declared.buffers, "buffer").name, self.expression(), self.ranges(), self.tiles())
        if tag == Tag.BOX:
            return Box(self.pick(self.declared.maps, "map").name, self.ranges())
        if tag == Tag.ROWS:
            return Rows(self.pick(self.declared.tables, "table").name, self.expression(), self.expression())
        if tag == Tag.FLOAT:
            number: float = struct.unpack("<d", struct.pack("<q", self.take()))[0]
            return number
        self.at -= 1
        return self.expression()

    def tiles(self) -> TileSet | None:
        step = self.take()
        return TileSet(self.expression(), self.expression(), step) if step else None

    def ranges(self) -> tuple[Range, ...]:
        return tuple([Range(self.expression(), self.length()) for _ in range(self.count())])

    def length(self) -> Expr | None:
        if self.take() == Tag.NONE:
            return None
        self.at -= 1
        return self.expression()

    def expression(self, depth: int = 0) -> Expr:
        if depth > HEIGHT:
            self.fail(f"an expression of more than {HEIGHT} levels")
        tag = self.take()
        if tag == Tag.CONST:
            return Const(self.take())
        if tag == Tag.NAME:
            return Name(self.pick(self.names, "name"))
        if Tag.ADD <= tag <= Tag.REMAINDER:
            return Binary(OPERATORS[tag - Tag.ADD], self.expression(depth + 1), self.expression(depth + 1))
        if tag == Tag.LOOKUP:
            return Lookup(self.pick(self.declared.tables, "table").name, self.expression(depth + 1))
        if tag not in (Tag.CDIV, Tag.MIN, Tag.MAX):
            self.fail(f"{tag} starts no expression")
        count = 2 if tag == Tag.CDIV else self.count()
        return Call(Tag(tag).name.lower(), tuple([self.expression(depth + 1) for _ in range(count)]))
