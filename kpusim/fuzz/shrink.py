"""A failing case made small: without whatever it fails without."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import attrs
from attrs import evolve

from kpusim.fuzz.case import Case
from kpusim.fuzz.checks import examine
from kpusim.operators import make_operator, text_of
from kpusim.simulate.run import CHUNK_BYTES

__all__ = ["smallest"]

TRIES = 100  # cases examined; chosen: half a minute


def smallest(case: Case) -> Case:
    """A case that fails too, from which nothing can be left out, as far as TRIES go."""
    left = TRIES
    while left:
        for smaller in chain(_fewer(case), _smaller(case)):
            left -= 1
            if examine(smaller).verdict == "failed":
                case = smaller
                break
            if not left:
                break
        else:
            break
    return case


def _fewer(case: Case) -> Iterator[Case]:
    """The case with less about machine, mapping and chunks; first without all of it, last on another machine."""
    plain = evolve(case, sets=(), mapping="", chunk_bytes=CHUNK_BYTES)
    for smaller in (
        plain, evolve(case, mapping=""), evolve(case, chunk_bytes=CHUNK_BYTES), evolve(case, sets=()),
        *(evolve(case, sets=(*case.sets[:i], *case.sets[i + 1 :])) for i in range(len(case.sets))),
        evolve(case, machine="kpu-tiny"),
    ):  # fmt: skip
        if smaller != case:
            yield smaller


def _smaller(case: Case) -> Iterator[Case]:
    """The case with one parameter of its operator at its default, or a number of it smaller."""
    operator: Any = make_operator(case.operator)
    for field in attrs.fields(type(operator)):
        value = getattr(operator, field.name)
        options = [] if field.default is attrs.NOTHING else [field.default]
        if type(value) is int:
            options += [small for small in (1, value // 2, value - 1) if 0 < small < value]
        for option in options:
            if option != value:
                yield evolve(case, operator=text_of(evolve(operator, **{field.name: option})))
