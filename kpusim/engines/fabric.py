"""What the units of one run share: the clock, the memory system, the semaphores, the barrier, the accounts of time.

Here time is accounted for, once: a unit reports an instruction's span when it knows it; the account of its unit and, if
anybody listens, a span record follow from that one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from typing import Any, Protocol

from attrs import define, field

from kpusim.engines.edges import Edges
from kpusim.engines.hbm import Hbm
from kpusim.engines.kernel import LAST_REQUESTER, Kernel, Phase
from kpusim.engines.noc import Network
from kpusim.engines.semaphore import (
    KEY_BITS,
    KEY_MASK,
    NO_SPAN,
    ProgramError,
    Semaphore,
    check_rest,
    make_semaphores,
    span_key,
)
from kpusim.engines.shared import Memory, shared_level
from kpusim.engines.sram import Sram
from kpusim.engines.stalls import BARRIER, CAUSES, ENGINE, MEMORY, UNIT_CAUSES
from kpusim.engines.transfer import Transfers
from kpusim.engines.translation import Translation
from kpusim.isa.program import Instruction, Loop, Node, Program
from kpusim.isa.walk import Step
from kpusim.machine import Machine

__all__ = ["Account", "Barrier", "Fabric", "Span", "Watcher", "causes_of", "program_signals"]


class Watcher(Protocol):
    """Follows the data of a run in plain mode; called in time order, a step being the key of all its calls."""

    def issue(self, unit: int, place: int, step: Step, time: int) -> None:
        """An instruction starts, or a DMA transfer issues, on the tile (or DMA engine) `place`."""

    def read(self, step: Step, time: int) -> None:
        """The sources of `step` may be overwritten."""

    def done(self, step: Step, time: int, tile: int) -> None:
        """The result of `step` is visible in `tile` (-1: in its own tile, or in HBM)."""

    def finish(self, time: int) -> None:
        """The program is over."""


Span = Callable[..., object]
"""(start, end, done, unit, opcode, pc, iteration, key of the span that released it or NO_SPAN, bytes, *stalls)."""


@define
class Account:
    """Cycles of one unit: occupied, and waiting by cause (in the order of CAUSES)."""

    busy: int = 0
    stalls: list[int] = field(factory=lambda: [0] * len(CAUSES))
    instructions: int = 0


class Barrier:
    """All queues of the program meet; all leave `cycles` after the last, when `settle` has been called."""

    def __init__(self, cycles: int, kernel: Kernel, settle: Callable[[int], None]):
        self.members = 0
        self._cycles, self._kernel, self._settle = cycles, kernel, settle
        self._latest = 0
        self._arrived: list[tuple[int, Callable[[int], None]]] = []

    @property
    def waiting(self) -> list[int]:
        """Units that have arrived and are still held."""
        return sorted(unit for unit, _ in self._arrived)

    def arrive(self, unit: int, time: int, leave: Callable[[int], None]) -> None:
        """`unit` is there at cycle `time`; `leave` is called with the cycle at which it may go on."""
        self._arrived.append((unit, leave))
        self._latest = max(self._latest, time)
        if len(self._arrived) == self.members:
            self._kernel.at(self._latest + self._cycles, Phase.PRIVATE, LAST_REQUESTER, self._open)

    def _open(self) -> None:
        arrived, self._arrived, self._latest = sorted(self._arrived, key=lambda item: item[0]), [], 0
        time = self._kernel.now
        self._settle(time)
        for _, leave in arrived:
            leave(time)


class Fabric:
    """One run's shared state. `plain`: every signal is an event; otherwise signals carry their time."""

    def __init__(
        self,
        program: Program,
        machine: Machine,
        addresses: tuple[int, ...],
        chunk_bytes: int,
        plain: bool,
        span: Span | None = None,
        span_block: Callable[[Any], object] | None = None,
        watcher: Watcher | None = None,
        hbm: Callable[[Machine], Hbm] = Hbm,
    ):
        self.machine, self.plain = machine, plain
        self.transfers = Transfers(addresses, chunk_bytes, machine)
        self.kernel = Kernel()
        self.hbm, self.network = hbm(machine), Network(machine)
        self.shared = shared_level(machine, self.hbm)
        self.memory: Memory = self.shared or self.hbm  # what engines read and write
        self.edges: Edges | None = None
        if machine.hbm.attach == "edges":
            self.edges = Edges(machine, self.kernel, self.network, self.memory, self.hbm.pattern)
        self.translation = Translation(machine)
        self.sram = Sram(machine, self.kernel, chunk_bytes) if machine.sram.sharing == "shared" else None
        self.semaphores: list[Semaphore] = make_semaphores(program)
        self.causes = causes_of(program)
        self.accounts = [Account() for _ in machine.unit_names]
        self.barrier = Barrier(machine.front_end.barrier_cycles, self.kernel, self._settle)
        self.end = 0  # the latest cycle at which anything happened
        self.span, self.span_block, self.watcher = span, span_block, watcher
        self.key_bits = KEY_BITS if span is not None else 0

    def _settle(self, time: int) -> None:
        """At a barrier: every semaphore must be at rest, and HBM rows are closed."""
        check_rest(self.semaphores, f"at the barrier of cycle {time}")
        for sem in self.semaphores:
            sem.settle(time << self.key_bits)
        self.hbm.close_rows()

    def note_wait(self, number: int, token: int, clock: int, stalls: list[int]) -> int:
        """Charges the wait for `token` of semaphore `number` to `stalls`; returns the clock after it."""
        time = token >> self.key_bits
        if time > clock:
            stalls[self.causes[number]] += time - clock
            return time
        return clock

    def report(
        self, unit: int, step: Step, times: tuple[int, int, int], released: int, size: int, stalls: list[int]
    ) -> None:
        """Accounts for one instruction of `unit`: (start, end, done) cycles; `released`: the latest token it took."""
        start, end, done = times
        account = self.accounts[unit]
        account.busy += end - start - stalls[ENGINE] - stalls[MEMORY]
        account.instructions += 1
        waited = any(stalls)
        if waited:
            account.stalls = list(map(add, account.stalls, stalls))
        if done > self.end:
            self.end = done
        if self.span is not None:
            code = step.code
            key = released & KEY_MASK if waited and any(stalls[:BARRIER]) else NO_SPAN
            self.span(start, end, done, unit, code.row.opcode, code.pc, step.iteration, key, size, *stalls)

    def signal(
        self, step: Step, instant: str, times: Sequence[int], tiles: range | None, unit: int, ordinal: int
    ) -> None:
        """Gives the `instant` signals of `step`; `times` holds a cycle for each of `tiles`, or one for all.

        Raises ProgramError, in plain mode, where a producer is a round ahead of the others.
        """
        if instant not in step.code.instants and self.watcher is None:
            return
        latest, several = max(times), len(times) > 1
        shift, semaphores = self.key_bits, self.semaphores
        key = span_key(unit, ordinal) if shift else 0
        for number, place in step.signals(instant, tiles):
            time = times[place] if several and place >= 0 else latest
            token = time << shift | key
            if self.plain:
                self.kernel.at(time, Phase.PRIVATE, unit, self._signal(step, number, token, unit))
            else:
                semaphores[number].signal(token, unit)
        if self.watcher is not None:
            self._watch(step, instant, dict(zip(tiles, times, strict=False)) if tiles else {-1: latest})

    def _signal(self, step: Step, number: int, token: int, unit: int) -> Callable[[], None]:
        def give() -> None:
            semaphore = self.semaphores[number]
            if semaphore.leads(unit):
                where = f"{step.code.where} on {self.machine.unit_names[unit]} at cycle {self.kernel.now}"
                problem = f"signals {semaphore.name} twice before the other producers have signalled once"
                raise ProgramError(problem, where=where)
            semaphore.signal(token, unit)

        return give

    def _watch(self, step: Step, instant: str, where: dict[int, int]) -> None:
        watcher = self.watcher
        assert watcher is not None
        if instant == "read":
            time = max(where.values())
            self.kernel.at(time, Phase.PRIVATE, 0, lambda: watcher.read(step, time))
            return
        for tile, time in where.items():
            self.kernel.at(time, Phase.PRIVATE, 0, lambda tile=tile, time=time: watcher.done(step, time, tile))  # type: ignore[misc]


def causes_of(program: Program) -> list[int]:
    """For each semaphore by flat number, the stall cause of who waits for it: the kind of unit that signals it."""
    signallers: dict[str, int] = {}
    for unit, name in program_signals(program):
        signallers[name] = min(signallers.get(name, len(CAUSES)), UNIT_CAUSES[unit])
    return [
        signallers.get(sem.name, UNIT_CAUSES["dma"])
        for sem in program.semaphores
        for _ in range(sem.instances * sem.slots)
    ]


def program_signals(program: Program) -> set[tuple[str, str]]:
    """(unit, semaphore) for every signal in the program."""

    def inside(unit: str, body: tuple[Node, ...]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        for node in body:
            if isinstance(node, Loop):
                found |= inside(unit, node.body)
            elif isinstance(node, Instruction):
                found |= {(unit, signal.target.semaphore) for signal in node.signals}
        return found

    return set().union(*(inside(section.unit, section.body) for section in program.sections))
