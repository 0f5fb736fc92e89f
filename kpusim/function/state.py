"""The memories that a functional run works on: SRAM of the tiles, as bytes; HBM, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from attrs import define

from kpusim.dtypes import Array, integer_range, is_packed, numpy_dtype, pack, unpack
from kpusim.errors import UserError
from kpusim.isa.program import Buffer, Program, Tensor
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import BoxAt, RowsAt, ViewAt

__all__ = ["Hbm", "Sram"]

Index = tuple[slice, ...]
BoxIndex = tuple[slice | Array, ...]  # an array: listed rows


def _index(view: ViewAt) -> Index:
    return tuple([slice(start, start + size) for start, size in zip(view.starts, view.sizes, strict=True)])


@define
class _Tile:
    """Bytes, and whether each has ever been written."""

    data: Array
    written: Array


class Sram:
    """The SRAM of every tile, each allocated at its first use."""

    def __init__(self, size_bytes: int):
        self._size = size_bytes
        self._tiles: dict[int, _Tile] = {}

    def read(self, view: ViewAt, tile: int) -> Array:
        """The values of a view in `tile`: memory itself, or a copy of packed elements (int8)."""
        slot = self._slot(self._tile(tile).data, view)
        buffer = view.buffer
        if is_packed(buffer.dtype):
            return unpack(slot, buffer.dtype, prod(buffer.shape)).reshape(buffer.shape)[_index(view)]
        return slot.view(numpy_dtype(buffer.dtype)).reshape(buffer.shape)[_index(view)]

    def write(self, view: ViewAt, tile: int, values: Array) -> None:
        """Writes `values` (shape of the view, in its dtype's array type)."""
        memory = self._tile(tile)
        slot, buffer, index = self._slot(memory.data, view), view.buffer, _index(view)
        if is_packed(buffer.dtype):
            whole = unpack(slot, buffer.dtype, prod(buffer.shape)).reshape(buffer.shape)
            whole[index] = values
            slot[:] = pack(whole, buffer.dtype)
        else:
            slot.view(numpy_dtype(buffer.dtype)).reshape(buffer.shape)[index] = values
        marks = self._slot(memory.written, view)
        if is_packed(buffer.dtype):
            marks[_packed_bytes(buffer, index)] = True
        else:
            marks.reshape(*buffer.shape, -1)[index] = True

    def is_written(self, view: ViewAt, tile: int) -> bool:
        """Whether every byte of a view has been written before."""
        marks = self._slot(self._tile(tile).written, view)
        if is_packed(view.dtype):
            return bool(marks[_packed_bytes(view.buffer, _index(view))].all())
        return bool(marks.reshape(*view.buffer.shape, -1)[_index(view)].all())

    def _tile(self, tile: int) -> _Tile:
        if tile not in self._tiles:
            self._tiles[tile] = _Tile(np.zeros(self._size, np.uint8), np.zeros(self._size, np.bool_))
        return self._tiles[tile]

    def _slot(self, memory: Array, view: ViewAt) -> Array:
        low = view.buffer.offset + view.slot * view.buffer.slot_bytes
        return memory[low : low + view.buffer.slot_bytes]


def _packed_bytes(buffer: Buffer, index: Index) -> Array:
    """The bytes of a slot that hold the packed elements at `index`."""
    return np.arange(prod(buffer.shape)).reshape(buffer.shape)[index].reshape(-1) * DTYPE_BITS[buffer.dtype] // 8


@define(eq=False)
class _Stored:
    data: Array
    written: Array | None = None  # of a tensor that starts without values: what has been stored


class Hbm:
    """The tensors of a program. A box that leaves its tensor reads zeros there, and stores nothing there."""

    def __init__(self, program: Program, inputs: Mapping[str, Array]):
        """`inputs`: values of every `in` tensor and of those `inout` tensors that start with some.

        Raises UserError for a missing or unknown tensor, or one of another shape, dtype or range of values.
        """
        taken = [tensor.name for tensor in program.tensors if tensor.role != "out"]
        for name in inputs:
            if name not in taken:
                raise UserError("the program has no such input", found=name, allowed=taken or "none")
        self._stored = [_start(tensor, inputs.get(tensor.name)) for tensor in program.tensors]

    def read(self, box: BoxAt, rows: RowsAt | None = None) -> Array:
        """The values of a box, shape box.sizes; with a list, of the listed rows: (len(rows), *box.sizes[1:])."""
        stored = self._stored[box.number]
        shape, inside, outside = _mapped(box, rows)
        if rows is None and shape == box.clamped[1]:
            return stored.data[outside]
        values = np.zeros(shape, stored.data.dtype)
        values[inside] = stored.data[outside]
        return values

    def write(self, box: BoxAt, values: Array, rows: RowsAt | None = None) -> None:
        """Stores what of `values` (shaped as `read` gives them) lies inside; of duplicate rows the last stays."""
        stored = self._stored[box.number]
        _, inside, outside = _mapped(box, rows)
        stored.data[outside] = values[inside]  # numpy keeps the last of duplicate indices
        if stored.written is not None:
            stored.written[outside] = True

    def is_written(self, box: BoxAt, rows: RowsAt | None = None) -> bool:
        """Whether everything of a box that lies inside has a value."""
        stored = self._stored[box.number]
        return stored.written is None or bool(stored.written[_mapped(box, rows)[2]].all())

    def values(self, number: int) -> Array:
        """All values of a tensor."""
        return self._stored[number].data

    def first_unwritten(self, number: int) -> tuple[int, ...] | None:
        """The first element of a tensor that has no value, or None."""
        written = self._stored[number].written
        if written is None or written.all():
            return None
        return tuple(int(i) for i in np.unravel_index(int(np.argmin(written)), written.shape))


def _start(tensor: Tensor, values: Array | None) -> _Stored:
    """A tensor at launch."""
    dtype = numpy_dtype(tensor.dtype)
    where = f"tensor {tensor.name}"
    if values is None:
        if tensor.role == "in":
            raise UserError("this input has no values", where=where)
        return _Stored(np.zeros(tensor.shape, dtype), np.zeros(tensor.shape, np.bool_))
    if values.shape != tensor.shape or values.dtype != dtype:
        found = f"{values.dtype} {list(values.shape)}"
        raise UserError("these are not its values", where=where, found=found, allowed=f"{dtype} {list(tensor.shape)}")
    if is_packed(tensor.dtype):
        low, high = integer_range(tensor.dtype)
        if values.min() < low or values.max() > high:
            found = f"{values.min()} to {values.max()}"
            raise UserError("values out of range", where=where, found=found, allowed=f"{low} to {high}")
    return _Stored(values if tensor.role == "in" else values.copy())


def _mapped(box: BoxAt, rows: RowsAt | None) -> tuple[tuple[int, ...], BoxIndex, BoxIndex]:
    """The shape of a box's values; where in them, and where in the tensor, the part inside the tensor is."""
    starts, sizes = box.clamped
    outside: list[slice | Array] = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    inside: list[slice | Array] = [
        slice(start - first, start - first + size) for first, start, size in zip(box.starts, starts, sizes, strict=True)
    ]
    shape = box.sizes
    if rows is not None:
        listed = box.starts[0] + np.array(rows.values, np.int64)
        inside[0] = np.flatnonzero((listed >= 0) & (listed < box.tensor.shape[0]))
        outside[0] = listed[inside[0]]
        shape = (len(listed), *shape[1:])
    return shape, tuple(inside), tuple(outside)
