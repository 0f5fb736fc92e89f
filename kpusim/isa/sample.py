"""A sample of what a program executes: the first and last counters of every loop, at every place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from kpusim.isa.program import Loop, Node
from kpusim.isa.walk import SectionCode, Step

__all__ = ["sampled_steps"]

SAMPLES = 1024  # executions of a loop body, over all places of a section
ENDS = 8  # counters at each end of a loop, at most: more than buffers have slots
STEPS = 1 << 18  # at most, of a section: only a program made to waste time has more


def sampled_steps(code: SectionCode) -> Iterator[tuple[int, Step]]:
    """(place, step) of a sample of what a section executes. Raises UserError where a bound looks beyond a table."""
    places = code.section.places
    share = (SAMPLES / len(places)) ** (1 / max(_depth(code.section.body), 1))
    each = min(max(int(share) // 2, 1), ENDS)

    def thin(counters: range) -> Iterable[int]:
        return chain(counters[:each], counters[-each:]) if counters[2 * each :] else counters

    for place in places:
        for step in islice(code.steps(place, thin), STEPS // len(places) + 1):
            yield place, step


def _depth(body: tuple[Node, ...]) -> int:
    return max((1 + _depth(node.body) for node in body if isinstance(node, Loop)), default=0)
