"""Why an attention's mapping looks as it does: the rows and the table of `--explain`."""

from __future__ import annotations

from itertools import islice

from kpusim.machine import Machine
from kpusim.operators.attention.mapping import Mapping
from kpusim.operators.attention.problem import Problem
from kpusim.operators.attention.search import Found
from kpusim.operators.base import Tried

__all__ = ["choices", "tried"]

FASTEST = 8  # mappings that the table shows, beside the best of each kind


def choices(problem: Problem, machine: Machine, found: Found) -> tuple[tuple[str, str, str], ...]:
    """(what, value, reason) rows for the mapping found."""
    mapping, estimate = found.mapping, found.cost
    width = mapping.stream_tiles(problem)
    teams = mapping.teams(problem, machine.tiles.count)
    order = {
        "flash": "scores, softmax and values of one block after the other",
        "pipelined": "the scores of the next block while the vector engine exponentiates this one's",
    }
    vector, matrix = estimate.parts["vector engine"], estimate.parts["matrix compute"]
    ceiling = (
        f"{min(1.0, matrix / max(vector, 1)):.1%}",
        f"of the matrix engine, if the vector engine's {vector} cycles hide",
    )
    weighed = ("nothing", "it is forced") if found.forced else (f"{len(found.weighed)} mappings", "by closed formulas")
    return (
        ("variant", mapping.variant, order[mapping.variant]),
        ("queries", f"{mapping.tokens} x {mapping.heads} heads", f"in a tile; {mapping.band} of a head in a band"),
        ("keys", f"{mapping.block_keys} a block", f"to {width} tiles at once, {mapping.slots} slots"),
        (
            "teams",
            f"{teams} of {mapping.splits} x {width} tiles",
            "parts of the keys x tiles that share a stream of them",
        ),
        ("SRAM", f"{mapping.sram_bytes(problem)} bytes", f"of {machine.tile_bytes} a tile"),
        ("HBM traffic", f"{estimate.hbm_bytes} bytes", f"{estimate.parts['HBM']} cycles"),
        ("ceiling", *ceiling),
        (
            "estimate",
            f"{estimate.cycles} cycles",
            f"{estimate.longest} takes longest: {estimate.parts[estimate.longest]}",
        ),
        ("weighed", *weighed),
    )


def tried(problem: Problem, found: Found) -> tuple[Tried, ...]:
    """The mapping found, the fastest others, and the fastest of each variant, by estimated cycles."""
    shown = dict.fromkeys([found.mapping, *(mapping for mapping, _ in islice(found.weighed, FASTEST))])
    best: dict[object, Mapping] = {}
    for mapping, _ in found.weighed:
        for kind in (mapping.variant, ("splits", mapping.splits > 1)):
            best.setdefault(kind, mapping)
    shown |= dict.fromkeys(best.values())
    return tuple(
        Tried(_text(mapping, problem), cost.cycles, cost.longest, cost.hbm_bytes, _why(mapping, found))
        for mapping, cost in found.weighed
        if mapping in shown
    )


def _text(mapping: Mapping, problem: Problem) -> str:
    """A mapping on one line."""
    parts = f", keys in {mapping.splits} parts" if mapping.splits > 1 else ""
    tile = f"{mapping.tokens} x {mapping.heads} queries a tile, {mapping.stream_tiles(problem)} tiles a stream"
    return f"{mapping.variant}, {tile}, {mapping.block_keys} keys x {mapping.slots}{parts}"


def _why(mapping: Mapping, found: Found) -> str:
    """Why this mapping, or why the other one."""
    if found.forced:
        return "forced"
    costs = dict(found.weighed)
    mine, chosen = costs[mapping], found.cost
    if mapping == found.mapping:
        return "chosen"
    if mine.cycles > chosen.cycles:
        return f"{mine.cycles / chosen.cycles - 1:.1%} slower: {mine.longest} {mine.parts[mine.longest]} cycles"
    if mine.hbm_bytes > chosen.hbm_bytes:
        return f"{mine.hbm_bytes / chosen.hbm_bytes:.2f} times the HBM traffic"
    return "as good"
