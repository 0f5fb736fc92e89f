"""Simulation of a plan: each distinct operator once, and all of them on one timeline.

A launch is issued when one of the front end's `in_flight` places is free, and its program starts `launch_cycles`
later at the earliest, or when the program before has ended, and `load_cycles` after that where that was another one. A
barrier goes on `barrier_cycles` after the operator before, in the same launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from attrs import define, evolve, field, frozen

from kpusim.machine import FrontEnd, Machine
from kpusim.operators import Equal, Lowered
from kpusim.plan import Memory, Plan, Step
from kpusim.simulate.equal import times
from kpusim.simulate.releases import RowNumbers
from kpusim.simulate.run import CHUNK_BYTES, Run, simulate
from kpusim.simulate.spans import Rows, SpanBuffer

__all__ = ["Executed", "Listener", "OpTime", "Options", "PlanRun", "Timeline", "lowered_for", "run_plans"]


@frozen
class Options:
    """How to simulate: `plain` makes every instruction an event, a DMA engine asks for `chunk_bytes` at once.

    whole: also what is equal to a part that tells its time.
    """

    plain: bool = False
    chunk_bytes: int = CHUNK_BYTES
    whole: bool = False


@frozen(eq=False)
class Executed:
    """One lowered operator and what it took.

    simulated: the run behind `run`: of one of `copies` equal shares, or the same.
    """

    lowered: Lowered
    run: Run
    simulated: Run
    copies: int = 1


@frozen(eq=False)
class OpTime:
    """One step on the timeline, in cycles from the start of its plan's run.

    gap: cycles between the end of the step before (or the start) and `start`: what its boundary cost.
    """

    step: Step
    executed: Executed
    start: int
    gap: int

    @property
    def end(self) -> int:
        """The cycle after its last."""
        return self.start + self.executed.run.cycles

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the operator; of a program that is no operator, those that it executed."""
        counters = self.executed.run.counters
        return self.step.operator.macs or sum(counters[name] for name in counters if name.startswith("macs."))

    @property
    def flops(self) -> int:
        """Floating point operations of the operator, or two for each multiply-accumulate executed."""
        return self.step.operator.flops or 2 * self.macs

    @property
    def math_dtype(self) -> str:
        """Dtype of the factors of its matmuls; where the arrays cannot multiply that, one that they can."""
        dtype, rates = self.step.operator.math_dtype, self.executed.run.machine.matrix.macs_per_cell
        return dtype if dtype in rates else next(iter(rates))


@frozen(eq=False)
class PlanRun:
    """One plan's steps in time."""

    plan: Plan
    ops: tuple[OpTime, ...]
    launches: int

    @property
    def cycles(self) -> int:
        """From the first launch to the end of the last step."""
        return self.ops[-1].end

    @property
    def memory(self) -> Memory:
        """What it needs of the machine's memories."""
        return self.plan.memory


class Listener(Protocol):
    """Follows runs of plans: spans while they happen, and then every step's place in time."""

    def begin(self, lowered: Lowered) -> Callable[[Rows], object]:
        """A program is about to be simulated; the result takes its spans, `released_by` being row numbers."""

    def end(self, executed: Executed) -> None:
        """All of its spans have been handed on."""

    def op(self, name: str, time: OpTime, offset: int) -> None:
        """A step called `name` ran at `time`, whose plan began at cycle `offset` of the whole."""


@define
class Timeline:
    """Composes starts and ends of steps, in order."""

    front_end: FrontEnd
    now: int = 0
    _ends: list[int] = field(factory=list)

    @property
    def launches(self) -> int:
        """Launches so far."""
        return len(self._ends)

    def add(self, boundary: str, cycles: int, *, loads: bool = False) -> int:
        """Appends a step of `cycles` behind `boundary`; its start. loads: its program is another than that before."""
        if boundary == "barrier" and self._ends:
            start = self.now + self.front_end.barrier_cycles
        else:
            place = len(self._ends) - self.front_end.in_flight
            issued = self._ends[place] if place >= 0 else 0
            start = max(self.now, issued + self.front_end.launch_cycles)
            start += self.front_end.load_cycles if loads else 0
            self._ends.append(0)
        self.now = self._ends[-1] = start + cycles
        return start


