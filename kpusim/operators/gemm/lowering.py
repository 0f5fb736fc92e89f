"""GEMM lowered: four sections that stream A and B to the tiles, multiply, cast, and store, all double-buffered."""

from __future__ import annotations

from typing import TypeVar

from attrs import define

from kpusim.errors import UserError
from kpusim.isa.expr import Const, Expr, Name, ceil_div, minimum
from kpusim.isa.layout import DENSE
from kpusim.isa.program import (
    Box,
    Buffer,
    Instruction,
    Loop,
    Node,
    Program,
    Range,
    Section,
    Semaphore,
    SemaphoreRef,
    Signal,
    Tensor,
    TensorMap,
    TileSet,
    View,
)
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Layouts, Lowered
from kpusim.operators.gemm.explain import explain
from kpusim.operators.gemm.mapping import QUEUES, Mapping, Problem, choose, cost, weigh
from kpusim.operators.gemm.seats import ENGINE, ZERO, Seat, loop, part, parts

__all__ = ["lower"]

A_QUEUE, B_QUEUE, STORE_QUEUE, SHARE_QUEUE = range(4)
TILE, DST = Name("tile"), Name("dst")
T = TypeVar("T")


def lower(
    problem: Problem,
    machine: Machine,
    layouts: Layouts = ROW_MAJOR,
    fold_instructions: bool = False,
    mapping: Mapping | None = None,
) -> Lowered:
    """The program of `mapping` (by default the best) for tensors laid out as given, and why it was chosen.

    Raises UserError if the machine has too few DMA queues.
    """
    if machine.dma.queues < QUEUES:
        raise UserError(
            "a GEMM needs a queue each for A, B and the output on every DMA engine", where=machine.name,
            found=f"dma.queues = {machine.dma.queues}", allowed=f"at least {QUEUES}",
        )  # fmt: skip
    weighed = weigh(problem, machine) if mapping is None else [(mapping, cost(mapping, problem, machine))]
    mapping = choose(weighed, problem)
    program = _Lowering(problem, machine, mapping, layouts, fold_instructions).program()
    return Lowered(program, explain(problem, machine, mapping, weighed, program))


