"""Streams of requests: addresses in a pattern or from a file, and which of them are writes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from kpusim.errors import UserError
from kpusim.machine.dram import Organisation
from kpusim.machine.quantities import SIZE, text
from kpusim.tomlfile import read_text

__all__ = ["PATTERNS", "addresses_of", "read_trace", "spread_writes"]

PATTERNS = ("stream", "random", "strided")

_READS = ("R", "LD")
_WRITES = ("W", "ST")


def addresses_of(pattern: str, count: int, organisation: Organisation, span: int, stride: int, seed: int) -> list[int]:
    """`count` addresses of bursts within the first `span` bytes.

    stream: one burst behind the other, from the beginning again at the end of the span. random: uniform, by Python's
    `random.Random(seed).randrange` in order. strided: `stride` bytes apart; at the end of the span from its beginning,
    one burst further, as a matrix is read by columns. Raises UserError where that cannot be.
    """
    burst = organisation.burst_bytes
    if not burst <= span <= organisation.capacity_bytes:
        allowed = f"{_size(burst)}, a burst, to {_size(organisation.capacity_bytes)}, all of the channel"
        raise UserError("not a span of this channel", where="--span", found=_size(span), allowed=allowed)
    bursts = span // burst
    if pattern == "stream":
        return [burst * (i % bursts) for i in range(count)]
    if pattern == "random":
        draw = random.Random(seed)
        return [burst * draw.randrange(bursts) for _ in range(count)]
    if stride % burst or not 0 < stride <= span:
        allowed = f"a multiple of {_size(burst)}, a burst, up to the span"
        raise UserError("not a stride", where="--stride", found=_size(stride), allowed=allowed)
    step, rows = stride // burst, -(-bursts // (stride // burst))
    return [burst * ((i % rows * step + i // rows % step) % bursts) for i in range(count)]


def spread_writes(part: Fraction, count: int) -> list[bool]:
    """Which requests write if `part` of them do, evenly: of 1/3 the third, the sixth, ..."""
    written = [i * part.numerator // part.denominator for i in range(count + 1)]
    return [after > before for before, after in pairwise(written)]


def read_trace(path: Path, organisation: Organisation, count: int | None) -> tuple[list[int], list[bool] | None]:
    """The first `count` (None: all) addresses of a file, and whether each writes (None: no line says so).

    A line has an address, decimal or in hex (0x...), and may say R or W (LD or ST) before or behind it; what follows a
    # does not count, nor do empty lines. Raises UserError with file and line.
    """
    addresses: list[int] = []
    writes: list[bool | None] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words or (count is not None and len(addresses) == count):
            continue
        address, write = _request(words, f"{path}:{number}")
        if address >= organisation.capacity_bytes:
            allowed = f"below {organisation.capacity_bytes:#x}, the bytes of the channel"
            raise UserError("address too large", where=f"{path}:{number}", found=line.strip(), allowed=allowed)
        addresses.append(address - address % organisation.burst_bytes)
        writes.append(write)
    if not addresses:
        raise UserError("has no address", where=str(path))
    if count is not None and len(addresses) < count:
        allowed = f"up to {len(addresses)}, all of {path}"
        raise UserError("more requests than the file has", where="--requests", found=count, allowed=allowed)
    return addresses, None if all(write is None for write in writes) else [bool(write) for write in writes]


def _size(size: int) -> str:
    return text(size, SIZE, 1)


def _request(words: Sequence[str], where: str) -> tuple[int, bool | None]:
    """Address and kind (True: write) of one line."""
    kinds = [word for word in words if word.upper() in (*_READS, *_WRITES)]
    others = [word for word in words if word not in kinds]
    try:
        if len(others) != 1 or len(kinds) > 1 or (address := int(others[0], 0)) < 0:
            raise ValueError
    except ValueError:
        allowed = "an address, decimal or 0x..., and R or W, such as 0x1f40 W"
        raise UserError("not a request", where=where, found=" ".join(words), allowed=allowed) from None
    return address, kinds[0].upper() in _WRITES if kinds else None
