"""The rows of a report: numbers by operator and in total, as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from attrs import asdict, frozen

from kpusim.costs import compute_bound_cycles, hbm_bound_cycles, vector_bound_cycles
from kpusim.isa.layout import DENSE
from kpusim.operators import Operator
from kpusim.report.bound import Bound, bound_of
from kpusim.simulate.shares import Share, shares, top_stall
from kpusim.simulate.workload import OpTime, PlanRun

__all__ = ["Row", "Total", "result_json", "rows_of", "total_of"]


@frozen
class Stall:
    """What `unit`s waited for most, and for which part of their cycles."""

    unit: str
    cause: str
    share: float


@frozen(kw_only=True)
class Row:
    """One operator: times in cycles and microseconds of one execution, without what its boundaries cost.

    count: executions of it in the run. equal_shares: so many equal shares of it run side by side, of which one was
    simulated (1: all of it was). gap_cycles: of the launches or barriers before all of them.
    matrix_utilisation: multiply-accumulates over what all arrays could do in the same cycles. roofs: the closed bounds
    in cycles of the arrays, of the vector engines (the least that their elements need, on all lanes), of the HBM
    (compulsory bytes at the attainable bandwidth, without those of tensors in a shared buffer) and of the shared level
    (compulsory bytes that pass it); roof and roof_cycles: the largest of these; distance: cycles over roof_cycles.
    io_bound_bytes: the least HBM traffic on that machine; traffic_over_bound: what was moved over that.
    """

    operator: str
    family: str
    count: int
    shape: Mapping[str, int]
    boundary: str
    start_cycle: int
    gap_cycles: int
    cycles: int
    microseconds: float
    tflops: float
    matrix_utilisation: float
    hbm_read_bytes: int
    hbm_write_bytes: int
    hbm_gbytes_per_second: float
    roof: str
    roof_cycles: int
    roofs: Mapping[str, int]
    distance: float
    compulsory_bytes: int
    io_bound_bytes: int
    traffic_over_bound: float
    top_stall: Stall
    bound: Bound
    equal_shares: int
    counters: Mapping[str, int]
    units: Mapping[str, Share]

    @property
    def hbm_bytes(self) -> int:
        """Read and written."""
        return self.hbm_read_bytes + self.hbm_write_bytes


@frozen(kw_only=True)
class Total:
    """A whole run: from the first launch to the end of the last operator.

    roof_cycles, io_bound_bytes: the sums over its operators; of a composite operator its own, whatever its parts need.
    """

    cycles: int
    microseconds: float
    tflops: float
    matrix_utilisation: float
    hbm_read_bytes: int
    hbm_write_bytes: int
    hbm_gbytes_per_second: float
    roof_cycles: int
    distance: float
    io_bound_bytes: int
    traffic_over_bound: float
    launches: int
    gap_cycles: int
    peak_hbm_bytes: int
    peak_hbm_padded_bytes: int
    hbm_capacity_bytes: int
    peak_shared_bytes: int
    shared_tensors: tuple[str, ...]


def rows_of(run: PlanRun) -> list[Row]:
    """A row for each operator of the file; iterations of a repeat block and equal boundaries are one row."""
    groups: dict[tuple[str, int], list[OpTime]] = {}
    for op in run.ops:
        groups.setdefault((op.step.label, id(op.executed)), []).append(op)
    return [_row(ops) for ops in groups.values()]


def _row(ops: Sequence[OpTime]) -> Row:
    op, gaps = ops[0], sum(op.gap for op in ops)
    run, operator, machine = op.executed.run, op.step.operator, op.executed.run.machine
    read, write = run.counters["hbm.read_bytes"], run.counters["hbm.write_bytes"]
    seconds = max(run.cycles, 1) / machine.clock_hz
    roofs, bound_bytes = _roofs(operator, op, _in_buffer(op)), operator.io_bound_bytes(machine)
    roof = max(roofs, key=lambda name: roofs[name])
    peak = machine.peak_macs_per_cycle(op.math_dtype)
    return Row(
        operator=op.step.label,
        family=operator.family,
        count=len(ops),
        shape=dict(operator.dimensions),
        boundary=op.step.boundary,
        start_cycle=op.start,
        gap_cycles=gaps,
        cycles=run.cycles,
        microseconds=run.seconds * 1e6,
        tflops=op.flops / seconds / 1e12,
        matrix_utilisation=float(op.macs / (peak * max(run.cycles, 1))),
        hbm_read_bytes=read,
        hbm_write_bytes=write,
        hbm_gbytes_per_second=(read + write) / seconds / 1e9,
        roof=roof,
        roof_cycles=roofs[roof],
        roofs=roofs,
        distance=run.cycles / max(roofs[roof], 1),
        compulsory_bytes=operator.compulsory_bytes,
        io_bound_bytes=bound_bytes,
        traffic_over_bound=(read + write) / max(bound_bytes, 1),
        top_stall=Stall(*top_stall(run)),
        bound=bound_of(run, gaps // len(ops) if op.step.boundary == "launch" else 0),
        equal_shares=op.executed.copies,
        counters=run.counters,
        units=shares(run),
    )


def _roofs(operator: Operator, op: OpTime, in_buffer: int) -> dict[str, int]:
    """Cycles that each resource needs at the least for an operator, by name; `op` is it, or part of it."""
    machine = op.executed.run.machine
    placed = min(operator.compulsory_bytes, in_buffer)
    roofs = {
        "matrix compute": compute_bound_cycles(machine, operator.macs or op.macs, op.math_dtype),
        "vector engine": vector_bound_cycles(machine, operator.vector_work),
        "HBM bandwidth": hbm_bound_cycles(machine, operator.compulsory_bytes - placed),
    }
    if machine.shared.kind != "none":
        passed = placed if machine.shared.kind == "buffer" else operator.compulsory_bytes
        roofs["shared level"] = ceil(passed / machine.shared.bytes_per_cycle)
    return roofs


def _least(run: PlanRun) -> tuple[int, int]:
    """(cycles, HBM bytes) that a run needs at the least."""
    machine, whole = run.plan.machine, run.plan.whole
    if whole is not None:
        return max(_roofs(whole, run.ops[0], 0).values()), whole.io_bound_bytes(machine)
    cycles = sum(max(_roofs(op.step.operator, op, _in_buffer(op)).values()) for op in run.ops)
    return cycles, sum(op.step.operator.io_bound_bytes(machine) for op in run.ops)


def _in_buffer(op: OpTime) -> int:
    """Bytes of an operator's tensors in a shared buffer."""
    machine, ports = op.executed.run.machine, op.step.ports
    if machine.shared.kind != "buffer":
        return 0
    held = {name for name, standing in ports.items() if standing.address >= machine.buffer_address}
    return sum(DENSE.size_bytes(port.shape, port.dtype) for port in op.step.operator.ports if port.name in held)


