"""The assembler: `.kasm` text to a Program. One recursive-descent rule a construct, in the order of the text.

    kasm 1
    program NAME
    tensor NAME DTYPE [shape] in|out|inout [blocked [shape] | pitch N]
    map NAME = TENSOR box [shape]
    sram NAME DTYPE [slots][shape] [at OFFSET]            without `at`: behind the buffers before it
    semaphore NAME [instances][slots] [init N] [join N]
    table NAME [assumed TENSOR] = [integers]
    section matrix|vector tiles A..B [step S]  |  section dma queue Q engines A..B [step S]
      let NAME = expression
      for NAME = lo .. hi ... end
      MNEMONIC operand, ..., option=expression  [wait SEM[i][s], ...]  [signal [read] SEM[i][s], ...]
    end

Operands: a view `buffer[slot]`, `buffer[slot][n, start +: n, :]`, with ` @ tile` or ` @ first +: count step s`; a box
`map(start, start +: n)`; an index list `table[start +: n]`; a number; an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kpusim.errors import UserError
from kpusim.isa.expr import Const, Expr
from kpusim.isa.grammar import Grammar
from kpusim.isa.layout import DENSE, Layout
from kpusim.isa.lexer import Cursor
from kpusim.isa.program import (
    Box,
    Buffer,
    Instruction,
    Loop,
    Node,
    Operand,
    Program,
    Range,
    Rows,
    Section,
    Semaphore,
    SemaphoreRef,
    Signal,
    Table,
    Tensor,
    TensorMap,
    TileSet,
    View,
)
from kpusim.isa.tables import instruction_rows

__all__ = ["assemble", "read_program"]

ALIGNMENT = 64  # bytes: a buffer without `at` starts at a multiple of one bank access
LAYOUTS = ("blocked", "pitch")
LOOPS = 16  # within each other: what a sequencer has counters for


def read_program(path: Path) -> Program:
    """The program in a `.kasm` file. Raises UserError where it cannot be read or is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("cannot read the program", where=str(path), found=str(error)) from error
    return assemble(text, str(path))


def assemble(text: str, source: str = "<kasm>") -> Program:
    """The program that `text` says. Raises UserError with file, line and column at the first thing that is wrong."""
    return _Assembler(Cursor(text, source)).program()


