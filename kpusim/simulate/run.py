"""Simulation of one program: program + machine + addresses -> Run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from attrs import define, field

from kpusim.engines.dma import DmaEngine, DmaQueue
from kpusim.engines.fabric import Fabric, Span, Watcher
from kpusim.engines.hbm import Hbm
from kpusim.engines.matrix import MatrixEngine
from kpusim.engines.private import PrivateUnit, SharingUnit
from kpusim.engines.semaphore import check_rest
from kpusim.engines.stalls import CAUSES
from kpusim.engines.vector import VectorEngine
from kpusim.errors import UserError
from kpusim.isa.program import Program, Section
from kpusim.isa.walk import SectionCode, section_codes
from kpusim.machine import Machine
from kpusim.simulate.compiler import Units, compile_section
from kpusim.simulate.deadlock import Stuck, deadlock
from kpusim.simulate.local import LocalUnit
from kpusim.simulate.spans import Rows

__all__ = ["CHUNK_BYTES", "Run", "default_addresses", "simulate"]

CHUNK_BYTES = 16384  # design choice: two events a chunk, see README


@define
class Run:
    """What a program took. Cycles count from its first instruction (launch not included).

    busy: shape [units]; stalls: shape [units, causes], causes as in CAUSES; both in cycles. For each unit
    busy + stalls + idle = cycles. counters: bytes, operations and events by name.
    """

    program: Program
    machine: Machine
    cycles: int
    busy: npt.NDArray[np.int64]
    stalls: npt.NDArray[np.int64]
    counters: dict[str, int] = field(factory=dict)

    @property
    def idle(self) -> npt.NDArray[np.int64]:
        """Shape [units]: cycles in which a unit had nothing (more) to do."""
        return np.asarray(self.cycles - self.busy - self.stalls.sum(axis=1))

    @property
    def seconds(self) -> float:
        """The time of `cycles` at the machine's clock."""
        return self.cycles / self.machine.clock_hz


class _Unit(Stuck, Protocol):
    clock: int
    finished: bool

    def fetch(self) -> None: ...


