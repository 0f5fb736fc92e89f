"""What a word of operators, machine files, programs and reports means, from what defines it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, reduce
from typing import Any

from attrs import evolve, frozen

from kpusim.engines.stalls import MEANINGS
from kpusim.errors import UserError, did_you_mean
from kpusim.isa.reference import TITLES, operand_cells, syntax
from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS, Row, instruction_rows
from kpusim.machine import Machine, load_machine, machine_file, machine_toml
from kpusim.machine.keys import MachineKey, entries_of, machine_keys, machine_tables
from kpusim.operators import FAMILIES
from kpusim.operators.describe import describe
from kpusim.operators.fusion import RULES
from kpusim.plan.spec import BOUNDARIES
from kpusim.recipes.table import RECIPES
from kpusim.report.catalogue import port_text, run_line

__all__ = ["ACCOUNTS", "Entry", "entries", "explain", "recipe_entries"]

ACCOUNTS = {
    "busy": "is occupied: the array, the lanes, or the DMA engine by this queue",
    "idle": "has not begun its first instruction, or has ended its last",
}
"""What a unit does in cycles that are no stalls, to be read after "the unit"."""


UNITS = {"bytes_per_cycle": "B/cycle", "rows_per_cycle": "row/cycle", "_cycles": "cycles", "_bytes": "B", "_hz": "Hz"}
"""What a Machine counts an attribute in, by the end of its name."""


@frozen
class Entry:
    """One meaning of a word. facts: (what, value) rows. aliases: other words that ask for it."""

    name: str
    kind: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()
    key: MachineKey | None = None
    """Where a machine has its value."""


def explain(word: str, machine: str | None = None) -> list[Entry]:
    """Everything that `word` names, with values on a machine, by its name or file, where one is given.

    Raises UserError for a word that names nothing, and as `load_machine`.
    """
    asked = word.strip().lower()
    found = [entry for entry in entries() if asked in (entry.name.lower(), *entry.aliases)]
    if not found:
        known = [name for entry in entries() for name in (entry.name, *entry.aliases)]
        hint = did_you_mean(word, known) or "`kpusim explain` alone lists what can be asked"
        raise UserError("nothing is called so", found=word, hint=hint)
    return found if machine is None else _valued(found, machine)


@cache
def entries() -> tuple[Entry, ...]:
    """Everything that can be asked, kind by kind."""
    return (
        *_operators(), *_boundaries(), *_stalls(), *_instructions(), *_classes(), *_dtypes(), *_tables(), *_keys(),
        *recipe_entries(),
    )  # fmt: skip


def _operators() -> Iterator[Entry]:
    for family in map(describe, FAMILIES):
        parameters = [
            (f"parameter {each.name}", f"{each.allowed}; {f'default {each.default}' if each.default else 'needed'}")
            for each in family.parameters
        ]
        ports = [(f"tensor {port.name}", f"{port.role} {port_text(port)}") for port in family.ports]
        examples = [
            (f"example {number}", f"{each.shows}: {run_line(each.text)}")
            for number, each in enumerate(family.examples, start=1)
        ]
        text = "\n\n".join([family.summary, *family.text])
        fused = [("fuses", ", ".join(family.fusions))] if family.fusions else []
        yield Entry(family.family, "operator", text, (*parameters, *ports, *fused, *examples))


def _boundaries() -> Iterator[Entry]:
    rules = [("fuses", ", ".join(f"{one} + {two}" for one, two in RULES))]
    for name, meaning in BOUNDARIES.items():
        keys = [(key.name, key.about) for key in machine_keys().values() if f"`{key.name}`" in meaning]
        facts = (("written as", f'boundary = "{name}"'), *keys, *(rules if name == "fused" else []))
        yield Entry(name, "boundary between operators of a workload file", meaning, facts)


def _stalls() -> Iterator[Entry]:
    for cause, meaning in MEANINGS.items():
        yield Entry(cause, "stall cause", f"The unit waits for {meaning}.")
    for name, meaning in ACCOUNTS.items():
        yield Entry(name, "account of a unit", f"The unit {meaning}.")


def _instructions() -> Iterator[Entry]:
    for row in instruction_rows().values():
        operands = ((f"operand {operand.name}", "; ".join(operand_cells(operand))) for operand in row.operands)
        same = [("same dtype", "; ".join(" and ".join(group) for group in row.same))] if row.same else []
        facts = (
            ("syntax", syntax(row)), *operands, *same, ("does", row.semantics), ("takes", row.timing),
            ("class of timing", row.timing_class), ("opcode", str(row.opcode)),
        )  # fmt: skip
        yield Entry(row.name, f"instruction ({TITLES[row.family]})", row.summary, facts)


def _classes() -> Iterator[Entry]:
    by_class: dict[str, list[Row]] = {}
    for row in instruction_rows().values():
        by_class.setdefault(row.timing_class, []).append(row)
    for name, rows in by_class.items():
        facts = [("instructions", ", ".join(row.name for row in rows))]
        timings = dict.fromkeys(row.timing for row in rows)
        for timing in timings if len(rows) > 1 else ():
            names = ", ".join(row.name for row in rows if row.timing == timing)
            facts.append(("takes" if len(timings) == 1 else f"{names} takes", timing))
        key = _entry("vector.lane_cycles", name)
        facts += [("machine key", key.name)] if key else []
        yield Entry(name, "class of timing", "Instructions that take their time alike.", tuple(facts), key=key)


def _dtypes() -> Iterator[Entry]:
    for name, bits in DTYPE_BITS.items():
        groups = ", ".join(group for group, members in DTYPE_GROUPS.items() if name in members)
        key = _entry("matrix.macs_per_cell", name)
        facts = [("groups", groups), *([("machine key", key.name)] if key else [])]
        yield Entry(name, "dtype", f"{bits} bits an element.", tuple(facts), key=key)


def _tables() -> Iterator[Entry]:
    for name, about in machine_tables().items():
        below = (key for key in machine_keys().values() if key.name.startswith(f"{name}."))
        yield Entry(name, "machine table", about, tuple((key.name, key.about) for key in below))


def _keys() -> Iterator[Entry]:
    for key in machine_keys().values():
        last = key.name.rpartition(".")[2]
        words = (last, *(choice for choice in key.choices if choice not in ("true", "false")))
        yield Entry(key.name, "machine key", key.about, (("takes", key.takes),), words, key)
        for name in entries_of(key):
            yield Entry(name, "machine key", key.about, key=_entry(key.name, name.rpartition(".")[2]))


def recipe_entries() -> Iterator[Entry]:
    """The recipes that measured rows run by."""
    for recipe in RECIPES:
        facts = (("because", recipe.reason), ("source", recipe.source))
        yield Entry(recipe.name, f"recipe for measured rows of {recipe.family}", recipe.about, facts)


def _entry(name: str, entry: str) -> MachineKey | None:
    """The key of one entry of a value that is a table; None where there is no such entry."""
    key = machine_keys()[name]
    if f"{name}.{entry}" not in entries_of(key):
        return None
    return evolve(key, name=f"{name}.{entry}", attributes=(*key.attributes, entry))


def _valued(found: list[Entry], name: str) -> list[Entry]:
    """The entries with their values on the machine of that name or file."""
    machine, written = load_machine(name), machine_file(name).table

    def facts(entry: Entry) -> Iterator[tuple[str, str]]:
        for what, text in entry.facts:
            key = machine_keys().get(what)
            yield what, f"{_value(key, machine, written)}: {text}" if key else text
        if entry.key:
            yield f"on {machine.name}", _value(entry.key, machine, written)

    return [evolve(entry, facts=tuple(facts(entry))) for entry in found]


def _value(key: MachineKey, machine: Machine, written: Mapping[str, Any]) -> str:
    """As its file has it, and in cycles or bytes where that differs; the default where its file does not have it."""
    shown = _looked_up(written, key.name)
    if shown is None:
        default = tomllib.loads(machine_toml(machine))
        return "not there" if _looked_up(default, key.name) is None else f"{_value(key, machine, default)} (default)"
    if isinstance(shown, Mapping):
        return ", ".join(f"{entry} {number}" for entry, number in shown.items())
    unit = next((unit for suffix, unit in UNITS.items() if key.attributes[-1].endswith(suffix)), "")
    if not unit or f"{shown}s".endswith((f" {unit}", f" {unit}s")):
        return str(shown).lower() if isinstance(shown, bool) else str(shown)
    inside: Any = reduce(getattr, key.attributes, machine)
    return f"{shown} = {int(inside) if inside.denominator == 1 else float(inside):,} {unit}"


def _looked_up(table: Mapping[str, Any], name: str) -> Any:
    """What stands at a dotted name, or None."""
    value: Any = table
    for part in name.split("."):
        value = None if value is None else value.get(part)
    return value
