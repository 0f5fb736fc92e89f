"""What has moved between golden numbers and those of now, and what explains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from kpusim.golden.suite import Measured

__all__ = ["Change", "changes"]

COMPARED = ("cycles", "hbm_bytes", "row_hits", "top_stall", "count")
LAUNCHES = "launches and barriers"


@frozen
class Change:
    """One number that is not what it was. operator: of a workload, "" for the whole; None: not there."""

    operator: str
    what: str
    golden: int | str | None
    now: int | str | None
    because: str = ""

    @property
    def percent(self) -> float | None:
        """The change in % of the golden number; None where that has no sense."""
        if isinstance(self.golden, int) and isinstance(self.now, int) and self.golden:
            return 100 * (self.now - self.golden) / self.golden
        return None

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """What, golden, now, change, because: as tables show them."""
        what = f"{self.operator} {self.what}".strip()
        change = "" if self.percent is None else f"{self.percent:+.2f}%"
        return what, _text(self.golden), _text(self.now), change, self.because

    @property
    def short(self) -> str:
        """As the history of a suite has it."""
        what, golden, now, _, _ = self.cells
        return f"{what} {golden} -> {now}"


def _text(value: int | str | None) -> str:
    return f"{value:,}" if isinstance(value, int) else value or "none"


def changes(golden: Measured | None, now: Measured) -> tuple[Change, ...]:
    """What has moved, nothing for equal numbers; for a case without golden numbers, its cycles.

    The accounts of the units explain and are not compared: where only they differ, nothing has moved.
    """
    if golden is None:
        return (Change("", "cycles", None, now.cycles, "new"),)
    found = list(_moved(golden, now, _because(golden, now)))
    before, after = ({each.name: each for each in measured.operators} for measured in (golden, now))
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            found.append(Change(name, "cycles", before[name].cycles, None, "no such operator now"))
        elif name not in before:
            found.append(Change(name, "cycles", None, after[name].cycles, "a new operator"))
        else:
            found += _moved(before[name], after[name], _because(before[name], after[name]))
    return tuple(found)


def _moved(golden: Measured, now: Measured, because: str) -> Iterator[Change]:
    for what in COMPARED:
        one, two = getattr(golden, what), getattr(now, what)
        if one != two:
            yield Change(now.name, what, one, two, because if what == "cycles" else "")


def _because(golden: Measured, now: Measured) -> str:
    if golden.operators and now.operators:
        return _because_operators(golden, now)
    return _because_units(golden, now) if golden.units and now.units else ""


def _because_operators(golden: Measured, now: Measured) -> str:
    """The operator (or launches and barriers) with the largest part in a workload's change of cycles."""
    parts: dict[str, int] = {}
    for sign, measured in ((-1, golden), (1, now)):
        for each in measured.operators:
            parts[each.name] = parts.get(each.name, 0) + sign * each.count * each.cycles
    change = now.cycles - golden.cycles
    parts[LAUNCHES] = change - sum(parts.values())
    name = max(parts, key=lambda name: _along(parts[name], change))
    return f"{name} {parts[name]:+,} (of {change:+,})"


def _because_units(golden: Measured, now: Measured) -> str:
    """What the leading kind of unit did longer (or less long), and then what the units did that it waited for.

    Leading are the matrix engines, else the vector engines, else the DMA queues, as for the top stall: the others wait
    for these most of the time. In cycles a unit; for each kind all of its changes are together the change of cycles.
    """
    change, parts = now.cycles - golden.cycles, list[str]()
    moves = _moves(golden, now)
    kind = next(iter(moves), None)
    while kind is not None:
        accounts = moves.pop(kind)
        name = max(accounts, key=lambda name: _along(accounts[name], change))
        if round(_along(accounts[name], change)) < 1:
            break
        does = name if name in ("busy", "idle") else f"waits for {name}"
        parts.append(f"{kind} {does} {accounts[name]:+,.0f}" + f" (of {change:+,})" * (not parts))
        kind = name if name in moves else None
        if name == "idle":  # somebody else was not
            moves = {other: {key: part for key, part in each.items() if key != "idle"} for other, each in moves.items()}
            kind = max(moves, key=lambda kind: max(_along(each, change) for each in moves[kind].values()), default=None)
    return "; ".join(parts)


def _moves(golden: Measured, now: Measured) -> dict[str, dict[str, float]]:
    """By kind of unit and account the change in cycles a unit."""
    before, after = _per_unit(golden), _per_unit(now)
    return {
        kind: {
            name: after.get(kind, {}).get(name, 0.0) - before.get(kind, {}).get(name, 0.0)
            for name in dict.fromkeys([*after.get(kind, {}), *before.get(kind, {})])
        }
        for kind in dict.fromkeys([*after, *before])
    }


def _per_unit(measured: Measured) -> dict[str, dict[str, float]]:
    return {kind: _each(account, measured.cycles) for kind, account in measured.units.items()}


def _each(account: Mapping[str, int], cycles: int) -> dict[str, float]:
    """Cycles a unit by account, with what it was idle."""
    units = max(account.get("units", 1), 1)
    each = {name: spent / units for name, spent in account.items() if name != "units"}
    return {**each, "idle": cycles - sum(each.values())}


def _along(part: float, change: int) -> float:
    """How far `part` goes in the direction of `change`."""
    return part if change >= 0 else -part
