"""Sections of private units as Python generators: one function a section, constants folded, with a clock of its own.

The generated code does what `engines.private.PrivateUnit` does event by event, but yields only where a token is missing
or at a barrier. Its text is built from checked integers, names of ours and nothing else. Loops without waits or signals
whose instructions cost the same every time are added up instead of run; their spans, where recorded, are made at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from kpusim.engines.fabric import Fabric
from kpusim.engines.matrix import MatrixEngine
from kpusim.engines.semaphore import KEY_BITS, KEY_MASK, NO_SPAN
from kpusim.engines.vector import VectorEngine
from kpusim.isa.expr import Const, Expr, as_table, bounds, names_in, python_source, tables_in
from kpusim.isa.program import Instruction, Loop, Node, Program, Section, SemaphoreRef, View
from kpusim.isa.ranges import Ranges, inner_ranges, section_ranges, view_ranges
from kpusim.isa.tables import Row, instruction_rows
from kpusim.simulate.lookups import Lookups
from kpusim.simulate.work_text import WorkText

__all__ = ["SectionFunction", "compile_section"]

SectionFunction = Callable[..., Iterator[None]]
"""(place, unit): see `simulate.local`."""

RELEASED = f"latest & {KEY_MASK} if t > c else {NO_SPAN}"


def compile_section(program: Program, section: Section, first_pc: int, fabric: Fabric, units: Units) -> SectionFunction:
    """The generator function of one section of a matrix or vector engine."""
    writer = _Writer(program, section, first_pc, fabric, units)
    source = writer.function()
    scope = writer.scope
    exec(compile(source, f"<section {section.unit} {section.first}..{section.last}>", "exec"), scope)
    function: SectionFunction = scope["section"]
    return function


class Units:
    """The cost models that generated code asks for the work of an instruction."""

    def __init__(self, matrix: MatrixEngine, vector: VectorEngine):
        self.matrix, self.vector = matrix, vector


class _Writer:
    def __init__(self, program: Program, section: Section, first_pc: int, fabric: Fabric, units: Units):
        self.section, self.pc = section, first_pc
        self.traced, self.blocks = fabric.span is not None, fabric.span_block is not None
        self.tables = {table.name: table.values for table in program.tables}
        self.lookups = Lookups(self.tables)
        self.buffers = {buffer.name: buffer for buffer in program.buffers}
        self.works = WorkText(self.buffers, self.text)
        self.semaphores = program.semaphore_layout()
        self.causes = fabric.causes
        self.scope: dict[str, Any] = {
            "matrix_work": units.matrix.work,
            "vector_work": units.vector.work,
            "S": fabric.semaphores,
            **{f"t_{name}": as_table(name, values) for name, values in self.tables.items()},
        }
        self.header: list[str] = []
        self.lines: list[str] = []
        self.depth = 2
        self.fixed = {section.place_name, *(name for name, _ in section.lets)}
        self.arrays: dict[str, str] = {}  # semaphores of one instance: text of the slice -> local name
        self.slots: dict[str, str] = {}  # within an instruction: text of a slot -> local name

    # --- text -----------------------------------------------------------------------------------------------------

    def put(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]

    def declare(self, *lines: str) -> None:
        """Lines that run once, before everything else."""
        self.header += ["        " + line for line in lines]

    def text(self, expr: Expr) -> str:
        return python_source(self.lookups.replaced(expr), lambda name: f"v_{name}", lambda name: f"t_{name}")

    def function(self) -> str:
        section = self.section
        place = f"v_{section.place_name}"
        self.declare("t = done = busy = n = 0", "s0 = s1 = s2 = s3 = 0", "wake = me.wake", "unit = me.unit")
        if self.traced:
            self.declare("key, span = me.key, me.span")
        for name, value in section.lets:
            self.declare(f"v_{name} = {self.text(value)}")
        ranges = section_ranges(section, self.tables)
        self.declare(*self.look_up(section.body, ranges))
        self.hoist(section.body, self.pc, frozenset(ranges), frozenset())
        self.body(section.body, ranges)
        self.put("me.finish(t, done, busy, (s0, s1, s2, s3), n)", "yield")
        failure = ["    except IndexError as error:", "        me.fail(error)"]
        return "\n".join([f"def section({place}, me):", "    try:", *self.header, *self.lines, *failure]) + "\n"

    def look_up(self, nodes: tuple[Node, ...], ranges: Ranges) -> list[str]:
        """Lines that look up what `nodes` need and is known here."""
        return [f"v_{name} = {self.text(value)}" for name, value in self.lookups.enter(nodes, ranges)]

    # --- works: computed in the outermost loop in which their sizes are known -----------------------------------------

    def hoist(self, nodes: tuple[Node, ...], pc: int, known: frozenset[str], outer: frozenset[str]) -> int:
        """Computes the works of all instructions below whose names became known here; returns the pc behind `nodes`."""
        for node in nodes:
            if isinstance(node, Loop):
                pc = self.hoist(node.body, pc + 1, known, outer) + 1
                continue
            needs, tables, call = self.works.call(node)
            if call and needs <= known and not tables and (not needs <= outer or not outer):
                self.put_work(node, pc, call)
            pc += 1
        return pc

    def put_work(self, node: Instruction, pc: int, call: str) -> None:
        """`w` of an instruction, its work, and what that says (`take_work`); both works where accumulate varies."""
        if self.choice(node):
            self.put(f"wt{pc} = {call.format(True)}", f"wf{pc} = {call.format(False)}")
        else:
            accumulates = node.option("accumulate") != Const(0)
            self.take_work(pc, call.format(accumulates))

    def pick_work(self, node: Instruction, pc: int) -> None:
        """Chooses between the two works of an instruction whose accumulate varies."""
        if choice := self.choice(node):
            self.take_work(pc, f"wt{pc} if {choice} else wf{pc}")

    def take_work(self, pc: int, work: str) -> None:
        """`w`, `o`, `b` and `d` of an instruction: its work, occupancy, busy cycles and drain."""
        self.put(f"w{pc} = {work}", f"o{pc} = w{pc}.occupancy", f"b{pc} = w{pc}.busy", f"d{pc} = w{pc}.drain")

    def choice(self, node: Instruction) -> str:
        """The condition for accumulating as Python text; "" where it is the same every time."""
        option = node.option("accumulate")
        return "" if isinstance(option, Const) or node.op != "matmul" else self.text(option)

    # --- bodies ---------------------------------------------------------------------------------------------------

    def body(self, nodes: tuple[Node, ...], ranges: Ranges) -> None:
        for node in nodes:
            if isinstance(node, Loop):
                if (not self.traced or (self.blocks and _single(node))) and self.uniform(node, ranges):
                    self.sum_loop(node)
                else:
                    self.loop(node, ranges)
            else:
                self.instruction(node, ranges)

    def loop(self, node: Loop, ranges: Ranges) -> None:
        self.pc += 1
        self.put(f"for v_{node.counter} in range({self.text(node.low)}, {self.text(node.high)}):")
        self.depth += 1
        start = len(self.lines)
        inner, known = inner_ranges(node, ranges, self.tables), self.lookups.known()
        self.put(*self.look_up(node.body, inner))
        self.hoist(node.body, self.pc, frozenset(inner), frozenset(ranges))
        self.body(node.body, inner)
        if len(self.lines) == start:
            self.put("pass")
        self.lookups.restore(known)
        self.depth -= 1
        self.pc += 1

    def instruction(self, node: Instruction, ranges: Ranges) -> None:
        pc, row = self.pc, instruction_rows()[node.op]
        self.pc += 1
        self.slots = {}
        if row.name == "halt":
            return
        _, tables, call = self.works.call(node)
        for operand in node.operands:
            if isinstance(operand, View):
                for check in self.view_guards(operand, ranges):
                    self.guard(*check)
        if self.traced:
            self.put("c = t", "latest = 0", "p0, p1, p2 = s0, s1, s2")
        for ref in node.waits:
            self.wait(ref, ranges, pc)
        if row.name == "barrier":
            self.barrier(pc, row)
            return
        if call and tables:
            self.put_work(node, pc, call)
        if call:
            self.pick_work(node, pc)
            self.put(f"e = t + o{pc}", f"x = e + d{pc}", f"busy += b{pc}", f"w{pc}.count += 1")
            self.put("if x > done: done = x")
        else:
            self.put("e = t", "if e > done: done = e")
        if self.traced:
            self.span(pc, row, bool(call))
        for signal in node.signals:
            self.signal(signal.target, "e" if signal.instant == "read" else "done", ranges)
        self.put("t = e", "n += 1")

    def span(self, pc: int, row: Row, works: bool) -> None:
        self.count_runs(pc)
        rest = f"e, done, unit, {row.opcode}, {pc}, r{pc}, {RELEASED}, 0, s0 - p0, s1 - p1, s2 - p2"
        if not works:
            self.put(f"span(t, {rest})")
            return
        self.put(f"if o{pc} == b{pc}: span(t, {rest})")  # most often; the columns behind are left out
        self.put(f"else: span(e - b{pc}, {rest}, 0, 0, 0, o{pc} - b{pc})")

    def count_runs(self, pc: int) -> None:
        """`r<pc>`: how often this instruction ran before."""
        self.declare(f"r{pc} = -1")
        self.put(f"r{pc} += 1")

    def barrier(self, pc: int, row: Row) -> None:
        self.put(f"me.pc = {pc}")
        self.put("me.arrive(t if t > done else done)", "yield", "e = done = me.released", "s3 += e - t")
        if self.traced:
            self.count_runs(pc)
            stalls = "s0 - p0, s1 - p1, s2 - p2, e - t"
            self.put(f"span(e, e, e, unit, {row.opcode}, {pc}, r{pc}, {RELEASED}, 0, {stalls})")
        self.put("t = e", "n += 1")

    # --- semaphores -----------------------------------------------------------------------------------------------

    def wait(self, ref: SemaphoreRef, ranges: Ranges, pc: int) -> None:
        cause = self.causes[self.semaphores[ref.semaphore][0]]
        self.put(f"s = {self.find(ref, ranges)}", "if not s.tokens:")
        self.put("    me.clock = t if t > done else done", f"    me.pc, me.waiting_for, s.waiter = {pc}, s, wake")
        self.put("    yield", "x = s.tokens.popleft()")
        if self.traced:
            self.put("if x > latest: latest = x")
        self.put(f"w = x >> {KEY_BITS}" if self.traced else "w = x")
        self.put("if w > t:", f"    s{cause} += w - t", "    t = w")

    def signal(self, ref: SemaphoreRef, time: str, ranges: Ranges) -> None:
        token = f"{time} << {KEY_BITS} | key + n" if self.traced else time
        if self.semaphores[ref.semaphore][1].join > 1:
            self.put(f"{self.find(ref, ranges)}.signal({token}, unit)")
            return
        self.put(f"s = {self.find(ref, ranges)}", f"s.tokens.append({token})", "w = s.waiter")
        self.put("if w is not None:", "    s.waiter = None", "    w()")

    def find(self, ref: SemaphoreRef, ranges: Ranges) -> str:
        """The semaphore as Python text: out of a slice made once where the instance is the same all along."""
        base, sem = self.semaphores[ref.semaphore]
        known = True
        for expr, count in ((ref.instance, sem.instances), (ref.slot, sem.slots)):
            if not self.inside(expr, Const(1), count, ranges):
                self.guard(expr, Const(1), count)
                known = False
        slot = self.text(ref.slot)
        if not isinstance(ref.slot, Const):
            if slot not in self.slots:
                self.slots[slot] = f"z{len(self.slots)}"
                self.put(f"{self.slots[slot]} = {slot}")
            slot = self.slots[slot]
        first = f"{base} + {self.text(ref.instance)} * {sem.slots}"
        if not known or not names_in(ref.instance) <= self.fixed:
            return f"S[{first} + {slot}]"
        if first not in self.arrays:
            self.arrays[first] = f"a{len(self.arrays)}"
            self.declare(f"{self.arrays[first]} = {first}")
            self.declare(f"{self.arrays[first]} = S[{self.arrays[first]} : {self.arrays[first]} + {sem.slots}]")
        return f"{self.arrays[first]}[{slot}]"

    # --- guards: what ranges cannot prove is checked when it runs -------------------------------------------------

    def view_guards(self, view: View, ranges: Ranges) -> list[tuple[Expr, Expr, int]]:
        """(start, length, extent) of what of a view is not sure to lie inside its buffer."""
        buffer = self.buffers[view.buffer]
        checks: list[tuple[Expr, Expr, int]] = [(view.slot, Const(1), buffer.slots)]
        for (start, length), extent in zip(view_ranges(view, buffer), buffer.shape, strict=True):
            checks.append((start, length, extent))
        return [check for check in checks if not self.inside(*check, ranges)]

    def inside(self, start: Expr, length: Expr, extent: int, ranges: Ranges) -> bool:
        """Whether 0 <= start and start + length <= extent for sure, length clamped to 0."""
        if not (self.lookups.proven(start, ranges) and self.lookups.proven(length, ranges)):
            return False
        low, high = bounds(start, ranges, self.tables)
        return low >= 0 and high + max(bounds(length, ranges, self.tables)[1], 0) <= extent

    def guard(self, start: Expr, length: Expr, extent: int) -> None:
        at = self.text(start)
        self.put(f"if {at} < 0 or {at} + {self.works.size(length)} > {extent}: raise IndexError")

    # --- loops that are added up ----------------------------------------------------------------------------------

    def uniform(self, loop: Loop, ranges: Ranges, counters: frozenset[str] = frozenset()) -> bool:
        """Whether every run of the loop's body takes the same time, touches no semaphore and needs no guard."""
        counters |= {loop.counter}
        inner = inner_ranges(loop, ranges, self.tables)
        for node in loop.body:
            if isinstance(node, Loop):
                bound = names_in(node.low) | names_in(node.high)
                if bound & counters or tables_in(node.low) | tables_in(node.high):
                    return False
                if not self.uniform(node, inner, counters):
                    return False
            else:
                needs, tables, call = self.works.call(node)
                needs |= names_in(node.option("accumulate"))
                if not call or node.waits or node.signals or needs & counters or tables:
                    return False
                if tables_in(node.option("accumulate")):
                    return False
                if any(self.view_guards(operand, inner) for operand in node.operands if isinstance(operand, View)):
                    return False
        return True

    def sum_loop(self, loop: Loop) -> None:
        """A uniform loop without running it. `q`: all its cycles; `g`: from its end until all results are visible."""
        self.put("q = 0", "g = -1")
        first = self.pc
        self.count_loop(loop, "")
        self.time_loop(loop, first)
        self.put("t += q", "if g >= 0 and t + g > done: done = t + g")

    def count_loop(self, loop: Loop, outer: str) -> None:
        """`i<pc>`: iterations of a loop; `m<pc>`: of all its runs; and what adds up over these."""
        pc = self.pc
        self.pc += 1
        self.put(f"m{pc} = i{pc} = max(0, {self.text(loop.high)} - {self.text(loop.low)})")
        if outer:
            self.put(f"m{pc} *= {outer}")
        for node in loop.body:
            if isinstance(node, Loop):
                self.count_loop(node, f"m{pc}")
                continue
            at = self.pc
            self.pc += 1
            self.pick_work(node, at)
            if self.traced:
                opcode = instruction_rows()[node.op].opcode
                self.declare(f"r{at} = 0")
                self.put(f"if m{pc}: me.repeat(t, done, m{pc}, w{at}, {opcode}, {at}, r{at})", f"r{at} += m{pc}")
            self.put(f"n += m{pc}", f"busy += b{at} * m{pc}", f"w{at}.count += m{pc}")
        self.pc += 1

    def time_loop(self, loop: Loop, pc: int) -> None:
        """Goes backwards through the last run of a loop, so that `q` is what follows, then adds its other runs."""
        self.put(f"if m{pc}:")
        self.depth += 1
        self.put(f"q{pc} = q")
        placed = zip(loop.body, accumulate(map(_length, loop.body), initial=pc + 1), strict=False)
        for node, at in reversed([*placed]):
            if isinstance(node, Loop):
                self.time_loop(node, at)
            else:
                self.put(f"if d{at} - q > g: g = d{at} - q", f"q += o{at}")
        self.put(f"q += (i{pc} - 1) * (q - q{pc})")
        self.depth -= 1


def _length(node: Node) -> int:
    """Instructions that a node is written in."""
    return sum(map(_length, node.body)) + 2 if isinstance(node, Loop) else 1


def _single(loop: Loop) -> bool:
    """Whether a nest of loops has one instruction in all."""
    return len(loop.body) == 1 and (isinstance(loop.body[0], Instruction) or _single(loop.body[0]))