@define
class _Lowering:
    problem: Problem
    machine: Machine
    map: Mapping
    layouts: Layouts
    folds: bool

    @property
    def rounds(self) -> int:
        along_m, along_n = self.map.rounds(self.problem)
        return along_m * along_n

    @property
    def steps(self) -> int:
        return self.map.steps(self.problem)

    @property
    def tiles(self) -> int:
        return self.map.grid_m * self.map.grid_n

    @property
    def strips(self) -> int:
        return ceil_div(self.map.block_m, self.map.strip_rows)

    def program(self) -> Program:
        problem, mapping = self.problem, self.map
        load_a = [self.load_shares(), self.pass_shares()] if mapping.resident else [self.load_a()]
        sections = [*load_a, self.load_b(), self.multiply(), self.cast(), self.store()]
        return Program(
            name="gemm",
            tensors=(
                self.tensor("a", problem.dtype, (problem.m, problem.k), "in"),
                self.tensor("b", problem.dtype, self.b_order(problem.k, problem.n), "in"),
                self.tensor("out", problem.out_dtype, (problem.m, problem.n), "out"),
            ),
            maps=(
                TensorMap("a_block", "a", (mapping.block_m, mapping.block_k)),
                TensorMap("b_block", "b", self.b_order(mapping.block_k, mapping.block_n)),
                TensorMap("out_strip", "out", (mapping.strip_rows, mapping.block_n)),
            ),
            buffers=self.buffers(),
            semaphores=self.semaphores(),
            sections=tuple(sections),
        )

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], role: str) -> Tensor:
        layout = self.layouts.get(name, DENSE)
        return Tensor(name, dtype, shape, role, layout.block, layout.pitch)

    def b_order(self, along_k: T, along_n: T) -> tuple[T, T]:
        """The two in the order of B's dimensions."""
        return (along_n, along_k) if self.problem.transpose_b else (along_k, along_n)

    def buffers(self) -> tuple[Buffer, ...]:
        problem, mapping = self.problem, self.map
        a = (mapping.block_m, mapping.block_k)
        shapes = [
            ("a_tile", problem.dtype, mapping.slots, a),
            ("b_tile", problem.dtype, mapping.slots, self.b_order(mapping.block_k, mapping.block_n)),
            ("acc", "fp32", mapping.accumulators, (mapping.block_m, mapping.block_n)),
            ("strip", problem.out_dtype, 2, (mapping.strip_rows, mapping.block_n)),
        ]
        if mapping.resident:
            shapes.append(("a_share", problem.dtype, mapping.shares(problem), a))
        buffers: list[Buffer] = []
        for name, dtype, slots, shape in shapes:
            offset = ceil_div(buffers[-1].end, 64) * 64 if buffers else 0
            buffers.append(Buffer(name, dtype, slots, shape, offset))
        return tuple(buffers)

    def semaphores(self) -> tuple[Semaphore, ...]:
        mapping, tiles = self.map, self.tiles
        semaphores = [
            Semaphore("a_full", tiles, mapping.slots),
            Semaphore("a_free", mapping.grid_m, mapping.slots, 1, mapping.grid_n),
            Semaphore("b_full", tiles, mapping.slots),
            Semaphore("b_free", mapping.grid_n, mapping.slots, 1, mapping.grid_m),
            Semaphore("acc_full", tiles, mapping.accumulators),
            Semaphore("acc_free", tiles, mapping.accumulators, 1),
            Semaphore("strip_full", tiles, 2),
            Semaphore("strip_free", tiles, 2, 1),
        ]
        if mapping.resident:
            shares = self.map.shares(self.problem)
            semaphores += [Semaphore("share_full", tiles, shares), Semaphore("share_free", tiles, shares, 1)]
        return tuple(semaphores)

    # Where a tile stands in the grid, and where a round and a step stand in the problem -----------------------------

    def grid_row(self, tile: Expr) -> Expr:
        return tile // self.map.grid_n

    def grid_column(self, tile: Expr) -> Expr:
        return tile % self.map.grid_n

    def row(self, round_: Expr, grid_row: Expr) -> Expr:
        """First row of the block of a grid row in a round."""
        along_n = self.map.rounds(self.problem)[1]
        return (round_ // along_n * self.map.grid_m + grid_row) * self.map.block_m

    def column(self, round_: Expr, grid_column: Expr) -> Expr:
        """First column of the block of a grid column in a round."""
        along_n = self.map.rounds(self.problem)[1]
        return (round_ % along_n * self.map.grid_n + grid_column) * self.map.block_n

    def height(self, round_: Expr, grid_row: Expr) -> Expr:
        return self.inside(self.problem.m, self.row(round_, grid_row), self.map.block_m, self.map.grid_m)

    def width(self, round_: Expr, grid_column: Expr) -> Expr:
        return self.inside(self.problem.n, self.column(round_, grid_column), self.map.block_n, self.map.grid_n)

    def depth(self, step: Expr) -> Expr:
        return self.inside(self.problem.k, step * self.map.block_k, self.map.block_k, 1)

    def inside(self, extent: int, start: Expr, block: int, grid: int) -> Expr:
        """How much of a block lies inside the problem."""
        return Const(block) if extent % (block * grid) == 0 else minimum(block, Const(extent) - start)

    def grid_row_tiles(self, group: Expr) -> TileSet:
        return TileSet(group * self.map.grid_n, Const(self.map.grid_n))

    def a_box(self, round_: Expr, step: Expr, group: Expr) -> Box:
        return Box("a_block", (Range(self.row(round_, group)), Range(step % self.steps * self.map.block_k)))

    def keeper(self, group: Expr, step: Expr) -> tuple[Expr, Expr]:
        """(tile, slot) of a grid row that keeps the block of A of a step."""
        return group * self.map.grid_n + step % self.map.grid_n, step // self.map.grid_n

    def seat(self, groups: int, offset: int) -> Seat:
        return Seat(groups, self.machine.dma_engines, offset)

    def seat_of_columns(self) -> Seat:
        """Engines for the grid columns. A column's tiles stand in several tile rows: an engine of one of them loads."""
        columns, copies = self.machine.tiles.columns, self.map.grid_m
        rows, rest = divmod(self.map.grid_n, columns)
        half = columns // 2
        near = self.machine.dma.placement == "row-ends" and rows > 1 and rest == 0 and copies > 1
        if not near or half % copies or rows * copies != self.machine.tiles.rows:
            return self.seat(self.map.grid_n, 1)
        row, side = ENGINE // 2, ENGINE % 2
        first = row % rows * columns + side * half + row // rows
        return Seat(self.map.grid_n, self.machine.dma_engines, 1, first, copies)

    # Sections -----------------------------------------------------------------------------------------------------

    def load_a(self) -> Section:
        """HBM to the tiles of a grid row."""
        seat, count = self.seat(self.map.grid_m, 0), Name("s")
        slot = count % self.map.slots

        def load(group: Expr) -> Instruction:
            return Instruction(
                "load",
                (View("a_tile", slot, (), self.grid_row_tiles(group)), self.a_box(count // self.steps, count, group)),
                (),
                (SemaphoreRef("a_free", group, slot),),
                (Signal(SemaphoreRef("a_full", DST, slot)),),
            )

        return seat.section(A_QUEUE, (loop("s", self.rounds * self.steps, seat.each(load)),))

    def load_shares(self) -> Section:
        """HBM to the tile of a grid row that keeps this step's block, once for a row of rounds."""
        along_m, along_n = self.map.rounds(self.problem)
        seat, panel, step = self.seat(self.map.grid_m, 0), Name("p"), Name("k")

        def load(group: Expr) -> Instruction:
            keeper, slot = self.keeper(group, step)
            return Instruction(
                "load",
                (View("a_share", slot, (), TileSet(keeper)), self.a_box(panel * along_n, step, group)),
                (),
                (SemaphoreRef("share_free", keeper, slot),),
                (Signal(SemaphoreRef("share_full", DST, slot)),),
            )

        return seat.section(A_QUEUE, (loop("p", along_m, loop("k", self.steps, seat.each(load))),))

    def pass_shares(self) -> Section:
        """From the tile that keeps a block to its whole grid row; the first pass waits for HBM, the last gives up."""
        along_m, along_n = self.map.rounds(self.problem)
        seat = self.seat(self.map.grid_m, 0)

        def one_pass(round_: Expr, first: bool, last: bool) -> Node:
            step = Name("k")
            slot = (round_ * self.steps + step) % self.map.slots

            def copy(group: Expr) -> Instruction:
                keeper, share = self.keeper(group, step)
                kept = SemaphoreRef("share_full", keeper, share)
                given_up = Signal(SemaphoreRef("share_free", keeper, share), "read")
                return Instruction(
                    "copy",
                    (View("a_tile", slot, (), self.grid_row_tiles(group)), View("a_share", share, (), TileSet(keeper))),
                    (),
                    (SemaphoreRef("a_free", group, slot), *((kept,) if first else ())),
                    (Signal(SemaphoreRef("a_full", DST, slot)), *((given_up,) if last else ())),
                )

            return loop("k", self.steps, seat.each(copy))

        first_round = Name("p") * along_n
        passes = [one_pass(first_round, True, False)]
        if along_n > 2:
            middle = one_pass(first_round + Name("r"), False, False)
            passes.append(Loop("r", Const(1), Const(along_n - 1), (middle,)))
        passes.append(one_pass(first_round + (along_n - 1), False, True))
        return seat.section(SHARE_QUEUE, (loop("p", along_m, *passes),))

    def load_b(self) -> Section:
        """HBM to the tiles of a grid column."""
        seat, count = self.seat_of_columns(), Name("s")
        slot = count % self.map.slots

        def load(group: Expr) -> Instruction:
            along_k, along_n = count % self.steps * self.map.block_k, self.column(count // self.steps, group)
            tiles = TileSet(group, Const(self.map.grid_m), self.map.grid_n)
            return Instruction(
                "load",
                (View("b_tile", slot, (), tiles), Box("b_block", self.b_order(Range(along_k), Range(along_n)))),
                (),
                (SemaphoreRef("b_free", group, slot),),
                (Signal(SemaphoreRef("b_full", DST, slot)),),
            )

        return seat.section(B_QUEUE, (loop("s", self.rounds * self.steps, seat.each(load)),))

    def multiply(self) -> Section:
        """Each tile accumulates its block over all steps of a round."""
        mapping, round_, step = self.map, Name("w"), Name("k")
        grid_row, grid_column = Name("i"), Name("j")
        slot = (round_ * self.steps + step) % mapping.slots
        acc = round_ % mapping.accumulators
        full = (SemaphoreRef("a_full", TILE, slot), SemaphoreRef("b_full", TILE, slot))
        free = (
            Signal(SemaphoreRef("a_free", grid_row, slot), "read"),
            Signal(SemaphoreRef("b_free", grid_column, slot), "read"),
        )
        sizes = self.height(round_, grid_row), self.width(round_, grid_column), self.depth(step)
        if self.folds:
            fold = self.each_fold(acc, slot, sizes)
            block: tuple[Node, ...] = Instruction("sync", waits=full), fold, Instruction("sync", signals=free)
        else:
            whole = tuple(Range(ZERO, size) for size in sizes)
            block = (self.matmul(acc, slot, whole, full, free),)
        body = loop(
            "w",
            self.rounds,
            Instruction("sync", waits=(SemaphoreRef("acc_free", TILE, acc),)),
            loop("k", self.steps, *block),
            Instruction("sync", signals=(Signal(SemaphoreRef("acc_full", TILE, acc)),)),
        )
        return self.tile_section("matrix", body)

    def each_fold(self, acc: Expr, slot: Expr, sizes: tuple[Expr, Expr, Expr]) -> Node:
        """One matmul for each fold of the array in a block."""
        height, width, depth = sizes
        rows, columns = self.machine.matrix.rows, self.machine.matrix.columns
        ranges = (part(height, rows, Name("fi")), part(width, columns, Name("fj")), Range(ZERO, depth))
        inner = Loop("fj", ZERO, parts(width, columns), (self.matmul(acc, slot, ranges, (), ()),))
        return Loop("fi", ZERO, parts(height, rows), (inner,))

    def matmul(
        self,
        acc: Expr,
        slot: Expr,
        ranges: tuple[Range, ...],
        waits: tuple[SemaphoreRef, ...],
        signals: tuple[Signal, ...],
    ) -> Instruction:
        m, n, k = ranges
        options = [("accumulate", Name("k"))]
        if self.problem.transpose_b:
            options.append(("transpose_b", Const(1)))  # type: ignore[arg-type]
        views = (View("acc", acc, (m, n)), View("a_tile", slot, (m, k)), View("b_tile", slot, self.b_order(k, n)))
        return Instruction("matmul", views, tuple(options), waits, signals)

    def cast(self) -> Section:
        """Accumulators to output strips in the output's dtype."""
        mapping, round_, strip = self.map, Name("w"), Name("t")
        acc, slot = round_ % mapping.accumulators, (round_ * self.strips + strip) % 2
        height, width = self.height(round_, Name("i")), self.width(round_, Name("j"))
        rows = part(height, mapping.strip_rows, strip)
        assert rows.length is not None
        cast = Instruction(
            "cast",
            (
                View("strip", slot, (Range(ZERO, rows.length), Range(ZERO, width))),
                View("acc", acc, (rows, Range(ZERO, width))),
            ),
            (),
            (SemaphoreRef("strip_free", TILE, slot),),
            (Signal(SemaphoreRef("strip_full", TILE, slot)),),
        )
        body = loop(
            "w",
            self.rounds,
            Instruction("sync", waits=(SemaphoreRef("acc_full", TILE, acc),)),
            loop("t", self.strips, cast),
            Instruction("sync", signals=(Signal(SemaphoreRef("acc_free", TILE, acc)),)),
        )
        return self.tile_section("vector", body)

    def store(self) -> Section:
        """Output strips to HBM, by the engine nearest to the tile."""
        seat, round_, strip = self.seat(self.tiles, 0), Name("w"), Name("t")
        slot = (round_ * self.strips + strip) % 2
        rows = part(Const(self.map.block_m), self.map.strip_rows, strip)

        def store(tile: Expr) -> Instruction:
            top = self.row(round_, self.grid_row(tile)) + rows.start
            left = Range(self.column(round_, self.grid_column(tile)))
            whole = isinstance(rows.length, Const)
            view = View("strip", slot, () if whole else (Range(ZERO, rows.length), Range()), TileSet(tile))
            return Instruction(
                "store",
                (Box("out_strip", (Range(top, None if whole else rows.length), left)), view),
                (),
                (SemaphoreRef("strip_full", tile, slot),),
                (Signal(SemaphoreRef("strip_free", tile, slot), "read"),),
            )

        body = loop("w", self.rounds, loop("t", self.strips, seat.each(store)))
        return seat.section(STORE_QUEUE, (body,))

    def tile_section(self, unit: str, body: Node) -> Section:
        lets = (("i", self.grid_row(TILE)), ("j", self.grid_column(TILE)))
        return Section(unit, 0, self.tiles, lets=lets, body=(body,))
