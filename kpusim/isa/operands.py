"""Operands with every expression replaced by its value."""

from __future__ import annotations

from math import prod

from attrs import define

from kpusim.isa.program import Buffer, Tensor, TensorMap
from kpusim.isa.tables import DTYPE_BITS

__all__ = ["BoxAt", "ResolvedOperand", "RowsAt", "ViewAt"]


@define
class ViewAt:
    """A view with numbers: `sizes` elements from `starts` on, in slot `slot`, of tiles `tiles` (None: its own tile)."""

    buffer: Buffer
    slot: int
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    tiles: range | None

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.buffer.dtype

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.sizes)

    @property
    def size_bytes(self) -> int:
        """Bytes, packed."""
        return -(-self.elements * DTYPE_BITS[self.dtype] // 8)

    @property
    def span(self) -> tuple[int, int]:
        """Its first byte in the SRAM and the byte behind its last; what lies between need not all be its own."""
        first, last, stride = 0, 0, 1
        for start, size, extent in zip(self.starts[::-1], self.sizes[::-1], self.buffer.shape[::-1], strict=True):
            first += start * stride
            last += (start + max(size, 1) - 1) * stride
            stride *= extent
        base, bits = self.buffer.offset + self.slot * self.buffer.slot_bytes, DTYPE_BITS[self.dtype]
        return base + first * bits // 8, base - (-(last + 1) * bits // 8)


@define
class BoxAt:
    """A box with numbers: `sizes` elements from `starts` on; `clamped` is what of it lies inside the tensor."""

    map: TensorMap
    tensor: Tensor
    number: int
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.tensor.dtype

    @property
    def clamped(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(starts, sizes) of the part inside the tensor; a size is 0 where nothing is."""
        starts, sizes = self.starts, self.sizes
        for start, size, extent in zip(starts, sizes, self.tensor.shape, strict=True):
            if start < 0 or start + size > extent:
                break
        else:
            return starts, sizes
        extents = zip(starts, sizes, self.tensor.shape, strict=True)
        high = [min(start + size, extent) for start, size, extent in extents]
        low = tuple([max(start, 0) for start in starts])
        return low, tuple([max(h - s, 0) for s, h in zip(low, high, strict=True)])


@define
class RowsAt:
    """An index list."""

    table: str
    values: tuple[int, ...]


ResolvedOperand = ViewAt | BoxAt | RowsAt | int | float
