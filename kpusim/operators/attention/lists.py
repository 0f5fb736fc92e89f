"""Which rows of keys and values are gathered: page tables, kept positions and chosen blocks, drawn with a seed."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from kpusim.isa.expr import ceil_div
from kpusim.operators.attention.problem import Problem, ports
from kpusim.operators.lists import check_list, drawn_once

__all__ = ["check_gathered", "gathered"]

Rows = npt.NDArray[np.int64]


def check_gathered(problem: Problem) -> None:
    """Raises UserError for a list that is too long, or rows that an int32 cannot number (`check_list`)."""
    for port in ports(problem):
        if port.name == problem.list_name:
            rows = problem.pages or (problem.keys if problem.kept else problem.keys // problem.block)
            check_list(prod(port.shape), rows)


def gathered(problem: Problem) -> Rows:
    """The values of the tensor that lists rows, in its shape.

    Pages lie anywhere in the pool, each used once. Positions are ascending, without duplicates. Blocks are ascending,
    the last that a query block sees always among them; only the first `Problem.chosen_counts` of them are read.
    """
    generator = np.random.default_rng(problem.seed)
    if problem.page:
        shape = problem.batch, ceil_div(problem.keys, problem.page)
        return drawn_once(generator, problem.pages, shape[0] * shape[1]).reshape(shape)
    if problem.kept:
        draws = [generator.choice(problem.keys, problem.kept, replace=False) for _ in range(problem.entries)]
        return np.sort(np.array(draws, np.int64), axis=1)
    seen = np.maximum(-(-problem.highest // problem.block), 1)
    rows = ceil_div(problem.queries, problem.block)
    last = [int(seen[min((row + 1) * problem.block, problem.queries) - 1]) for row in range(rows)]
    draws = [_chosen(problem.blocks, each, generator) for _ in range(problem.entries) for each in last]
    return np.array(draws, np.int64).reshape(problem.entries, rows, problem.blocks)


def _chosen(count: int, seen: int, generator: np.random.Generator) -> Rows:
    """`count` of the first `seen` key blocks, the last of them included (and repeated behind fewer)."""
    others = drawn_once(generator, seen - 1, count - 1)
    return np.append(np.sort(others), np.full(count - len(others), seen - 1))
