"""Totals of rows that several tiles share: each tile sends what it has found to all, and each joins the same."""

from __future__ import annotations

from attrs import frozen

from kpusim.isa.expr import Const, Expr, Name
from kpusim.isa.program import Instruction, Node, Range, Semaphore, SemaphoreRef, Signal, TileSet, View
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.operators.rowwise.place import Place
from kpusim.operators.rowwise.work import Sweep, Work, all_of
from kpusim.operators.seats import DST, TILE, ZERO, loop

__all__ = ["Exchange"]


@frozen
class Exchange:
    """The tiles that share rows are neighbours; the so many-th of them sends to the so many-th place of each.

    A total is sent when its sweep is over, and when all have joined what was sent before.
    """

    work: Work
    map: Mapping

    @property
    def totals(self) -> list[str]:
        """All that are exchanged."""
        if not self.map.exchanges(self.work):
            return []
        return [total for sweep in self.work.sweeps for total in self.work.totals(sweep)]

    def semaphores(self) -> tuple[Semaphore, ...]:
        """For each total: it is found, it is sent, it has come from each tile, all have joined it."""
        tiles, shares = self.map.tiles, self.map.column_tiles
        return tuple(
            semaphore
            for total in self.totals
            for semaphore in (
                Semaphore(f"{total}_found", tiles, 1),
                Semaphore(f"{total}_sent", tiles, 1),
                Semaphore(f"{all_of(total)}_full", tiles, shares),
                Semaphore(f"{all_of(total)}_free", tiles, 1, 1, shares),
            )
        )

    def copy(self, total: str, place: Place) -> Instruction:
        """A tile's total to all tiles that share its rows."""
        tile, shares = place.tile, self.map.column_tiles
        number, group = tile % shares, TileSet(tile // shares * shares, Const(shares))
        own = place.view(total, ZERO, TileSet(tile))
        rows = own.ranges[0] if own.ranges else Range()
        target = View(all_of(total), ZERO, (rows, Range(number, Const(1))), group)
        waits = SemaphoreRef(f"{total}_found", tile, ZERO), SemaphoreRef(f"{all_of(total)}_free", tile, ZERO)
        come = Signal(SemaphoreRef(f"{all_of(total)}_full", DST, number))
        signals = come, Signal(SemaphoreRef(f"{total}_sent", tile, ZERO), "read")
        return Instruction("copy", (target, own), (), waits, signals)

    def joined(self, sweep: Sweep, place: Place) -> tuple[Node, ...]:
        """What the vector engine does at the end of a sweep: it gives its totals, and joins those of all."""
        totals = self.work.totals(sweep) if self.map.exchanges(self.work) else {}
        found = tuple(_sync(signals=(SemaphoreRef(f"{total}_found", TILE, ZERO),)) for total in totals)
        return *found, *(node for total, op in totals.items() for node in self._join(total, op, place))

    def _join(self, total: str, op: str, place: Place) -> tuple[Node, ...]:
        shares, each = self.map.column_tiles, Name("m")
        own = place.view(total)
        rows = own.ranges[0] if own.ranges else Range()
        first: Expr = TILE // shares * shares
        return (
            loop("m", shares, _sync(waits=(SemaphoreRef(f"{all_of(total)}_full", TILE, each),))),
            _sync(waits=(SemaphoreRef(f"{total}_sent", TILE, ZERO),)),
            Instruction(op, (own, View(all_of(total), ZERO, (rows, Range())))),
            loop("m", shares, _sync(signals=(SemaphoreRef(f"{all_of(total)}_free", first + each, ZERO),))),
        )


def _sync(waits: tuple[SemaphoreRef, ...] = (), signals: tuple[SemaphoreRef, ...] = ()) -> Instruction:
    return Instruction("sync", waits=waits, signals=tuple(Signal(ref) for ref in signals))
