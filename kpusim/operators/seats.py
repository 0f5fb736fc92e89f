"""How work is dealt to DMA engines, and the loops and blocks that lowerings are written with."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from kpusim.isa.expr import Const, Expr, Name, ceil_div, ceiling_division, minimum
from kpusim.isa.program import Loop, Node, Range, Section

__all__ = ["DST", "ENGINE", "TILE", "ZERO", "Seat", "loop", "part", "parts"]

ENGINE, TILE = Name("engine"), Name("tile")  # the executing one
DST = Name("dst")  # each tile that a transfer arrives at
ZERO = Const(0)


def loop(counter: str, count: int, *body: Node) -> Loop:
    """counter = 0 .. count."""
    return Loop(counter, ZERO, Const(count), tuple(body))


def part(extent: Expr, block: int, index: Expr) -> Range:
    """The index-th block of `extent`."""
    if isinstance(extent, Const) and extent.value % block == 0:
        return Range(index * block, Const(block))
    return Range(index * block, minimum(block, extent - index * block))


def parts(extent: Expr, block: int) -> Expr:
    """The number of blocks of `extent`."""
    return ceiling_division(extent, block)


@frozen
class Seat:
    """How groups of tiles are dealt to DMA engines: evenly, and where they are few, one to every `stride`-th engine."""

    groups: int
    engines: int
    offset: int
    first: Expr | None = None  # where given: the engine's first group, and `step` to its next
    step: int = 1

    @property
    def share(self) -> int:
        """Groups of one engine."""
        return ceil_div(self.groups, self.engines)

    @property
    def stride(self) -> int:
        """From one engine that has a group to the next."""
        return max(self.engines // self.groups, 1)

    def each(self, build: Callable[[Expr], tuple[Node, ...]]) -> tuple[Node, ...]:
        """Instructions for each group of the executing engine."""
        if self.share == 1:
            return build(Name("g"))
        if self.first is not None:
            return (loop("n", self.share, *build(Name("g") + Name("n") * self.step)),)
        first = ENGINE * self.share
        count: Expr = Const(self.share)
        if self.groups % self.share:
            count = minimum(count, Const(self.groups) - first)
        return (Loop("g", ZERO, count, build(first + Name("g"))),)

    def section(self, queue: int, body: tuple[Node, ...]) -> Section:
        """The section of these engines' queue."""
        if self.first is not None:
            return Section("dma", 0, self.engines, 1, queue, (("g", self.first),), body)
        if self.share > 1:
            return Section("dma", 0, ceil_div(self.groups, self.share), 1, queue, (), body)
        first = min(self.offset, self.stride - 1)
        last = first + self.stride * (self.groups - 1) + 1
        return Section("dma", first, last, self.stride, queue, (("g", ENGINE // self.stride),), body)
