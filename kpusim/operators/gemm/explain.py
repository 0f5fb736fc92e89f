"""Why a GEMM's mapping looks as it does: the rows and the table of `--explain`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from kpusim.isa.program import Program
from kpusim.machine import Machine
from kpusim.operators.base import Tried
from kpusim.operators.gemm.estimate import Cost
from kpusim.operators.gemm.mapping import Mapping
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.gemm.prologue import block_cycles
from kpusim.operators.gemm.search import Found

__all__ = ["choices", "tried"]

FASTEST = 8  # mappings that the table shows, beside the best of each kind


def choices(problem: Problem, machine: Machine, found: Found, program: Program) -> tuple[tuple[str, str, str], ...]:
    """(what, value, reason) rows for the mapping found."""
    mapping, estimate = found.mapping, found.cost
    along_m, along_n = mapping.rounds(problem)
    spread = f"blocks of A to {mapping.grid_n} tiles at once, of B to {mapping.grid_m}"
    kept = {"": "A and B are read as often as rounds need them", "a": "A is read once", "b": "B is read once"}
    steps = f"{mapping.steps(problem)} steps a round, {mapping.slots} slots for each of A and B"
    longest = f"{_longest(estimate)} takes longest: {estimate.parts[_longest(estimate)]}"
    formulas = "by the closed cycle formulas"
    layout = ", ".join(f"{tensor.name} {tensor.layout}" for tensor in program.tensors)
    return (
        *_prologue(problem, machine, found),
        ("tile grid", f"{mapping.grid_m} x {mapping.grid_n}", spread),
        ("grids", f"{mapping.grid_batch} x {mapping.grid_k}", _bands(mapping)),
        ("block", f"{mapping.block_m} x {mapping.block_n}", f"{along_m} x {along_n} rounds"),
        ("step along k", str(mapping.block_k), steps),
        ("accumulators", str(mapping.accumulators), f"finished and stored in strips of {mapping.strip_rows} rows"),
        ("resident", mapping.resident.upper() or "none", kept[mapping.resident]),
        ("layout", layout, "as the tensors lie in HBM"),
        ("SRAM", f"{mapping.sram_bytes(problem)} bytes", f"of {machine.tile_bytes} a tile"),
        ("HBM traffic", f"{estimate.hbm_bytes} bytes", f"{estimate.hbm} cycles"),
        ("estimate", f"{estimate.cycles} cycles", longest),
        ("weighed", *(("nothing", "it is forced") if found.forced else (f"{len(found.weighed)} mappings", formulas))),
    )


def _bands(mapping: Mapping) -> str:
    if mapping.raster:
        return f"blocks at once, dealt by turns in bands of {mapping.raster} block rows, x parts of K"
    return "bands of rows at once x parts of K"


def _prologue(problem: Problem, machine: Machine, found: Found) -> Iterator[tuple[str, str, str]]:
    """What normalising A costs the vector engine of a tile."""
    each = block_cycles(problem, found.mapping, machine)
    if each:
        why = f"{each} cycles of the vector engine for each block of A, of {found.cost.vector} in all"
        yield "prologue", problem.prologue.kind, why


def tried(problem: Problem, found: Found) -> tuple[Tried, ...]:
    """The mapping found, the fastest others, and the fastest of each kind, by estimated cycles."""
    shown = dict.fromkeys([found.mapping, *(mapping for mapping, _ in islice(found.weighed, FASTEST))])
    best: dict[tuple[object, ...], Mapping] = {}
    for mapping, _ in found.weighed:
        kinds = ("resident", mapping.resident), ("grid_k", mapping.grid_k > 1), ("grid_batch", mapping.grid_batch > 1)
        for kind in kinds:
            best.setdefault(kind, mapping)
    shown |= dict.fromkeys(best.values())
    return tuple(
        Tried(_text(mapping), cost.cycles, _longest(cost), cost.hbm_bytes, _why(mapping, cost, problem, found))
        for mapping, cost in found.weighed
        if mapping in shown
    )


def _longest(cost: Cost) -> str:
    return max(cost.parts, key=lambda name: cost.parts[name])


def _text(mapping: Mapping) -> str:
    """A mapping on one line: grids, tiles, block, buffers."""
    grids = f"{mapping.grid_batch} x {mapping.grid_k} grids of " if mapping.grid_batch * mapping.grid_k > 1 else ""
    block = f"block {mapping.block_m} x {mapping.block_n} x {mapping.block_k}"
    kept = f", {mapping.resident.upper()} resident" if mapping.resident else ""
    slots = f"{mapping.slots}+{mapping.accumulators} slots"
    return f"{grids}{mapping.grid_m} x {mapping.grid_n} tiles, {block}, {slots}{kept}"


def _why(mapping: Mapping, cost: Cost, problem: Problem, found: Found) -> str:
    """Why this mapping, or why the other one."""
    chosen, best = found.cost, found.weighed[0][1]
    if found.forced:
        return "forced"
    if mapping == found.mapping:
        slower = cost.cycles / best.cycles - 1
        return "chosen" if not slower else f"chosen: {slower:.1%} slower than the fastest, and simpler"
    if cost.cycles > chosen.cycles:
        return f"{cost.cycles / chosen.cycles - 1:.1%} slower: {_longest(cost)} {cost.parts[_longest(cost)]} cycles"
    if cost.hbm_bytes > chosen.hbm_bytes * 1.05:
        return f"{cost.hbm_bytes / chosen.hbm_bytes:.2f} times the HBM traffic"
    if mapping.resident and not found.mapping.resident:
        return "copies on chip"
    more = mapping.instructions(problem) / found.mapping.instructions(problem)
    return f"{more:.1f} times the instructions" if more > 1 else "as good"
