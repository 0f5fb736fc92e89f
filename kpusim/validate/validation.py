"""A file of measurements held against a machine: what each row was predicted to take, and the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from attrs import asdict, frozen

from kpusim.engines.stalls import CAUSES
from kpusim.errors import UserError
from kpusim.machine import Machine
from kpusim.recipes.kernel import Kernel
from kpusim.recipes.row import Row
from kpusim.recipes.table import FAMILIES
from kpusim.validate.predict import Launches, Prediction, distinct_runs, launches_of, predictions
from kpusim.validate.score import Score, error_percent, score
from kpusim.validate.truth import Measured

__all__ = ["DECODER_FAMILY", "Held", "Question", "Validation", "kernel_name"]

DECODER_FAMILY = "model"  # whole decoders: not among `all`
WORST = 10
NAMED = 3  # of what a kernel's cycles went to, in words


def kernel_name(kernel: Kernel) -> str:
    """The family of its operator, or "launch"."""
    return kernel.operator.family if kernel.operator else "launch"


@frozen
class Held:
    """A row and its prediction. us: microseconds predicted, with the row's own overhead."""

    measured: Measured
    prediction: Prediction

    @property
    def us(self) -> float:
        """Microseconds predicted, with what the row says the prediction does not know."""
        return self.prediction.us + self.measured.overhead_us

    @property
    def error_percent(self) -> float | None:
        """How much too long; None where nothing was measured."""
        return None if self.measured.us is None else error_percent(self.measured.us, self.us)

    def json(self) -> dict[str, Any]:
        """As of `kpusim validate --json`."""
        row, error = self.measured.row, self.error_percent
        return {
            "line": self.measured.line, "family": row.family, "params": dict(row.params), "dtype": row.dtype,
            "recipe": self.prediction.recipe, "us": self.measured.us, "predicted_us": round(self.us, 4),
            "error_percent": None if error is None else round(error, 3), "launches": self.prediction.launches,
        }  # fmt: skip

    def shares(self) -> Mapping[str, float]:
        """What the cycles of its longest kernel went to, the most first."""
        return dict(sorted(self.prediction.breakdown.items(), key=lambda item: -item[1]))

    def spent(self) -> str:
        """The longest kernel and the first of its `shares` in words: "gemm: matrix busy 80%, dma for vector 30%"."""
        words = []
        for what, share in list(self.shares().items())[:NAMED]:
            unit, _, did = what.partition(" ")
            words.append(f"{unit} {'for ' * (did in CAUSES)}{did} {share:.0%}")
        return ": ".join([kernel_name(self.prediction.longest), *([", ".join(words)] if words else [])])


@frozen(slots=False)
class Validation:
    """Rows held against a machine. refused: those that it cannot run, by line, and why. notes: what was ignored."""

    machine: str
    rows: tuple[Held, ...]
    refused: Mapping[int, UserError]
    notes: tuple[str, ...] = ()

    @cached_property
    def scored(self) -> tuple[Held, ...]:
        """The rows that were measured."""
        return tuple(each for each in self.rows if each.measured.us is not None)

    @property
    def all(self) -> Score:
        """The score of all operators: every family but the decoders."""
        return _score(each for each in self.scored if each.measured.row.family != DECODER_FAMILY)

    @property
    def families(self) -> dict[str, Score]:
        """The score of each family that is there."""
        by_family: dict[str, list[Held]] = {}
        for each in self.scored:
            by_family.setdefault(each.measured.row.family, []).append(each)
        return {family: _score(by_family[family]) for family in FAMILIES if family in by_family}

    @property
    def worst(self) -> list[Held]:
        """The rows that are furthest off, those first."""
        return sorted(self.scored, key=lambda each: -abs(each.error_percent or 0))[:WORST]

    def json(self) -> dict[str, Any]:
        """As of `kpusim validate --json`."""
        return {
            "machine": self.machine,
            "all": _rounded(self.all),
            "families": {family: _rounded(each) for family, each in self.families.items()},
            "worst": [
                {
                    **each.json(),
                    "longest_kernel": kernel_name(each.prediction.longest),
                    "breakdown": {name: round(share, 4) for name, share in each.shares().items()},
                }
                for each in self.worst
            ],
            "rows": [each.json() for each in self.rows],
            "refused": [{"line": line, "error": str(error)} for line, error in self.refused.items()],
        }


@frozen
class Question:
    """Rows to be predicted on a machine, and what each runs as there, or why it does not."""

    machine: Machine
    rows: tuple[Measured, ...]
    launches: tuple[Launches | UserError, ...]

    @classmethod
    def of(cls, rows: Sequence[Measured], machine: Machine) -> Question:
        """What the recipes say of rows."""
        return cls(machine, tuple(rows), tuple(_launches(each.row, machine) for each in rows))

    @property
    def known(self) -> list[Launches]:
        """Of the rows that recipes apply to."""
        return [each for each in self.launches if isinstance(each, Launches)]

    @property
    def kernels(self) -> list[Kernel]:
        """What must be simulated."""
        return distinct_runs(kernel for each in self.known for kernel in each.kernels)

    def answer(self, jobs: int, begins: Callable[[Kernel], object] = lambda kernel: None) -> Validation:
        """Simulates, in so many processes; `begins` is called with each of the `kernels` when its turn comes."""
        held, refused = list[Held](), dict[int, UserError]()
        found = iter(predictions(self.known, self.machine, jobs, begins))
        for measured, launches in zip(self.rows, self.launches, strict=True):
            each = launches if isinstance(launches, UserError) else next(found)
            if isinstance(each, UserError):
                refused[measured.line] = measured.row.refused(each)
            else:
                held.append(Held(measured, each))
        notes = tuple(note for each in held for note in each.measured.row.notes)
        return Validation(self.machine.name, tuple(held), refused, notes)


def _launches(row: Row, machine: Machine) -> Launches | UserError:
    try:
        return launches_of(row, machine)
    except UserError as error:
        return error


def _score(held: Iterable[Held]) -> Score:
    pairs = [(each.measured.us, each.us) for each in held if each.measured.us is not None]
    return score([one for one, _ in pairs], [other for _, other in pairs])


def _rounded(found: Score) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(found).items()}
