"""What must hold of every case: values, times in both modes, accounts, counters, and texts that are read back."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import asdict, field, frozen

from kpusim.engines.stalls import ENGINE, MEMORY
from kpusim.errors import UserError
from kpusim.function import Executor, random_inputs
from kpusim.fuzz.case import Case
from kpusim.isa import assemble, disassemble
from kpusim.isa.check import check_program
from kpusim.isa.layout import DENSE
from kpusim.isa.program import Program
from kpusim.machine import Machine, load_machine
from kpusim.machine.limits import limits_of
from kpusim.operators import Lowered, Operator, make_operator, parse_mapping, text_of
from kpusim.report.execute import judge
from kpusim.report.table import verdict_text
from kpusim.simulate.run import Run, default_addresses, simulate
from kpusim.simulate.spans import STALLS

__all__ = ["Outcome", "examine"]

SEED = 0  # of the data
COLUMNS = 9 + len(STALLS)  # of a span; those at its end may be left out where they are 0

Spans = list[tuple[int, ...]]


@frozen
class Outcome:
    """What came of a case: passed, refused or failed, and why."""

    verdict: str
    why: str = ""


@frozen
class _Lowering:
    """A case that the operator and the machine did not refuse."""

    case: Case
    machine: Machine = field(repr=False)
    operator: Operator
    lowered: Lowered = field(repr=False)

    @property
    def program(self) -> Program:
        """Its program."""
        return self.lowered.program


def examine(case: Case) -> Outcome:
    """Runs a case. Refused: by a UserError before its program is there. Failed: by any other, or what does not hold."""
    try:
        try:
            made = _lower(case)
        except UserError as error:
            return Outcome("refused", str(error))
        problems = (*_texts(made), *_runs(made))
    except Exception as error:  # whatever goes wrong here is a finding
        problems = (f"{type(error).__name__}: {error}",)
    return Outcome("failed", "; ".join(problems)) if problems else Outcome("passed")


def _lower(case: Case) -> _Lowering:
    machine, operator = load_machine(case.machine, case.sets), make_operator(case.operator)
    mapping = parse_mapping(case.mapping, operator, "--map") if case.mapping else None
    lowered = operator.lower(machine, mapping=mapping)
    default_addresses(lowered.program, machine)  # which refuses what the HBM does not hold
    return _Lowering(case, machine, operator, lowered)


def _texts(made: _Lowering) -> Iterator[str]:
    """What is wrong with operator, program and mapping as text and as they are."""
    operator, program, machine = made.operator, made.program, made.machine
    if make_operator(text_of(operator)) != operator:
        yield f"{text_of(operator)} is read as another operator"
    check_program(program, limits_of(machine))
    if assemble(disassemble(program)) != program:
        yield "the program's text is read as another program"
    chosen = None if made.case.mapping else made.lowered.mapping
    if chosen is not None and operator.lower(machine, mapping=chosen).program != program:
        yield "the mapping that was chosen, forced, gives another program"


def _runs(made: _Lowering) -> Iterator[str]:
    """What is wrong with values, times and accounts."""
    program, machine, chunk = made.program, made.machine, made.case.chunk_bytes
    inputs = random_inputs(program, SEED)
    executor = Executor(program, machine, inputs)
    spans: Spans = []
    run = simulate(
        program, machine, plain=True, watcher=executor, chunk_bytes=chunk, span=lambda *span: spans.append(span)
    )
    outputs = executor.outputs()
    for found in judge(program, made.operator.family, made.operator, inputs, outputs):
        if not found.verdict.passed:
            yield verdict_text(asdict(found))
    others: Spans = []
    local = simulate(program, machine, chunk_bytes=chunk, span=lambda *span: others.append(span))
    yield from _differences(run, spans, local, others)
    yield from _accounts(run, spans)
    yield from _traffic(made, run)


def _differences(plain: Run, spans: Spans, local: Run, others: Spans) -> Iterator[str]:
    """Where the local clocks do not agree with the plain mode."""
    if plain.cycles != local.cycles:
        yield f"{plain.cycles} cycles in plain mode, {local.cycles} with local clocks"
    if plain.busy.tolist() != local.busy.tolist() or plain.stalls.tolist() != local.stalls.tolist():
        yield "accounts with local clocks are not those of the plain mode"
    for name in plain.counters.keys() | local.counters.keys():
        if plain.counters.get(name) != local.counters.get(name):
            yield f"{name}: {plain.counters.get(name)} in plain mode, {local.counters.get(name)} with local clocks"
    if sorted(map(_whole, spans)) != sorted(map(_whole, others)):
        yield "spans with local clocks are not those of the plain mode"


def _whole(span: tuple[int, ...]) -> tuple[int, ...]:
    """A span with the columns that it left out."""
    return span + (0,) * (COLUMNS - len(span))


def _accounts(run: Run, spans: Spans) -> Iterator[str]:
    """Where busy, stalls and idle of a unit are not what its spans add up to, or not its cycles."""
    units = range(len(run.busy))
    busy, stalls, ends = [0 for _ in units], [0 for _ in units], [0 for _ in units]
    for start, end, done, unit, _, _, _, _, _, *waited in map(_whole, spans):
        within = waited[ENGINE] + waited[MEMORY]  # the other stalls are before a span
        if not ends[unit] + sum(waited) - within == start <= end <= done <= run.cycles:
            yield f"a span of {run.machine.unit_names[unit]} at cycle {start} does not follow on the one before"
        busy[unit] += end - start - within
        stalls[unit] += sum(waited)
        ends[unit] = end
    for unit in units:
        if (busy[unit], stalls[unit]) != (int(run.busy[unit]), int(run.stalls[unit].sum())):
            yield f"busy and stalls of {run.machine.unit_names[unit]} are not those of its spans"
        if int(run.idle[unit]) < 0:
            yield f"{run.machine.unit_names[unit]} is idle for {int(run.idle[unit])} cycles"


def _traffic(made: _Lowering, run: Run) -> Iterator[str]:
    """Whether less was written than the outputs are."""
    least = sum(DENSE.size_bytes(port.shape, port.dtype) for port in made.operator.ports if port.role == "out")
    level = "shared" if made.machine.shared.kind == "cache" else "hbm"
    written = run.counters[f"{level}.write_bytes"]
    if written < least:
        yield f"{written} bytes are written, but the outputs are {least}"