class _Assembler(Grammar):
    # --- the file -------------------------------------------------------------------------------------------------

    def program(self) -> Program:
        c = self.c
        c.skip_newlines()
        c.expect("kasm")
        version = c.kind("int", "version 1")
        if version.text != "1":
            c.fail("unknown version of the text form", version, "1")
        c.end_line()
        c.expect("program")
        name = c.kind("name", "a program name").text
        c.end_line()
        rules: dict[str, Callable[[], None]] = {
            "tensor": self.tensor,
            "map": self.map,
            "sram": self.sram,
            "semaphore": self.semaphore,
            "table": self.table,
        }
        while c.token.text in rules:
            rules[c.take().text]()
            c.end_line()
        sections: list[Section] = []
        while c.accept("section"):
            sections.append(self.section())
            c.end_line()
        if c.token.kind != "eof":
            c.fail("syntax", c.token, ["section"] if sections else [*rules, "section"])
        return Program(
            name=name,
            tensors=tuple(self.tensors.values()),
            maps=tuple(self.maps.values()),
            buffers=tuple(self.buffers.values()),
            semaphores=tuple(self.semaphores.values()),
            tables=tuple(self.tables.values()),
            sections=tuple(sections),
        )

    # --- side tables ----------------------------------------------------------------------------------------------

    def tensor(self) -> None:
        name, dtype, shape = self.new_name(), self.dtype(), self.shape(1, 3)
        role = self.one_of(("in", "out", "inout"))
        where, layout = self.c.where(self.c.token), self.layout()
        problem = layout.problem(shape, dtype, where)
        if problem is not None:
            raise problem
        self.tensors[name] = Tensor(name, dtype, shape, role, layout.block, layout.pitch)

    def layout(self) -> Layout:
        if self.c.token.kind != "name":
            return DENSE
        blocked = self.one_of(LAYOUTS) == "blocked"
        layout = Layout(block=self.shape(2, 2)) if blocked else Layout(pitch=self.at_least(1, "a pitch"))
        if self.c.token.text in LAYOUTS:
            self.c.fail("a second layout", self.c.token, " or ".join(LAYOUTS))
        return layout

    def map(self) -> None:
        name = self.new_name()
        self.c.expect("=")
        tensor = self.declared(self.tensors, "tensor")
        self.c.expect("box")
        at = self.c.token
        box = self.shape(1, 3)
        if len(box) != len(tensor.shape):
            self.c.fail(f"a box of {tensor.name} has {len(tensor.shape)} dimensions", at)
        self.maps[name] = TensorMap(name, tensor.name, box)

    def sram(self) -> None:
        c = self.c
        name, dtype = self.new_name(), self.dtype()
        slots = self.bracketed()
        shape = self.shape(1, 3)
        behind = max((buffer.end for buffer in self.buffers.values()), default=0)
        offset = self.at_least(0, "an offset") if c.accept("at") else -(-behind // ALIGNMENT) * ALIGNMENT
        self.buffers[name] = Buffer(name, dtype, slots, shape, offset)

    def semaphore(self) -> None:
        c = self.c
        name, instances, slots = self.new_name(), self.bracketed(), self.bracketed()
        init = self.at_least(0, "the initial count") if c.accept("init") else 0
        join = self.at_least(1, "the number of producers") if c.accept("join") else 1
        self.semaphores[name] = Semaphore(name, instances, slots, init, join)

    def table(self) -> None:
        c = self.c
        name = self.new_name()
        assumed = self.declared(self.tensors, "tensor").name if c.accept("assumed") else ""
        c.expect("=")
        c.expect("[")
        values: list[int] = []
        while not c.accept("]"):
            c.skip_newlines()
            values.append(c.integer())
            c.skip_newlines()
            if not c.peek("]"):
                c.expect(",")
        self.tables[name] = Table(name, tuple(values), assumed)

    # --- sections -------------------------------------------------------------------------------------------------

    def section(self) -> Section:
        c = self.c
        line = c.token.line
        unit = self.one_of(("matrix", "vector", "dma"))
        queue = 0
        if unit == "dma":
            c.expect("queue")
            queue = self.at_least(0, "a queue")
        c.expect("engines" if unit == "dma" else "tiles")
        first = self.at_least(0, "a tile or engine")
        c.expect("..")
        last = self.at_least(first + 1, "the end of the places")
        step = self.at_least(1, "a step") if c.accept("step") else 1
        c.end_line()
        self.scope = ["engine" if unit == "dma" else "tile"]
        lets: list[tuple[str, Expr]] = []
        while c.accept("let"):
            name = self.new_name(local=True)
            c.expect("=")
            lets.append((name, self.expression()))
            self.scope.append(name)
            c.end_line()
        body = self.body()
        return Section(unit, first, last, step, queue, tuple(lets), body, line=line)

    def body(self) -> tuple[Node, ...]:
        nodes: list[Node] = []
        while not self.c.accept("end"):
            if self.c.token.kind == "eof":
                self.c.fail("a loop or section without its end", self.c.token, ["end"])
            nodes.append(self.loop() if self.c.accept("for") else self.instruction())
        return tuple(nodes)

    def loop(self) -> Loop:
        c = self.c
        line = c.token.line
        counter = self.new_name(local=True)
        self.loops += 1
        if self.loops > LOOPS:
            c.fail(f"more than {LOOPS} loops within each other", c.token)
        c.expect("=")
        low = self.expression()
        c.expect("..")
        high = self.expression()
        c.end_line()
        self.scope.append(counter)
        body = self.body()
        self.scope.pop()
        self.loops -= 1
        c.end_line()
        return Loop(counter, low, high, body, line=line)

    def instruction(self) -> Instruction:
        c = self.c
        mnemonic = c.token
        rows = instruction_rows()
        if mnemonic.kind != "name" or mnemonic.text not in rows or mnemonic.text in ("for", "end"):
            c.fail("unknown instruction", mnemonic, [*rows])
        c.take()
        operands: list[Operand] = []
        options: list[tuple[str, Expr]] = []
        while c.token.kind != "newline" and c.token.text not in ("wait", "signal"):
            if c.token.kind == "name" and c.peek("=", 1):
                options.append(self.option(mnemonic.text, dict(options)))
            elif options:
                c.fail("syntax", c.token, "an option: operands come before options")
            else:
                operands.append(self.operand())
            if not c.accept(","):
                break
        waits: tuple[SemaphoreRef, ...] = ()
        signals: tuple[Signal, ...] = ()
        self.continue_line()
        if c.accept("wait"):
            waits = self.listed(self.semaphore_ref)
            self.continue_line()
        if c.accept("signal"):
            signals = self.listed(self.signal)
        c.end_line()
        return Instruction(mnemonic.text, tuple(operands), tuple(options), waits, signals, line=mnemonic.line)

    def continue_line(self) -> None:
        """Waits and signals may stand on lines of their own."""
        if self.c.token.kind == "newline" and (self.c.peek("wait", 1) or self.c.peek("signal", 1)):
            self.c.take()

    def option(self, mnemonic: str, given: Mapping[str, Expr]) -> tuple[str, Expr]:
        name = self.c.take()
        allowed = instruction_rows()[mnemonic].options
        if name.text not in allowed:
            self.c.fail(f"{mnemonic} has no such option", name, [*allowed] or "no options")
        if name.text in given:
            self.c.fail("this option is given already", name)
        self.c.expect("=")
        return name.text, self.expression()

    # --- operands -------------------------------------------------------------------------------------------------

    def operand(self) -> Operand:
        token = self.c.token
        if token.kind == "float":
            return float(self.c.take().text)
        if token.text in self.buffers:
            return self.view()
        if token.text in self.maps:
            return self.box()
        if token.text in self.tables:
            return self.rows_or_expression()
        return self.expression()

    def view(self) -> View:
        c = self.c
        buffer = self.buffers[c.take().text]
        c.expect("[")
        slot = self.expression()
        c.expect("]")
        ranges: tuple[Range, ...] = ()
        if c.peek("["):
            at = c.take()
            ranges = self.listed(self.range)
            c.expect("]")
            if len(ranges) != len(buffer.shape):
                c.fail(f"{buffer.name} has {len(buffer.shape)} dimensions", at)
        tiles = None
        if c.accept("@"):
            first = self.expression()
            count = self.expression() if c.accept("+:") else Const(1)
            tiles = TileSet(first, count, self.at_least(1, "a step") if c.accept("step") else 1)
        return View(buffer.name, slot, ranges, tiles)

    def range(self) -> Range:
        if self.c.accept(":"):
            return Range()
        start = self.expression()
        return Range(start, self.expression()) if self.c.accept("+:") else Range(Const(0), start)

    def box(self) -> Box:
        c = self.c
        item = self.maps[c.take().text]
        at = c.expect("(")
        ranges = self.listed(self.coordinate)
        c.expect(")")
        if len(ranges) != len(item.box):
            c.fail(f"{item.name} has {len(item.box)} dimensions", at)
        return Box(item.name, ranges)

    def coordinate(self) -> Range:
        start = self.expression()
        return Range(start, self.expression() if self.c.accept("+:") else None)

    def rows_or_expression(self) -> Operand:
        """`table[start +: n]`, or an expression that starts with a look-up."""
        c = self.c
        mark = c.mark()
        table = c.take().text
        c.expect("[")
        start = self.expression()
        if c.accept("+:"):
            count = self.expression()
            c.expect("]")
            return Rows(table, start, count)
        c.reset(mark)
        return self.expression()

    def semaphore_ref(self) -> SemaphoreRef:
        sem = self.declared(self.semaphores, "semaphore")
        self.c.expect("[")
        instance = self.expression()
        self.c.expect("]")
        self.c.expect("[")
        slot = self.expression()
        self.c.expect("]")
        return SemaphoreRef(sem.name, instance, slot)

    def signal(self) -> Signal:
        self.scope.append("dst")
        instant = "read" if self.c.accept("read") else "done"
        target = self.semaphore_ref()
        self.scope.pop()
        return Signal(target, instant)
