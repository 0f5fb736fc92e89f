"""Random programs for property tests: everything the text can say, whether a machine would execute it or not."""

from functools import cache

from hypothesis import strategies as st

from kpusim.isa.expr import Binary, Call, Const, Lookup, Name
from kpusim.isa.program import (
    Box,
    Buffer,
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
    Tensor,
    TensorMap,
    TileSet,
    View,
)
from kpusim.isa.tables import DTYPE_BITS, instruction_rows

INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
SMALL = st.integers(-3, 6)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
DTYPES = st.sampled_from([*DTYPE_BITS])
ROWS = {name: row for name, row in instruction_rows().items() if name not in ("for", "end")}
FLOATS = st.floats(allow_nan=False, width=64)


@cache
def expressions(names, tables, integers, depth=2):
    """Legal expressions over `names` and `tables` (of whose entries only existing ones are looked up)."""
    constants = integers.map(Const)
    leaves = constants if not names else st.one_of(constants, st.sampled_from([*names]).map(Name))
    if depth == 0:
        return leaves
    below = expressions(names, tables, integers, depth - 1)
    divisors = st.integers(1, 5).map(Const)
    choices = [
        leaves,
        st.builds(Binary, st.sampled_from("+-"), below, below),
        st.builds(Binary, st.just("*"), below, constants),
        st.builds(Binary, st.just("*"), constants, below),
        st.builds(Binary, st.sampled_from(["//", "%"]), below, divisors),
        st.builds(lambda a, b: Call("cdiv", (a, b)), below, divisors),
        st.builds(Call, st.sampled_from(["min", "max"]), st.lists(below, min_size=2, max_size=3).map(tuple)),
    ]
    for table in tables:
        choices.append(below.map(lambda index, table=table: Lookup(table.name, index % len(table.values))))
    return st.one_of(choices)


@st.composite
def programs(draw, integers=INT64):
    """Random programs; `integers` are what their constants may be."""
    tensors = [draw(_tensor(f"T{i}")) for i in range(draw(st.integers(0, 3)))]
    maps = [
        draw(_map(f"M{i}", draw(st.sampled_from(tensors)))) for i in range(draw(st.integers(0, 2)) if tensors else 0)
    ]
    buffers = [draw(_buffer(f"b{i}")) for i in range(draw(st.integers(0, 3)))]
    counts = st.integers(1, 9)
    semaphores = [
        Semaphore(f"s{i}", draw(counts), draw(counts), draw(st.integers(0, 3)), draw(counts))
        for i in range(draw(st.integers(0, 2)))
    ]
    values = st.lists(integers, min_size=1, max_size=6).map(tuple)
    assumed = st.sampled_from(["", *[tensor.name for tensor in tensors]])
    tables = [Table(f"t{i}", draw(values), draw(assumed)) for i in range(draw(st.integers(0, 2)))]
    parts = tuple(map(tuple, (maps, buffers, semaphores, tables)))
    sections = [draw(_section(integers, *parts)) for _ in range(draw(st.integers(0, 3)))]
    return Program("p", tuple(tensors), *parts, tuple(sections))


@st.composite
def _tensor(draw, name):
    shape = draw(SIZES)
    block = draw(st.sampled_from([(), (2, 4)])) if len(shape) > 1 else ()
    pitch = 0 if block else draw(st.sampled_from([0, 12, 32]))  # whole bytes, and not less than any row
    return Tensor(name, draw(DTYPES), shape, draw(st.sampled_from(["in", "out", "inout"])), block, pitch)


@st.composite
def _map(draw, name, tensor):
    return TensorMap(name, tensor.name, tuple(draw(st.integers(1, 9)) for _ in tensor.shape))


@st.composite
def _buffer(draw, name):
    return Buffer(name, draw(DTYPES), draw(st.integers(1, 3)), draw(SIZES), draw(st.integers(0, 4096)))


@st.composite
def _section(draw, integers, maps, buffers, semaphores, tables):
    unit = draw(st.sampled_from(["matrix", "vector", "dma"]))
    first, step = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    names = ("engine" if unit == "dma" else "tile",)
    lets = []
    for i in range(draw(st.integers(0, 2))):
        lets.append((f"x{i}", draw(expressions(names, tables, integers))))
        names = (*names, f"x{i}")
    body = draw(_body(names, integers, maps, buffers, semaphores, tables, depth=2))
    queue = draw(st.integers(0, 3)) if unit == "dma" else 0
    return Section(unit, first, first + draw(st.integers(1, 5)), step, queue, tuple(lets), body)


@st.composite
def _body(draw, names, integers, maps, buffers, semaphores, tables, depth):
    parts = (maps, buffers, semaphores, tables)
    bounds = expressions(names, tables, integers, depth=1)
    nodes = []
    for _ in range(draw(st.integers(0, 3))):
        if depth and draw(st.booleans()):
            counter = f"i{len(names)}"
            inner = draw(_body((*names, counter), integers, *parts, depth - 1))
            nodes.append(Loop(counter, draw(bounds), draw(bounds), inner))
        else:
            nodes.append(draw(_instruction(names, integers, *parts)))
    return tuple(nodes)


@st.composite
def _instruction(draw, names, integers, maps, buffers, semaphores, tables):
    row = ROWS[draw(st.sampled_from([*ROWS]))]
    expr = expressions(names, tables, integers)
    operands = draw(st.lists(_operand(expr, maps, buffers, tables), max_size=4))
    chosen = draw(st.lists(st.sampled_from([*row.options]), unique=True)) if row.options else []
    waits, signals = (), ()
    if semaphores:
        waits = tuple(draw(st.lists(_reference(expr, semaphores), max_size=2)))
        signalled = _reference(expressions((*names, "dst"), tables, integers), semaphores)
        instants = st.sampled_from(["read", "done"])
        signals = tuple(draw(st.lists(st.builds(Signal, signalled, instants), max_size=2)))
    return Instruction(row.name, tuple(operands), tuple((name, draw(expr)) for name in chosen), waits, signals)


def _reference(expr, semaphores):
    return st.builds(SemaphoreRef, st.sampled_from([sem.name for sem in semaphores]), expr, expr)


def _operand(expr, maps, buffers, tables):
    choices = [expr, FLOATS]
    choices += [_view(expr, buffer) for buffer in buffers]
    choices += [_box(expr, item) for item in maps]
    choices += [st.builds(Rows, st.just(table.name), expr, expr) for table in tables]
    return st.one_of(choices)


def _view(expr, buffer):
    part = st.one_of(st.just(Range()), st.builds(Range, expr, expr))
    ranges = st.one_of(st.just(()), st.tuples(*[part for _ in buffer.shape]))
    tiles = st.one_of(st.none(), st.builds(TileSet, expr, expr, st.integers(1, 4)))
    return st.builds(View, st.just(buffer.name), expr, ranges, tiles)


def _box(expr, item):
    part = st.builds(Range, expr, st.one_of(st.none(), expr))
    return st.builds(Box, st.just(item.name), st.tuples(*[part for _ in item.box]))
