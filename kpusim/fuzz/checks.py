"""What must hold of every case: values, times in both modes, accounts, counters, and texts that are read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import asdict, frozen

from kpusim.dtypes import Array
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
from kpusim.operators import Lowered, Operator, Part, make_operator, parse_mapping, parts_of, text_of
from kpusim.report.execute import Verification, judge, verdicts
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


@frozen(eq=False)
class _Program:
    """What an operator, or a part of a composite one, was lowered to. ports: tensors of the whole by port."""

    operator: Operator
    lowered: Lowered
    machine: Machine
    chunk_bytes: int
    forced: bool
    ports: Mapping[str, str]

    @property
    def program(self) -> Program:
        """Its program."""
        return self.lowered.program


def examine(case: Case) -> Outcome:
    """Runs a case. Refused: by a UserError before its program is there. Failed: by any other, or what does not hold."""
    try:
        try:
            operator = make_operator(case.operator)
            programs = _lower(case, operator)
        except UserError as error:
            return Outcome("refused", str(error))
        problems = tuple(_problems(operator, programs))
    except Exception as error:  # whatever goes wrong here is a finding
        problems = (f"{type(error).__name__}: {error}",)
    return Outcome("failed", "; ".join(problems)) if problems else Outcome("passed")


def _lower(case: Case, operator: Operator) -> list[_Program]:
    """The operator's program, or one for each of its parts."""
    machine = load_machine(case.machine, case.sets)
    mapping = parse_mapping(case.mapping, operator, "--map") if case.mapping else None
    parts = parts_of(operator) or (Part("", operator, {port.name: port.name for port in operator.ports}),)
    found = []
    for part in parts:
        lowered = part.operator.lower(machine, mapping=mapping)
        default_addresses(lowered.program, machine)  # which refuses what the HBM does not hold
        found.append(_Program(part.operator, lowered, machine, case.chunk_bytes, mapping is not None, part.ports))
    return found


def _problems(operator: Operator, programs: list[_Program]) -> Iterator[str]:
    """Everything that does not hold."""
    if make_operator(text_of(operator)) != operator:
        yield f"{text_of(operator)} is read as another operator"
    tensors: dict[str, Array] = {}
    for made in programs:
        yield from _texts(made)
        yield from _runs(made, tensors)
    if len(programs) > 1:
        whole = {port.name: tensors[port.name].reshape(port.shape) for port in operator.ports}
        yield from _wrong(verdicts(operator.family, operator, whole, whole))


def _texts(made: _Program) -> Iterator[str]:
    """What is wrong with program and mapping as text and as they are."""
    program = made.program
    check_program(program, limits_of(made.machine))
    if assemble(disassemble(program)) != program:
        yield "the program's text is read as another program"
    chosen = None if made.forced else made.lowered.mapping
    if chosen is not None and made.operator.lower(made.machine, mapping=chosen).program != program:
        yield "the mapping that was chosen, forced, gives another program"


def _runs(made: _Program, tensors: dict[str, Array]) -> Iterator[str]:
    """What is wrong with values, times and accounts. tensors: of the whole; what the program writes is added."""
    program, machine, chunk = made.program, made.machine, made.chunk_bytes
    inputs = random_inputs(program, SEED)
    for name, drawn in inputs.items():
        inputs[name] = tensors.setdefault(made.ports[name], drawn).reshape(drawn.shape)
    executor = Executor(program, machine, inputs)
    spans: Spans = []
    run = simulate(
        program, machine, plain=True, watcher=executor, chunk_bytes=chunk, span=lambda *span: spans.append(span)
    )
    outputs = executor.outputs()
    tensors |= {made.ports[name]: values for name, values in outputs.items() if name in made.ports}
    yield from _wrong(judge(program, made.operator.family, made.operator, inputs, outputs))
    others: Spans = []
    local = simulate(program, machine, chunk_bytes=chunk, span=lambda *span: others.append(span))
    yield from _differences(run, spans, local, others)
    yield from _accounts(run, spans)
    yield from _traffic(made, run)
    yield from _work(made, run)


def _wrong(found: list[Verification]) -> Iterator[str]:
    """The outputs that are further from their references than they may be."""
    return (verdict_text(asdict(each)) for each in found if not each.verdict.passed)


def _differences(plain: Run, spans: Spans, local: Run, others: Spans) -> Iterator[str]:
    """Where the local clocks do not agree with the plain mode."""
    if plain.cycles != local.cycles:
        yield f"{plain.cycles} cycles in plain mode, {local.cycles} with local clocks"
    if plain.busy.tolist() != local.busy.tolist() or plain.stalls.tolist() != local.stalls.tolist():
        yield "accounts with local clocks are not those of the plain mode"
    for name in sorted(plain.counters.keys() | local.counters.keys()):
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


def _traffic(made: _Program, run: Run) -> Iterator[str]:
    """Whether less was written than the outputs are, or less was moved than inputs and outputs are."""
    least = sum(DENSE.size_bytes(port.shape, port.dtype) for port in made.operator.ports if port.role == "out")
    level = "shared" if made.machine.shared.kind == "cache" else "hbm"  # where all that is written arrives
    written = run.counters[f"{level}.write_bytes"]
    if written < least:
        yield f"{written} bytes are written, but the outputs are {least}"
    moved, least = run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"], made.operator.compulsory_bytes
    if moved < least:
        yield f"{moved} bytes are moved between HBM and chip, but inputs and outputs are {least}"


def _work(made: _Program, run: Run) -> Iterator[str]:
    """Whether arrays or lanes did less than the roofs of the operator say."""
    macs = sum(count for name, count in run.counters.items() if name.startswith("macs."))
    if macs < made.operator.macs:
        yield f"{macs} multiply-accumulates are executed, but the operator has {made.operator.macs}"
    lane_cycles = made.machine.vector.lane_cycles
    done = sum(run.counters.get(f"vector.{name}", 0) * each for name, each in lane_cycles.items())
    least = sum(elements * lane_cycles[name] for name, elements in made.operator.vector_work.items())
    if done < least:
        yield f"vector engines worked for {done} lane-cycles, but the operator needs {least}"
