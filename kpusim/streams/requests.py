"""What a stream asks of HBM, and when: addresses in a pattern, in requests as DMA engines make them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import count, islice

from attrs import frozen

from kpusim.dram.patterns import spread_writes
from kpusim.engines.transfer import Chunk, Segment, chunk_of, joined
from kpusim.machine import Hbm

__all__ = ["PATTERNS", "Request", "Stream"]

PATTERNS = ("sequential", "strided", "random", "mixed")


@frozen
class Request:
    """A chunk that is asked for at a core cycle; its runs count from interleave block `base`."""

    cycle: int
    base: int
    chunk: Chunk
    write: bool


@frozen
class Stream:
    """An endless stream of requests of `request_bytes`, each of one access or several behind each other.

    pattern: of `PATTERNS`. "sequential": an access begins where the one before ends. "strided": `stride_bytes` behind
    the beginning of the one before; at the end of the span from its beginning, one access further, as a matrix is read
    by columns. "random": uniform. "mixed": sequential ones in the first half of the span and random ones in the second,
    by turns.
    access_bytes: contiguous bytes; a divisor of `request_bytes`. span_bytes: of addresses, from 0 on.
    writes: the part of the requests that write, spread evenly.
    """

    pattern: str
    request_bytes: int
    access_bytes: int
    stride_bytes: int
    span_bytes: int
    writes: Fraction = Fraction(0)
    seed: int = 1

    def requests(self, hbm: Hbm, number: int, bytes_per_cycle: float, start: int = 0) -> Iterator[Request]:
        """The first `number` requests, from cycle `start` on, apart by exponential times, at this rate in the mean."""
        gaps = random.Random(self.seed)
        chunks: dict[tuple[Segment, ...], Chunk] = {}
        addresses, time = self._addresses(), float(start)
        for write in spread_writes(self.writes, number):
            places = list(islice(addresses, self.request_bytes // self.access_bytes))
            base = min(places) // hbm.interleave_bytes
            accesses = ((at - base * hbm.interleave_bytes, 1, 1, self.access_bytes) for at in places)
            segments = tuple((first, 1, 1, end - first) for first, end in joined(accesses))
            if segments not in chunks:
                chunks[segments] = chunk_of(segments, hbm.interleave_bytes, hbm.access_bytes)
            yield Request(int(time), base, chunks[segments], write)
            time += gaps.expovariate(bytes_per_cycle / self.request_bytes)

    def _addresses(self) -> Iterator[int]:
        """Of its accesses."""
        size, accesses = self.access_bytes, self.span_bytes // self.access_bytes
        draw, half = random.Random(f"addresses {self.seed}"), max(accesses // 2, 1)
        rows = max(self.span_bytes // self.stride_bytes, 1)
        for i in count():
            if self.pattern == "sequential":
                yield i % accesses * size
            elif self.pattern == "strided":
                yield i % rows * self.stride_bytes + i // rows * size % self.stride_bytes
            elif self.pattern == "random" or i % 2:
                yield (draw.randrange(accesses) if self.pattern == "random" else half + draw.randrange(half)) * size
            else:
                yield i // 2 % half * size
