"""Address translation: pages that lists reach, each walked to once.

A box's descriptor is known before its data is wanted, so that its addresses are taken to be translated by then. Where
listed rows lie is known only when their numbers are there: each page that no list of the program has reached before
takes a walk of the page tables. Any number of walks are under way at once; who wants the same page waits for the same.
"""

from __future__ import annotations

import numpy as np

from kpusim.engines.footprint import bursts_of
from kpusim.engines.transfer import Chunk
from kpusim.machine import Machine

__all__ = ["Translation"]


class Translation:
    """The pages that have been asked for, by number, and from which cycle on they are translated."""

    def __init__(self, machine: Machine):
        self._walk, self._page = machine.dma.walk_cycles, machine.dma.page_bytes
        self._interleave = machine.hbm.interleave_bytes
        self._known: dict[int, int] = {}

    def after(self, chunk: Chunk, base: int, now: int) -> int:
        """The cycle from which on a chunk that is asked for at cycle `now` can be: at once, but for lists."""
        if not self._walk or not chunk.descriptors:
            return now
        blocks, _ = bursts_of(chunk.runs)
        pages = np.unique((blocks + base) * self._interleave // self._page)
        return max([now, *(self._known.setdefault(page, now + self._walk) for page in pages.tolist())])
