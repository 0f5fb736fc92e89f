"""Index lists: given as numbers, or drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div

__all__ = ["coordinates", "leading_sizes", "listed"]

Numbers = npt.NDArray[np.int64]

ALLOWED = '"uniform", "zipf EXPONENT", "sorted", "sequential", "duplicates", "permutation", or numbers such as "3 0 5"'
REPEATS = 8  # chosen: how often each row of "duplicates" comes, in the mean


@cache
def listed(text: str, count: int, entries: int, seed: int) -> tuple[int, ...]:
    """`count` rows of `entries`. Raises UserError for a text that means nothing, or numbers that cannot be.

    uniform: each row as likely. zipf s: row i in proportion to (i + 1)^-s, as words of a vocabulary that is sorted by
    frequency. sorted: uniform, ascending. sequential: 0, 1, ..., from the beginning again behind the last row.
    duplicates: uniform of an eighth as many rows. permutation: uniform, none twice before all have come.
    """
    words = text.replace(",", " ").split()
    rng, turns = np.random.default_rng(seed), range(ceil_div(count, entries))
    if len(words) == 2 and words[0] == "zipf":
        return _numbers(_zipf(words[1], text, count, entries, rng))
    draws: dict[str, Callable[[], Numbers]] = {
        "uniform": lambda: rng.integers(0, entries, count),
        "sorted": lambda: np.sort(rng.integers(0, entries, count)),
        "sequential": lambda: np.arange(count) % entries,
        "duplicates": lambda: rng.choice(rng.integers(0, entries, max(count // REPEATS, 1)), count),
        "permutation": lambda: np.concatenate([rng.permutation(entries) for _ in turns])[:count],
    }
    if len(words) == 1 and words[0] in draws:
        return _numbers(draws[words[0]]())
    return _given(words, text, count, entries)


def _numbers(values: Numbers) -> tuple[int, ...]:
    return tuple(values.tolist())


def _zipf(exponent: str, text: str, count: int, entries: int, rng: np.random.Generator) -> Numbers:
    try:
        power = float(exponent)
        if not 0 <= power < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError("impossible indices", found=text, allowed=ALLOWED) from None
    with np.errstate(under="ignore"):
        weights = np.arange(1, entries + 1, dtype=np.float64) ** -power
    return rng.choice(entries, count, p=weights / weights.sum())


def _given(words: list[str], text: str, count: int, entries: int) -> tuple[int, ...]:
    try:
        rows = tuple(int(word) for word in words)
    except ValueError:
        rows = ()
    if not rows:
        raise UserError("impossible indices", found=text, allowed=ALLOWED)
    if len(rows) != count:
        raise UserError("indices that are not as many as count", found=f"{len(rows)} numbers", allowed=f"{count}")
    for place, row in enumerate(rows):
        if not 0 <= row < entries:
            allowed = f"0 to {entries - 1}"
            raise UserError("an index out of range", found=f"{row}, number {place} of the list", allowed=allowed)
    return rows


@cache
def coordinates(text: str, count: int, sizes: tuple[int, ...], seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(numbers of rows, their coordinates one row after the other) for a tensor with these leading sizes.

    Numbers in `text` are coordinates. Raises UserError as `listed`.
    """
    words, entries = text.replace(",", " ").split(), int(np.prod(sizes))
    if words and all(word.lstrip("-").isdigit() for word in words):
        if len(words) != count * len(sizes):
            allowed = f"{count * len(sizes)}: count times {len(sizes)}"
            raise UserError("not all coordinates", found=f"{len(words)} numbers", allowed=allowed)
        columns = np.array([int(word) for word in words], object).reshape(count, len(sizes)).T
        for column, size in zip(columns, sizes, strict=True):
            _given([str(value) for value in column], text, count, size)
        rows = _numbers(np.asarray(np.ravel_multi_index(tuple(columns.astype(np.int64)), sizes)))
    else:
        rows = listed(text, count, entries, seed)
    places = np.stack(np.unravel_index(np.array(rows, np.int64), sizes), axis=1)
    return rows, _numbers(places.reshape(-1))


def leading_sizes(text: str) -> tuple[int, ...]:
    """The sizes that `text` tells. Raises UserError for anything but two or three of them."""
    words = text.replace(",", " ").split()
    if not (len(words) in (2, 3) and all(word.isdigit() and int(word) for word in words)):
        raise UserError("impossible sizes", found=text, allowed='two or three sizes, such as "8 16"')
    return tuple(int(word) for word in words)
