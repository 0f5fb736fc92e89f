"""Executes a program on data, instruction by instruction as a simulation issues them.

Values are computed at issue. Hardware gets the same ones, because whatever could make a difference is a hazard, and
hazards are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve, frozen

from kpusim.dtypes import Array, numpy_dtype
from kpusim.errors import UserError
from kpusim.function.hazards import Access, HazardError, Hazards, Issue, place_name
from kpusim.function.regions import Region, hbm_region, sram_region
from kpusim.function.semantics import evaluate
from kpusim.function.state import Hbm, Sram
from kpusim.function.values import Operand, Results, scalar
from kpusim.isa.program import Program
from kpusim.isa.tables import OperandRow
from kpusim.isa.walk import BoxAt, ResolvedOperand, RowsAt, Step, ViewAt
from kpusim.machine import Machine

__all__ = ["Executor"]


@frozen(eq=False)
class _Bound:
    """An operand of a step: its row, what it is, the tiles it is in (none: no view), whether it is read and written.

    `moved` is the part that matters: of the source of a store, what lies inside the tensor.
    """

    row: OperandRow
    at: ResolvedOperand
    moved: ResolvedOperand
    tiles: Sequence[int]
    reads: bool
    writes: bool
    rows: RowsAt | None  # the index list of a box


class Executor:
    """Watches a plain simulation and executes what it issues. Calls come in time order."""

    def __init__(self, program: Program, machine: Machine, inputs: Mapping[str, Array]):
        """`inputs`: values of every `in` tensor, in the array type of its dtype (int8 for int4 and int2), and of those
        `inout` tensors that start with some. Raises UserError where they do not fit, or contradict an assumed table.
        """
        self._program, self._machine = program, machine
        self._names = machine.unit_names
        self._sram, self._hbm = Sram(program.sram_bytes), Hbm(program, inputs)
        self._hazards = Hazards()
        self._numbers = {tensor.name: number for number, tensor in enumerate(program.tensors)}
        self._check_assumed(given=True)

    # --- the calls of the simulation ----------------------------------------------------------------------------------

    def issue(self, unit: int, place: int, step: Step, time: int) -> None:
        """Executes `step` on `unit` of tile (or DMA engine) `place`. Raises HazardError; UserError for unfit shapes."""
        bound = _bind(step, place)
        if not any(operand.writes for operand in bound):
            return
        issue = Issue(step, unit, self._names[unit], time)
        for operand in bound:
            self._check_place(issue, operand)
        self._hazards.issue([access for operand in bound for access in _accesses(issue, operand)])
        self._check_index(issue, bound)
        try:
            self._execute(step, bound)
        except ValueError as error:
            raise UserError("the operands do not fit", where=issue.where, found=str(error)) from error

    def read(self, step: Step, time: int) -> None:
        """The sources of `step` may be overwritten from now on."""
        self._hazards.read(step)

    def done(self, step: Step, time: int, tile: int) -> None:
        """The result of `step` is visible in `tile` (-1: wherever it goes)."""
        self._hazards.done(step, tile)

    def finish(self, time: int) -> None:
        """The program is over. Raises UserError where a tensor differs from the table that assumed it."""
        self._check_assumed(given=False)

    def outputs(self) -> dict[str, Array]:
        """The `out` and `inout` tensors by name, as they are now. Raises UserError where an element of an `out` tensor
        has never been stored.
        """
        result = {}
        for number, tensor in enumerate(self._program.tensors):
            if tensor.role == "in":
                continue
            missing = self._hbm.first_unwritten(number) if tensor.role == "out" else None
            if missing is not None:
                raise UserError("this output is incomplete", where=f"tensor {tensor.name}", found=f"no {list(missing)}")
            result[tensor.name] = self._hbm.values(number)
        return result

    # --- checks -------------------------------------------------------------------------------------------------------

    def _check_place(self, issue: Issue, operand: _Bound) -> None:
        """The place exists, and has a value if it is read."""
        at = operand.at
        if isinstance(at, ViewAt):
            end = at.buffer.offset + (at.slot + 1) * at.buffer.slot_bytes
            if end > self._machine.tile_bytes:
                problem = f"{place_name(at)} ends at byte {end} of an SRAM of {self._machine.tile_bytes}"
                raise HazardError("sram-overflow", problem, where=issue.where)
            for tile in operand.tiles:
                if not 0 <= tile < self._machine.tiles.count:
                    allowed = f"0 to {self._machine.tiles.count - 1}"
                    raise UserError("no such tile", where=issue.where, found=tile, allowed=allowed)
        elif isinstance(at, BoxAt) and operand.writes and at.tensor.role == "in":
            raise UserError("an input is not written", where=issue.where, found=place_name(at))
        unwritten = self._unwritten(operand) if operand.reads else None
        if unwritten is not None:
            problem = f"reads {unwritten}, which nothing has written"
            raise HazardError("read-before-written", problem, where=issue.where)

    def _unwritten(self, operand: _Bound) -> str | None:
        at = operand.moved
        if isinstance(at, ViewAt):
            return next((place_name(at, tile) for tile in operand.tiles if not self._sram.is_written(at, tile)), None)
        if isinstance(at, BoxAt) and not self._hbm.is_written(at, operand.rows):
            return place_name(at)
        return None

    def _check_index(self, issue: Issue, bound: Sequence[_Bound]) -> None:
        """An `index` view holds the index list."""
        index = next((operand for operand in bound if operand.row.name == "index"), None)
        if index is None:
            return
        assert isinstance(index.at, ViewAt)
        rows = next(operand.at for operand in bound if isinstance(operand.at, RowsAt))
        for tile in index.tiles:
            held = self._sram.read(index.at, tile).reshape(-1)
            difference = _first_difference(held, rows.values)
            if difference is not None:
                problem = f"{place_name(index.at, tile)} is not the list that table {rows.table} assumes: {difference}"
                raise HazardError("assumed-table", problem, where=issue.where)

    def _check_assumed(self, given: bool) -> None:
        """Tables equal the tensors that they assume: the inputs among those (`given`), or the others."""
        for table in self._program.tables:
            if not table.assumed:
                continue
            number = self._numbers[table.assumed]
            if (self._program.tensors[number].role == "in") != given:
                continue
            difference = _first_difference(self._hbm.values(number).reshape(-1), table.values)
            if difference is not None:
                problem = f"tensor {table.assumed} is not what the program assumes: {difference}"
                raise HazardError("assumed-table", problem, where=f"table {table.name}")

    # --- values -------------------------------------------------------------------------------------------------------

    def _execute(self, step: Step, bound: Sequence[_Bound]) -> None:
        """Computes and writes, in each destination tile of a transfer by itself."""
        written = [operand for operand in bound if operand.writes]
        options = {name: step.option(name) for name in step.code.row.options}
        sources = [self._values(operand) for operand in bound if not operand.writes and operand.row.name != "index"]
        accumulates = any(operand.reads for operand in written)
        results: Results = ()
        for tile in written[0].tiles if isinstance(written[0].at, ViewAt) else (-1,):
            if accumulates or not results:
                targets = [self._values(operand, tile) for operand in written]
                if not any(target.data.size for target in targets):
                    return
                results = evaluate(step.code.row.name, targets, sources, options)
            for operand, values in zip(written, results, strict=True):
                self._write(operand, tile, values)

    def _values(self, operand: _Bound, tile: int | None = None) -> Operand:
        """The values of an operand; zeros without memory for one that is only written."""
        match operand.at:
            case ViewAt() as view:
                if not operand.reads:
                    return Operand(view.dtype, _nothing(view.dtype, view.sizes))
                return Operand(view.dtype, self._sram.read(view, operand.tiles[0] if tile is None else tile))
            case BoxAt() as box:
                if not operand.reads:
                    rows = operand.rows
                    sizes = box.sizes if rows is None else (len(rows.values), *box.sizes[1:])
                    return Operand(box.dtype, _nothing(box.dtype, sizes))
                return Operand(box.dtype, self._hbm.read(box, operand.rows))
            case RowsAt(_, values):
                return Operand("int32", np.array(values, np.int64))
            case number:
                return scalar(number)

    def _write(self, operand: _Bound, tile: int, values: Array) -> None:
        match operand.at:
            case ViewAt() as view:
                self._sram.write(view, tile, values)
            case BoxAt() as box:
                self._hbm.write(box, values, operand.rows)


def _bind(step: Step, place: int) -> list[_Bound]:
    """The operands of a step, each with what is done to it."""
    row, operands = step.code.row, step.operands()
    rows = next((operand for operand in operands if isinstance(operand, RowsAt)), None)
    adds = row.name == "scatter_add" or ("accumulate" in row.options and step.option("accumulate") != 0)
    bound = []
    for declared, at in zip(row.operands, operands, strict=False):
        tiles: Sequence[int] = ()
        if isinstance(at, ViewAt):
            tiles = (place,) if at.tiles is None else at.tiles
        writes = "write" in declared.access
        listed = rows if isinstance(at, BoxAt) else None
        moved = at
        if row.name == "store" and isinstance(at, ViewAt) and isinstance(operands[0], BoxAt):
            moved = _inside(at, operands[0])
        bound.append(_Bound(declared, at, moved, tiles, adds if writes else True, writes, listed))
    return bound


def _inside(view: ViewAt, box: BoxAt) -> ViewAt:
    """The part of a view that meets the tensor behind a box; all of it where the two have different shapes."""
    rank = min(len(view.sizes), len(box.sizes))
    extra = view.sizes[:-rank] + box.sizes[:-rank]
    if view.sizes[-rank:] != box.sizes[-rank:] or any(size != 1 for size in extra):
        return view
    lows, sizes = box.clamped
    shifts = [low - start for low, start in zip(lows, box.starts, strict=True)]
    here = len(view.sizes) - rank
    starts = [start + shift for start, shift in zip(view.starts[-rank:], shifts[-rank:], strict=True)]
    kept = sizes[-rank:] if all(sizes) else (0,) * rank
    return evolve(view, starts=(*view.starts[:here], *starts), sizes=(*view.sizes[:here], *kept))


def _accesses(issue: Issue, operand: _Bound) -> list[Access]:
    """What an operand touches, in each of its tiles."""
    at = operand.moved
    places: list[tuple[int, Region | None]]
    if isinstance(at, ViewAt):
        places = [(tile, sram_region(at, tile)) for tile in operand.tiles]
    elif isinstance(at, BoxAt):
        places = [(-1, hbm_region(at, operand.rows))]
    else:
        return []
    return [
        Access(issue, operand.row.name, at, tile, region, operand.reads, operand.writes)
        for tile, region in places
        if region is not None
    ]


def _nothing(dtype: str, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.zeros((), numpy_dtype(dtype)), shape)


def _first_difference(held: Array, assumed: Sequence[int]) -> str | None:
    """Where two lists differ first, in words."""
    if len(held) != len(assumed):
        return f"{len(held)} values for {len(assumed)}"
    different = np.flatnonzero(held != np.array(assumed, np.int64))
    if not len(different):
        return None
    first = int(different[0])
    return f"element {first} is {int(held[first])}, not {assumed[first]}"
