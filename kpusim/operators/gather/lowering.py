"""Row gather lowered: lanes load the indices of a block, gather its rows into their tiles, and store them in order."""

from __future__ import annotations

from kpusim.isa.expr import Const
from kpusim.isa.program import Box, Instruction, Program, Range, Rows, Section, Signal, Table, TensorMap, View
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.declare import buffers, tensors
from kpusim.operators.gather.choose import check_mapping, choose
from kpusim.operators.gather.lanes import INDEX_QUEUE, LOAD_QUEUE, STORE_QUEUE, WHOLE, Lanes, in_turn
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection
from kpusim.operators.seats import ZERO

__all__ = ["lower_gather"]


def lower_gather(
    name: str, selection: Selection, machine: Machine, layouts: Layouts = ROW_MAJOR, mapping: Mapping | None = None
) -> Lowered:
    """The program that stores the listed rows in the order of the list, and why it looks as it does.

    Raises UserError where the machine cannot run it.
    """
    found = check_mapping(mapping or choose(selection, machine), selection, machine)
    lanes = in_turn(selection, found, machine)
    computed = bool(selection.leading)
    program = Program(
        name=name,
        tensors=tensors((selection.table, selection.index, selection.listed), layouts),
        maps=_maps(lanes),
        buffers=buffers(selection.buffers(found)),
        semaphores=lanes.semaphores("block", "index", *["coordinates"] * computed),
        tables=_tables(selection),
        sections=(*_queues(lanes), *([_compute(lanes)] if computed else [])),
    )
    return Lowered(program, lanes.choices(), found)


def _maps(lanes: Lanes) -> tuple[TensorMap, ...]:
    selection, rows, columns = lanes.selection, lanes.map.rows, lanes.map.columns
    depth = len(selection.leading)
    return (
        TensorMap("table_row", selection.table.name, (1, columns)),
        TensorMap("index_block", selection.index.name, (rows, depth) if depth else (rows,)),
        TensorMap("listed_rows", selection.listed.name, (rows, columns)),
    )


def _tables(selection: Selection) -> tuple[Table, ...]:
    """The list, and where it is computed on the device what it is computed from."""
    if not selection.leading:
        return (Table("listed", selection.rows, selection.index.name),)
    return Table("listed", selection.rows), Table("listed_places", selection.indices, selection.index.name)


def _queues(lanes: Lanes) -> tuple[Section, ...]:
    """Of each lane's engine."""
    block, columns, listed = Range(lanes.start, lanes.length), lanes.columns, Rows("listed", lanes.start, lanes.length)
    gather = lanes.with_index(
        "gather", (lanes.rows(), Box("table_row", (Range(ZERO), columns)), listed, lanes.index()), lanes.free("block"),
        Signal(lanes.full("block")),
    )  # fmt: skip
    store = Instruction(
        "store", (Box("listed_rows", (block, columns)), lanes.rows()), (), (lanes.full("block"),),
        (Signal(lanes.free("block"), "read"),),
    )  # fmt: skip
    seat = lanes.seat
    return (
        seat.section(LOAD_QUEUE, (lanes.each(*gather),)),
        seat.section(STORE_QUEUE, (lanes.each(*lanes.each_piece(store)),)),
        seat.section(INDEX_QUEUE, (lanes.each(_load_index(lanes)),)),
    )


def _load_index(lanes: Lanes) -> Instruction:
    """The indices of a block to the lane's tile."""
    every = (WHOLE,) if lanes.selection.leading else ()
    name = "coordinates" if lanes.selection.leading else "index"
    view = View(name, lanes.slot("index"), (Range(ZERO, lanes.length), *every), lanes.tile)
    box = Box("index_block", (Range(lanes.start, lanes.length), *(Range(ZERO) for _ in every)))
    free, full = lanes.free(name), Signal(lanes.full(name))
    return Instruction("load", (view, box), (), (free,), (full,))


def _compute(lanes: Lanes) -> Section:
    """Numbers of rows from their coordinates, (i * n1 + j) * n2 + k, on the vector engine."""
    slot, rows = lanes.slot("index"), Range(ZERO, lanes.length)
    index, every = View("index", slot, (rows, WHOLE)), (rows, WHOLE)
    source, place = "coordinates", slot
    body = [Instruction("sync", waits=(lanes.full("coordinates"), lanes.free("index")))]
    if lanes.selection.index.dtype == "int64":
        body.append(Instruction("cast", (View("narrow", ZERO, every), View(source, slot, every))))
        source, place = "narrow", ZERO

    def coordinate(number: int) -> View:
        return View(source, place, (rows, Range(Const(number), Const(1))))

    so_far = coordinate(0)
    for number, size in enumerate(lanes.selection.leading[1:], start=1):
        body.append(Instruction("mul", (index, so_far, Const(size))))
        body.append(Instruction("add", (index, index, coordinate(number))))
        so_far = index
    signals = Signal(lanes.full("index")), Signal(lanes.free("coordinates"))
    return lanes.tile_section(lanes.each(*body, Instruction("sync", signals=signals)))
