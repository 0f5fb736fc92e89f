"""Why a GEMM's mapping looks as it does: the rows of `--explain`."""

from __future__ import annotations

from kpusim.isa.program import Program
from kpusim.machine import Machine
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.gemm.search import Found

__all__ = ["explain"]


def explain(
    problem: Problem, machine: Machine, found: Found, program: Program
) -> tuple[tuple[tuple[str, str, str], ...]]:
    """(what, value, reason) rows for `mapping`, one of those weighed."""
    mapping, estimate = found.mapping, found.cost
    along_m, along_n = mapping.rounds(problem)
    parts = estimate.parts
    longest = max(parts, key=lambda name: parts[name])
    spread = f"blocks of A to {mapping.grid_n} tiles at once, of B to {mapping.grid_m}"
    rows = (
        ("tile grid", f"{mapping.grid_m} x {mapping.grid_n}", spread),
        ("block", f"{mapping.block_m} x {mapping.block_n}", f"{along_m} x {along_n} rounds"),
        ("step along k", str(mapping.block_k), f"{mapping.steps(problem)} steps a round, {mapping.slots} slots"),
        ("accumulators", str(mapping.accumulators), f"cast and stored in strips of {mapping.strip_rows} rows"),
        ("resident", mapping.resident or "none", "kept on chip"),
        (
            "layout",
            ", ".join(f"{tensor.name} {tensor.layout}" for tensor in program.tensors),
            "as the tensors lie in HBM",
        ),
        ("SRAM", f"{mapping.sram_bytes(problem)} bytes", f"of {machine.sram.capacity_bytes} a tile"),
        ("HBM traffic", f"{estimate.hbm_bytes} bytes", f"in {estimate.hbm} cycles at the attainable bandwidth"),
        ("estimate", f"{estimate.cycles} cycles", f"{longest} is the longest part"),
        ("weighed", f"{len(found.weighed)} mappings", "by the closed cycle formulas"),
    )
    return (rows,)
