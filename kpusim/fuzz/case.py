"""One case: an operator, a machine and a mapping; drawn at random, and as the line that runs it again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from random import Random
from typing import Any

from attrs import asdict, evolve, frozen

from kpusim.errors import UserError
from kpusim.fuzz.machines import PRESETS, draw_machine
from kpusim.machine import Machine, load_machine
from kpusim.operators import FAMILIES, Operator, make_operator, mapping_text, text_of
from kpusim.operators.describe import describe
from kpusim.simulate.run import CHUNK_BYTES

__all__ = ["Case", "draw_case"]

TRIES = 20  # of machines for a case, chosen: more than it ever takes; the last is taken even if it is impossible
CHUNKS = (64, 1024, *[CHUNK_BYTES] * 4)  # bytes; chosen: small ones make many events
FORCED_SHARE = 0.5  # chosen: of cases whose family has mappings, those with another one than is chosen by itself
STEPS = 4  # from the chosen mapping to a drawn one, at most; chosen: more than one parameter differs

_BARE = re.compile(r"[\w.=,:/+-]+")


@frozen
class Case:
    """What to run, as text. mapping: as `mapping_text` writes it; "": the one that the lowering chooses."""

    operator: str
    machine: str
    sets: tuple[str, ...] = ()
    mapping: str = ""
    chunk_bytes: int = CHUNK_BYTES

    @property
    def line(self) -> str:
        """The command that runs it."""
        words = ["--op", self.operator, "-m", self.machine]
        for change in self.sets:
            words += ["--set", change]
        if self.mapping:
            words += ["--map", self.mapping]
        if self.chunk_bytes != CHUNK_BYTES:
            words += ["--chunk", f"{self.chunk_bytes}B"]
        return " ".join(["kpusim fuzz", *map(_quoted, words)])


def _quoted(word: str) -> str:
    """As a shell reads it back."""
    return word if _BARE.fullmatch(word) else '"' + re.sub(r'(["\\$`])', r"\\\1", word) + '"'


def draw_case(seed: str, families: Sequence[str], machines: Sequence[str] = PRESETS, sets: Sequence[str] = ()) -> Case:
    """The case of that seed, with `sets` behind the changes drawn. What it draws may be refused by checks."""
    random = Random(seed)
    operator = FAMILIES[random.choice(families)].draw(random)
    for _ in range(TRIES):
        name, changes = draw_machine(random, machines)
        try:
            machine = load_machine(name, [*changes, *sets])
        except UserError:
            continue
        case = Case(text_of(operator), name, (*changes, *sets), chunk_bytes=random.choice(CHUNKS))
        return evolve(case, mapping=_draw_mapping(random, case.operator, machine))
    return Case(text_of(operator), name, (*changes, *sets))


def _draw_mapping(random: Random, text: str, machine: Machine) -> str:
    """A mapping that the operator can be lowered with; "" where it has none, or for the one that it chooses itself."""
    if random.random() > FORCED_SHARE:
        return ""
    try:
        operator = make_operator(text)
        mapping: Any = operator.lower(machine).mapping
    except Exception:  # refused, or wrong: the case shows it without a mapping
        return ""
    chosen = mapping
    for _ in range(0 if mapping is None else random.randint(1, STEPS)):
        name, value = random.choice([*asdict(mapping).items()])
        changed = evolve(mapping, **{name: random.choice(_others(operator, name, value))})
        mapping = mapping if _refuses(operator, machine, changed) else changed
    return "" if mapping == chosen else mapping_text(mapping)


def _others(operator: Operator, name: str, value: object) -> list[object]:
    """What may stand in a mapping instead of a value: a number near it, a tensor, or what the operator's own takes."""
    if isinstance(value, int):
        return [value - 1, value + 1, value // 2, 2 * value]  # not 1 at once: a case is to be quick
    own = (each.allowed.split(", ") for each in describe(operator.family).parameters if each.name == name)
    return ["", *(port.name for port in operator.ports), *chain.from_iterable(own)]


def _refuses(operator: Operator, machine: Machine, mapping: Any) -> bool:
    """Whether the operator cannot be lowered so. A crash is no refusal: the case is to show it."""
    try:
        operator.lower(machine, mapping=mapping)
    except UserError:
        return True
    except Exception:
        return False
    return False