def default_addresses(program: Program, machine: Machine) -> tuple[int, ...]:
    """An HBM address for each tensor, one behind the other. Raises UserError if the HBM is too small."""
    addresses, at = [], 0
    period = machine.alignment_bytes
    for tensor in program.tensors:
        addresses.append(at)
        at += -(-tensor.size_bytes // period) * period
    if at > machine.hbm.total_capacity_bytes:
        raise UserError(
            "the tensors do not fit into the HBM", where=program.name, found=f"{at} bytes",
            allowed=f"at most {machine.hbm.total_capacity_bytes} bytes on {machine.name}",
        )  # fmt: skip
    return tuple(addresses)


def simulate(
    program: Program,
    machine: Machine,
    addresses: Sequence[int] | None = None,
    *,
    plain: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    span: Span | None = None,
    span_block: Callable[[Rows], object] | None = None,
    watcher: Watcher | None = None,
    hbm: Callable[[Machine], Hbm] = Hbm,
) -> Run:
    """Runs `program` from cycle 0 until everything is done.

    plain: every instruction is an event (the reference); otherwise private units run on local clocks, with equal spans.
    chunk_bytes: what a DMA engine asks for at once. span: called with every span;
    span_block: with many at once, where they are alike. watcher: follows data; needs plain. hbm: makes the memory.
    Raises ProgramError for a deadlock or a semaphore that is not back at its initial count at the end.
    """
    if watcher is not None and not plain:
        raise ValueError("a watcher follows data in time order: it needs plain mode")
    where = default_addresses(program, machine) if addresses is None else tuple(addresses)
    fabric = Fabric(program, machine, where, chunk_bytes, plain, span, span_block, watcher, hbm)
    simulation = _Simulation(program, machine, fabric)
    for unit in simulation.units:
        unit.fetch()
    fabric.kernel.run()
    simulation.check_end()
    if fabric.shared is not None:
        fabric.end = fabric.shared.clean(fabric.end)
    if watcher is not None:
        watcher.finish(fabric.end)
    return simulation.result()


class _Simulation:
    def __init__(self, program: Program, machine: Machine, fabric: Fabric):
        self.program, self.machine, self.fabric = program, machine, fabric
        self.matrix, self.vector = MatrixEngine(machine), VectorEngine(machine)
        self.engines: dict[int, DmaEngine] = {}
        self.units: list[_Unit] = []
        self.sections: dict[int, Section] = {}
        codes = section_codes(program)
        for code, first_pc in zip(codes, program.first_pcs(), strict=True):
            units = self._dma(code) if code.section.unit == "dma" else self._private(code, first_pc)
            self.units += units
            self.sections |= {unit.unit: code.section for unit in units}
        fabric.barrier.members = len(self.units)

    def _dma(self, code: SectionCode) -> list[_Unit]:
        units: list[_Unit] = []
        dma, tiles = self.machine.dma, self.machine.tiles.count
        for number in code.section.places:
            engine = self.engines.get(number)
            if engine is None:
                engine = self.engines[number] = DmaEngine(number, self.machine, self.fabric)
            unit = 2 * tiles + number * dma.queues + code.section.queue
            units.append(DmaQueue(unit, engine, code.steps(number), self.fabric))
        return units

    def _private(self, code: SectionCode, first_pc: int) -> list[_Unit]:
        section, fabric = code.section, self.fabric
        base = self.machine.tiles.count if section.unit == "vector" else 0
        engine: MatrixEngine | VectorEngine = self.vector if section.unit == "vector" else self.matrix
        if fabric.sram is not None:
            costs = engine.work_of, engine.traffic_of
            return [SharingUnit(base + tile, tile, code.steps(tile), *costs, fabric) for tile in section.places]
        if fabric.plain:
            return [PrivateUnit(base + tile, tile, code.steps(tile), engine.work_of, fabric) for tile in section.places]
        function = compile_section(self.program, section, first_pc, fabric, Units(self.matrix, self.vector))
        return [LocalUnit(base + tile, tile, function, code, fabric) for tile in section.places]

    def check_end(self) -> None:
        """Raises ProgramError if a unit waits forever, or a semaphore is not at rest."""
        stuck = [unit for unit in self.units if not unit.finished]
        if stuck:
            cycle = max(self.fabric.end, *(unit.clock for unit in stuck))
            raise deadlock(self.program, stuck, self.sections, self.machine.unit_names, cycle)
        check_rest(self.fabric.semaphores, "at the end")

    def result(self) -> Run:
        """The accounts of all units and the counters."""
        fabric = self.fabric
        return Run(
            program=self.program,
            machine=self.machine,
            cycles=fabric.end,
            busy=np.array([account.busy for account in fabric.accounts], np.int64),
            stalls=np.array([account.stalls for account in fabric.accounts], np.int64).reshape(-1, len(CAUSES)),
            counters=self._counters(),
        )

    def _counters(self) -> dict[str, int]:
        fabric, moved = self.fabric, self.fabric.network.traffic()
        counters = {
            "hbm.read_bytes": fabric.hbm.bytes_read,
            "hbm.write_bytes": fabric.hbm.bytes_written,
            "hbm.row_hits": fabric.hbm.row_hits,
            "hbm.row_misses": fabric.hbm.row_misses,
            "hbm.row_conflicts": fabric.hbm.row_conflicts,
            "noc.link_bytes": sum(moved["link"]),
            "noc.busiest_link_bytes": max(moved["link"] + moved["memory"]),
            "sram.dma_bytes": sum(moved["sram"]),
            "sram.busiest_port_bytes": max(moved["sram"]),
            "dma.busiest_engine_bytes": max(moved["engine"]),
            "instructions": sum(account.instructions for account in fabric.accounts),
        }
        if fabric.sram is not None:
            counters["sram.busiest_bank_bytes"] = fabric.sram.busiest_bank_bytes
        if fabric.shared is not None:
            counters |= fabric.shared.counters
        executed = [work for work in (*self.matrix.works.values(), *self.vector.works.values()) if work.count]
        for work in executed:
            for name, amount in work.adds.items():
                counters[name] = counters.get(name, 0) + amount * work.count
        return dict(sorted(counters.items()))
