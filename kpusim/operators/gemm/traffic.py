"""HBM traffic of a mapping: bytes by tensor, and how long the channels take for them."""

from __future__ import annotations

from math import gcd

from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import Problem

__all__ = ["hbm_cycles", "row_openings", "traffic"]


def traffic(mapping: Mapping, problem: Problem, access: int) -> dict[str, int]:
    """HBM traffic by tensor, in bytes of whole accesses."""
    columns = mapping.columns(problem)
    lanes, copies = problem.lanes(mapping.grid_m * mapping.block_m), max(problem.batch, 1)
    m, n, k = (problem.m, mapping.block_m), (problem.n, mapping.block_n), (problem.k, mapping.block_k)
    rows = problem.m, mapping.strip_rows
    a = _fetched(*((k, m) if problem.transpose_a else (m, k)), DTYPE_BITS[problem.dtype], access) * copies
    b = _fetched(*((n, k) if problem.transpose_b else (k, n)), DTYPE_BITS[problem.stored_dtype], access)
    found = {
        "a": a * (1 if mapping.resident == "a" else columns),
        "b": b * (1 if mapping.resident == "b" else lanes),
        "out": _fetched(rows, n, DTYPE_BITS[problem.out_dtype], access) * copies,
    }
    if problem.epilogue.residual:
        found["residual"] = _fetched(rows, n, DTYPE_BITS[problem.model_dtype], access) * copies
    if problem.quantized:
        count = mapping.steps(problem) * mapping.grid_k * mapping.scales(problem)
        found["b_scale"] = _fetched((count, 1), n, DTYPE_BITS[problem.dtype], access) * lanes
    for name in problem.prologue.vectors:
        found[name] = _fetched((1, 1), k, DTYPE_BITS[problem.norm_dtype], access) * lanes * columns
    for name in problem.epilogue.vectors:
        found[name] = _fetched((1, 1), n, 32, access) * lanes
    return found


def hbm_cycles(
    mapping: Mapping, problem: Problem, moved: dict[str, int], machine: Machine, rate: float
) -> tuple[int, int]:
    """Cycles that HBM takes to read and to write, each tensor out of the channels that its transfers keep busy.

    rate: of all channels, bytes/cycle.
    """
    channels = machine.hbm.channel_count
    busy = _channels(mapping, problem, machine)
    times = {name: int(size / (rate * busy.get(name, channels) / channels)) for name, size in moved.items()}
    written = times.pop("out")
    reads = sum(moved.values()) - moved["out"]
    return max(int(reads / rate), *times.values()), written


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
    channels, block = machine.hbm.channel_count, machine.hbm.interleave_bytes
    if pitch < block:
        return min(channels, max(1.0, rows * pitch / block))
    blocks, rest = divmod(int(pitch), block)
    if not rest:  # rows begin in few channels: with a hash, one further after each stripe of all channels
        stripes, inside = divmod(blocks, channels)
        if machine.hbm.hash == "none":
            rows = min(rows, channels // gcd(blocks, channels))
        elif not inside:
            rows = min(rows, channels // gcd(stripes, channels))
    return min(channels, rows * max(1.0, window / block))


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


def row_openings(mapping: Mapping, problem: Problem, interleave: int) -> int:
    """HBM rows opened: one for each interleave block, as often as a transfer comes to it."""
    lanes, columns = problem.lanes(mapping.grid_m * mapping.block_m), mapping.columns(problem)
    copies = max(problem.batch, 1)
    m, n, k = (problem.m, mapping.block_m), (problem.n, mapping.block_n), (problem.k, mapping.block_k)
    a = _opened(*((k, m) if problem.transpose_a else (m, k)), DTYPE_BITS[problem.dtype], interleave) * copies
    b = _opened(*((n, k) if problem.transpose_b else (k, n)), DTYPE_BITS[problem.stored_dtype], interleave)
    out = _opened((problem.m, mapping.strip_rows), n, DTYPE_BITS[problem.out_dtype], interleave) * copies
    return a * (1 if mapping.resident == "a" else columns) + b * (1 if mapping.resident == "b" else lanes) + out


def _opened(down: tuple[int, int], across: tuple[int, int], bits: int, interleave: int) -> int:
    """Interleave blocks touched by a matrix that is moved block by block, as in `_fetched`; short rows share some."""
    (rows, _), (columns, wide) = down, across
    pitch, run = columns * bits / 8, min(wide, columns) * bits / 8
    touched = 1 + run / interleave if pitch > interleave else (pitch + run) / interleave
    return int(rows * ceil_div(columns, wide) * min(touched, 1 + run // interleave))
