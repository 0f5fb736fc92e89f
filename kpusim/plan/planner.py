"""The planner: a workload with its symbols becomes a chain of steps on addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from kpusim.errors import UserError
from kpusim.isa.layout import DENSE, Layout
from kpusim.machine import Machine
from kpusim.operators import Lowered, Operator, lower_as, parts_of
from kpusim.plan.bind import Bound, Shaped, bind, shapes
from kpusim.plan.expression import evaluate, resolve_symbols
from kpusim.plan.fuse import fused
from kpusim.plan.load import WorkloadFile
from kpusim.plan.memory import Lifetime, Memory, place
from kpusim.plan.parts import handed_on, unfolded
from kpusim.plan.spec import Boundary, RepeatSpec
from kpusim.tomlfile import Key

__all__ = ["Plan", "Standing", "Step", "operator_plan", "plan_run", "plan_workload"]

_STEPS = 1 << 20  # in one run


@frozen
class Standing:
    """A tensor at a port: its address in the HBM or in a shared buffer, its layout and its seed."""

    tensor: str
    address: int
    layout: Layout = DENSE
    seed: int = 0


@frozen
class Step:
    """One operator in time. label: its name in the file; name: with the iteration of its repeat block.

    lowered: its program, where planning needed it.
    """

    name: str
    label: str
    operator: Operator
    boundary: Boundary
    ports: Mapping[str, Standing]
    where: str
    lowered: Lowered | None = None


@frozen
class Plan:
    """One run of a workload on a machine: steps in order, and what they need of its memories.

    whole: the composite operator whose parts they are, where it is one.
    """

    name: str
    machine: Machine
    symbols: Mapping[str, int]
    steps: tuple[Step, ...]
    memory: Memory
    whole: Operator | None = None


def operator_plan(operator: Operator, machine: Machine, name: str | None = None, mapping: Any = None) -> Plan:
    """One launch of one operator, called `name`, with its tensors laid out as its lowering has them.

    A composite is one launch for each of its parts. mapping: as `lower_as` takes it. Raises UserError if the operator
    cannot be lowered, or its tensors do not fit into the HBM.
    """
    name = name or operator.family
    if parts_of(operator) and mapping is None:
        return _composite_plan(operator, machine, name)
    for port in operator.ports:  # told before a lowering of such a size is tried
        place([Lifetime(port.name, DENSE.size_bytes(port.shape, port.dtype), 0, 0)], 1, machine, name)
    lowered = lower_as(operator, machine, mapping=mapping)
    tensors = lowered.program.tensors
    lifetimes = [Lifetime(tensor.name, tensor.size_bytes, 0, 0) for tensor in tensors]
    memory = place(lifetimes, 1, machine, name)
    ports = {
        tensor.name: Standing(tensor.name, item.address, tensor.layout)
        for tensor, item in zip(tensors, memory.places, strict=True)
    }
    step = Step(name, name, operator, "launch", ports, name, lowered)
    return Plan(name, machine, {}, (step,), memory)


def _composite_plan(operator: Operator, machine: Machine, name: str) -> Plan:
    """A launch for each part. What one part writes for another is there from the one to the other."""
    parts = parts_of(operator)
    lives = {port.name: (port, 0, len(parts) - 1) for port in operator.ports}
    for tensor, port in handed_on(operator).items():
        used = [number for number, part in enumerate(parts) if tensor in part.ports.values()]
        lives[tensor] = port, used[0], used[-1]
    lifetimes = [
        Lifetime(tensor, DENSE.size_bytes(port.shape, port.dtype), first, last)
        for tensor, (port, first, last) in lives.items()
    ]
    memory = place(lifetimes, len(parts), machine, name)
    standing = {item.tensor.name: Standing(item.tensor.name, item.address) for item in memory.places}
    steps = tuple(
        Step(
            f"{name}.{part.name}", f"{name}.{part.name}", part.operator, "launch",
            {port: standing[tensor] for port, tensor in part.ports.items()}, name,
        )
        for part in parts
    )  # fmt: skip
    return Plan(name, machine, {}, steps, memory, operator)


def plan_workload(
    loaded: WorkloadFile, machine: Machine, symbols: Mapping[str, int | str] | None = None, runs: Sequence[str] = ()
) -> tuple[Plan, ...]:
    """A plan for each run of the workload, or for those named in `runs`.

    symbols: values that replace the file's. Where one replaces what runs set, and `runs` names none, a single run takes
    their place. Raises UserError for whatever is wrong with the file, the symbols or the sizes.
    """
    declared, changes = loaded.workload.runs, dict(symbols or {})
    for name in runs:
        if name not in declared:
            raise UserError("no such run", where=loaded.file.name, found=name, allowed=list(declared) or "none")
    varied = {symbol for run in declared.values() for symbol in run}
    shown = ", ".join(f"{name}={value}" for name, value in changes.items())
    if runs or (declared and not varied & changes.keys()):
        chosen = {f"{name} {shown}".strip(): declared[name] for name in runs or declared}
    else:
        chosen = {shown or loaded.workload.name: {}}
    return tuple(plan_run(loaded, machine, name, values, changes) for name, values in chosen.items())


def plan_run(
    loaded: WorkloadFile, machine: Machine, name: str,
    values: Mapping[str, int | str], changes: Mapping[str, int | str],
) -> Plan:  # fmt: skip
    """The plan of the run `name` with its own symbol `values` and the user's `changes`, which win."""

    def where(symbol: str) -> str:
        if symbol in changes:
            return f"--symbol {symbol}"
        return loaded.where("runs", name, symbol) if symbol in values else loaded.where("symbols", symbol)

    resolved = resolve_symbols(loaded.workload.symbols, {**values, **changes}, where)
    tensors = shapes(loaded, resolved)
    entries = [
        (path, repeat, bind(loaded, path, spec, tensors, resolved)) for path, repeat, spec in loaded.workload.entries()
    ]
    entries = fused(loaded, entries)
    counts = {
        entry.name: _count(loaded, ("operators", number, "repeat"), entry, resolved)
        for number, entry in enumerate(loaded.workload.operators)
        if isinstance(entry, RepeatSpec)
    }
    chain = _unrolled(entries, counts)
    if len(chain) > _STEPS:
        raise UserError("too many operators", where=loaded.file.name, found=len(chain), allowed=f"up to {_STEPS}")
    chain = [
        (path, iteration, part)
        for path, iteration, bound in chain
        for part in unfolded(bound, loaded.where(*path, "ports"))
    ]
    return _planned(loaded, machine, name, resolved, chain, tensors, counts)