def run_plans(
    plans: tuple[Plan, ...], options: Options | None = None, listener: Listener | None = None,
    begins: Callable[[str], object] | None = None,
) -> Iterator[PlanRun]:  # fmt: skip
    """Simulates plans one after the other, each from cycle 0; yields each when it is complete.

    begins: called with the name of each step before it is simulated, or found to be known already.
    Steps with the same operator, at addresses that differ by multiples of the machine's alignment, are simulated once.
    Raises UserError where an operator cannot be lowered or a tensor's layout is not the one that the lowering reads.
    """
    chosen, memo, offset = options or Options(), dict[object, Executed](), 0
    for plan in plans:
        timeline, ops = Timeline(plan.machine.front_end), list[OpTime]()
        for step in plan.steps:
            name = step.name if len(plans) == 1 else f"{plan.name}: {step.name}"
            if begins is not None:
                begins(name)
            executed = _executed(step, plan, chosen, listener, memo)
            before = timeline.now
            loads = bool(ops) and ops[-1].executed.lowered is not executed.lowered
            start = timeline.add(step.boundary, executed.run.cycles, loads=loads)
            ops.append(OpTime(step, executed, start, start - before))
            if listener is not None:
                listener.op(name, ops[-1], offset)
        yield PlanRun(plan, tuple(ops), timeline.launches)
        offset += timeline.now


def lowered_for(step: Step, plan: Plan) -> Lowered:
    """The program of a step, for tensors laid out as the workload says."""
    if step.lowered is not None:
        return step.lowered
    return step.operator.lower(plan.machine, {port: standing.layout for port, standing in step.ports.items()})


def _executed(
    step: Step, plan: Plan, options: Options, listener: Listener | None, memo: dict[object, Executed]
) -> Executed:
    phases = tuple((port, _phase(at.address, plan.machine), at.layout) for port, at in step.ports.items())
    addresses = [at.address for at in step.ports.values()]
    key = step.operator, plan.machine, phases, tuple(map(addresses.index, addresses))  # ports may share a tensor
    if key not in memo:
        lowered = lowered_for(step, plan)
        addresses = [step.ports[tensor.name].address for tensor in lowered.program.tensors]
        memo[key] = _simulated(lowered, addresses, plan, options, listener)
    return memo[key]


def _phase(address: int, machine: Machine) -> int:
    """What of an address times depend on; into which sets of a cache it falls is taken to be alike everywhere."""
    if machine.shared.kind == "buffer" and address >= machine.buffer_address:
        return -1
    return address % machine.alignment_bytes


def _simulated(
    lowered: Lowered, addresses: list[int], plan: Plan, options: Options, listener: Listener | None
) -> Executed:
    share = None if options.whole else lowered.equal
    program = lowered.program if share is None else share.program
    if listener is None:
        run = simulate(program, plan.machine, addresses, plain=options.plain, chunk_bytes=options.chunk_bytes)
        return _executed_as(lowered, share, run)
    rows = RowNumbers(len(plan.machine.unit_names), listener.begin(evolve(lowered, program=program)))
    buffer = SpanBuffer(rows.take)
    run = simulate(
        program, plan.machine, addresses, plain=options.plain, chunk_bytes=options.chunk_bytes,
        span=buffer.record, span_block=buffer.record_block,
    )  # fmt: skip
    buffer.flush()
    rows.finish()
    executed = _executed_as(lowered, share, run)
    listener.end(executed)
    return executed


def _executed_as(lowered: Lowered, share: Equal | None, run: Run) -> Executed:
    """What a run of the program, or of a share of it, says of it."""
    if share is None:
        return Executed(lowered, run, run)
    return Executed(lowered, times(run, lowered.program, share.copies), run, share.copies)
