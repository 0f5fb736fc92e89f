"""What is selected: a table, a list of its rows, and how many bytes that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from kpusim.dtypes import per_byte
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.operators.base import Port
from kpusim.operators.declare import Wanted
from kpusim.operators.gather.mapping import Mapping

__all__ = ["Selection", "burst_bytes"]


@frozen(eq=False)
class Selection:
    """Rows of a table [entries, width] by a list.

    table, index, listed: the ports of the table, of the indices, and of the rows in the order of the list. rows: the
    listed numbers. indices: the elements of the tensor of indices, which are those numbers or, where `leading` has the
    sizes of the table's own dimensions, one number for each of these.
    """

    table: Port
    index: Port
    listed: Port
    rows: tuple[int, ...]
    indices: tuple[int, ...]
    leading: tuple[int, ...] = ()

    @property
    def fan(self) -> int:
        """Rows of the table for each of those that are counted."""
        return 1

    @property
    def count(self) -> int:
        """Listed rows."""
        return self.listed.shape[0]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.table.shape[1]

    @property
    def bits(self) -> int:
        """Bits of an element of a row."""
        return DTYPE_BITS[self.table.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return ceil_div(self.width * self.bits, 8)

    @property
    def packed(self) -> int:
        """Elements that share a byte; 1 for none."""
        return per_byte(self.table.dtype)

    @property
    def index_bytes(self) -> int:
        """Bytes of the indices of one row."""
        return max(len(self.leading), 1) * DTYPE_BITS[self.index.dtype] // 8

    def buffers(self, mapping: Mapping) -> Wanted:
        """What a tile needs, by name."""
        listed, slots, depth, index = mapping.rows, mapping.index_slots, len(self.leading), self.index.dtype
        found: dict[str, tuple[str, int, tuple[int, ...]]] = {
            "block": (self.table.dtype, mapping.slots, (mapping.rows, mapping.columns)),
            "index": ("int32" if depth else index, slots, (listed, 1) if depth else (listed,)),
        }
        if depth:
            found["coordinates"] = index, slots, (listed, depth)
            if index == "int64":
                found["narrow"] = "int32", 1, (listed, depth)
        return found


def burst_bytes(rows: Sequence[int], row_bytes: int, access: int) -> int:
    """Bytes of the whole accesses that hold distinct rows of a dense table: each once, also where rows share one."""
    starts = np.unique(np.asarray(rows, np.int64)) * row_bytes
    first, last = starts // access, (starts + row_bytes - 1) // access
    shared = first[1:] == last[:-1]
    return int((last - first + 1).sum() - shared.sum()) * access
