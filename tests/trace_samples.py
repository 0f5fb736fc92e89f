"""Traces to test with: spans of a machine of four tiles, and what they add up to."""

import numpy as np

from kpusim.simulate.spans import NO_SPAN, SPAN, STALLS
from kpusim.trace.schema import CHUNK, TraceMeta
from kpusim.trace.writer import TraceWriter

TILES, LOAD, MATMUL, ADD = 4, 1, 2, 3
UNITS = (
    *(f"chip0.tile{tile}.matrix" for tile in range(TILES)),
    *(f"chip0.tile{tile}.vector" for tile in range(TILES)),
    *(f"chip0.dma{engine}.q{queue}" for engine in range(2) for queue in range(2)),
)
DMA = 2 * TILES
META = TraceMeta(
    title="gemm on tiny",
    version="0.0",
    unit_names=UNITS,
    clock_hz=1_830_000_000,
    opcode_names={LOAD: "load", MATMUL: "matmul", ADD: "add"},
    hbm_opcodes=frozenset({LOAD}),
    machine_text="[hbm]\nstacks = 6\n",
    workload_text="gemm",
    options={"hbm.stacks": "8"},
    peak_hbm_bytes_per_cycle=256.0,
    peak_flops_per_cycle=2048.0,
)
PROGRAM = "tile:\n  load a\n  matmul c, a, b\n  add c, c\n"
LINES = {"line": np.array([2, 3, 4])}


def spans(count, seed=0):
    """`count` spans of all units by turns: each unit waits, then works; back to back, in the order of rounds."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, SPAN)
    unit = np.arange(count) % len(UNITS)
    dma = unit >= DMA
    wait, work = rng.integers(0, 50, count), rng.integers(0, 100, count)
    inside = np.where(dma, rng.integers(0, 30, count), 0)
    for each in range(len(UNITS)):
        mine = unit == each
        end = np.cumsum((wait + work + inside)[mine])
        rows["end_cycle"][mine] = end
        rows["start_cycle"][mine] = end - (work + inside)[mine]
    rows["done_cycle"] = rows["end_cycle"] + np.where(dma, rng.integers(0, 80, count), 0).astype(np.uint64)
    rows["unit"] = unit
    rows["opcode"] = np.where(dma, LOAD, np.where(unit < TILES, MATMUL, ADD))
    rows["pc"] = rows["opcode"] - 1
    rows["iteration"] = np.arange(count) // len(UNITS)
    rows["released_by"] = np.where(np.arange(count) < 5, NO_SPAN, np.arange(count, dtype=np.uint64) - 5)
    rows["bytes"] = np.where(dma, rng.integers(1, 4096, count), 0)
    rows["stall_memory"] = inside
    rows["stall_dma"] = np.where(dma, 0, wait)
    rows["stall_barrier"] = np.where(dma, wait, 0)
    return rows


def accounts(rows):
    """Busy [units] and stalls [units, causes] of spans, added up one by one."""
    busy, stalls = np.zeros(len(UNITS), np.int64), np.zeros((len(UNITS), len(STALLS)), np.int64)
    inside = rows["stall_memory"].astype(int) + rows["stall_engine"]
    np.add.at(busy, rows["unit"], rows["end_cycle"].astype(int) - rows["start_cycle"].astype(int) - inside)
    for number, cause in enumerate(STALLS):
        np.add.at(stalls[:, number], rows["unit"], rows[f"stall_{cause}"])
    return busy, stalls


def write(path, blocks, runs, meta=META, pieces=CHUNK):
    """A trace of `blocks` (arrays of spans); runs: the blocks that run, one behind the other. Returns their starts."""
    starts, start = [], 100
    with TraceWriter(path, meta) as trace:
        for rows in blocks:
            trace.begin_block(PROGRAM, LINES)
            for first in range(0, len(rows), pieces):
                trace.rows(rows[first : first + pieces])
            trace.end_block()
        for number, block in enumerate(runs):
            rows = blocks[block]
            busy, stalls = accounts(rows)
            cycles = int(rows["done_cycle"].max(initial=0)) + 7
            loaded = int(rows["bytes"].sum())
            trace.op(
                name=f"op{number}", type="gemm", start=start, block=block, cycles=cycles, flops=1000 * cycles,
                hbm_read_bytes=loaded, hbm_write_bytes=0, busy=busy, stalls=stalls, macs=500 * cycles,
                launch_cycles=100, top_stall="dma", counters={"bytes.hbm": loaded, "launches": 1},
            )  # fmt: skip
            starts.append(start)
            start += cycles + 13
    return starts
