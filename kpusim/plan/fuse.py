"""Fused boundaries: neighbours in a workload file that become one operator, and the tensor between them nothing."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from kpusim.errors import UserError
from kpusim.operators.fusion import fuse
from kpusim.plan.bind import Bound, Shaped
from kpusim.plan.load import WorkloadFile
from kpusim.plan.spec import RepeatSpec
from kpusim.tomlfile import Key

__all__ = ["Entry", "fused"]

Entry = tuple[tuple[Key, ...], RepeatSpec | None, Bound]
"""(key path, repeat block or None, operator) of an operator in a file."""


def fused(loaded: WorkloadFile, entries: Sequence[Entry]) -> list[Entry]:
    """The operators with those behind a fused boundary folded into the one before, from first to last.

    A fold is called by both names, such as norm+qkv. Raises UserError, naming the boundary's line, where two are not
    one.
    """
    folded: list[Entry] = []
    for number, (path, repeat, bound) in enumerate(entries):
        begins = number == 0 and repeat is None and not bound.spec.boundary  # where the file says fused for all
        if begins or (bound.spec.boundary or loaded.workload.boundary) != "fused":
            folded.append((path, repeat, bound))
            continue
        where = loaded.where(*path, "boundary") if bound.spec.boundary else loaded.where("boundary")
        first_path, block, before = folded[-1] if folded else (path, repeat, None)
        if before is None or block is not repeat:
            raise _alone(bound, repeat, block, where)
        folded[-1] = first_path, repeat, _one(before, bound, _later(entries, number), where)
    return folded


def _alone(bound: Bound, repeat: RepeatSpec | None, before: RepeatSpec | None, where: str) -> UserError:
    """There is nothing to fuse with. repeat, before: the blocks of the operator and of the one before it."""
    edge = f"repeat block {before.name} ends" if before else "the workload begins"
    if repeat:
        edge = f"repeat block {repeat.name} begins"
    problem = f"{bound.spec.name} has nothing before it that it could be fused with: {edge} there"
    return UserError(problem, where=where, found="fused", allowed="launch, barrier")


def _one(first: Bound, second: Bound, later: Sequence[Sequence[Bound]], where: str) -> Bound:
    """Both as one. later: what may run behind them, in order, one way or the other."""
    one, two = first.spec, second.spec
    written = {port.name: first.tensors[port.name] for port in first.operator.ports if port.role == "out"}
    read = [port.name for port in second.operator.ports if port.role == "in"]
    links = [port for port in read if any(second.tensors[port] is tensor for tensor in written.values())]
    if len(links) != 1:
        found = ", ".join(f"{name} = {second.tensors[name].name}" for name in read)
        much = "twice" if links else "nothing of"
        allowed = f"one port with {', '.join(tensor.name for tensor in written.values())}"
        raise UserError(f"{two.name} reads {much} what {one.name} writes", where=where, found=found, allowed=allowed)
    source = next(name for name, tensor in written.items() if tensor is second.tensors[links[0]])
    if source != "out":
        problem = f"{two.name} reads {source} of {one.name}: what fuses is its result"
        raise UserError(problem, where=where, found=f"port {source}", allowed="port out")
    try:
        both = fuse(first.operator, second.operator, links[0])
    except UserError as error:
        raise UserError(f"{one.name} and {two.name} do not fuse: {error}", where=where) from error
    tensors = {name: (first, second)[which].tensors[port] for name, (which, port) in both.ports.items()}
    for tensor in written.values():
        if not any(tensor is kept for kept in tensors.values()):
            _check_unread(tensor, f"{one.name}+{two.name}", later, where)
    ports = {name: tensor.name for name, tensor in tensors.items()}
    spec = evolve(one, name=f"{one.name}+{two.name}", family=both.operator.family, ports=ports, options={})
    return Bound(spec, both.operator, tensors)


def _check_unread(tensor: Shaped, name: str, later: Sequence[Sequence[Bound]], where: str) -> None:
    """Raises UserError where somebody needs a tensor that fused operators do not write."""
    if tensor.spec.role == "output":
        raise UserError(f"{name} does not write {tensor.name}, an output", where=where, allowed="launch, barrier")
    for way in later:
        for other in way:
            roles = {port.role for port in other.operator.ports if other.tensors[port.name] is tensor}
            if "in" in roles:
                problem = f"{name} does not write {tensor.name}, which {other.spec.name} reads"
                raise UserError(problem, where=where, allowed="launch, barrier")
            if roles:
                break  # written anew


def _later(entries: Sequence[Entry], number: int) -> list[list[Bound]]:
    """What may follow an operator: what stands behind it, and in a repeat block also the next iteration."""
    repeat = entries[number][1]
    behind = list(entries[number + 1 :])
    ways = [behind]
    if repeat is not None:
        block = [entry for entry in entries if entry[1] is repeat]
        ways.append([entry for entry in behind if entry[1] is repeat] + block)
    return [[bound for _, _, bound in way] for way in ways]