_Chain = list[tuple[tuple[Key, ...], tuple[str, int] | None, Bound]]
"""(key path, (repeat block, iteration) or None, operator) in order of time."""


def _count(loaded: WorkloadFile, path: tuple[Key, ...], repeat: RepeatSpec, symbols: Mapping[str, int]) -> int:
    where = loaded.where(*path)
    count = evaluate(repeat.repeat, symbols, where)
    if not 1 <= count <= _STEPS:
        raise UserError("an impossible number of iterations", where=where, found=count, allowed=f"1 to {_STEPS}")
    return count


def _unrolled(entries: Sequence[tuple[tuple[Key, ...], RepeatSpec | None, Bound]], counts: Mapping[str, int]) -> _Chain:
    chain: _Chain = []
    done: set[str] = set()
    for path, repeat, bound in entries:
        if repeat is None:
            chain.append((path, None, bound))
        elif repeat.name not in done:
            done.add(repeat.name)
            body = [(inner, item) for inner, block, item in entries if block is repeat]
            chain += [(inner, (repeat.name, i), item) for i in range(counts[repeat.name]) for inner, item in body]
    return chain


def _planned(
    loaded: WorkloadFile, machine: Machine, name: str, symbols: Mapping[str, int], chain: _Chain,
    tensors: Mapping[str, Shaped], counts: Mapping[str, int],
) -> Plan:  # fmt: skip
    lives = _Lives(loaded, len(chain))
    for tensor in tensors.values():
        if tensor.spec.memory == "shared" and machine.shared.kind != "buffer":
            where = loaded.where("tensors", tensor.name, "memory")
            problem = f"{machine.name} has no shared buffer"
            raise UserError(problem, where=where, found="shared", allowed='hbm, or a machine with shared.kind "buffer"')
        lives.declare(tensor, counts.get(tensor.spec.per, 0))
    keys = [lives.step(number, *entry) for number, entry in enumerate(chain)]
    memory = place(lives.lifetimes(), len(chain), machine, loaded.file.name)
    steps = []
    for number, ((path, iteration, bound), ports) in enumerate(zip(chain, keys, strict=True)):
        label = bound.spec.name
        standing = {
            port: Standing(tensor.name, memory.places[ports[port]].address, tensor.spec.layout, tensor.spec.seed)
            for port, tensor in bound.tensors.items()
        }
        steps.append(
            Step(
                name=f"{iteration[0]}[{iteration[1]}].{label}" if iteration else label, label=label,
                operator=bound.operator, ports=standing, where=loaded.where(*path, "name"),
                boundary=(bound.spec.boundary or loaded.workload.boundary) if number else "launch",
            )
        )  # fmt: skip
    return Plan(name, machine, symbols, tuple(steps), memory)


