"""What a DMA instruction moves: the runs of HBM addresses behind a box, cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import repeat
from math import prod

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field

from kpusim.engines.footprint import Footprint, Run
from kpusim.errors import UserError
from kpusim.isa.program import Tensor
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import BoxAt, RowsAt, Step, ViewAt
from kpusim.machine import Machine

__all__ = ["NOTHING", "Chunk", "Segment", "Transfer", "Transfers", "chunk_of", "joined"]

Integers = npt.NDArray[np.int64]

Segment = tuple[int, int, int, int]
"""(address, count, pitch, length): `count` stretches of `length` bytes, `pitch` bytes from one start to the next."""


@define
class Chunk:
    """One request of an engine: `size` bytes, the HBM runs behind them (from the transfer's base on).

    `descriptors`: what a gather or scatter issues for it, one by one; 0 for a box, whose one descriptor is the set-up.
    `first`: bytes of the transfer before it. `blocks`: its interleave blocks one by one and the bytes wanted of each,
    once somebody has asked for them.
    """

    size: int
    runs: tuple[Run, ...]
    descriptors: int
    first: int
    stretches: tuple[Segment, ...] = ()
    """Where its bytes are, from where `runs` count; only for a machine with a cache."""
    blocks: tuple[Integers, Integers] | None = None
    places: dict[int, Footprint] = field(factory=dict, repr=False)
    """Its footprints in HBM by the place of what `runs` count from."""


@define
class Transfer:
    """A DMA instruction with numbers. `kind`: load, store, add (a store that reads first) or copy.

    `base` is the HBM interleave block that the runs of its chunks count from. `tiles` are its destinations (load,
    copy); `source` is the tile it reads (store, copy), else -1. Of the SRAM it writes `target` and reads `origin`.
    """

    kind: str
    base: int
    chunks: tuple[Chunk, ...]
    tiles: range
    source: int
    target: ViewAt | None = None
    origin: ViewAt | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.chunks[-1].first + self.chunks[-1].size if self.chunks else 0


NOTHING = Transfer("none", 0, (), range(0), -1)
KINDS = {
    "load": "load", "gather": "load", "store": "store", "scatter": "store", "scatter_add": "add", "copy": "copy",
}  # fmt: skip


class Transfers:
    """Makes transfers. Boxes of one size in one row-major tensor have the same chunks, only from another base."""

    def __init__(self, addresses: tuple[int, ...], chunk_bytes: int, machine: Machine):
        self._addresses = addresses
        self._interleave, self._access = machine.hbm.interleave_bytes, machine.hbm.access_bytes
        limit = max(machine.dma.outstanding_bytes // self._access, 1) * self._access
        self._chunk_bytes = min(chunk_bytes, limit)  # nobody asks for more than may be under way
        self._reach, self._cached = machine.dma.coalesce_bytes, machine.shared.kind == "cache"
        self._tiles = range(machine.tiles.count)
        self._shapes: dict[tuple[int, tuple[int, ...], int], tuple[Chunk, ...]] = {}
        self._places: dict[tuple[Run, ...], dict[int, Footprint]] = {}

    def of(self, step: Step) -> Transfer:
        """The transfer of a DMA instruction, without chunks if it moves nothing. Raises UserError as `operands`."""
        kind = KINDS[step.code.row.name]
        operands = step.operands()
        first, second = operands[:2]
        base = 0
        if kind == "copy":
            assert isinstance(first, ViewAt) and isinstance(second, ViewAt)
            chunks = self._cut([(0, 1, 1, second.size_bytes)])
            tiles, source = self._named(step, first), self._named(step, second)[0]
            return Transfer(kind, 0, chunks, tiles, source, first, second)
        view, box = (first, second) if kind == "load" else (second, first)
        assert isinstance(view, ViewAt) and isinstance(box, BoxAt)
        if len(operands) > 2 and isinstance(operands[2], RowsAt):
            chunks = self._listed(box, operands[2].values)
        else:
            base, chunks = self._box(box)
        if kind == "load":
            return Transfer(kind, base, chunks, self._named(step, view), -1, target=view)
        return Transfer(kind, base, chunks, range(0), self._named(step, view)[0], origin=view)

    def _named(self, step: Step, view: ViewAt) -> range:
        """The tiles of a view. Raises UserError if the machine has not all of them."""
        tiles = view.tiles
        if tiles and tiles[0] in self._tiles and tiles[-1] in self._tiles:
            return tiles
        named = f"tiles {tiles.start}..{tiles.stop}" if tiles else "no tiles"
        problem = f"{named} are not all among the machine's 0..{self._tiles.stop}"
        raise UserError(problem, where=step.code.where, found=step.names)

    def _box(self, box: BoxAt) -> tuple[int, tuple[Chunk, ...]]:
        """(base, chunks) of what of a box lies inside its tensor."""
        starts, sizes = box.clamped
        tensor, address = box.tensor, self._addresses[box.number]
        if tensor.block:
            return 0, self._cut(list(_blocked(tensor, starts, sizes, address)) if all(sizes) else [])
        offset = 0
        for start, stride in zip(starts, _strides(tensor.stored), strict=True):
            offset += start * stride
        base, inside = divmod(address + offset * DTYPE_BITS[tensor.dtype] // 8, self._interleave)
        key = box.number, sizes, inside
        chunks = self._shapes.get(key)
        if chunks is None:
            chunks = self._shapes[key] = self._cut(_segments(tensor, sizes, inside))
            for chunk in chunks:
                chunk.places = self._places.setdefault(chunk.runs, chunk.places)
        return base, chunks

    def _cut(self, whole: list[Segment]) -> tuple[Chunk, ...]:
        """Segments in order, in chunks of at most the chunk size."""
        chunks: list[Chunk] = []
        segments: list[Segment] = []
        size = before = 0
        for address, count, pitch, length in _pieces(whole, self._chunk_bytes):
            while count:
                part = min((self._chunk_bytes - size) // length, count)
                if not part:
                    chunks.append(self._chunk(size, segments, before))
                    segments, size, before = [], 0, before + size
                    continue
                segments.append((address, part, pitch, length))
                size += part * length
                address, count = address + part * pitch, count - part
        if segments:
            chunks.append(self._chunk(size, segments, before))
        return tuple(chunks)

    def _chunk(self, size: int, segments: list[Segment], before: int) -> Chunk:
        chunk = chunk_of(segments, self._interleave, self._access)
        return evolve(chunk, size=size, first=before, stretches=tuple(segments) if self._cached else ())

    def _listed(self, box: BoxAt, rows: tuple[int, ...]) -> tuple[Chunk, ...]:
        """Listed rows of a tensor, in the order of the list, in chunks of at most the chunk size."""
        starts, lengths = _split(*_stretches(box, rows, self._addresses[box.number]), self._chunk_bytes)
        ends = lengths.cumsum()
        chunks: list[Chunk] = []
        first = 0
        while first < len(ends):
            before = int(ends[first] - lengths[first])
            last = int(ends.searchsorted(before + self._chunk_bytes, "right"))
            chunks.append(self._listed_chunk(starts[first:last], lengths[first:last], before))
            first = last
        return tuple(chunks)

    def _listed_chunk(self, starts: Integers, lengths: Integers, before: int) -> Chunk:
        """The chunk of stretches that are listed one behind the other, neighbours coalesced."""
        firsts, ends = _coalesced(starts, starts + lengths, self._reach)
        access, interleave = self._access, self._interleave
        firsts -= firsts % access
        blocks = firsts // interleave
        if (ends <= (blocks + 1) * interleave).all():
            bursts = -((firsts - ends) // access)
            runs = tuple(zip(blocks.tolist(), repeat(1), repeat(1), bursts.tolist(), strict=False))
        else:
            pairs = zip(firsts.tolist(), ends.tolist(), strict=True)
            runs = tuple([run for first, end in pairs for run in _contiguous(first, end, interleave, access)])
        stretches = zip(starts.tolist(), repeat(1), repeat(1), lengths.tolist(), strict=False) if self._cached else ()
        return Chunk(int(lengths.sum()), runs, len(firsts), before, tuple(stretches))


def chunk_of(segments: Iterable[Segment], interleave: int, access: int) -> Chunk:
    """The request for all of `segments`, as a transfer of its own."""
    segments = tuple(segments)
    runs = (run for segment in segments for run in _block_runs(segment, interleave, access))
    return Chunk(sum([count * length for _, count, _, length in segments]), tuple(runs), 0, 0)


def joined(stretches: Iterable[Segment]) -> Iterator[tuple[int, int]]:
    """(start, end) of stretches one by one, in order, those that follow each other in memory as one."""
    start = end = 0
    for address, count, pitch, length in stretches:
        for at in range(address, address + count * pitch, pitch):
            if at != end:
                if end > start:
                    yield start, end
                start = at
            end = at + length
    if end > start:
        yield start, end


def _pieces(runs: list[Segment], most: int) -> Iterator[Segment]:
    """`runs` with none longer than `most` bytes."""
    for address, count, pitch, length in runs:
        if length <= most:
            if length:
                yield address, count, pitch, length
            continue
        for start in range(address, address + count * pitch, pitch):
            for at in range(0, length, most):
                yield start + at, 1, 1, min(most, length - at)


def _segments(tensor: Tensor, sizes: tuple[int, ...], address: int) -> list[Segment]:
    """The segments behind a box of a row-major tensor whose first element is at `address`."""
    if not all(sizes):
        return []
    bits = DTYPE_BITS[tensor.dtype]
    length, inner = sizes[-1], len(sizes) - 1
    while inner and sizes[inner] == tensor.stored[inner]:  # whole rows: one run
        inner -= 1
        length *= sizes[inner]
    outer = [(size, stride * bits // 8) for size, stride in zip(sizes[:inner], _strides(tensor.stored), strict=False)]
    count, pitch = outer.pop() if outer else (1, 1)
    runs = [(address, count, pitch, -(-length * bits // 8))]
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


def _stretches(box: BoxAt, rows: tuple[int, ...], address: int) -> tuple[Integers, Integers]:
    """(starts, lengths) of the stretches behind listed rows, in bytes; a row outside the tensor is nothing."""
    (_, *starts), (_, *sizes) = box.clamped
    tensor = box.tensor
    places = np.asarray(rows, np.int64) + box.starts[0]
    places = places[(places >= 0) & (places < tensor.shape[0])]
    if tensor.block:
        parts = [part for place in places.tolist() for part in _blocked(tensor, (place, *starts), (1, *sizes), address)]
        apart = [(at + i * pitch, length) for at, count, pitch, length in parts for i in range(count) if length]
        return np.array([at for at, _ in apart], np.int64), np.array([length for _, length in apart], np.int64)
    bits, strides = DTYPE_BITS[tensor.dtype], _strides(tensor.stored)
    inside = sum([start * stride for start, stride in zip(starts, strides[1:], strict=True)]) * bits // 8
    one = _segments(tensor, (1, *sizes), address + inside)
    if not one:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ((first, count, pitch, length),) = one  # of three dimensions at most, one of which is a single row
    offsets = np.arange(first, first + count * pitch, pitch)
    ats = np.add.outer(places * (strides[0] * bits) // 8, offsets).ravel()
    return ats, np.full(len(ats), length)


def _split(starts: Integers, lengths: Integers, most: int) -> tuple[Integers, Integers]:
    """The same stretches with none longer than `most` bytes."""
    if lengths.max(initial=0) <= most:
        return starts, lengths
    pieces = -(-lengths // most)
    before = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
    before *= most
    return np.repeat(starts, pieces) + before, np.minimum(np.repeat(lengths, pieces) - before, most)


def _coalesced(starts: Integers, ends: Integers, reach: int) -> tuple[Integers, Integers]:
    """(starts, ends) of the descriptors: neighbours in list and memory are one inside an aligned block of `reach`."""
    joined = (starts[1:] == ends[:-1]) & (starts[:-1] // reach == (ends[1:] - 1) // reach)
    heads = np.flatnonzero(np.concatenate(([True], ~joined)))
    return starts[heads], ends[np.concatenate((heads[1:], [len(ends)])) - 1]


def _block_runs(segment: Segment, interleave: int, access: int) -> Iterator[Run]:
    """The blocks behind a segment, whole accesses of each."""
    address, count, pitch, length = segment
    first = address // access * access
    bursts = -(-(address + length - first) // access)
    if first % interleave + bursts * access <= interleave and pitch % interleave == 0:
        yield first // interleave, count, max(pitch // interleave, 1), bursts
        return
    for start in range(address, address + count * pitch, pitch):
        yield from _contiguous(start // access * access, start + length, interleave, access)


def _contiguous(first: int, end: int, interleave: int, access: int) -> Iterator[Run]:
    """The blocks behind the bytes from `first` (start of an access) to `end`: a head, whole blocks, a tail."""
    head = -first % interleave
    if head:
        stop = min(first + head, end)
        yield first // interleave, 1, 1, -((first - stop) // access)
        first = stop
    blocks, tail = divmod(end - first, interleave)
    if blocks > 0:
        yield first // interleave, blocks, 1, interleave // access
    if tail > 0:
        yield end // interleave, 1, 1, -(-tail // access)
