"""An attention on its tiles, as expressions: which item, which queries, which block of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import accumulate

from attrs import field, frozen

from kpusim.isa.expr import Const, Expr, Lookup, Name, ceil_div, maximum, minimum
from kpusim.isa.program import Instruction, Loop, Node, Range, Section, SemaphoreRef, Signal, Table, TileSet
from kpusim.machine import Machine
from kpusim.operators.attention.items import Item, Schedule, schedule
from kpusim.operators.attention.lists import gathered
from kpusim.operators.attention.mapping import READY_SLOTS, Mapping
from kpusim.operators.attention.problem import Problem
from kpusim.operators.seats import TILE, ZERO

__all__ = ["ITEM", "STEP", "Grid", "once"]

ITEM, STEP = Name("w"), Name("j")


def once(condition: Expr, *body: Node, counter: str = "x") -> Loop:
    """`body`, if the condition is at least 1; in another such loop with another counter."""
    return Loop(counter, ZERO, minimum(1, maximum(0, condition)), body)


@frozen
class Grid:
    """Problem, mapping and schedule with what sections are written in.

    Tables of the program hold what differs among items; what is the same for all is a constant.
    """

    problem: Problem
    map: Mapping
    machine: Machine
    tables: dict[str, Table] = field(factory=dict, init=False)
    _constants: dict[str, Const] = field(factory=dict, init=False)
    _paces: dict[str, set[int]] = field(factory=dict, init=False)

    @cached_property
    def schedule(self) -> Schedule:
        """Who does what."""
        return schedule(self.problem, self.map, self.machine.tiles.count)

    @property
    def streams(self) -> int:
        """Streams of keys and values."""
        return len(self.schedule.streams)

    @property
    def width(self) -> int:
        """Tiles of a stream."""
        return self.map.stream_tiles(self.problem)

    @property
    def tiles(self) -> int:
        """All that are used."""
        return self.streams * self.width

    # --- where --------------------------------------------------------------------------------------------------------

    def tiles_of(self, stream: Expr) -> TileSet:
        """The tiles of a stream."""
        return TileSet(stream * self.width, Const(self.width))

    def section(self, unit: str, body: Iterable[Node]) -> Section:
        """The section of a unit of all tiles that are used, with `stream` and `part` of the tile."""
        lets = (("stream", TILE // self.width), ("part", TILE % self.map.token_tiles))
        return Section(unit, 0, self.tiles, 1, 0, lets, tuple(body))

    # --- items: functions of a stream and the number of an item -------------------------------------------------------

    def look(self, name: str, values: Callable[[], Iterable[int]], index: Expr) -> Expr:
        """One of the values of `name`, asked for once; a constant where all are the same."""
        if name not in self._constants and name not in self.tables:
            found = tuple(values())
            if len(set(found)) == 1:
                self._constants[name] = Const(found[0])
            else:
                self.tables[name] = Table(name, found)
        return self._constants.get(name) or Lookup(name, index)

    def _each(self, name: str, value: Callable[[Item], int], stream: Expr, item: Expr) -> Expr:
        """A number of an item; of items that a stream has not, that of its last."""
        longest = self.schedule.longest

        def values() -> Iterable[int]:
            return (value(items[min(i, len(items) - 1)]) for items in self.schedule.streams for i in range(longest))

        return self.look(name, values, stream * longest + item)

    def count(self, stream: Expr) -> Expr:
        """Items of a stream."""
        return self.look("items", lambda: map(len, self.schedule.streams), stream)

    def existing(self, stream: Expr, *nodes: Node) -> tuple[Node, ...]:
        """`nodes`, if the stream has the item."""
        left = self.count(stream) - ITEM
        return nodes if self.count(stream) == Const(self.schedule.longest) else (once(left, *nodes, counter="z"),)

    def entry(self, stream: Expr, item: Expr) -> Expr:
        """The sequence of keys of an item."""
        return self._each("entry", lambda at: at.entry, stream, item)

    def row(self, stream: Expr, item: Expr) -> Expr:
        """The first query of an item."""
        return self._each("row", lambda at: at.row, stream, item)

    def steps(self, stream: Expr, item: Expr) -> Expr:
        """Blocks of keys that the stream of an item reads."""
        return self._each("steps", lambda at: len(at.blocks), stream, item)

    def loaded(self, stream: Expr, item: Expr) -> Expr:
        """Blocks that the stream has read before an item."""
        return self._running("loaded", lambda at, _: len(at.blocks), 1, stream, item)

    def seen(self, stream: Expr, part: Expr, item: Expr) -> Expr:
        """Blocks of an item that a tile works on."""
        longest, parts = self.schedule.longest, self.map.token_tiles

        def values() -> Iterable[int]:
            return (
                items[min(i, len(items) - 1)].seen[part]
                for items in self.schedule.streams
                for part in range(parts)
                for i in range(longest)
            )

        return self.look("seen", values, (stream * parts + part) * longest + item)

    def done(self, stream: Expr, part: Expr, item: Expr) -> Expr:
        """Blocks that a tile has worked on before an item."""
        parts = self.map.token_tiles
        return self._running("worked", lambda at, part: at.seen[part], parts, stream * parts + part, item)

    def _running(self, name: str, value: Callable[[Item, int], int], parts: int, place: Expr, item: Expr) -> Expr:
        """The sum over the items before."""
        longest, streams = self.schedule.longest, self.schedule.streams
        if longest == 1:
            return ZERO
        if name not in self._paces:
            self._paces[name] = {value(at, part) for items in streams for at in items for part in range(parts)}
        if len(self._paces[name]) == 1:
            return item * min(self._paces[name])

        def values() -> Iterable[int]:
            for items in streams:
                for part in range(parts):
                    each = [value(at, part) for at in items] + [0] * (longest - len(items))
                    yield from accumulate(each[:-1], initial=0)

        return self.look(name, values, place * longest + item)

    # --- keys: functions of a stream, an item and a step --------------------------------------------------------------

    def block(self, stream: Expr, item: Expr, step: Expr) -> Expr:
        """The number of a key block."""
        if self._contiguous:
            turn = self._each("turn", lambda at: at.turn, stream, item) if self._lengths == 1 else ZERO
            around = (step + turn) % len(self.schedule.streams[0][0].blocks) if turn != ZERO else step
            return self._first_block(stream, item) + around
        start = self._each("start", lambda at: self._starts[tuple(at.blocks)], stream, item)
        return Lookup("blocks", start + step)

    @cached_property
    def _starts(self) -> dict[tuple[int, ...], int]:
        """Where lists of blocks begin in the table of all, which this declares."""
        starts, values = {}, []  # type: tuple[dict[tuple[int, ...], int], list[int]]
        for items in self.schedule.streams:
            for at in items:
                if starts.setdefault(tuple(at.blocks), len(values)) == len(values):
                    values += at.blocks
        self.tables["blocks"] = Table("blocks", tuple(values))
        return starts

    @cached_property
    def _lengths(self) -> int:
        """How many different numbers of blocks items have."""
        return len({len(at.blocks) for items in self.schedule.streams for at in items})

    @cached_property
    def _contiguous(self) -> bool:
        return all(isinstance(at.blocks, range) for items in self.schedule.streams for at in items)

    def key(self, stream: Expr, item: Expr, step: Expr) -> Expr:
        """The first key of a block."""
        return self.block(stream, item, step) * self.map.block_keys

    def grains(self, key: Expr) -> Expr:
        """Grains of the block that begins at `key`, as far as there are keys."""
        grain, most = self.problem.grain, self.map.block_keys // self.problem.grain
        if self.problem.length % self.map.block_keys == 0:
            return Const(most)
        return minimum(most, Const(ceil_div(self.problem.length, grain)) - key // grain)

    def keys_range(self, key: Expr) -> Range:
        """The columns of scores of a block: all keys of its grains."""
        count = self.grains(key) * self.problem.grain
        return Range() if count == Const(self.map.block_keys) else Range(ZERO, count)

    def grains_range(self, key: Expr) -> Range:
        """The grains of a block in its buffer."""
        count = self.grains(key)
        return Range() if count == Const(self.map.block_keys // self.problem.grain) else Range(ZERO, count)

    def columns(self, key: Expr) -> tuple[Range, ...]:
        """The ranges of a block's scores."""
        found = self.keys_range(key)
        return () if found == Range() else (Range(), Range(), found)

    @property
    def whole_keys(self) -> tuple[Range, ...]:
        """The ranges of all of a block of keys or values."""
        return (Range(),) * (3 if self.problem.grained else 2)

    def key_ranges(self, key: Expr) -> tuple[Range, ...]:
        """The ranges of a block of keys or values."""
        grains = self.grains_range(key)
        return () if grains == Range() else (grains, *self.whole_keys[1:])

    # --- in a tile: the slots of an item and a step -------------------------------------------------------------------

    @property
    def stream(self) -> Expr:
        """The stream of the executing tile."""
        return Name("stream")

    @property
    def part(self) -> Expr:
        """Which part of its band it has."""
        return Name("part")

    def slot(self, item: Expr, step: Expr) -> Expr:
        """The buffer of keys and values as they come."""
        return (self.loaded(self.stream, item) + step) % self.map.slots

    def turn(self, item: Expr, step: Expr, turns: int = 0) -> Expr:
        """The buffer of what a tile makes itself, one of `turns`, or of as many as scores are ahead."""
        return (self.done(self.stream, self.part, item) + step) % (turns or 1 + self.map.ahead)

    def operand(self, name: str, item: Expr, step: Expr) -> tuple[Expr, SemaphoreRef, SemaphoreRef]:
        """(slot, its semaphore when full, and when free) of keys or values as they are multiplied."""
        if self.problem.prepared(name):
            slot = self.turn(item, step, READY_SLOTS)
            return slot, SemaphoreRef(f"{name}_ready", TILE, slot), SemaphoreRef(f"{name}_used", TILE, slot)
        slot = self.slot(item, step)
        return slot, SemaphoreRef(f"{name}_full", TILE, slot), SemaphoreRef(f"{name}_free", self.stream, slot)

    def skipped(self, *names: str) -> tuple[Node, ...]:
        """Blocks of an item that only others of its stream see: taken and given back, keys beside values."""
        seen, steps = self.seen(self.stream, self.part, ITEM), self.steps(self.stream, ITEM)
        if seen == steps or self.map.token_tiles == 1 or not names:
            return ()
        slot = self.slot(ITEM, STEP)
        passed = [
            Instruction(
                "sync",
                waits=(SemaphoreRef(f"{name}_full", TILE, slot),),
                signals=(Signal(SemaphoreRef(f"{name}_free", self.stream, slot), "read"),),
            )
            for name in names
            if not (self.problem.shared and name == "v")
        ]
        return (Loop("j", seen, steps, tuple(passed)),) if passed else ()

    # --- queries ------------------------------------------------------------------------------------------------------

    def token(self, stream: Expr, place: Expr) -> Expr:
        """The first query of the tile at `place` in a stream."""
        return self.row(stream, ITEM) + (place % self.map.token_tiles) * self.map.tokens

    def query_ranges(self, stream: Expr, place: Expr, columns: int, length: Expr | None = None) -> tuple[Range, ...]:
        """The coordinates of a tile's queries or results in HBM; `length` narrows them to so many queries."""
        problem, entry, token = self.problem, self.entry(stream, ITEM), self.token(stream, place)
        head = (place // self.map.token_tiles) * self.map.heads
        if problem.tokens_first:
            row = (entry // problem.kv_heads) * problem.queries + token
            column = ((entry % problem.kv_heads) * problem.group + head) * columns
            return Range(row, length), Range(column)
        return Range(entry * problem.group + head), Range(token, length), Range()

    # --- lists of rows to gather --------------------------------------------------------------------------------------

    def list_table(self) -> tuple[Table, ...]:
        """The program's table of them."""
        if not self.problem.unit:
            return ()
        values = tuple(int(value) for value in gathered(self.problem).reshape(-1))
        return (Table("rows", values, self.problem.list_name),)

    @property
    def _listed(self) -> int:
        """Rows of a block."""
        return self.map.block_keys // self.problem.unit

    def list_ranges(self, stream: Expr, item: Expr) -> tuple[Range, ...]:
        """Where the list of an item stands in its tensor."""
        problem, entry = self.problem, self.entry(stream, item)
        if problem.block:
            first = self._each("skipped", lambda at: at.first, stream, item)
            return Range(entry), Range(self.row(stream, item) // problem.block), Range(first)
        place = Range(self._first_block(stream, item) * self._listed)
        return Range(entry // problem.kv_heads if problem.page else entry), place

    def list_place(self, stream: Expr, item: Expr, step: Expr) -> Expr:
        """Where a block's rows begin in the list of its item, which has those between sinks and window too."""
        if self._contiguous or self.problem.block:
            return step * self._listed
        return (self.block(stream, item, step) - self._first_block(stream, item)) * self._listed

    def list_start(self, stream: Expr, item: Expr, step: Expr) -> Expr:
        """Where they begin in the table of all."""
        problem, entry = self.problem, self.entry(stream, item)
        if problem.block:
            bands = ceil_div(problem.queries, problem.block)
            first = self._each("skipped", lambda at: at.first, stream, item)
            return (entry * bands + self.row(stream, item) // problem.block) * problem.blocks + first + step
        sequence = entry // problem.kv_heads if problem.page else entry
        return sequence * ceil_div(problem.length, problem.unit) + self.block(stream, item, step) * self._listed

    def _first_block(self, stream: Expr, item: Expr) -> Expr:
        return self._each("first", lambda at: at.blocks[0], stream, item)

    def pool(self, stream: Expr, item: Expr) -> Expr:
        """The row that an item's list counts from."""
        problem, entry = self.problem, self.entry(stream, item)
        if problem.page:
            return (entry % problem.kv_heads) * problem.pages
        return entry * (problem.keys // problem.grain if problem.block else problem.keys)
