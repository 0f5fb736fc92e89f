"""The static check of a program: what is wrong whatever its data, told before anything is simulated.

Three passes, each over a program that the ones before found nothing wrong with: what every declaration, section and
instruction says by itself; the ranges of operands and indices; who waits for and who signals a semaphore.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod

from attrs import frozen

from kpusim.errors import UserError
from kpusim.isa.extents import extent_problems
from kpusim.isa.legality import instruction_problems
from kpusim.isa.program import Instruction, Loop, Node, Program, Section
from kpusim.isa.rounds import semaphore_problems
from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS
from kpusim.isa.walk import section_codes

__all__ = ["Limits", "check_program"]

SEMAPHORES = 1 << 20  # in all
SHOWN = 10  # problems in one message


@frozen
class Limits:
    """What a machine offers a program: tiles, DMA engines, queues of each engine, bytes of each tile's SRAM."""

    tiles: int
    engines: int
    queues: int
    sram_bytes: int


def check_program(program: Program, limits: Limits, source: str = "") -> None:
    """Raises UserError with every problem of the first pass that finds one, each with its pc and line.

    source: the file of the program, for messages; by default they say its name.

    Reported is only what is certainly wrong: an index that the intervals of its names cannot prove right is tried on
    a sample of what is executed, and the rest is left to run time.
    """
    where = source or f"program {program.name}"
    _raise(where, [*_declarations(program, limits), *_sections(program, limits), *instruction_problems(program)])
    codes = section_codes(program)
    _raise(where, [*extent_problems(program, codes, limits.tiles)])
    _raise(where, [*semaphore_problems(program, codes)])


def _raise(where: str, problems: list[UserError]) -> None:
    if len(problems) == 1:
        raise UserError(str(problems[0]), where=where)
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] * (len(problems) > SHOWN)
        lines = [*map(str, problems[:SHOWN]), *more]
        raise UserError("\n  ".join([f"{len(problems)} problems", *lines]), where=where)


def _declarations(program: Program, limits: Limits) -> Iterator[UserError]:
    yield from _sram(program, limits.sram_bytes)
    for tensor in program.tensors:
        if tensor.shape[-1] * DTYPE_BITS[tensor.dtype] % 8:
            yield _packed(f"tensor {tensor.name}", tensor.dtype, tensor.shape[-1])
        problem = tensor.layout.problem(tensor.shape, tensor.dtype, f"tensor {tensor.name}")
        if problem is not None:
            yield problem
    tensors = {tensor.name: tensor for tensor in program.tensors}
    for item in program.maps:
        tensor = tensors[item.tensor]
        if len(item.box) != len(tensor.shape):
            dimensions = f"{len(tensor.shape)} dimensions, as tensor {tensor.name} has"
            yield UserError("a box of another rank", where=f"map {item.name}", found=list(item.box), allowed=dimensions)
        elif item.box[-1] * DTYPE_BITS[tensor.dtype] % 8:
            yield _packed(f"map {item.name}", tensor.dtype, item.box[-1])
    count = sum(sem.instances * sem.slots for sem in program.semaphores)
    if count > SEMAPHORES:
        yield UserError("too many semaphores", found=count, allowed=f"up to {SEMAPHORES}")
    for table in program.tables:
        if table.assumed:
            tensor = tensors[table.assumed]
            if tensor.dtype not in DTYPE_GROUPS["index"] or prod(tensor.shape) != len(table.values):
                found = f"{len(table.values)} values, tensor {tensor.name} {tensor.dtype} {list(tensor.shape)}"
                allowed = "an int32 or int64 tensor of as many elements"
                yield UserError("no tensor to assume", where=f"table {table.name}", found=found, allowed=allowed)


def _packed(where: str, dtype: str, size: int) -> UserError:
    allowed = f"a multiple of {8 // DTYPE_BITS[dtype]}"
    return UserError(f"an innermost size of {dtype} fills whole bytes", where=where, found=size, allowed=allowed)


def _sram(program: Program, capacity: int) -> Iterator[UserError]:
    for buffer in program.buffers:
        where, bits = f"sram {buffer.name}", DTYPE_BITS[buffer.dtype]
        if buffer.offset < 0 or buffer.offset * 8 % max(bits, 8):
            allowed = f"a multiple of {max(bits, 8) // 8} bytes"
            yield UserError("a buffer starts at a whole element", where=where, found=buffer.offset, allowed=allowed)
        if buffer.shape[-1] * bits % 8:
            yield _packed(where, buffer.dtype, buffer.shape[-1])
    beyond = next((buffer for buffer in program.buffers if buffer.end > capacity), None)
    if beyond is not None:
        where, found = f"sram {beyond.name}", f"{program.sram_bytes} bytes in all"
        yield UserError("ends behind the SRAM of a tile", where=where, found=found, allowed=f"{capacity} bytes")
    for one, two in pairwise(sorted(program.buffers, key=lambda buffer: (buffer.offset, buffer.end))):
        if two.offset < one.end:
            found, allowed = f"at {two.offset}", f"from {one.end} on, where {one.name} ends"
            yield UserError(f"overlaps {one.name}", where=f"sram {two.name}", found=found, allowed=allowed)


def _sections(program: Program, limits: Limits) -> Iterator[UserError]:
    taken: dict[tuple[str, int, int], str] = {}
    for section in program.sections:
        where = _name(section)
        dma = section.unit == "dma"
        places = limits.engines if dma else limits.tiles
        if not section.places or section.places[0] < 0 or section.places[-1] >= places:
            allowed = f"0..{places}, the {'DMA engines' if dma else 'tiles'} of the machine"
            yield UserError("no such place", where=where, found=f"{section.first}..{section.last}", allowed=allowed)
            continue
        if dma and not 0 <= section.queue < limits.queues:
            allowed = f"0 to {limits.queues - 1}"
            yield UserError("a DMA engine has no such queue", where=where, found=section.queue, allowed=allowed)
        for place in section.places:
            other = taken.setdefault((section.unit, place, section.queue), where)
            if other is not where:
                problem = f"{section.place_name} {place} has a section for this queue already"
                yield UserError(problem, where=where, found=other, allowed="one section a queue")
                break
        yield from _halts(section.body, where)


def _halts(body: tuple[Node, ...], where: str, within: bool = False) -> Iterator[UserError]:
    for number, node in enumerate(body, start=1):
        if isinstance(node, Loop):
            yield from _halts(node.body, where, True)
        elif _is_halt(node) and (within or number < len(body)):
            found = f"line {node.line}" if node.line else "it elsewhere"
            yield UserError("halt ends a queue", where=where, found=found, allowed="last in a section")


def _is_halt(node: Instruction) -> bool:
    return node.op == "halt"


def _name(section: Section) -> str:
    queue = f" queue {section.queue} engines" if section.unit == "dma" else " tiles"
    line = f" (line {section.line})" if section.line else ""
    return f"section {section.unit}{queue} {section.first}..{section.last}{line}"
