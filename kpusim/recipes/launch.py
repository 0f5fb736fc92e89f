"""Recipes of launches: kernels that do nothing."""

from __future__ import annotations

from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row

__all__ = ["RECIPES"]

KINDS = "graph", "eager"


def _kind(kind: str, row: Row) -> bool:
    return row.word("kind", KINDS) == kind


def _empty(row: Row, *, eager: bool) -> tuple[Kernel, ...]:
    if "n" in row.params:
        row.size("n")  # one of so many tells all
    return (Kernel(None, eager=eager),)


RECIPES = (
    Recipe(
        "launch-graph", "launch", "one of n empty kernels in a graph",
        "the device starts each kernel of a graph when the one before has ended",
        "CUDA graphs, CUDA C++ Programming Guide",
        lambda row: _kind("graph", row), lambda row, machine: _empty(row, eager=False),
    ),
    Recipe(
        "launch-eager", "launch", "one of n empty kernels that the host launches one by one",
        "the host's call takes longer than the kernel, so that its time is what counts",
        "tests/data/h200_public.csv: row eager",
        lambda row: _kind("eager", row), lambda row, machine: _empty(row, eager=True),
    ),
)  # fmt: skip
