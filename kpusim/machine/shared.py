"""The shared level: an on-chip memory between the DMA engines and HBM."""

from fractions import Fraction
from typing import Literal

from attrs import field, frozen

from kpusim.machine.quantities import Count, Cycles, PerCycle, Size

__all__ = ["Shared"]


@frozen
class Shared:
    """An on-chip memory between all DMA engines and HBM: none, a buffer that software manages, or a cache."""

    kind: Literal["none", "buffer", "cache"] = field(
        default="none",
        metadata={
            "about": '"buffer": holds the tensors that a workload file places there with memory = "shared", which '
            'never touch HBM; "cache": holds what was used last of HBM; "none", and where a file has no such table: '
            "there is no shared level."
        },
    )
    capacity_bytes: Size = field(default=0, metadata={"about": "Capacity of all of it; needed for a buffer or cache."})
    bytes_per_cycle: PerCycle = field(
        default=Fraction(0),
        metadata={"about": "Bandwidth of all of it, for whatever passes it; needed for a buffer or cache."},
    )
    latency_cycles: Cycles = field(
        default=0, metadata={"about": "Time from a request to its first byte; a miss takes it before it goes to HBM."}
    )
    line_bytes: Size = field(
        default=128,  # chosen: as the L2 of AMD's MI300 (CDNA 3 white paper)
        metadata={
            "about": "Cache: what is brought in and written back, a multiple of `hbm.access`; 128 B where a file does "
            "not say it."
        },
    )
    block_bytes: Size = field(
        default=16384,  # chosen: what a DMA engine asks for at once
        metadata={
            "about": "Cache: size of the blocks by which lines are looked up, 4 to 64 KiB, in whole lines; 16 KiB "
            "where a file does not say it. The lines of a block lie in sets that follow each other."
        },
    )
    write: Literal["back", "through"] = field(
        default="back",
        metadata={
            "about": '"back": what is written stays until it is thrown out or the program ends, and lines written in '
            'part are fetched (and where a file does not say it); "through": it goes on to HBM at once, and only whole '
            "lines are brought in."
        },
    )
    ways: Count = field(
        default=16,  # chosen: as the L2 of AMD's MI300 (CDNA 3 white paper)
        metadata={
            "about": "Cache: lines of a set; the least recently used goes first. 16 where a file does not say it."
        },
    )
    lookup: Literal["blocks", "lines"] = field(
        default="blocks",
        metadata={
            "about": 'Cache: "blocks": one look-up a block, and where a file does not say it; "lines": one a line, '
            "which gives the same more slowly."
        },
    )

    @property
    def bytes_on_chip(self) -> int:
        """What it adds to the capacity of the chip."""
        return self.capacity_bytes if self.kind != "none" else 0

    @property
    def sets(self) -> int:
        """Sets of a cache."""
        return self.capacity_bytes // (self.line_bytes * self.ways)
