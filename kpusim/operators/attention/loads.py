"""What comes to the tiles: queries to each, blocks of keys and values to all of a stream at once."""

from __future__ import annotations

from functools import partial

from kpusim.isa.expr import Const, Expr, Name, minimum
from kpusim.isa.program import (
    Box,
    Instruction,
    Loop,
    Node,
    Range,
    Rows,
    Section,
    Semaphore,
    SemaphoreRef,
    Signal,
    TensorMap,
    TileSet,
    View,
)
from kpusim.operators.attention.grid import ITEM, STEP, Grid, once
from kpusim.operators.attention.items import listed_blocks
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.attention.problem import Problem
from kpusim.operators.declare import Wanted, full_and_free
from kpusim.operators.seats import DST, ZERO, Seat, loop

__all__ = ["INDEX", "KEY_QUEUE", "QUERY_QUEUE", "VALUE_QUEUE", "indices", "key_sections", "load_maps", "query_box",
           "query_section", "semaphores"]  # fmt: skip

KEY_QUEUE, VALUE_QUEUE, QUERY_QUEUE = 0, 1, 2
INDEX = "index"


def load_maps(problem: Problem, mapping: Mapping) -> tuple[TensorMap, ...]:
    """Boxes of queries, keys, values and of what belongs to them."""
    found = [TensorMap("q_block", "q", query_box(problem, mapping, problem.head_dim))]
    names = {"k": problem.head_dim} if problem.shared else {"k": problem.head_dim, "v": problem.value_dim}
    keys, grain = mapping.block_keys, problem.grain
    for name, columns in names.items():
        if problem.kept:
            box: tuple[int, ...] = (keys, columns)
        elif problem.unit:
            box = (keys // grain, grain, columns)
        else:
            box = (keys, columns) if problem.tokens_first else (1, keys, columns)
        found.append(TensorMap(f"{name}_block", name, box))
        if problem.quantized:
            scale = (*box[:-1], 1) if name == "v" or problem.kept else (*box[:-2], max(box[-2] // grain, 1), columns)
            found.append(TensorMap(f"{name}_scale_block", f"{name}_scale", scale))
    if problem.unit:
        listed = _listed(problem, mapping)
        box = (1, 1, listed) if problem.block else (1, listed)
        found.append(TensorMap("list", problem.list_name, box))
    if problem.rope != "none":
        half = problem.head_dim // 2
        found += [TensorMap(f"q_{name}_rows", name, (mapping.tokens, half)) for name in ("cos", "sin")]
    if problem.rope == "qk":
        found += [TensorMap(f"k_{name}_rows", name, (mapping.block_keys, half)) for name in ("cos", "sin")]
    return tuple(found)


def indices(problem: Problem, mapping: Mapping) -> Wanted:
    """Buffers for the lists of rows of an item, of keys and of values."""
    if not problem.unit:
        return {}
    length = _listed(problem, mapping)
    return {f"{name}_{INDEX}": ("int32", 2, (1, length)) for name in ("k" if problem.shared else "kv")}


def _listed(problem: Problem, mapping: Mapping) -> int:
    """Rows of the longest list of an item."""
    return listed_blocks(problem, mapping) * (mapping.block_keys // problem.unit)


def query_box(problem: Problem, mapping: Mapping, columns: int) -> tuple[int, ...]:
    """The box of a tile's queries, or results."""
    if problem.tokens_first:
        return mapping.tokens, mapping.heads * columns
    return mapping.heads, mapping.tokens, columns


def semaphores(grid: Grid) -> list[Semaphore]:
    """Of all that is loaded."""
    slots, tiles, streams, width = grid.map.slots, grid.tiles, grid.streams, grid.width
    found = [*full_and_free("q", tiles, grid.map.query_slots)]
    if grid.map.launched:
        found += [Semaphore("ended", tiles, 1, 1), *(Semaphore(f"{name}_begin", tiles, 1) for name in _stored(grid))]
    for name in _stored(grid):
        found += [Semaphore(f"{name}_full", tiles, slots), Semaphore(f"{name}_free", streams, slots, 1, width)]
        if grid.problem.unit:
            found += full_and_free(f"{name}_{INDEX}", streams, 2)
    return found


def _stored(grid: Grid) -> str:
    """Names of what comes in blocks: keys, and values where they are others."""
    return "k" if grid.problem.shared else "kv"


def key_sections(grid: Grid, seats: tuple[Seat, Seat]) -> list[Section]:
    """Of the queues of keys and of values."""
    queues = zip(_stored(grid), seats, (KEY_QUEUE, VALUE_QUEUE), strict=False)
    return [seat.section(queue, _items(grid, name, seat)) for name, seat, queue in queues]


def _items(grid: Grid, name: str, seat: Seat) -> tuple[Node, ...]:
    """All blocks of all items of the streams of an engine."""
    schedule, alone = grid.schedule, seat.share == 1
    longest = max(len(at.blocks) for items in schedule.streams for at in items)

    def each(stream: Expr) -> tuple[Node, ...]:
        block = _block(grid, name, stream)
        if alone:
            return block
        left = minimum(grid.count(stream) - ITEM, grid.steps(stream, ITEM) - STEP)
        always = grid.count(stream) == Const(schedule.longest) and grid.steps(stream, ITEM) == Const(longest)
        return block if always else (once(left, *block),)

    def index(stream: Expr) -> tuple[Node, ...]:
        found = _index(grid, name, stream)
        return found if alone else grid.existing(stream, *found)

    indices, used = (), ()  # type: tuple[tuple[Node, ...], tuple[Node, ...]]
    if grid.problem.unit:
        indices = seat.each(index)
        used = seat.each(lambda stream: _index_used(grid, name, stream, alone))

    def begin(stream: Expr) -> tuple[Node, ...]:
        wait = Instruction("sync", waits=(SemaphoreRef(f"{name}_begin", stream, ZERO),))
        return (wait,) if alone else grid.existing(stream, wait)

    begins = seat.each(begin) if grid.map.launched else ()
    items = grid.count(Name("g")) if alone else Const(schedule.longest)
    steps = grid.steps(Name("g"), ITEM) if alone else Const(longest)
    return (Loop("w", ZERO, items, (*begins, *indices, Loop("j", ZERO, steps, seat.each(each)), *used)),)


def _index(grid: Grid, name: str, stream: Expr) -> tuple[Node, ...]:
    """The list of the rows that an item gathers, to the first tile of the stream; the gathers behind wait for it."""
    slot = ITEM % 2
    free, full = (SemaphoreRef(f"{name}_index_{state}", stream, slot) for state in ("free", "full"))
    view = View(f"{name}_{INDEX}", slot, (), TileSet(stream * grid.width))
    load = Instruction("load", (view, Box("list", grid.list_ranges(stream, ITEM))), (), (free,), (Signal(full),))
    return load, Instruction("sync", waits=(full,))


def _index_used(grid: Grid, name: str, stream: Expr, alone: bool) -> tuple[Node, ...]:
    signal = Instruction("sync", signals=(Signal(SemaphoreRef(f"{name}_index_free", stream, ITEM % 2)),))
    return (signal,) if alone else grid.existing(stream, signal)


def _block(grid: Grid, name: str, stream: Expr) -> tuple[Node, ...]:
    """One block of keys or values, with its scales or angles, to all tiles of a stream."""
    problem, tiles = grid.problem, grid.tiles_of(stream)
    slot, key = (grid.loaded(stream, ITEM) + STEP) % grid.map.slots, grid.key(stream, ITEM, STEP)
    target = f"{name}_stored" if problem.prepared(name) else f"{name}_tile"
    moves: list[tuple[str, tuple[View | Box | Rows, ...]]] = [_moved(grid, target, f"{name}_block", stream, key, slot)]
    if problem.quantized:
        moves.append(_moved(grid, f"{name}_scale_tile", f"{name}_scale_block", stream, key, slot))
    if name == "k" and problem.rope == "qk":
        count = grid.keys_range(key).length
        for angle in ("k_cos", "k_sin"):
            box = Box(f"{angle}_rows", (Range(key, count), Range()))
            moves.append(("load", (View(angle, slot, (grid.keys_range(key), Range()), tiles), box)))
    free = SemaphoreRef(f"{name}_free", stream, slot)
    full = Signal(SemaphoreRef(f"{name}_full", DST, slot))
    last = len(moves) - 1
    return tuple(
        Instruction(op, operands, (), (free,) if number == 0 else (), (full,) if number == last else ())
        for number, (op, operands) in enumerate(moves)
    )


def _moved(
    grid: Grid, buffer: str, box: str, stream: Expr, key: Expr, slot: Expr
) -> tuple[str, tuple[View | Box | Rows, ...]]:
    """(instruction, operands) that bring a block of keys, values or scales."""
    problem, tiles, grains = grid.problem, grid.tiles_of(stream), grid.grains_range(key)
    entry = grid.entry(stream, ITEM)
    inner = (Range(),) * (2 if problem.grained else 1)
    view = View(buffer, slot, () if grains == Range() else (grains, *inner), tiles)
    if problem.unit:
        count = grid.grains(key)
        start = grid.list_start(stream, ITEM, STEP)
        index = View(f"{buffer[0]}_{INDEX}", ITEM % 2, (Range(), Range(grid.list_place(stream, ITEM, STEP), count)),
                     TileSet(stream * grid.width))  # fmt: skip
        rows = Box(box, (Range(grid.pool(stream, ITEM)), *inner))
        return "gather", (view, rows, Rows("rows", start, count), index)
    scales = buffer == "k_scale_tile"
    first: Expr = key // problem.grain if scales else key
    length = None if grains == Range() else grid.grains(key) * (1 if scales else problem.grain)
    if problem.tokens_first:
        columns = problem.head_dim if buffer[0] == "k" else problem.value_dim
        rows_of = (entry // problem.kv_heads) * problem.keys + first
        head = (entry % problem.kv_heads) * columns
        return "load", (view, Box(box, (Range(rows_of, length), Range(head))))
    return "load", (view, Box(box, (Range(entry), Range(first, length), Range())))


def query_section(grid: Grid, seat: Seat) -> Section:
    """Queries of every item to their tiles, one item ahead; `seat`: of tiles."""
    return seat.section(QUERY_QUEUE, (loop("w", grid.schedule.longest, *seat.each(partial(_queries, grid))),))


def _queries(grid: Grid, tile: Expr) -> tuple[Node, ...]:
    """Of the item of one tile, if it has it."""
    problem, slot, stream, place = grid.problem, ITEM % grid.map.query_slots, tile // grid.width, tile % grid.width
    turned = problem.rope != "none"
    free, full = (SemaphoreRef(f"q_{state}", tile, slot) for state in ("free", "full"))
    target = View("q_stored" if turned else "q_tile", slot, (), TileSet(tile))
    moves = [(target, Box("q_block", grid.query_ranges(stream, place, problem.head_dim)))]
    if turned:
        row = grid.token(stream, place) + problem.offset
        moves += [
            (View(f"q_{name}", slot, (), TileSet(tile)), Box(f"q_{name}_rows", (Range(row), Range())))
            for name in ("cos", "sin")
        ]
    last = len(moves) - 1
    begin: tuple[Node, ...] = ()
    if grid.map.launched:  # the item before has ended: this one begins
        others = tuple(Signal(SemaphoreRef(f"{name}_begin", tile, ZERO)) for name in _stored(grid))
        begin = (Instruction("sync", waits=(SemaphoreRef("ended", tile, ZERO),), signals=others),)
    return grid.existing(stream, *begin, *(
        Instruction("load", move, (), (free,) if number == 0 else (), (Signal(full),) if number == last else ())
        for number, move in enumerate(moves)
    ))  # fmt: skip
