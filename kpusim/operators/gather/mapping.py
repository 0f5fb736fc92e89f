"""Mappings of operators by index: how listed rows pass through the tiles."""

from __future__ import annotations

from attrs import frozen

__all__ = ["Mapping"]


@frozen
class Mapping:
    """Lanes, each a DMA engine with a tile between HBM and HBM, move blocks of `rows` rows by turns.

    columns: elements of a row that are moved at once; fewer than all where a row is longer than a slot. slots: blocks
    that a tile has room for.
    """

    lanes: int
    rows: int
    columns: int
    slots: int = 3

    @property
    def index_slots(self) -> int:
        """Blocks of indices: one more, so that they are there before the rows have room."""
        return self.slots + 1

    def count(self, name: str) -> int:
        """Slots of a buffer: three of what is summed, one comes while one is used; two of what is stored."""
        return {"block": self.slots, "stripe": 3, "result": 2, "hot_sum": 2}.get(name, self.index_slots)
