"""What a mapping costs by the closed formulas: cycles by what they are spent on, and HBM traffic."""

from __future__ import annotations

from math import gcd

from attrs import frozen

from kpusim.costs import matmul_timer, vector_timer
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.gemm.epilogue import chain_cycles
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import Problem

__all__ = ["Cost", "cost", "hbm_bytes"]


@frozen
class Cost:
    """Estimated cycles by what they are spent on: the parts overlap, and what comes before and after does not.

    `lead` is before the first multiplication of the first tile, and `fill` what HBM takes longer for its data;
    `stagger` from there to that of the last tile, which a DMA queue serves after the others; `step` one step of the
    engines, `finish` from a tile's last multiplication to its results, `out` their way to HBM, and `queue` what a DMA
    queue takes longer for those of all its tiles. `panels`: how much longer the rounds are that load what is resident.
    """

    matrix: int
    vector: int
    hbm: int
    load: int
    store: int
    noc: int
    lead: int
    fill: int
    stagger: int
    step: int
    finish: int
    out: int
    queue: int
    panels: int
    hbm_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """The parts that overlap, by name."""
        return {
            "matrix": self.matrix, "vector": self.vector, "HBM": self.hbm, "loads": self.load, "stores": self.store,
            "NoC": self.noc,
        }  # fmt: skip

    @property
    def cycles(self) -> int:
        """What mappings are ranked by: the longest of four pipelines, each with what comes before and behind it."""
        behind = max(self.stagger, self.queue) + self.out
        engines = max(self.matrix, self.vector) + behind
        loads = max(self.load, self.noc) + self.step + behind
        memory = self.step + self.hbm
        longest = max(self.fill + max(engines, loads, self.step + self.store), memory)
        return self.lead + self.panels + longest + self.finish


def hbm_bytes(mapping: Mapping, problem: Problem, access: int) -> int:
    """HBM traffic in whole accesses, of which a run that starts or ends within one takes all."""
    return sum(traffic(mapping, problem, access).values())


def traffic(mapping: Mapping, problem: Problem, access: int) -> dict[str, int]:
    """HBM traffic by tensor, in bytes of whole accesses."""
    _, rounds_n = mapping.rounds(problem)
    lanes, copies = problem.lanes(mapping.grid_m * mapping.block_m), max(problem.batch, 1)
    m, n, k = (problem.m, mapping.block_m), (problem.n, mapping.block_n), (problem.k, mapping.block_k)
    rows = problem.m, mapping.strip_rows
    a = _fetched(*((k, m) if problem.transpose_a else (m, k)), DTYPE_BITS[problem.dtype], access) * copies
    b = _fetched(*((n, k) if problem.transpose_b else (k, n)), DTYPE_BITS[problem.stored_dtype], access)
    found = {
        "a": a * (1 if mapping.resident == "a" else rounds_n),
        "b": b * (1 if mapping.resident == "b" else lanes),
        "out": _fetched(rows, n, DTYPE_BITS[problem.out_dtype], access) * copies,
    }
    if problem.epilogue.residual:
        found["residual"] = _fetched(rows, n, DTYPE_BITS[problem.model_dtype], access) * copies
    if problem.quantized:
        count = mapping.steps(problem) * mapping.grid_k * mapping.scales(problem)
        found["b_scale"] = _fetched((count, 1), n, DTYPE_BITS[problem.dtype], access) * lanes
    for name in problem.epilogue.vectors:
        found[name] = _fetched((1, 1), n, 32, access) * lanes
    return found


def _hbm_cycles(mapping: Mapping, problem: Problem, moved: dict[str, int], machine: Machine) -> tuple[int, int]:
    """Cycles that HBM takes to read and to write, each tensor out of the channels that its transfers keep busy."""
    rate = machine.hbm.attainable_bytes_per_cycle / machine.hbm.channel_count
    busy = _channels(mapping, problem, machine)
    times = {name: int(size / (rate * busy.get(name, machine.hbm.channel_count))) for name, size in moved.items()}
    written = times.pop("out")
    reads = sum(moved.values()) - moved["out"]
    return max(int(reads / machine.hbm.attainable_bytes_per_cycle), *times.values()), written


