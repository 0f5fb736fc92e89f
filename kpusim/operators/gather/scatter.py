"""Scatter and scatter-add lowered: lanes load blocks of rows and their indices, and write them where these say."""

from __future__ import annotations

from attrs import evolve

from kpusim.isa.expr import Expr, Lookup
from kpusim.isa.program import (
    Box,
    Instruction,
    Loop,
    Program,
    Range,
    Rows,
    Section,
    Semaphore,
    SemaphoreRef,
    Signal,
    Table,
    TensorMap,
)
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.declare import buffers, tensors
from kpusim.operators.gather.choose import check_mapping, choose
from kpusim.operators.gather.lanes import BLOCK, INDEX_QUEUE, LANE, LOAD_QUEUE, STORE_QUEUE, Lanes
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection
from kpusim.operators.gather.schedule import Schedule, schedule
from kpusim.operators.seats import ZERO

__all__ = ["lower_scatter"]


def lower_scatter(
    op: str, selection: Selection, machine: Machine, layouts: Layouts = ROW_MAJOR, mapping: Mapping | None = None
) -> Lowered:
    """The program that executes `op`, scatter or scatter_add, for all rows of the list, and why it looks as it does.

    Raises UserError where the machine cannot run it.
    """
    found = check_mapping(mapping or choose(selection, machine), selection, machine)
    plan = schedule(selection.rows, found.rows, found.lanes, add=op == "scatter_add")
    found = evolve(found, lanes=len(plan.lanes))
    turns = max(len(blocks) for blocks in plan.lanes)
    number = LANE * turns + BLOCK
    first, many = Lookup("first", number), Lookup("many", number)
    lanes = Lanes(selection, found, machine, Lookup("blocks", LANE), first, many)
    tied = any(tie for blocks in plan.lanes for _, _, tie in blocks)
    program = Program(
        name=op,
        tensors=tensors((selection.listed, selection.index, selection.table), layouts),
        maps=(
            TensorMap("one_row", selection.listed.name, (1, found.columns)),
            TensorMap("one_index", selection.index.name, (1,)),
            TensorMap("table_row", selection.table.name, (1, found.columns)),
        ),
        buffers=buffers(selection.buffers(found)),
        semaphores=(*lanes.semaphores("block", "index"), *([Semaphore("settled", found.lanes, 1)] if tied else [])),
        tables=_tables(selection, plan, turns, tied),
        sections=_queues(op, lanes, Lookup("again", number) if tied else ZERO),
    )
    return Lowered(program, (*lanes.choices(), _duplicates(selection, plan, op, tied)), found)


def _tables(selection: Selection, plan: Schedule, turns: int, tied: bool) -> tuple[Table, ...]:
    """The list, the order in which it is worked on, its rows in that order, and the blocks of each lane."""
    blocks = [block for lane in plan.lanes for block in (*lane, *[(0, 0, 0)] * (turns - len(lane)))]
    first, many, again = (tuple(each) for each in zip(*blocks, strict=True))
    return (
        Table("listed", selection.indices, selection.index.name),
        Table("order", plan.order),
        Table("targets", tuple(selection.rows[position] for position in plan.order)),
        Table("blocks", tuple(len(lane) for lane in plan.lanes)),
        Table("first", first),
        Table("many", many),
        *([Table("again", again)] if tied else []),
    )


def _queues(op: str, lanes: Lanes, again: Expr) -> tuple[Section, ...]:
    """Of each lane's engine. `again`: 1 where the lane's next block writes the row that this one ends with."""
    order = Rows("order", lanes.start, lanes.length)
    load = Instruction(
        "gather", (lanes.rows(), Box("one_row", (Range(ZERO), lanes.columns)), order), (),
        (lanes.free("block"),), (Signal(lanes.full("block")),),
    )  # fmt: skip
    index = Instruction(
        "gather", (lanes.index(), Box("one_index", (Range(ZERO),)), order), (),
        (lanes.free("index"),), (Signal(lanes.full("index")),),
    )  # fmt: skip
    write = lanes.with_index(
        op,
        (
            Box("table_row", (Range(ZERO), lanes.columns)), lanes.rows(),
            Rows("targets", lanes.start, lanes.length), lanes.index(),
        ),
        lanes.full("block"), Signal(lanes.free("block"), "read"),
    )  # fmt: skip
    settled = SemaphoreRef("settled", LANE, ZERO)
    sync = Instruction("sync", signals=(Signal(settled),)), Instruction("sync", waits=(settled,))
    settle = () if again == ZERO else (Loop("t", ZERO, again, sync),)
    seat = lanes.seat
    return (
        seat.section(LOAD_QUEUE, (lanes.each(*lanes.each_piece(load)),)),
        seat.section(STORE_QUEUE, (lanes.each(*write, *settle),)),
        seat.section(INDEX_QUEUE, (lanes.each(index),)),
    )


def _duplicates(selection: Selection, plan: Schedule, op: str, tied: bool) -> tuple[str, str, str]:
    """What becomes of them, for `--explain`."""
    distinct = len(set(selection.rows))
    several = selection.count - distinct
    if not several:
        return "duplicates", "none", "the list stays as it is"
    if op == "scatter":
        return "duplicates", f"{several} rows", f"only the last of each is written: {len(plan.order)} rows"
    waits = "; a lane waits between blocks of one row" if tied else ""
    return "duplicates", f"{several} rows", f"sorted by row, so that each row is in one lane's block{waits}"
