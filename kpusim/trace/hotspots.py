"""Where the cycles of a run went: by instruction, by operator, and by kind of unit."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.simulate.shares import Share
from kpusim.simulate.spans import STALLS
from kpusim.trace.reader import Column, Trace
from kpusim.trace.schema import unit_kind
from kpusim.trace.summary import OpRun


@frozen(kw_only=True)
class Hotspot:
    """All executions of one instruction of one program, on all units and in all runs of it. Times are unit-cycles."""

    block: int
    pc: int
    opcode: str
    count: int
    busy_cycles: int
    """Unit occupied, without stalls."""
    stall_cycles: Mapping[str, int]
    bytes: int
    ops: tuple[str, ...]
    """Names of the operators that ran it."""
    source: str

    @property
    def stalled(self) -> int:
        """Cycles of all stalls."""
        return sum(self.stall_cycles.values())

    @property
    def top_stall(self) -> str:
        """The cause of most stall cycles; "" if there are none."""
        return max(STALLS, key=self.stall_cycles.__getitem__) if self.stalled else ""


def hotspots(trace: Trace) -> list[Hotspot]:
    """Every instruction that ran, in the order of blocks and pcs."""
    runs = Counter(op.block for op in trace.ops)
    return [spot for block in sorted(runs) for spot in _block_hotspots(trace, block, runs[block])]


def _block_hotspots(trace: Trace, block: int, runs: int) -> list[Hotspot]:
    ops = [op for op in trace.ops if op.block == block]
    causes = [f"stall_{cause}" for cause in STALLS]
    sums: dict[str, npt.NDArray[np.int64]] = {}
    opcode_of = np.zeros(0, np.uint8)
    for chunk in trace.chunks(ops[0], ("start_cycle", "end_cycle", "opcode", "pc", "bytes", *causes)):
        pc = chunk["pc"].astype(np.int64)
        inside = chunk["stall_engine"].astype(np.int64) + chunk["stall_memory"]
        busy = chunk["end_cycle"].astype(np.int64) - chunk["start_cycle"].astype(np.int64) - inside
        values: dict[str, Column] = {"count": np.ones_like(pc), "busy": busy, "bytes": chunk["bytes"]}
        values |= {cause: chunk[f"stall_{cause}"] for cause in STALLS}
        for key, value in values.items():
            sums[key] = _plus(sums.get(key), np.bincount(pc, value))
        opcode_of = np.pad(opcode_of, (0, max(0, int(pc.max()) + 1 - len(opcode_of))))
        opcode_of[pc] = chunk["opcode"]
    names = tuple(dict.fromkeys(op.name for op in ops))
    found = np.flatnonzero(sums["count"]).tolist() if sums else []
    source = trace.source_lines(block)
    return [
        Hotspot(
            block=block, pc=pc, opcode=trace.meta.opcode_names.get(int(opcode_of[pc]), str(opcode_of[pc])),
            count=runs * int(sums["count"][pc]), busy_cycles=runs * int(sums["busy"][pc]),
            stall_cycles={cause: runs * int(sums[cause][pc]) for cause in STALLS},
            bytes=runs * int(sums["bytes"][pc]), ops=names, source=source.get(pc, ""),
        )
        for pc in found
    ]  # fmt: skip


def _plus(one: npt.NDArray[np.int64] | None, other: Column) -> npt.NDArray[np.int64]:
    """The sum of two arrays, the shorter one taken to end in zeros."""
    total = np.zeros(max(len(other), 0 if one is None else len(one)), np.int64)
    total[: len(other)] += other.astype(np.int64)
    if one is not None:
        total[: len(one)] += one
    return total


def op_shares(trace: Trace, op: OpRun) -> dict[str, Share]:
    """What the units that one operator run uses did with its cycles, by kind of unit, from its events."""
    units, causes = len(trace.meta.unit_names), [f"stall_{cause}" for cause in STALLS]
    ran, busy, stalls = np.zeros(units, bool), np.zeros(units, np.int64), np.zeros((units, len(STALLS)), np.int64)
    for chunk in trace.chunks(op, ("unit", "start_cycle", "end_cycle", *causes)):
        unit, inside = chunk["unit"], chunk["stall_engine"].astype(np.int64) + chunk["stall_memory"]
        ran[unit] = True
        length = chunk["end_cycle"].astype(np.int64) - chunk["start_cycle"].astype(np.int64)
        busy += np.bincount(unit, length - inside, units).astype(np.int64)
        for number, cause in enumerate(causes):
            stalls[:, number] += np.bincount(unit, chunk[cause], units).astype(np.int64)
    kinds = np.array([unit_kind(name) for name in trace.meta.unit_names])
    found = {}
    for kind in dict.fromkeys(kinds[ran].tolist()):
        mine = ran & (kinds == kind)
        spent = stalls[mine].sum(axis=0).tolist()
        count, worked = int(mine.sum()), int(busy[mine].sum())
        idle = count * op.cycles - worked - sum(spent)
        found[kind] = Share(kind, count, worked, dict(zip(STALLS, spent, strict=True)), idle)
    return found


def accounts_by_kind(trace: Trace) -> dict[str, dict[str, int]]:
    """Cycles summed over the units of each kind: units, busy, each stall, idle, total."""
    accounts = trace.accounts()
    kinds = np.array([unit_kind(name) for name in trace.meta.unit_names])
    return {
        kind: {
            "units": int((kinds == kind).sum()),
            **{key: int(column[kinds == kind].sum()) for key, column in accounts.items()},
            "total": int((kinds == kind).sum()) * trace.total_cycles,
        }
        for kind in dict.fromkeys(kinds.tolist())
    }
