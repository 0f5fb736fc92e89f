"""The weighted sum lowered: lanes gather the rows of a block of tokens, add them up and store the sums."""

from __future__ import annotations

from attrs import field, frozen

from kpusim.isa.expr import Const
from kpusim.isa.program import Box, Instruction, Program, Range, Rows, Section, Signal, Table, TensorMap, View
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered, Port
from kpusim.operators.declare import Wanted, buffers, tensors
from kpusim.operators.gather.choose import check_mapping, choose
from kpusim.operators.gather.lanes import INDEX_QUEUE, LOAD_QUEUE, STORE_QUEUE, WHOLE, Lanes, in_turn
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.gather.problem import Selection
from kpusim.operators.seats import ZERO

__all__ = ["Combination", "lower_combine"]


@frozen(eq=False)
class Combination(Selection):
    """Tokens, and for each `fan` rows of the table with their weights."""

    weights: Port = field(kw_only=True)

    @property
    def fan(self) -> int:
        """Rows of a token."""
        return self.index.shape[1]

    def buffers(self, mapping: Mapping) -> Wanted:
        """What a tile needs, by name."""
        tokens, columns, slots = mapping.rows, mapping.columns, mapping.index_slots
        return {
            "block": (self.table.dtype, mapping.slots, (tokens, self.fan, columns)),
            "index": (self.index.dtype, slots, (tokens, self.fan)),
            "weight": (self.weights.dtype, slots, (tokens, self.fan, 1)),
            "sum": ("fp32", 1, (tokens, 1, columns)),
            "result": (self.listed.dtype, mapping.count("result"), (tokens, 1, columns)),
        }


def lower_combine(
    name: str, combination: Combination, machine: Machine, layouts: Layouts = ROW_MAJOR, mapping: Mapping | None = None
) -> Lowered:
    """The program that stores the weighted sum of each token's rows, and why it looks as it does.

    Raises UserError where the machine cannot run it.
    """
    found = check_mapping(mapping or choose(combination, machine), combination, machine)
    lanes = in_turn(combination, found, machine)
    k, rows, columns = combination.fan, found.rows, found.columns
    program = Program(
        name=name,
        tensors=tensors((combination.table, combination.weights, combination.index, combination.listed), layouts),
        maps=(
            TensorMap("y_row", combination.table.name, (1, columns)),
            TensorMap("weight_block", combination.weights.name, (rows, k)),
            TensorMap("index_block", combination.index.name, (rows, k)),
            TensorMap("out_rows", combination.listed.name, (rows, columns)),
        ),
        buffers=buffers(combination.buffers(found)),
        semaphores=lanes.semaphores("block", "index", "weight", "result"),
        tables=(Table("listed", combination.rows, combination.index.name),),
        sections=(*_queues(lanes, k), _sums(lanes, k)),
    )
    return Lowered(program, lanes.choices(), found)


def _queues(lanes: Lanes, k: int) -> tuple[Section, ...]:
    """Of each lane's engine: rows, sums, and places with their weights."""
    tokens, columns = Range(lanes.start, lanes.length), lanes.columns
    here, listed = Range(ZERO, lanes.length), Rows("listed", lanes.start * k, lanes.length * k)
    rows = View("block", lanes.slot("block"), (here, WHOLE, Range(ZERO, columns.length)), lanes.tile)
    index = View("index", lanes.slot("index"), (here, WHOLE), lanes.tile)
    weights = View("weight", lanes.slot("weight"), (here, WHOLE, WHOLE), lanes.tile)
    result = View("result", lanes.slot("result"), (here, WHOLE, Range(ZERO, columns.length)), lanes.tile)
    gather = lanes.with_index(
        "gather", (rows, Box("y_row", (Range(ZERO), columns)), listed, index), lanes.free("block"),
        Signal(lanes.full("block")),
    )  # fmt: skip
    store = Instruction(
        "store", (Box("out_rows", (tokens, columns)), result), (), (lanes.full("result"),),
        (Signal(lanes.free("result"), "read"),),
    )  # fmt: skip
    loads = tuple(
        Instruction(
            "load", (view, Box(f"{name}_block", (tokens, Range(ZERO)))), (), (lanes.free(name),),
            (Signal(lanes.full(name)),),
        )
        for name, view in (("index", index), ("weight", weights))
    )  # fmt: skip
    seat = lanes.seat
    return (
        seat.section(LOAD_QUEUE, (lanes.each(*gather),)),
        seat.section(STORE_QUEUE, (lanes.each(*lanes.each_piece(store)),)),
        seat.section(INDEX_QUEUE, (lanes.each(*loads),)),
    )


def _sums(lanes: Lanes, k: int) -> Section:
    """Product by product, in fp32; the last one is rounded into the result."""
    here, columns = Range(ZERO, lanes.length), Range(ZERO, lanes.columns.length)
    so_far = View("sum", ZERO, (here, WHOLE, columns))
    result = View("result", lanes.slot("result"), (here, WHOLE, columns))
    waits, signals = (lanes.full("block"), lanes.free("result")), (lanes.free("block"), lanes.full("result"))
    steps = []
    for number in range(k):
        one, last = Range(Const(number), Const(1)), number == k - 1
        row = View("block", lanes.slot("block"), (here, one, columns))
        weight = View("weight", lanes.slot("weight"), (here, one, WHOLE))
        op, added = ("fma", (so_far,)) if number else ("mul", ())
        steps.append(
            Instruction(
                op, (result if last else so_far, row, weight, *added), (), waits if not number else (),
                tuple(Signal(ref) for ref in signals) if last else (),
            )
        )  # fmt: skip
    begun = Instruction("sync", waits=(lanes.full("weight"),))
    ended = Instruction("sync", signals=(Signal(lanes.free("weight")),))
    return lanes.tile_section(lanes.each(begun, *lanes.each_piece(*steps), ended))
