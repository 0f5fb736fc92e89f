"""Scatter and scatter-add lowered: lanes load blocks of rows and their indices, and write them where these say."""

from __future__ import annotations

from attrs import asdict, evolve, frozen

from kpusim.isa.expr import Const, Expr, Lookup
from kpusim.isa.program import (
    Box,
    Instruction,
    Loop,
    Node,
    Program,
    Range,
    Rows,
    Section,
    Signal,
    Table,
    TensorMap,
    View,
)
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.declare import Wanted, buffers, tensors
from kpusim.operators.gather.choose import ROUNDING, check_mapping, choose
from kpusim.operators.gather.lanes import BLOCK, INDEX_QUEUE, LANE, LOAD_QUEUE, STORE_QUEUE, Lanes
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection
from kpusim.operators.gather.schedule import Block, Schedule, schedule, stripes_of
from kpusim.operators.seats import ZERO

__all__ = ["Addition", "lower_scatter"]


@frozen(eq=False)
class Addition(Selection):
    """Rows that are added to a table; some are duplicates."""

    def stripes(self, mapping: Mapping) -> tuple[tuple[int, int], ...]:
        """(left, wide) of the columns of a row that each lane sums, where there are many duplicates of it."""
        return stripes_of(self.width, mapping.columns, ROUNDING * 8 // self.bits, mapping.lanes)

    def height(self, mapping: Mapping) -> int:
        """Rows of a block of a stripe: as many bytes as other blocks have."""
        return mapping.rows * mapping.columns // self.stripes(mapping)[0][1]

    def buffers(self, mapping: Mapping) -> Wanted:
        """With room for sums."""
        wide, dtype = self.stripes(mapping)[0][1], self.table.dtype
        sums: Wanted = {
            "stripe": (dtype, mapping.count("stripe"), (self.height(mapping), wide)),
            "part": ("fp32", 1, (1, wide)),
            "total": ("fp32", 1, (1, wide)),
            "hot_sum": (dtype, mapping.count("hot_sum"), (1, wide)),
        }
        return {**super().buffers(mapping), **sums}


def lower_scatter(
    op: str, selection: Selection, machine: Machine, layouts: Layouts = ROW_MAJOR, mapping: Mapping | None = None
) -> Lowered:
    """The program that executes `op`, scatter or scatter_add, for all rows of the list, and why it looks as it does.

    Raises UserError where the machine cannot run it.
    """
    found = check_mapping(mapping or choose(selection, machine), selection, machine)
    how = (selection.stripes(found), selection.height(found)) if isinstance(selection, Addition) else ((), 1)
    plan = schedule(selection.rows, found.rows, found.lanes, *how)
    blocks = _Blocks(max(len(blocks) for blocks in plan.lanes))
    used = evolve(found, lanes=len(plan.lanes))
    lanes = Lanes(selection, used, machine, Lookup("blocks", LANE), blocks.of("first"), blocks.of("many"))
    summed = ("stripe", "hot_sum") if plan.hot else ()
    program = Program(
        name=op,
        tensors=tensors((selection.listed, selection.index, selection.table), layouts),
        maps=(
            TensorMap("one_row", selection.listed.name, (1, found.columns)),
            TensorMap("one_index", selection.index.name, (1,)),
            TensorMap("table_row", selection.table.name, (1, found.columns)),
        ),
        buffers=buffers(selection.buffers(found)),
        semaphores=lanes.semaphores("block", "index", *summed),
        tables=_tables(selection, plan, blocks.turns),
        sections=(*_queues(op, lanes, blocks, plan.hot), *([_sums(lanes, blocks)] if plan.hot else [])),
    )
    return Lowered(program, (*lanes.choices(), _duplicates(selection, plan)), found)


@frozen
class _Blocks:
    """What tables say of the block that a lane is at; each has `turns` entries a lane."""

    turns: int

    def of(self, name: str) -> Expr:
        """A field of `Block`."""
        return Lookup(name, LANE * self.turns + BLOCK)


def _when(times: Expr, *body: Node) -> Loop:
    """`body` where `times` is 1, and not where it is 0."""
    return Loop("t", ZERO, times, body)


def _tables(selection: Selection, plan: Schedule, turns: int) -> tuple[Table, ...]:
    """The list, the order in which it is worked on, its rows in that order, and the blocks of each lane."""
    padded = [asdict(block) for lane in plan.lanes for block in (*lane, *[Block(0, 0)] * (turns - len(lane)))]
    told = padded[0] if plan.hot else ("first", "many")
    return (
        Table("listed", selection.indices, selection.index.name),
        Table("order", plan.order),
        Table("targets", tuple(selection.rows[position] for position in plan.order)),
        Table("blocks", tuple(len(lane) for lane in plan.lanes)),
        *(Table(name, tuple(block[name] for block in padded)) for name in told),
    )


def _queues(op: str, lanes: Lanes, blocks: _Blocks, hot: bool) -> tuple[Section, ...]:
    """Of each lane's engine."""
    load, write = _load(lanes), _write(op, lanes)
    index: tuple[Node, ...] = (_load_index(lanes, lanes.length),)
    if hot:
        plain = Const(1) - blocks.of("hot")
        load = _when(plain, *load), _when(blocks.of("hot"), _load_hot(lanes, blocks))
        write = _when(plain, *write), _when(blocks.of("ends"), _write_sum(op, lanes, blocks))
        index = _when(plain, *index), _when(blocks.of("ends"), _load_index(lanes, Const(1)))
    seat = lanes.seat
    return (
        seat.section(LOAD_QUEUE, (lanes.each(*load),)),
        seat.section(STORE_QUEUE, (lanes.each(*write),)),
        seat.section(INDEX_QUEUE, (lanes.each(*index),)),
    )


def _load(lanes: Lanes) -> tuple[Node, ...]:
    """The rows of a block."""
    views = lanes.rows(), Box("one_row", (Range(ZERO), lanes.columns)), Rows("order", lanes.start, lanes.length)
    return lanes.each_piece(Instruction("gather", views, (), (lanes.free("block"),), (Signal(lanes.full("block")),)))


def _index(lanes: Lanes, many: Expr) -> View:
    """The first indices of a block in the lane's tile."""
    return View("index", lanes.slot("index"), (Range(ZERO, many),), lanes.tile)


def _load_index(lanes: Lanes, many: Expr) -> Instruction:
    """The first indices of a block: of a sum one is enough."""
    views = _index(lanes, many), Box("one_index", (Range(ZERO),)), Rows("order", lanes.start, many)
    return Instruction("gather", views, (), (lanes.free("index"),), (Signal(lanes.full("index")),))


def _write(op: str, lanes: Lanes) -> tuple[Node, ...]:
    """The rows of a block to where they belong."""
    targets = Rows("targets", lanes.start, lanes.length)
    views = Box("table_row", (Range(ZERO), lanes.columns)), lanes.rows(), targets, lanes.index()
    return lanes.with_index(op, views, lanes.full("block"), Signal(lanes.free("block"), "read"))


# A row with many duplicates ------------------------------------------------------------------------------------------


def _stripe(blocks: _Blocks) -> Range:
    """Its columns that the lane sums."""
    return Range(blocks.of("left"), blocks.of("wide"))


def _load_hot(lanes: Lanes, blocks: _Blocks) -> Instruction:
    """A stripe of rows that are added to the same one."""
    ranges = Range(ZERO, lanes.length), Range(ZERO, blocks.of("wide"))
    view = View("stripe", lanes.slot("stripe"), ranges, lanes.tile)
    views = view, Box("one_row", (Range(ZERO), _stripe(blocks))), Rows("order", lanes.start, lanes.length)
    return Instruction("gather", views, (), (lanes.free("stripe"),), (Signal(lanes.full("stripe")),))


def _sums(lanes: Lanes, blocks: _Blocks) -> Section:
    """On the vector engine, in fp32: the rows of a block, then blocks; at the end rounded."""
    row = Range(), Range(ZERO, blocks.of("wide"))
    part, total = View("part", ZERO, row), View("total", ZERO, row)
    hot = View("stripe", lanes.slot("stripe"), (Range(ZERO, lanes.length), row[1]))
    result = View("hot_sum", lanes.slot("hot_sum"), row)
    return lanes.tile_section(
        lanes.each(
            _when(blocks.of("begins"), Instruction("fill", (total, 0.0))),
            _when(
                blocks.of("hot"),
                Instruction("col_sum", (part, hot), (), (lanes.full("stripe"),), (Signal(lanes.free("stripe")),)),
                Instruction("add", (total, total, part)),
            ),
            _when(
                blocks.of("ends"),
                Instruction("cast", (result, total), (), (lanes.free("hot_sum"),), (Signal(lanes.full("hot_sum")),)),
            ),
        )
    )


def _write_sum(op: str, lanes: Lanes, blocks: _Blocks) -> Instruction:
    """A sum to where it belongs."""
    view = View("hot_sum", lanes.slot("hot_sum"), (Range(), Range(ZERO, blocks.of("wide"))), lanes.tile)
    targets, index = Rows("targets", lanes.start, Const(1)), _index(lanes, Const(1))
    views = Box("table_row", (Range(ZERO), _stripe(blocks))), view, targets, index
    waits = lanes.full("index"), lanes.full("hot_sum")
    return Instruction(op, views, (), waits, (Signal(lanes.free("index")), Signal(lanes.free("hot_sum"), "read")))


def _duplicates(selection: Selection, plan: Schedule) -> tuple[str, str, str]:
    """What becomes of them, for `--explain`."""
    several = selection.count - len(set(selection.rows))
    if not several:
        return "duplicates", "none", "the list stays as it is"
    if not isinstance(selection, Addition):
        return "duplicates", f"{several} rows", f"only the last of each is written: {len(plan.order)} rows"
    hot = "; of those with more than a block, stripes are summed on chip" if plan.hot else ""
    return "duplicates", f"{several} rows", f"sorted by row, so that each row is in one block{hot}"
