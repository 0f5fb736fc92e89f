"""Kernels: what one launch of a library's kernel is here, an operator with the mapping that it is lowered with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from attrs import evolve, field, frozen

from kpusim.machine import Machine
from kpusim.machine.share import shared_among, slice_of
from kpusim.operators import Operator
from kpusim.recipes.row import Row

__all__ = ["Kernel", "Recipe", "Sample", "sampled"]


@frozen
class Sample:
    """How shorter runs tell a kernel's cycles: those of its operator and, `rounds` times, what `longer` takes more.

    alike: and all that so many times, where what is simulated is one of equal parts that follow each other. Without
    arguments all of it is simulated.
    """

    longer: Operator | None = None
    rounds: Fraction = Fraction(0)
    alike: Fraction = Fraction(1)


@frozen
class Kernel:
    """A launch of an operator, lowered as `mapping` says, or of nothing (None).

    times: of its launches, each behind the kernel that stands before it in a row's list, as in the layers of a decoder.
    synchronous: its matrix instructions are of the older kind (`Machine.synchronous`). fused: it keeps operands of
    vector instructions in registers (`Machine.fused`). resident: thread blocks that run beside each other on a tile,
    each with an equal share of it. slices: of the machine, on one of which its share of the operator is simulated.
    eager: the host launches it by itself, outside a graph. sample: how its runs tell what is too long to be simulated.
    """

    operator: Operator | None
    mapping: Any = None
    synchronous: bool = False
    fused: bool = False
    resident: int = 1
    slices: int = 1
    times: int = 1
    eager: bool = False
    sample: Sample = Sample()

    @property
    def runs(self) -> tuple[Kernel, ...]:
        """What is simulated of it: kernels of one run each, launched once; none for one that does nothing."""
        once = evolve(self, times=1, eager=False, sample=Sample())
        operators = (self.operator, self.sample.longer)
        return tuple(evolve(once, operator=operator) for operator in operators if operator is not None)

    def cycles(self, runs: Sequence[Fraction | int]) -> Fraction:
        """Of one launch, given the cycles of its `runs`."""
        first, last = (runs[0], runs[-1]) if runs else (0, 0)
        return self.sample.alike * (first + self.sample.rounds * (last - first))

    def seen(self, machine: Machine) -> Machine:
        """A machine as this kernel sees it."""
        machine = machine.synchronous if self.synchronous else machine
        machine = machine.fused if self.fused else machine
        machine = slice_of(machine, self.slices) if self.slices > 1 else machine
        return shared_among(machine, self.resident) if self.resident > 1 else machine


@frozen
class Recipe:
    """How rows of a family ran that `applies` to: `kernels` of a row. reason: why so; source: where that is from.

    Both functions raise UserError for parameters that are missing or impossible.
    """

    name: str
    family: str
    about: str
    reason: str
    source: str
    applies: Callable[[Row], bool] = field(repr=False)
    kernels: Callable[[Row, Machine], Sequence[Kernel]] = field(repr=False)


def sampled(
    make: Callable[[int], Operator], rounds: int, most: int, *, alike: Fraction = Fraction(1), **options: Any
) -> Kernel:
    """The kernel of `make(rounds)`; where that is more than `most`, as `make(most // 2)` and `make(most)` tell it.

    make: the operator of so many equal rounds, each as long as the next but for the first few. alike: as of `Sample`.
    options: of `Kernel`.
    """
    if rounds <= most:
        return Kernel(make(rounds), sample=Sample(alike=alike), **options)
    short = most // 2
    sample = Sample(make(most), Fraction(rounds - short, most - short), alike)
    return Kernel(make(short), sample=sample, **options)
