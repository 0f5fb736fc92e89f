"""The choice of a mapping: how many lanes, how large the blocks; and what is wrong with one that is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import asdict, evolve

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.machine import Machine
from kpusim.operators.declare import sram_bytes
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection

__all__ = ["check_mapping", "choose"]

QUEUES = 3  # gather, store, and loads of indices
BLOCK_BYTES = 65536  # chosen: four chunks; an engine is set up once for each, and more would only need more SRAM
SLOTS = (8, 6, 4, 3)  # chosen: latencies are hidden by more; one is filled, one stored, one between
TURNS = 4  # chosen: blocks of a lane at least, where there are so many rows, so that reads and writes overlap
ROUNDING = 64  # chosen: bytes of a piece of a row are a multiple of it, where one holds so many: whole accesses


def choose(selection: Selection, machine: Machine) -> Mapping:
    """The mapping for a machine. Raises UserError where not even a part of a row fits into its tiles."""
    lanes = min(machine.tiles.count, machine.dma_engines, selection.count)
    for slots in SLOTS:
        one = Mapping(lanes, 1, selection.width, slots)
        most = min(BLOCK_BYTES // (selection.fan * selection.row_bytes), ceil_div(selection.count, lanes * TURNS))
        rows = _most(lambda rows, one=one: _fits(evolve(one, rows=rows), selection, machine), most)  # type: ignore[misc]
        if rows:
            return evolve(one, rows=1 << (rows.bit_length() - 1))
    return _in_pieces(one, selection, machine)


def _in_pieces(one: Mapping, selection: Selection, machine: Machine) -> Mapping:
    """Rows longer than a slot, one by one in the largest pieces that fit."""
    room = min(BLOCK_BYTES, machine.tile_bytes // one.slots) * 8 // (selection.fan * selection.bits)
    for unit in (ROUNDING * 8 // selection.bits, selection.packed):

        def fits(units: int, unit: int = unit) -> bool:
            return _fits(evolve(one, columns=units * unit), selection, machine)

        units = _most(fits, min(room, selection.width - 1) // unit)
        if units:
            return evolve(one, columns=units * unit)
    needed = sram_bytes(selection.buffers(evolve(one, columns=selection.packed)))
    found = f"{machine.tile_bytes} bytes"
    raise UserError("not an element fits into a tile's SRAM", where=machine.name, found=found, allowed=f"{needed}")


def _fits(mapping: Mapping, selection: Selection, machine: Machine) -> bool:
    return sram_bytes(selection.buffers(mapping)) <= machine.tile_bytes


def _most(good: Callable[[int], bool], most: int) -> int:
    """The greatest number up to `most`, which is at least tried with 1, that is good as all below it; 0 if none is."""
    low, high = 0, max(most, 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low


def check_mapping(mapping: Mapping, selection: Selection, machine: Machine) -> Mapping:
    """The mapping itself. Raises UserError for the first reason why it cannot run."""
    for problem, found, allowed in _contradictions(mapping, selection, machine):
        raise UserError(f"this mapping cannot run: {problem}", where=machine.name, found=found, allowed=allowed)
    return mapping


def _contradictions(mapping: Mapping, selection: Selection, machine: Machine) -> Iterator[tuple[str, object, str]]:
    """(problem, found, allowed) of whatever is wrong."""
    for name, value in asdict(mapping).items():
        if value < 1:
            yield f"{name} is too small", value, "at least 1"
    most = min(machine.tiles.count, machine.dma_engines)
    if mapping.lanes > most:
        yield "a lane is a DMA engine and a tile", f"lanes = {mapping.lanes}", f"at most {most}"
    if machine.dma.queues < QUEUES:
        yield "DMA engines have too few queues", f"dma.queues = {machine.dma.queues}", f"at least {QUEUES}"
    if mapping.columns > selection.width or mapping.columns % selection.packed:
        whole = f", a multiple of {selection.packed}" if selection.packed > 1 else ""
        yield "no piece of a row", f"columns = {mapping.columns}", f"at most {selection.width}{whole}"
    needed = sram_bytes(selection.buffers(mapping))
    if needed > machine.tile_bytes:
        yield "its buffers do not fit into a tile's SRAM", f"{needed} bytes", f"at most {machine.tile_bytes}"