def _channels(mapping: Mapping, problem: Problem, machine: Machine) -> dict[str, float]:
    """How many channels are at work on a tensor at a time: what is under way spans so many interleave blocks."""
    planes, deep = mapping.grid_batch * mapping.grid_k, mapping.slots * mapping.block_k
    tall = mapping.grid_batch * min(problem.m, mapping.grid_m * mapping.block_m)
    wide = min(problem.n, mapping.grid_n * mapping.block_n)
    high_b = min(problem.n, mapping.grid_n * mapping.block_n) * planes
    bits = {"a": DTYPE_BITS[problem.dtype], "b": DTYPE_BITS[problem.stored_dtype], "out": DTYPE_BITS[problem.out_dtype]}
    windows = {  # rows under way, elements of a row, of them under way
        "a": (deep * planes, problem.m, tall) if problem.transpose_a else (tall * mapping.grid_k, problem.k, deep),
        "b": (high_b, problem.k, deep) if problem.transpose_b else (deep * planes, problem.n, wide),
        "out": (tall, problem.n, wide),
    }
    return {
        name: _spread(rows, pitch * bits[name] / 8, min(window, pitch) * bits[name] / 8, machine)
        for name, (rows, pitch, window) in windows.items()
    }


def _spread(rows: int, pitch: float, window: float, machine: Machine) -> float:
    """Channels that so many rows, `pitch` bytes apart, keep busy with `window` bytes of each."""
    hbm, block = machine.hbm, machine.hbm.interleave_bytes
    if pitch < block:
        return min(hbm.channel_count, max(1.0, rows * pitch / block))
    each = max(1.0, window / block)
    if hbm.hash == "none":  # rows whose pitch is a multiple of the period start in the same channel
        period = hbm.channel_count * block
        rows = min(rows, period // gcd(int(pitch), period))
    return min(hbm.channel_count, rows * each)


def _fetched(down: tuple[int, int], across: tuple[int, int], bits: int, access: int) -> int:
    """Bytes accessed for a matrix that is moved block by block: (rows, rows of a block), the same for columns.

    Exact where rows and blocks are whole accesses, else the average over runs that start anywhere alike.
    """
    (rows, high), (columns, wide) = down, across
    if wide >= columns:  # rows follow each other: one long row, in blocks of `high` of them
        rows, columns, wide = 1, rows * columns, min(high, rows) * columns
    start = gcd(
        wide * bits // 8, columns * bits // 8 if rows > 1 else 0, access
    )  # what all runs start at a multiple of
    full, rest = divmod(columns, wide)
    aligned = [-(-size * bits // 8 // start) * start for size in (wide, rest)]
    return rows * (full * (aligned[0] + access - start) + (aligned[1] + access - start if rest else 0))


def _row_openings(mapping: Mapping, problem: Problem, interleave: int) -> int:
    """HBM rows opened: one for each interleave block, as often as a transfer comes to it."""
    lanes, (_, rounds_n) = problem.lanes(mapping.grid_m * mapping.block_m), mapping.rounds(problem)
    copies = max(problem.batch, 1)
    m, n, k = (problem.m, mapping.block_m), (problem.n, mapping.block_n), (problem.k, mapping.block_k)
    a = _opened(*((k, m) if problem.transpose_a else (m, k)), DTYPE_BITS[problem.dtype], interleave) * copies
    b = _opened(*((n, k) if problem.transpose_b else (k, n)), DTYPE_BITS[problem.stored_dtype], interleave)
    out = _opened((problem.m, mapping.strip_rows), n, DTYPE_BITS[problem.out_dtype], interleave) * copies
    return a * (1 if mapping.resident == "a" else rounds_n) + b * (1 if mapping.resident == "b" else lanes) + out


def _opened(down: tuple[int, int], across: tuple[int, int], bits: int, interleave: int) -> int:
    """Interleave blocks touched by a matrix that is moved block by block, as in `_fetched`; short rows share some."""
    (rows, _), (columns, wide) = down, across
    pitch, run = columns * bits / 8, min(wide, columns) * bits / 8
    touched = 1 + run / interleave if pitch > interleave else (pitch + run) / interleave
    return int(rows * ceil_div(columns, wide) * min(touched, 1 + run // interleave))


def cost(mapping: Mapping, problem: Problem, machine: Machine) -> Cost:
    """The cost of `mapping` in closed form (cycles, launch not included)."""
    rounds_m, rounds_n = mapping.rounds(problem)
    rounds, steps = rounds_m * rounds_n, rounds_m * rounds_n * mapping.steps(problem)
    moved = traffic(mapping, problem, machine.hbm.access_bytes)
    reads, writes = _hbm_cycles(mapping, problem, moved, machine)
    whole = int(sum(moved.values()) / machine.hbm.attainable_bytes_per_cycle)
    activation = (
        _row_openings(mapping, problem, machine.hbm.interleave_bytes)
        * machine.hbm.activate_gap_cycles
        // machine.hbm.channel_count
    )
    a_step, b_step = _step_bytes(mapping, problem)
    planes = mapping.grid_batch * mapping.grid_k
    loaded = planes * (mapping.grid_m * a_step + mapping.grid_n * b_step)
    hbm = machine.hbm
    latency = hbm.precharge_cycles + hbm.row_activate_cycles + hbm.read_cycles + hbm.controller_cycles + _hops(machine)
    in_flight = machine.dma_engines * machine.dma.outstanding_bytes
    waiting = steps * loaded * latency // in_flight
    matrix, vector, step, finish = _engine_cycles(mapping, problem, machine)
    load, store = _load_cycles(mapping, problem, machine), _store_cycles(mapping, problem, machine)
    first = load // ceil_div(planes * max(_active(mapping, problem)), machine.dma_engines)
    tiles = _stored_tiles(mapping, problem, machine)
    each, copied = store // tiles, _reduce_cycles(mapping, problem, machine)
    load_all, usual = (steps - 1) * max(load, (step + latency + load) // mapping.slots), rounds * store
    panels = 0
    if mapping.resident:
        served = rounds_n if mapping.resident == "a" else rounds_m
        resident = moved[mapping.resident]
        rest = int((sum(moved.values()) - resident) / hbm.attainable_bytes_per_cycle)
        round_ = max(matrix, vector, rest, load_all, usual) // rounds
        panel = int(resident * served / rounds / hbm.attainable_bytes_per_cycle)
        share = ceil_div(mapping.grid_m if mapping.resident == "a" else mapping.grid_n, machine.dma_engines)
        twice = 2 * share * (a_step if mapping.resident == "a" else b_step) + (
            ceil_div(mapping.grid_n if mapping.resident == "a" else mapping.grid_m, machine.dma_engines)
            * (b_step if mapping.resident == "a" else a_step)
        )
        engine = mapping.steps(problem) * int(twice / machine.dma.bytes_per_cycle)
        panels = rounds // served * max(0, max(rest // rounds + panel, engine) - round_)
        whole = rest
    return Cost(
        matrix=matrix,
        vector=vector,
        panels=panels,
        hbm=max(whole, reads + writes // rounds, reads // steps + writes, activation, waiting),
        load=load_all,
        store=max(usual, writes) + latency,
        noc=(steps - 1) * _noc_cycles(mapping, a_step, b_step, machine),
        lead=latency + first,
        fill=max(reads // steps - load, 0),
        stagger=load - first,
        step=step,
        finish=finish + copied + (_hops(machine) if copied else 0),
        out=each + latency,
        queue=max(store - each, writes // rounds - each, (tiles - 1) * copied),
        hbm_bytes=sum(moved.values()),
    )


def _step_bytes(mapping: Mapping, problem: Problem) -> tuple[int, int]:
    """Bytes of a block of A and of B."""
    depth = min(mapping.block_k, problem.k)
    a = problem.a_bytes(min(mapping.block_m, problem.m) * depth)
    return a, problem.b_bytes(min(mapping.block_n, problem.n) * depth)


def _active(mapping: Mapping, problem: Problem) -> tuple[int, int]:
    """Grid rows and columns that have something to do in the first round."""
    longest = max(problem.groups) if problem.groups else problem.m
    rows = min(mapping.grid_m, ceil_div(longest, mapping.block_m))
    return rows, min(mapping.grid_n, ceil_div(problem.n, mapping.block_n))


def _stored_tiles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Tiles whose results the busiest DMA queue stores."""
    share = ceil_div(mapping.base_tiles, machine.dma_engines)
    rows, columns = _active(mapping, problem)
    whole, rest = divmod(share, mapping.grid_n)
    return min(whole * columns + min(rest, columns), rows * columns * mapping.grid_batch)


def _hops(machine: Machine) -> int:
    """Cycles from a DMA engine to the far end of its row and half the rows, and into the SRAM."""
    return (machine.tiles.columns + machine.tiles.rows // 2) * machine.noc.hop_cycles + machine.sram.latency_cycles


def _engine_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> tuple[int, int, int, int]:
    """Cycles of the matrix and of the vector engine of a tile, of one step, and behind the last multiplication."""
    rounds_m, rounds_n = mapping.rounds(problem)
    rounds, steps = rounds_m * rounds_n, mapping.steps(problem)
    block_m, block_n = min(mapping.block_m, problem.m), min(mapping.block_n, problem.n)
    depth = min(mapping.block_k, problem.k)
    occupancy, drain = matmul_timer(machine, problem.dtype, accumulate=True)(block_m, block_n, depth)
    strip = chain_cycles(problem, machine, min(block_m, mapping.strip_rows), block_n)
    strips = ceil_div(block_m, mapping.strip_rows)
    added = 0
    if mapping.grid_k > 1:
        results = block_m * block_n
        added = (mapping.grid_k - 1) * vector_timer(machine, "add")(results, 3 * 4 * results)
    unpack = _dequantize_cycles(mapping, problem, machine)
    vector = rounds * (added + strips * strip + steps * unpack)
    last, _ = matmul_timer(machine, problem.dtype, accumulate=True)(
        block_m, block_n, ceil_div(problem.k, mapping.grid_k) - (steps - 1) * depth
    )
    matrix, finish = rounds * ((steps - 1) * occupancy + last), drain + added + strip
    if mapping.accumulators == 1:
        matrix += (rounds - 1) * (drain + added + strips * strip)
    return matrix, vector, occupancy + unpack, finish


def _dequantize_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Cycles of the vector engine for one block of B."""
    if not problem.quantized:
        return 0
    scales, elements = mapping.scales(problem), mapping.block_k * mapping.block_n
    each = elements // scales
    size = problem.b_bytes(each) + problem.a_bytes(each)
    return scales * vector_timer(machine, "mul")(each, size)


def _load_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Cycles a step of the busiest DMA queue or engine that loads, or SRAM port."""
    a_step, b_step = _step_bytes(mapping, problem)
    planes = mapping.grid_batch * mapping.grid_k
    groups_a, groups_b = (planes * groups for groups in _active(mapping, problem))
    a = _queue_cycles(groups_a, 1, a_step, machine)
    b = _queue_cycles(groups_b, 1 + (mapping.scales(problem) if problem.quantized else 0), b_step, machine)
    both = 0
    if 2 * max(groups_a, groups_b) > machine.dma_engines:  # else A and B have engines of their own
        shares = [(groups_a, a_step), (groups_b, b_step)]
        moved = sum(ceil_div(groups, machine.dma_engines) * size for groups, size in shares)
        both = int(moved / machine.dma.bytes_per_cycle)
    return max(a, b, both, int((a_step + b_step) / machine.sram.ports.dma))


def _queue_cycles(groups: int, transfers: int, size: int, machine: Machine) -> int:
    """Cycles of the busiest DMA queue for `size` bytes, in so many transfers, for each of `groups`."""
    each = transfers * machine.dma.setup_cycles + int(size / machine.dma.bytes_per_cycle)
    return ceil_div(groups, machine.dma_engines) * each


def _store_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Cycles a round of the DMA queue that stores, and loads the residual."""
    results = min(mapping.block_m, problem.m) * min(mapping.block_n, problem.n)
    strips = ceil_div(min(mapping.block_m, problem.m), mapping.strip_rows)
    sizes = [results * problem.out_bytes]
    if problem.epilogue.residual:
        sizes.append(results * DTYPE_BITS[problem.model_dtype] // 8)
    each = sum(strips * machine.dma.setup_cycles + int(size / machine.dma.bytes_per_cycle) for size in sizes)
    return _stored_tiles(mapping, problem, machine) * each


def _reduce_cycles(mapping: Mapping, problem: Problem, machine: Machine) -> int:
    """Cycles of a DMA queue to bring one tile the partial sums of a round."""
    size = 4 * min(mapping.block_m, problem.m) * min(mapping.block_n, problem.n)
    return (mapping.grid_k - 1) * (machine.dma.setup_cycles + int(size / machine.dma.bytes_per_cycle))


def _noc_cycles(mapping: Mapping, a_step: int, b_step: int, machine: Machine) -> int:
    """Cycles a step of the busiest links: columns pass on B, and rows A from the tile that keeps it."""
    tile_rows = ceil_div(mapping.grid_n, machine.tiles.columns)  # of one row of the grid
    down = (tile_rows * b_step if mapping.grid_m > 1 else 0) + (a_step if tile_rows > 1 else 0)
    along = a_step + b_step if mapping.resident else a_step
    return int(max(down, along) / machine.noc.bytes_per_cycle)
