"""Traces of runs of plans: the listener that writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from kpusim import __version__
from kpusim.isa.arrays import to_arrays
from kpusim.isa.assembler import assemble
from kpusim.isa.printer import disassemble
from kpusim.isa.tables import instruction_rows
from kpusim.machine import Machine, machine_toml
from kpusim.operators import Lowered
from kpusim.simulate.shares import top_stall
from kpusim.simulate.spans import Rows
from kpusim.simulate.workload import Executed, OpTime
from kpusim.trace.schema import TraceMeta
from kpusim.trace.writer import TraceWriter

__all__ = ["Recorder", "trace_meta"]


def trace_meta(
    machine: Machine, title: str, workload_text: str, options: Mapping[str, str], dtype: str = "bf16"
) -> TraceMeta:
    """The header of a trace. dtype: of the matrix engines' peak."""
    rows = instruction_rows().values()
    return TraceMeta(
        title=title,
        version=__version__,
        unit_names=machine.unit_names,
        clock_hz=machine.clock_hz,
        opcode_names={row.opcode: row.name for row in rows},
        hbm_opcodes=frozenset(row.opcode for row in rows if any("box" in operand.kinds for operand in row.operands)),
        memory="HBM" if machine.shared.kind == "none" else f"Shared {machine.shared.kind} and HBM",
        machine_text=machine_toml(machine),
        workload_text=workload_text,
        options=options,
        peak_hbm_bytes_per_cycle=float(machine.hbm.attainable_bytes_per_cycle),
        peak_flops_per_cycle=float(2 * machine.peak_macs_per_cycle(dtype)),
    )


class Recorder:
    """Listens to `run_plans` and writes a trace to `path`; a context manager that leaves nothing behind if it fails."""

    def __init__(self, path: Path, meta: TraceMeta) -> None:
        self._writer = TraceWriter(path, meta)
        self._blocks: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def begin(self, lowered: Lowered) -> Callable[[Rows], object]:
        """Starts a block; what takes its spans."""
        text = disassemble(lowered.program)
        self._open = self._writer.begin_block(text, to_arrays(assemble(text)))
        return self._writer.rows

    def end(self, executed: Executed) -> None:
        """Ends the block."""
        self._writer.end_block()
        self._blocks[id(executed)] = self._open

    def op(self, name: str, time: OpTime, offset: int) -> None:
        """Adds one run of a block."""
        run, simulated, operator = time.executed.run, time.executed.simulated, time.step.operator
        self._writer.op(
            name=name, type=operator.family, start=offset + time.start, block=self._blocks[id(time.executed)],
            cycles=run.cycles, flops=time.flops, macs=time.macs,
            hbm_read_bytes=run.counters["hbm.read_bytes"], hbm_write_bytes=run.counters["hbm.write_bytes"],
            busy=simulated.busy, stalls=simulated.stalls, launch_cycles=time.gap, top_stall=top_stall(run)[1],
            counters=run.counters,
        )  # fmt: skip
