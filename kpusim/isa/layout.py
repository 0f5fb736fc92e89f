"""How a tensor lies in HBM. Programs, operators and workloads say it with the same value."""

from __future__ import annotations

from math import prod

from attrs import frozen

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_BITS

__all__ = ["DENSE", "Layout"]


@frozen
class Layout:
    """Row-major, by default with every row (innermost dimension) right behind the one before.

    block: the shape of the contiguous blocks over the last two dimensions, () for none. pitch: elements from the start
    of a row to the start of the next, 0 for dense; what lies between is the tensor's, and nobody reads or writes it.
    """

    block: tuple[int, ...] = ()
    pitch: int = 0

    def __str__(self) -> str:
        """As workload files write it."""
        if self.block:
            return f"blocked {list(self.block)}"
        return f"row-major pitch {self.pitch}" if self.pitch else "row-major"

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The elements that a tensor of `shape` takes along each dimension: rows with their pitch, whole blocks."""
        if self.pitch:
            return *shape[:-1], self.pitch
        whole = list(shape)
        for i, block in enumerate(reversed(self.block), start=1):
            whole[-i] = -(-shape[-i] // block) * block
        return tuple(whole)

    def size_bytes(self, shape: tuple[int, ...], dtype: str) -> int:
        """Bytes that a tensor of that shape and dtype takes in HBM."""
        return -(-prod(self.stored(shape)) * DTYPE_BITS[dtype] // 8)

    def problem(self, shape: tuple[int, ...], dtype: str, where: str) -> UserError | None:
        """Why a tensor of that shape and dtype cannot lie like this, if it cannot; `where` is for the message."""
        if self.block and self.pitch:
            found = f"blocked {list(self.block)} and pitch {self.pitch}"
            return UserError("blocks have no row pitch", where=where, found=found, allowed="one of the two")
        if len(shape) < len(self.block):
            problem = "blocks are over the last two dimensions"
            return UserError(problem, where=where, found=list(shape), allowed="2 or 3 dimensions")
        if self.pitch and self.pitch < shape[-1]:
            allowed = f"at least {shape[-1]}, the elements of a row"
            return UserError("a pitch is not less than a row", where=where, found=self.pitch, allowed=allowed)
        row = self.pitch or (self.block[-1] if self.block else 0)
        if row * DTYPE_BITS[dtype] % 8:
            allowed = f"a multiple of {8 // DTYPE_BITS[dtype]}"
            return UserError(f"rows of {dtype} start at whole bytes", where=where, found=row, allowed=allowed)
        return None


DENSE = Layout()
