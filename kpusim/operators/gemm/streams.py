"""How A and B come to the tiles: streamed by multicast, or kept on chip and passed on, or dequantised on the way."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from kpusim.isa.expr import Const, Expr, Name, minimum
from kpusim.isa.program import Box, Instruction, Loop, Node, Range, Section, SemaphoreRef, Signal, TileSet, View
from kpusim.machine import Machine
from kpusim.operators.gemm.grid import Grid
from kpusim.operators.gemm.mapping import READY_SLOTS
from kpusim.operators.seats import DST, ENGINE, TILE, ZERO, Seat, loop

__all__ = ["A_QUEUE", "B_QUEUE", "PASS_QUEUE", "STORE_QUEUE", "Stream", "dequantize", "seat_of_columns"]

A_QUEUE, B_QUEUE, STORE_QUEUE, PASS_QUEUE = range(4)


def seat_of_columns(grid: Grid, machine: Machine) -> Seat:
    """Engines for the grid columns. A column's tiles stand in several tile rows: an engine of one of them loads."""
    columns, copies, groups = machine.tiles.columns, grid.map.grid_m, grid.map.grid_n * grid.planes
    rows, rest = divmod(grid.map.grid_n, columns)
    half = columns // 2
    near = machine.dma.placement == "row-ends" and rows > 1 and rest == 0 and copies > 1 and grid.planes == 1
    if not near or not half or half % copies or rows * copies != machine.tiles.rows:
        return Seat(groups, machine.dma_engines, 1)
    row, side = ENGINE // 2, ENGINE % 2
    return Seat(groups, machine.dma_engines, 1, row % rows * columns + side * half + row // rows, copies)


@frozen
class Stream:
    """One operand, "a" or "b", on its way from HBM to the tiles."""

    grid: Grid
    name: str
    seat: Seat

    @property
    def axis(self) -> str:
        """The axis of the output that its blocks lie along."""
        return "m" if self.name == "a" else "n"

    @property
    def copies(self) -> int:
        """Tiles that get each block."""
        return self.grid.map.grid_n if self.name == "a" else self.grid.map.grid_m

    @property
    def queue(self) -> int:
        """Of the DMA engines that load it."""
        return A_QUEUE if self.name == "a" else B_QUEUE

    def tile(self, slot: Expr, tiles: TileSet, ranges: tuple[Range, ...] = ()) -> View:
        """A slot of its buffer in several tiles."""
        packed = self.name == "b" and self.grid.problem.quantized
        return View("b_packed" if packed else f"{self.name}_tile", slot, ranges, tiles)

    def transfer(self, round_: Expr, step: Expr, group: Expr) -> tuple[Box, tuple[Range, ...]]:
        """The block of a group of tiles in HBM, and what of a slot it fills (() for all)."""
        grid = self.grid
        plane, place = grid.side(self.axis, group)
        entry, along_k = grid.entry(round_, plane), Range(grid.along_k(plane, step))
        if self.name == "b":
            ranges = grid.b_order(along_k, Range(grid.column(round_, plane, place)))
            return Box("b_block", grid.within(entry, ranges, grouped=True)), ()
        row = grid.row(round_, plane, place)
        if not grid.problem.groups:
            return Box("a_block", grid.within(entry, grid.a_order(Range(row), along_k), grouped=False)), ()
        height = grid.height(round_, plane, place)
        return Box("a_block", grid.a_order(Range(row, height), along_k)), grid.a_order(Range(Const(0), height), Range())

    def sections(self, before: Callable[[Expr], tuple[Node, ...]] | None = None) -> list[Section]:
        """What its DMA queues do; `before`, where given, makes what precedes each round."""
        if self.grid.map.resident == self.name:
            return [self.load_shares(), self.pass_shares()]
        steps = self.grid.steps
        if before is None:
            count = Name("s")
            body = loop("s", self.grid.rounds * steps, *self.load(count // steps, count % steps, count))
        else:
            round_, step = Name("w"), Name("k")
            inner = loop("k", steps, *self.load(round_, step, round_ * steps + step))
            body = loop("w", self.grid.rounds, *before(round_), inner)
        return [self.seat.section(self.queue, (body,))]

    def load(self, round_: Expr, step: Expr, count: Expr) -> tuple[Node, ...]:
        """HBM to all tiles that need the blocks of a step; `count` is its number in all."""
        slot = count % self.grid.map.slots

        def load(group: Expr) -> tuple[Node, ...]:
            box, ranges = self.transfer(round_, step, group)
            view = self.tile(slot, self.grid.tiles_of(self.axis, group), ranges)
            free = SemaphoreRef(f"{self.name}_free", group, slot)
            full = Signal(SemaphoreRef(f"{self.name}_full", DST, slot))
            if self.name == "b" and self.grid.problem.quantized:
                return self.load_scales(round_, step, group, slot), Instruction("load", (view, box), signals=(full,))
            load = Instruction("load", (view, box), waits=(free,), signals=(full,))
            return *(self.load_norm(step, group, slot) if self.name == "a" else ()), load

        return self.seat.each(load)

    def load_norm(self, step: Expr, group: Expr, slot: Expr) -> tuple[Node, ...]:
        """The prologue's vectors of a step, to all tiles of a plane at once; the queue of its first row loads them."""
        names = self.grid.problem.prologue.vectors
        if not names:
            return ()
        plane, row = self.grid.side("m", group)
        along_k, tiles = (Range(self.grid.along_k(plane, step)),), self.grid.tiles_of_plane(plane)
        free, full = SemaphoreRef("norm_free", plane, slot), Signal(SemaphoreRef("norm_full", DST, slot))
        loads = tuple(
            Instruction(
                "load",
                (View(f"{name}_tile", slot, (), tiles), Box(f"{name}_part", along_k)),
                waits=(free,) if name == names[0] else (),
                signals=(full,) if name == names[-1] else (),
            )
            for name in names
        )
        return (Loop("v", minimum(1, row), Const(1), loads),) if self.grid.map.grid_m > 1 else loads

    def load_scales(self, round_: Expr, step: Expr, group: Expr, slot: Expr) -> Instruction:
        """The scales of a block of quantised B, for which they wait; B itself follows in the same queue."""
        grid = self.grid
        plane, place = grid.side("n", group)
        first, column = grid.along_k(plane, step) // grid.problem.group_k, Range(grid.column(round_, plane, place))
        view = View("b_scale_tile", slot, (), grid.tiles_of("n", group))
        ranges = grid.within(grid.entry(round_, plane), (Range(first), column), grouped=True)
        free = SemaphoreRef("b_free", group, slot)
        return Instruction("load", (view, Box("b_scale_block", ranges)), waits=(free,))

    def keeper(self, group: Expr, step: Expr) -> tuple[TileSet, Expr]:
        """(tile, slot) of a grid row or column that keeps the block of a step."""
        tiles = self.grid.tiles_of(self.axis, group)
        return TileSet(tiles.first + step % self.copies * tiles.step), step // self.copies

    def panels(self) -> tuple[int, int]:
        """(panels, rounds that each of them serves) of the resident operand."""
        along_m, along_n = self.grid.map.rounds(self.grid.problem)
        return (along_m, along_n) if self.name == "a" else (along_n, along_m)

    def load_shares(self) -> Section:
        """HBM to the tile that keeps this step's block, once for a row (column) of rounds.

        The first panel is loaded as its first pass goes on, lest the other operand waits behind it.
        """
        panels, passes = self.panels()
        step = Name("k")

        def load_panel(panel: Expr) -> Node:
            def load(group: Expr) -> tuple[Node, ...]:
                keeper, slot = self.keeper(group, step)
                box, _ = self.transfer(panel * passes, step, group)
                ahead = (SemaphoreRef("share_ahead", group, ZERO),) if panel == ZERO else ()
                free = SemaphoreRef("share_free", keeper.first, slot)
                full = Signal(SemaphoreRef("share_full", DST, slot))
                view = View("share", slot, (), keeper)
                return (Instruction("load", (view, box), waits=(free, *ahead), signals=(full,)),)

            return loop("k", self.grid.steps, *self.seat.each(load))

        body = [load_panel(ZERO)]
        if panels > 1:
            body.append(Loop("p", Const(1), Const(panels), (load_panel(Name("p")),)))
        return self.seat.section(self.queue, tuple(body))

    def pass_shares(self) -> Section:
        """From the tile that keeps a block to its row or column; the first pass waits for it, the last gives up."""
        panels, passes = self.panels()

        def pass_panel(number: Expr) -> tuple[Node, ...]:
            between = Loop("r", Const(1), Const(passes - 1), (self.one_pass(number, Name("r")),))
            middle = (between,) if passes > 2 else ()
            return self.one_pass(number, ZERO), *middle, self.one_pass(number, Const(passes - 1))

        body = pass_panel(ZERO)
        if panels > 1:
            body = *body, Loop("p", Const(1), Const(panels), pass_panel(Name("p")))
        return self.seat.section(PASS_QUEUE, body)

    def one_pass(self, panel: Expr, number: Expr) -> Node:
        """All steps of one of the rounds that a panel serves."""
        passes, step = self.panels()[1], Name("k")
        slot = ((panel * passes + number) * self.grid.steps + step) % self.grid.map.slots

        def copy(group: Expr) -> tuple[Node, ...]:
            keeper, share = self.keeper(group, step)
            target = self.tile(slot, self.grid.tiles_of(self.axis, group))
            waits = [SemaphoreRef(f"{self.name}_free", group, slot)]
            signals = [Signal(SemaphoreRef(f"{self.name}_full", DST, slot))]
            if number == ZERO:
                waits.append(SemaphoreRef("share_full", keeper.first, share))
                if panel == ZERO:
                    signals.append(Signal(SemaphoreRef("share_ahead", group, ZERO), "read"))
            elif number == Const(passes - 1):
                signals.append(Signal(SemaphoreRef("share_free", keeper.first, share), "read"))
            views = target, View("share", share, (), keeper)
            copied = Instruction("copy", views, (), tuple(waits), tuple(signals))
            return *(self.load_norm(step, group, slot) if self.name == "a" else ()), copied

        return loop("k", self.grid.steps, *self.seat.each(copy))


def dequantize(grid: Grid, round_: Expr, step: Expr) -> tuple[Node, ...]:
    """Stored B and its scales to factors, on the vector engine of each tile."""
    mapping, problem, count = grid.map, grid.problem, round_ * grid.steps + step
    slot, ready, number = count % mapping.slots, count % READY_SLOTS, Name("q")
    waits = SemaphoreRef("b_full", TILE, slot), SemaphoreRef("b_used", TILE, ready)
    signals = (
        Signal(SemaphoreRef("b_free", grid.own_group("n"), slot), "read"),
        Signal(SemaphoreRef("b_ready", TILE, ready)),
    )
    scales = mapping.scales(problem)
    if scales == 1:
        views = View("b_tile", ready), View("b_packed", slot), View("b_scale_tile", slot), 0.0
        return (Instruction("dequantize", views, (), waits, signals),)
    part = grid.b_ranges(Range(number * problem.group_k, Const(problem.group_k)), Range())
    row = (Range(number, Const(1)), *(Range(),) * (len(part) - 1))
    views = View("b_tile", ready, part), View("b_packed", slot, part), View("b_scale_tile", slot, row), 0.0
    body = loop("q", scales, Instruction("dequantize", views))
    return Instruction("sync", waits=waits), body, Instruction("sync", signals=signals)
