"""What a DMA instruction moves: the runs of HBM addresses behind a box, cut into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod

from attrs import define

from kpusim.engines.hbm import Segment
from kpusim.isa.program import Tensor
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import BoxAt, RowsAt, Step, ViewAt

__all__ = ["NOTHING", "Chunk", "Transfer", "transfer_of"]


@define
class Chunk:
    """One request of an engine: `size` bytes, the HBM runs behind them, and the rows it has a descriptor for."""

    size: int
    segments: tuple[Segment, ...]
    rows: int


@define
class Transfer:
    """A DMA instruction with numbers. `kind`: load, store, add (a store that reads first) or copy.

    `tiles` are its destinations (load, copy); `source` is the tile it reads (store, copy), else -1.
    """

    kind: str
    chunks: tuple[Chunk, ...]
    tiles: range
    source: int

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(chunk.size for chunk in self.chunks)


NOTHING = Transfer("none", (), range(0), -1)
KINDS = {
    "load": "load", "gather": "load", "store": "store", "scatter": "store", "scatter_add": "add", "copy": "copy",
}  # fmt: skip


def transfer_of(step: Step, addresses: tuple[int, ...], chunk_bytes: int) -> Transfer:
    """The transfer of a DMA instruction; without chunks if it moves nothing."""
    kind = KINDS[step.code.row.name]
    operands = step.operands()
    views = [operand for operand in operands[:2] if isinstance(operand, ViewAt)]
    boxes = [operand for operand in operands if isinstance(operand, BoxAt)]
    lists = [operand for operand in operands if isinstance(operand, RowsAt)]
    if kind == "copy":
        chunks = _cut([(0, 1, 1, views[1].size_bytes)], chunk_bytes, 0)
    elif lists:
        runs = _listed(boxes[0], lists[0].values, addresses[boxes[0].number])
        chunks = _cut(runs, chunk_bytes, 1)
    else:
        chunks = _cut(_box(boxes[0].tensor, *boxes[0].clamped, addresses[boxes[0].number]), chunk_bytes, 0)
    tiles = views[0].tiles if kind in ("load", "copy") else None
    source = views[-1].tiles if kind != "load" else None
    return Transfer(kind, tuple(chunks), tiles or range(0), source[0] if source else -1)


def _box(tensor: Tensor, starts: tuple[int, ...], sizes: tuple[int, ...], address: int) -> list[Segment]:
    """The runs behind part of a tensor."""
    if not all(sizes):
        return []
    if tensor.block:
        return list(_blocked(tensor, starts, sizes, address))
    bits = DTYPE_BITS[tensor.dtype]
    strides = _strides(tensor.shape)
    offset = 0
    for start, stride in zip(starts, strides, strict=True):
        offset += start * stride
    base = address + offset * bits // 8
    length, inner = sizes[-1], len(sizes) - 1
    while inner and sizes[inner] == tensor.shape[inner]:  # whole rows: one run
        inner -= 1
        length *= sizes[inner]
    outer = [(size, stride * bits // 8) for size, stride in zip(sizes[:inner], strides[:inner], strict=True)]
    count, pitch = outer.pop() if outer else (1, 1)
    runs = [(base, count, pitch, -(-length * bits // 8))]
    for size, stride in reversed(outer):
        runs = [(at + i * stride, *rest) for i in range(size) for at, *rest in runs]  # type: ignore[misc]
    return runs


@cache
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _blocked(tensor: Tensor, starts: tuple[int, ...], sizes: tuple[int, ...], address: int) -> Iterator[Segment]:
    """The runs behind part of a tensor whose last two dimensions are stored in blocks."""
    bits = DTYPE_BITS[tensor.dtype]
    rows, columns = tensor.block
    across = -(-tensor.shape[-1] // columns)
    planes = range(starts[0], starts[0] + sizes[0]) if len(sizes) == 3 else range(1)
    plane_blocks = -(-tensor.shape[-2] // rows) * across
    (row, column), (height, width) = starts[-2:], sizes[-2:]
    for plane in planes:
        for i in range(row // rows, -(-(row + height) // rows)):
            top, bottom = max(row, i * rows), min(row + height, (i + 1) * rows)
            for j in range(column // columns, -(-(column + width) // columns)):
                left, right = max(column, j * columns), min(column + width, (j + 1) * columns)
                inside = (top - i * rows) * columns + left - j * columns
                at = address + ((plane * plane_blocks + i * across + j) * rows * columns + inside) * bits // 8
                if right - left == columns:
                    yield at, 1, 1, -(-(bottom - top) * columns * bits // 8)
                else:
                    yield at, bottom - top, columns * bits // 8, -(-(right - left) * bits // 8)


def _listed(box: BoxAt, rows: tuple[int, ...], address: int) -> list[Segment]:
    """The runs behind listed rows of a tensor; a row outside it is nothing (as the clamp of a box)."""
    starts, sizes = box.clamped
    runs: list[Segment] = []
    for row in rows:
        at = box.starts[0] + row
        if 0 <= at < box.tensor.shape[0]:
            runs += _box(box.tensor, (at, *starts[1:]), (1, *sizes[1:]), address)
    return runs


def _cut(runs: list[Segment], chunk_bytes: int, rows_a_run: int) -> list[Chunk]:
    """`runs` in order, in chunks of at most `chunk_bytes`."""
    chunks: list[Chunk] = []
    segments: list[Segment] = []
    size = rows = 0

    def close() -> None:
        nonlocal segments, size, rows
        if segments:
            chunks.append(Chunk(size, tuple(segments), rows))
        segments, size, rows = [], 0, 0

    for address, count, pitch, length in runs:
        if length > chunk_bytes:
            close()
            for i in range(count):
                for at in range(0, length, chunk_bytes):
                    piece = min(chunk_bytes, length - at)
                    chunks.append(Chunk(piece, ((address + i * pitch + at, 1, 1, piece),), rows_a_run))
            continue
        done = 0
        while done < count and length:
            room = (chunk_bytes - size) // length
            if not room:
                close()
                continue
            part = min(room, count - done)
            segments.append((address + done * pitch, part, pitch, length))
            size, rows, done = size + part * length, rows + rows_a_run * part, done + part
    close()
    return chunks
