"""A program: side tables (tensors, maps, buffers, semaphores, tables) and sections of instructions.

Programs are single-program-multiple-data: a section is one queue's code for a whole set of tiles or DMA engines, which
differ in the values of `tile` or `engine` and of the `let` parameters computed from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import prod

from attrs import field, frozen

from kpusim.isa.expr import Const, Expr
from kpusim.isa.layout import Layout
from kpusim.isa.tables import DTYPE_BITS

__all__ = [
    "Box",
    "Buffer",
    "Instruction",
    "Loop",
    "Node",
    "Operand",
    "Program",
    "Range",
    "Rows",
    "Section",
    "Semaphore",
    "SemaphoreRef",
    "Signal",
    "Table",
    "Tensor",
    "TensorMap",
    "TileSet",
    "View",
]

ZERO, ONE = Const(0), Const(1)


@frozen
class Tensor:
    """A tensor in HBM, known by its number (place in the list); its address comes at launch.

    `block` and `pitch` (elements) are its layout, see `Layout`: () and 0 for dense row-major.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str  # in, out or inout
    block: tuple[int, ...] = ()
    pitch: int = 0

    @property
    def layout(self) -> Layout:
        """How it lies in HBM."""
        return Layout(self.block, self.pitch)

    @cached_property
    def stored(self) -> tuple[int, ...]:
        """Elements that it takes in HBM along each dimension."""
        return self.layout.stored(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in HBM: every row with its pitch, blocks at the edges whole."""
        return self.layout.size_bytes(self.shape, self.dtype)


@frozen
class TensorMap:
    """A descriptor: a tensor and the shape of the box that one transfer moves (elements)."""

    name: str
    tensor: str
    box: tuple[int, ...]


@frozen
class Buffer:
    """A named region of every tile's SRAM: `slots` equal, dense, row-major arrays of `shape` from byte `offset` on."""

    name: str
    dtype: str
    slots: int
    shape: tuple[int, ...]
    offset: int

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return -(-prod(self.shape) * DTYPE_BITS[self.dtype] // 8)

    @property
    def end(self) -> int:
        """First byte behind the buffer."""
        return self.offset + self.slots * self.slot_bytes


@frozen
class Semaphore:
    """`instances` x `slots` semaphores, each with `init` credits and `join` producers that signal by rounds."""

    name: str
    instances: int
    slots: int
    init: int = 0
    join: int = 1


@frozen
class Table:
    """Integers that bounds and indices look up; a functional run must find them equal to the `assumed` tensor."""

    name: str
    values: tuple[int, ...]
    assumed: str = ""


@frozen
class Range:
    """`length` elements from `start` on; length None means all of the dimension."""

    start: Expr = ZERO
    length: Expr | None = None


@frozen
class TileSet:
    """Tiles first, first + step, ... (`count` of them)."""

    first: Expr
    count: Expr = ONE
    step: int = 1


@frozen
class View:
    """Part of one slot of a buffer, in the executing tile or in `tiles`. No ranges: the whole slot."""

    buffer: str
    slot: Expr = ZERO
    ranges: tuple[Range, ...] = ()
    tiles: TileSet | None = None


@frozen
class Box:
    """A box of a tensor map at coordinates (elements); a range's length narrows the box."""

    map: str
    ranges: tuple[Range, ...]


@frozen
class Rows:
    """A stretch of a table used as an index list."""

    table: str
    start: Expr
    count: Expr


Operand = View | Box | Rows | Expr | float


@frozen
class SemaphoreRef:
    """One semaphore of an array: instance and slot."""

    semaphore: str
    instance: Expr
    slot: Expr


@frozen
class Signal:
    """A semaphore and the instant that signals it: `read` (operands free) or `done` (result visible)."""

    target: SemaphoreRef
    instant: str = "done"


@frozen
class Instruction:
    """One instruction; `line` is its line in the assembly text (0: lowered, not assembled)."""

    op: str
    operands: tuple[Operand, ...] = ()
    options: tuple[tuple[str, Expr], ...] = ()
    waits: tuple[SemaphoreRef, ...] = ()
    signals: tuple[Signal, ...] = ()
    line: int = field(default=0, eq=False)

    def option(self, name: str, default: int = 0) -> Expr:
        """The value of an option, or its default as a constant."""
        return dict(self.options).get(name, Const(default))


@frozen
class Loop:
    """`for counter = low .. high`: counter takes low, low + 1, ..., high - 1."""

    counter: str
    low: Expr
    high: Expr
    body: tuple[Node, ...]
    line: int = field(default=0, eq=False)


Node = Instruction | Loop


@frozen
class Section:
    """The code of one queue on tiles (or DMA engines) first, first + step, ... below last.

    `unit` is matrix, vector or dma; `queue` is the DMA engine's queue. `lets` are parameters in terms of
    `tile` (or `engine`), earlier lets and tables.
    """

    unit: str
    first: int
    last: int
    step: int = 1
    queue: int = 0
    lets: tuple[tuple[str, Expr], ...] = ()
    body: tuple[Node, ...] = ()
    line: int = field(default=0, eq=False)

    @property
    def places(self) -> range:
        """The tiles (or engines) it runs on."""
        return range(self.first, self.last, self.step)

    @property
    def place_name(self) -> str:
        """What an expression calls the executing tile or engine."""
        return "engine" if self.unit == "dma" else "tile"


@frozen
class Program:
    """Everything the machine needs but the tensors' addresses."""

    name: str
    tensors: tuple[Tensor, ...] = ()
    maps: tuple[TensorMap, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    semaphores: tuple[Semaphore, ...] = ()
    tables: tuple[Table, ...] = ()
    sections: tuple[Section, ...] = ()

    def instructions(self) -> Iterator[tuple[int, Node | None, Section]]:
        """(pc, node, section) in program order. Loops take a pc, and so does their `end` (node None)."""
        pc = 0
        for section in self.sections:
            for node in _flat(section.body):
                yield pc, node, section
                pc += 1

    def first_pcs(self) -> list[int]:
        """The pc of the first instruction of each section (of the next one where a section is empty)."""
        pcs, pc = [], 0
        for section in self.sections:
            pcs.append(pc)
            pc += sum(1 for _ in _flat(section.body))
        return pcs

    def semaphore_layout(self) -> dict[str, tuple[int, Semaphore]]:
        """Name -> (flat number of instance 0, slot 0; declaration). Slots of an instance follow one another."""
        layout: dict[str, tuple[int, Semaphore]] = {}
        base = 0
        for sem in self.semaphores:
            layout[sem.name] = base, sem
            base += sem.instances * sem.slots
        return layout

    @property
    def sram_bytes(self) -> int:
        """Bytes of SRAM a tile needs."""
        return max((buffer.end for buffer in self.buffers), default=0)


def _flat(body: tuple[Node, ...]) -> Iterator[Node | None]:
    for node in body:
        yield node
        if isinstance(node, Loop):
            yield from _flat(node.body)
            yield None