def total_of(run: PlanRun) -> Total:
    """The sums over all steps, and what the run needs of the machine's memories."""
    machine = run.plan.machine
    seconds = run.cycles / machine.clock_hz
    counters = [op.executed.run.counters for op in run.ops]
    read, write = (sum(each[f"hbm.{way}_bytes"] for each in counters) for way in ("read", "write"))
    busiest = sum(op.macs / machine.peak_macs_per_cycle(op.math_dtype) for op in run.ops)
    roof, bound_bytes = _least(run)
    return Total(
        cycles=run.cycles,
        microseconds=seconds * 1e6,
        tflops=sum(op.flops for op in run.ops) / seconds / 1e12,
        matrix_utilisation=float(busiest / run.cycles),
        hbm_read_bytes=read,
        hbm_write_bytes=write,
        hbm_gbytes_per_second=(read + write) / seconds / 1e9,
        roof_cycles=roof,
        distance=run.cycles / max(roof, 1),
        io_bound_bytes=bound_bytes,
        traffic_over_bound=(read + write) / max(bound_bytes, 1),
        launches=run.launches,
        gap_cycles=sum(op.gap for op in run.ops),
        peak_hbm_bytes=run.memory.peak_bytes,
        peak_hbm_padded_bytes=run.memory.peak_padded_bytes,
        hbm_capacity_bytes=machine.hbm.total_capacity_bytes,
        peak_shared_bytes=run.memory.peak_shared_bytes,
        shared_tensors=run.memory.shared,
    )


def result_json(run: PlanRun) -> dict[str, Any]:
    """One run for JSON: name, symbols, operators (a Row each), total."""
    return {
        "name": run.plan.name,
        "symbols": dict(run.plan.symbols),
        "operators": [asdict(row) for row in rows_of(run)],
        "total": asdict(total_of(run)),
    }
