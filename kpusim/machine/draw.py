"""A machine drawn in text."""

from collections.abc import Iterator, Sequence
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
    width = len(f"tile {machine.tiles.count - 1}")
    lines = [_row(machine, row, columns, width) for row in rows if row is not None]
    memory = f" HBM {machine.hbm.stacks} x {machine.hbm.channels} channels "
    yield f"[{memory.center(max(map(len, lines)) - 2, '=')}]"
    indent = " " * lines[0].index("[")
    for number, line in enumerate(lines):
        if number:
            wire = ":" if None in rows and number == len(lines) - 1 else "|"
            cells = ("    " if column is None else wire.center(width + 2) for column in columns)
            yield (indent + "  ".join(cells)).rstrip()
        yield line


def _row(machine: Machine, row: int, columns: Sequence[int | None], width: int) -> str:
    first = row * machine.tiles.columns
    boxes = ("...." if column is None else f"[{f'tile {first + column}'.center(width)}]" for column in columns)
    line = "--".join(boxes)
    if machine.dma.placement == "tile":
        return line
    return f"{f'dma {2 * row}'.rjust(len(f'dma {machine.dma_engines - 1}'))} == {line} == dma {2 * row + 1}"


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
    yield "vector", f"{vector.lanes} lanes a tile; lane-cycles: {lanes}"
    capacity = f"{size(sram.capacity_bytes)} a tile, {size(tiles.count * sram.capacity_bytes)} in all"
    yield "sram", f"{capacity}, {sram.banks} banks"
    yield "", f"{sram.sharing} ports: dma {ports.dma}, matrix {ports.matrix}, vector {ports.vector} B/cycle"
    if sram.sharing == "shared":
        interleave = size(sram.interleave_bytes)
        yield "", f"banks: {sram.bank_bytes_per_cycle} B/cycle each, interleaved by {interleave}"
    engines = f"{machine.dma_engines} engines ({dma.placement}) of {dma.queues} queues"
    yield "dma", f"{engines}, {_rate(machine, dma.bytes_per_cycle)} each"
    yield "noc", f"{machine.noc.topology}, {_rate(machine, machine.noc.bytes_per_cycle)} a link"
    yield "hbm", f"{size(hbm.total_capacity_bytes)} in {hbm.stacks} x {hbm.channels} channels, {memory}"
    yield "launch", f"{front_end.launch_cycles} cycles; barrier {front_end.barrier_cycles} cycles"
    for dtype in matrix.macs_per_cell:
        peak, balance = _prefixed(machine.peak_flops(dtype)), float(machine.balance(dtype))
        yield dtype, f"{peak}FLOP/s peak; the roofline's ridge at {balance:.0f} flop/byte"


def _rate(machine: Machine, bytes_per_cycle: Fraction) -> str:
    return f"{float(bytes_per_cycle):g} B/cycle ({_prefixed(bytes_per_cycle * machine.clock_hz)}B/s)"


def _prefixed(value: int | Fraction) -> str:
    """Four digits and a prefix: "524.3 T"."""
    scale, prefix = next(pair for pair in _PREFIXES if value >= pair[0] or pair[0] == 1)
    return f"{float(value / Fraction(scale)):.4g} {prefix}"
