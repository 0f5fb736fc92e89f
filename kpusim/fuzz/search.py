"""Case after case, all from one seed, and what came of them by family."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, takewhile
from time import monotonic
from typing import Any

from attrs import asdict, define, evolve, field, frozen

from kpusim.fuzz.case import Case, draw_case
from kpusim.fuzz.checks import Outcome, examine
from kpusim.fuzz.machines import PRESETS
from kpusim.fuzz.shrink import smallest
from kpusim.operators import FAMILIES

__all__ = ["Result", "Summary", "drawn", "numbers"]

VERDICTS = ("passed", "refused", "failed")


@frozen
class Result:
    """A case and what came of it. known: it failed as another did before."""

    case: Case
    outcome: Outcome
    known: bool = False

    @property
    def family(self) -> str:
        """Of its operator."""
        return self.case.operator.partition("(")[0]

    @property
    def reason(self) -> str:
        """Why it was refused: the message without its place, what was found and what is allowed; numbers as N."""
        why = self.outcome.why.removeprefix(f"--op: impossible {self.family}: ").removeprefix(f"{self.case.machine}: ")
        return re.sub(r"\d[\d,]*", "N", why.partition("; ")[0])

    @property
    def is_news(self) -> bool:
        """It failed, as none did before."""
        return self.outcome.verdict == "failed" and not self.known

    @property
    def kind(self) -> tuple[str, str]:
        """What failures of one cause have in common, as a rule: the family, and why up to its first number."""
        return self.family, re.split(r"\d", self.outcome.why)[0]


def numbers(seconds: float) -> Iterator[int]:
    """0, 1, 2 ... until so many seconds are over."""
    end = monotonic() + seconds
    return takewhile(lambda _: monotonic() < end, count())


def drawn(
    seed: int, which: Iterable[int], families: Sequence[str] = (), machines: Sequence[str] = (),
    sets: Sequence[str] = (),
) -> Iterator[Case]:  # fmt: skip
    """The cases of these numbers: the same for the same seed, families (none: all), machines and changes of these."""
    names = families or [*FAMILIES]
    return (draw_case(f"{seed}/{number}", names, machines or PRESETS, sets) for number in which)


@define
class Summary:
    """What came of the cases so far: by family how many of each verdict; the first failure of each kind, and how often
    it was found. refusals: by family how often each reason was told."""

    families: dict[str, dict[str, int]] = field(factory=dict)
    failures: dict[tuple[str, str], Result] = field(factory=dict)
    found: dict[tuple[str, str], int] = field(factory=dict)
    refusals: dict[str, Counter[str]] = field(factory=dict)

    def examine(self, case: Case, *, shrink: bool = True) -> Result:
        """Runs a case and counts it. shrink: the first failure of a kind is told of the smallest case that fails."""
        result = Result(case, examine(case))
        counts = self.families.setdefault(result.family, dict.fromkeys(VERDICTS, 0))
        counts[result.outcome.verdict] += 1
        if result.outcome.verdict == "refused":
            self.refusals.setdefault(result.family, Counter())[result.reason] += 1
        if result.outcome.verdict != "failed":
            return result
        kind = result.kind
        self.found[kind] = self.found.get(kind, 0) + 1
        if kind in self.failures:
            return evolve(result, known=True)
        if shrink:
            small = smallest(case)
            result = Result(small, examine(small))
        self.failures[kind] = result
        return result

    @property
    def totals(self) -> dict[str, int]:
        """Over all families."""
        return {verdict: sum(counts[verdict] for counts in self.families.values()) for verdict in VERDICTS}

    def json(self) -> dict[str, Any]:
        """For JSON: passed, refused and failed, the same by family, why refused, the first failure of each kind."""
        families = {name: self.families[name] for name in sorted(self.families)}
        failures = [
            {"line": each.case.line, "why": each.outcome.why, "found": self.found[kind], **asdict(each.case)}
            for kind, each in self.failures.items()
        ]
        refusals = {name: dict(self.refusals[name].most_common()) for name in sorted(self.refusals)}
        return {**self.totals, "families": families, "refusals": refusals, "failures": failures}