class _Lives:
    """Lifetimes of tensors, by number: every write of an activation begins a new one."""

    def __init__(self, loaded: WorkloadFile, steps: int) -> None:
        self._loaded, self._steps = loaded, steps
        self._lives: list[Lifetime] = []
        self._now: dict[tuple[str, int], int] = {}
        self._written: set[tuple[str, int]] = set()

    def declare(self, tensor: Shaped, copies: int) -> None:
        """Tensors that stay from the first step to the last, `copies` of them (0: one for all iterations)."""
        if tensor.spec.role == "activation":
            return
        for copy in range(max(copies, 1)):
            name = f"{tensor.name}[{copy}]" if copies else tensor.name
            self._now[tensor.name, copy] = self._add(name, tensor, 0, self._steps - 1)

    def step(
        self, number: int, path: tuple[Key, ...], iteration: tuple[str, int] | None, bound: Bound
    ) -> dict[str, int]:
        """The lifetime at each port of step `number`. Raises UserError for reading what nothing has written yet."""
        found = {}
        outputs = {port.name for port in bound.operator.ports if port.role == "out"}
        written = {port.name for port in bound.operator.ports if port.role != "in"}
        for port in sorted(bound.tensors, key=lambda name: name in outputs):
            tensor = bound.tensors[port]
            where = self._loaded.where(*path, "ports")
            mine = iteration is not None and tensor.spec.per == iteration[0]
            if tensor.spec.per and not mine:
                problem = f"{bound.spec.name} is not in repeat block {tensor.spec.per}, as {tensor.name} is"
                raise UserError(problem, where=where)
            key = tensor.name, iteration[1] if mine and iteration else 0
            if port in written and any(other is tensor for name, other in bound.tensors.items() if name != port):
                raise UserError(f"{bound.spec.name} reads and writes {tensor.name} at once", where=where)
            if port in outputs:
                self._written.add(key)
                if tensor.spec.role == "activation":
                    self._now[key] = self._add(tensor.name, tensor, number, number)
            elif tensor.spec.role in ("activation", "output") and key not in self._written:
                problem = f"{bound.spec.name} reads the {tensor.spec.role} {tensor.name}, which no operator has written"
                raise UserError(problem, where=where, hint='what comes from outside has role "input"')
            live = self._lives[self._now[key]]
            self._lives[self._now[key]] = evolve(live, last=max(live.last, number))
            found[port] = self._now[key]
        return found

    def lifetimes(self) -> list[Lifetime]:
        return self._lives

    def _add(self, name: str, tensor: Shaped, first: int, last: int) -> int:
        size = tensor.spec.layout.size_bytes(tensor.shape, tensor.spec.dtype)
        self._lives.append(Lifetime(name, size, first, last, tensor.spec.memory))
        return len(self._lives) - 1
