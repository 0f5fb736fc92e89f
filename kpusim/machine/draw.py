"""A machine drawn in text."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from kpusim.machine.quantities import CLOCK, SIZE, text
from kpusim.machine.spec import Machine

__all__ = ["draw"]

_FULL = 4  # rows and columns of tiles that are drawn without leaving any out
_PREFIXES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))


def draw(machine: Machine) -> str:
    """The grid of tiles between its DMA engines and HBM, then the rates and sizes of each unit, line by line."""
    title = f"{machine.name} ({text(machine.clock_hz, CLOCK, machine.clock_hz)}): {machine.description}"
    facts = list(_facts(machine))
    width = max(len(unit) for unit, _ in facts)
    lines = (f"{unit.ljust(width)}  {fact}" for unit, fact in facts)
    return "\n".join([title, "", *_grid(machine), "", *lines])


def _grid(machine: Machine) -> Iterator[str]:
    """The HBM above rows of tiles, with the DMA engines where they attach; a large grid is cut in the middle."""
    columns, rows = _shown(machine.tiles.columns), _shown(machine.tiles.rows)
    width = len(f"tile {machine.tiles.count - 1}") + 2
    lines = [_row(machine, row, columns, width) for row in rows if row is not None]
    yield f"[{_memory(machine).center(max(map(len, lines)) - 2, '=')}]"
    indent = " " * lines[0].index("[")

    def below(texts: Iterable[str]) -> str:
        cells = (text.center(4 if column is None else width) for text, column in zip(texts, columns, strict=True))
        return (indent + "  ".join(cells)).rstrip()

    def engines(end: int) -> Iterator[str]:
        if machine.dma.placement == "column-ends":
            yield below("" if column is None else f"dma {2 * column + end}" for column in columns)

    round_ = below("" if column is None else "~" for column in columns)
    loops = [round_] if machine.noc.topology == "torus" and machine.tiles.rows > 2 else []
    yield from (*engines(0), *loops)
    for number, line in enumerate(lines):
        if number:
            cut = None in rows and number == len(lines) - 1
            yield below(_wires(machine, number - 1, columns, ":" if cut else "|"))
        yield line
    yield from (*loops, *engines(1))


def _memory(machine: Machine) -> str:
    """What stands in the bar of the HBM."""
    hbm = machine.hbm
    edges = "edge" if hbm.stacks == 1 else "and east edges"
    where = f" at the west {edges}" if hbm.attach == "edges" else ""
    return f" HBM {hbm.stacks} x {hbm.channels} channels{where} "


def _wires(machine: Machine, row: int, columns: Sequence[int | None], wire: str) -> Iterator[str]:
    """The links from a row to the next, for each column."""
    turn = machine.tiles.columns - 1 if row % 2 == 0 else 0
    for column in columns:
        linked = {"crossbar": False, "ring": column == turn}.get(machine.noc.topology, column is not None)
        yield wire if linked else ""


def _row(machine: Machine, row: int, columns: Sequence[int | None], width: int) -> str:
    first = row * machine.tiles.columns
    boxes = ("...." if column is None else f"[{f'tile {first + column}'.center(width - 2)}]" for column in columns)
    line = ("  " if machine.noc.topology == "crossbar" else "--").join(boxes)
    if machine.noc.topology == "torus" and machine.tiles.columns > 2:
        line = f"~{line}~"
    west, east = (_engines(machine, row, side) for side in range(2))
    margin = max(len(_engines(machine, each, 0)) for each in {0, row, machine.tiles.rows - 1})
    if margin:
        line = f"{west.rjust(margin)} {'==' if west else '  '} {line}"
    return f"{line} == {east}" if east else line


def _engines(machine: Machine, row: int, side: int) -> str:
    """The DMA engines at the west (0) or east (1) end of a row."""
    last = machine.tiles.rows - 1
    numbers = {
        "row-ends": [2 * row + side],
        "west": [row] * (1 - side),
        "corners": [2 * number + side for number, end in enumerate((0, last)) if end == row],
    }.get(machine.dma.placement, [])
    return f"dma {', '.join(map(str, numbers))}" if numbers else ""


def _shown(count: int) -> list[int | None]:
    """All indices when there are few, else the first two and the last, with None for those between."""
    return list(range(count)) if count <= _FULL else [0, 1, None, count - 1]


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    matrix, vector, sram, dma, hbm = machine.matrix, machine.vector, machine.sram, machine.dma, machine.hbm
    tiles, ports, front_end = machine.tiles, sram.ports, machine.front_end

    def size(count: int) -> str:
        return text(count, SIZE, machine.clock_hz)

    folds = "overlapped" if matrix.overlap_folds else "one after the other"
    lanes = ", ".join(f"{name} {cycles}" for name, cycles in vector.lane_cycles.items())
    memory = f"{_rate(machine, hbm.peak_bytes_per_cycle)}, {float(hbm.attainable_fraction):.1%} of it attainable"
    yield "tiles", f"{tiles.rows} x {tiles.columns} = {tiles.count}"
    yield "matrix", f"{matrix.rows} x {matrix.columns} cells a tile, {matrix.dataflow}, folds {folds}"
    if matrix.accumulators_bytes:
        yield "", f"accumulators of {size(matrix.accumulators_bytes)} a tile"
    if matrix.sustained or matrix.synchronous != 1:
        shares = ", ".join(f"{dtype} {float(share):.3g}" for dtype, share in matrix.sustained.items())
        yield "", f"sustained share: {shares or 'all'}; synchronous {float(matrix.synchronous):.3g}"
    yield "vector", f"{vector.lanes} lanes a tile; lane-cycles: {lanes}"
    capacity = f"{size(sram.capacity_bytes)} a tile, {size(tiles.count * sram.capacity_bytes)} in all"
    yield "sram", f"{capacity}, {sram.banks} banks"
    yield "", f"{sram.sharing} ports: dma {ports.dma}, matrix {ports.matrix}, vector {ports.vector} B/cycle"
    if sram.sharing == "shared":
        each, together = (f"{float(rate):g}" for rate in (sram.bank_bytes_per_cycle, sram.shared_bytes_per_cycle))
        yield "", f"banks: {each} B/cycle each, {together} together, interleaved by {size(sram.interleave_bytes)}"
    engines = f"{machine.dma_engines} engines ({dma.placement}) of {dma.queues} queues"
    engines += f" with priorities {', '.join(map(str, dma.priorities))}" if dma.priorities else ""
    yield "dma", f"{engines}, {_rate(machine, dma.bytes_per_cycle)} each"
    noc = machine.noc
    notes = {"torus": " (~: a link to the other end)", "ring": f" (tile {_last_of_ring(machine)} is linked to tile 0)"}
    yield "noc", f"{noc.topology}{notes.get(noc.topology, '')}, {_rate(machine, noc.bytes_per_cycle)} a link"
    if tiles.count > 1:
        hops, links = _reach(machine)
        halves = _rate(machine, links * noc.bytes_per_cycle)
        yield "", f"{hops} hop{'s' * (hops > 1)} at most between tiles; {halves} between its halves, each way"
    yield from _shared(machine)
    yield "hbm", f"{size(hbm.total_capacity_bytes)} in {hbm.stacks} x {hbm.channels} channels, {memory}"
    yield "launch", f"{front_end.launch_cycles} cycles; barrier {front_end.barrier_cycles} cycles"
    for dtype in matrix.macs_per_cell:
        peak, balance = _prefixed(machine.peak_flops(dtype)), float(machine.balance(dtype))
        yield dtype, f"{peak}FLOP/s peak; the roofline's ridge at {balance:.0f} flop/byte"


def _reach(machine: Machine) -> tuple[int, int]:
    """(hops between the tiles that are farthest apart, links each way between the halves of the network)."""
    rows, columns, count = machine.tiles.rows, machine.tiles.columns, machine.tiles.count
    hops = {"mesh": rows + columns - 2, "torus": rows // 2 + columns // 2, "ring": count // 2, "crossbar": 1}
    circles = 2 if max(rows, columns) > 2 else 1  # a circle of two is a single link
    across = min(rows, columns)
    links = {"mesh": across, "torus": circles * across, "ring": 2 if count > 2 else 1, "crossbar": count // 2}
    return hops[machine.noc.topology], links[machine.noc.topology]


def _last_of_ring(machine: Machine) -> int:
    """The tile at the end of the last row, which runs eastward if there are rows of an odd number."""
    return machine.tiles.count - (1 if machine.tiles.rows % 2 else machine.tiles.columns)


def _shared(machine: Machine) -> Iterator[tuple[str, str]]:
    shared, clock = machine.shared, machine.clock_hz
    if shared.kind == "none":
        return
    capacity = text(shared.capacity_bytes, SIZE, clock)
    rate = _rate(machine, shared.bytes_per_cycle)
    yield "shared", f"{shared.kind} of {capacity}, {rate}, {shared.latency_cycles} cycles"
    if shared.kind == "cache":
        line, block = (text(count, SIZE, clock) for count in (shared.line_bytes, shared.block_bytes))
        looked = f"blocks of {block}" if shared.lookup == "blocks" else f"lines, in sets of {shared.ways}"
        yield "", f"lines of {line}, write-{shared.write}, looked up by {looked}"


def _rate(machine: Machine, bytes_per_cycle: Fraction) -> str:
    return f"{float(bytes_per_cycle):g} B/cycle ({_prefixed(bytes_per_cycle * machine.clock_hz)}B/s)"


def _prefixed(value: int | Fraction) -> str:
    """Four digits and a prefix: "524.3 T"."""
    scale, prefix = next(pair for pair in _PREFIXES if value >= pair[0] or pair[0] == 1)
    return f"{float(value / Fraction(scale)):.4g} {prefix}"
