"""Where the cycles went between two traces: by operator, by kind of unit, by what the units did."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from kpusim.simulate.shares import KINDS, Share
from kpusim.tomlfile import parse_toml
from kpusim.trace.hotspots import op_shares
from kpusim.trace.reader import Trace
from kpusim.trace.summary import OpRun

__all__ = ["Diff", "Move", "OpDiff", "Side", "diff_traces"]

BUSY, IDLE = "busy", "idle"


@frozen
class Move:
    """What units of a kind did, in cycles a unit: busy, idle, or the cause of a stall.

    part: of the operator's change; over each kind of unit the parts add up to 1. None where the cycles are the same.
    """

    unit: str
    what: str
    a: float
    b: float
    part: float | None

    @property
    def change(self) -> float:
        """From A to B."""
        return self.b - self.a


@frozen
class Side:
    """An operator in one of the traces: cycles and HBM bytes of one execution, and its units by kind."""

    cycles: int
    hbm_bytes: int
    units: Mapping[str, int]


@frozen
class OpDiff:
    """An operator, of which `count` equal executions are in a trace: in both, or only in one (the other is None).

    moves: what its units did differently: matrix engines, then vector engines, then DMA queues (who waits for the
    former most of the time, as it should). Of each kind, what explains most of the change comes first.
    """

    operator: str
    count: int
    a: Side | None
    b: Side | None
    moves: tuple[Move, ...] = ()

    @property
    def change(self) -> int:
        """Cycles of all executions, from A to B."""
        return self.count * ((self.b.cycles if self.b else 0) - (self.a.cycles if self.a else 0))


@frozen(kw_only=True)
class Diff:
    """Two traces. Pairs are (of A, of B).

    gaps: cycles of launches and barriers; with them the operators' cycles add up to the total. settings: (what, key,
    value in A, value in B) where machines, options, workloads or versions differ, None for a key that is not there.
    """

    cycles: tuple[int, int]
    seconds: tuple[float, float]
    gaps: tuple[int, int]
    hbm_bytes: tuple[int, int]
    operators: tuple[OpDiff, ...]
    settings: tuple[tuple[str, str, str | None, str | None], ...]

    @property
    def equal(self) -> bool:
        """Whether every operator took the same cycles and HBM bytes, its units doing the same."""
        return self.gaps[0] == self.gaps[1] and all(
            op.a is not None and op.a == op.b and not op.moves for op in self.operators
        )


def diff_traces(a: Trace, b: Trace) -> Diff:
    """What differs between two traces. Operators are matched by name; of one that runs more often, by turns.

    Raises UserError where a file is damaged.
    """
    return Diff(
        cycles=(a.total_cycles, b.total_cycles),
        seconds=(a.total_cycles / a.meta.clock_hz, b.total_cycles / b.meta.clock_hz),
        gaps=(sum(op.launch_cycles for op in a.ops), sum(op.launch_cycles for op in b.ops)),
        hbm_bytes=(sum(map(_bytes, a.ops)), sum(map(_bytes, b.ops))),
        operators=tuple(_operators(a, b)),
        settings=tuple(_settings(a, b)),
    )


def _bytes(op: OpRun) -> int:
    return op.hbm_read_bytes + op.hbm_write_bytes


def _operators(a: Trace, b: Trace) -> Iterator[OpDiff]:
    """In the order of A, then what is only in B; equal iterations of a repeat block are one."""
    groups: dict[tuple[str, tuple[int | None, ...]], list[tuple[OpRun | None, OpRun | None]]] = {}
    for name, pair in _pairs(a.ops, b.ops):
        blocks = tuple(None if op is None else op.block for op in pair)
        groups.setdefault((re.sub(r"\[\d+\]", "", name), blocks), []).append(pair)
    for (label, _), pairs in groups.items():
        one, other = pairs[0]
        yield _operator(label, len(pairs), (a, one), (b, other))


def _pairs(a: tuple[OpRun, ...], b: tuple[OpRun, ...]) -> Iterator[tuple[str, tuple[OpRun | None, OpRun | None]]]:
    left, right = _by_turn(a), _by_turn(b)
    for turn in left | right:
        yield turn[0], (left.get(turn), right.get(turn))


def _by_turn(ops: tuple[OpRun, ...]) -> dict[tuple[str, int], OpRun]:
    """By name and how often that name was there before."""
    seen: dict[str, int] = {}
    found = {}
    for op in ops:
        found[op.name, seen.setdefault(op.name, 0)] = op
        seen[op.name] += 1
    return found


def _operator(label: str, count: int, a: tuple[Trace, OpRun | None], b: tuple[Trace, OpRun | None]) -> OpDiff:
    (one, before), (other, after) = _side(*a), _side(*b)
    moves = _moves(before, after, other.cycles - one.cycles) if one and other else []
    return OpDiff(label, count, one, other, tuple(moves))


def _side(trace: Trace, op: OpRun | None) -> tuple[Side | None, dict[str, Share]]:
    if op is None:
        return None, {}
    shares = op_shares(trace, op)
    return Side(op.cycles, _bytes(op), {kind: share.units for kind, share in shares.items()}), shares


def _moves(a: dict[str, Share], b: dict[str, Share], change: int) -> list[Move]:
    """All that differ; of a kind of unit, what explains most of `change` first, and what goes against it last."""
    found = []
    for kind in (kind for kind in KINDS if kind in a | b):
        before, after = _spent(a.get(kind)), _spent(b.get(kind))
        pairs = {what: (before.get(what, 0.0), after.get(what, 0.0)) for what in before | after}
        moves = [
            Move(kind, what, one, other, (other - one) / change if change else None)
            for what, (one, other) in pairs.items()
            if one != other
        ]
        found += sorted(moves, key=lambda move: -abs(move.change) if move.part is None else -move.part)
    return found


def _spent(share: Share | None) -> dict[str, float]:
    """Cycles a unit by what it did."""
    if share is None:
        return {}
    return {what: cycles / share.units for what, cycles in {BUSY: share.busy, **share.stalls, IDLE: share.idle}.items()}


def _settings(a: Trace, b: Trace) -> Iterator[tuple[str, str, str | None, str | None]]:
    left, right = dict(_machine(a)), dict(_machine(b))
    yield from _different("machine", left, right)
    options = [{k: v for k, v in trace.meta.options.items() if k not in left | right} for trace in (a, b)]
    yield from _different("option", *options)
    if a.meta.workload_text != b.meta.workload_text:
        yield "workload", "title", a.meta.title, b.meta.title
    if a.meta.version != b.meta.version:
        yield "kpusim", "version", a.meta.version, b.meta.version


def _different(what: str, a: dict[str, str], b: dict[str, str]) -> Iterator[tuple[str, str, str | None, str | None]]:
    for key in a | b:
        if a.get(key) != b.get(key):
            yield what, key, a.get(key), b.get(key)


def _machine(trace: Trace) -> Iterator[tuple[str, str]]:
    """(dotted key, value) of the machine, but for its description."""
    table = parse_toml(trace.meta.machine_text, f"the machine in {trace.path}").table
    return _flat({key: value for key, value in table.items() if key != "description"})


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", str(value).lower() if isinstance(value, bool) else str(value)
