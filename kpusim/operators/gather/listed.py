"""Index lists: given as numbers, or drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod

import numpy as np
import numpy.typing as npt

from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.operators.lists import check_list, drawn_once, drawn_zipf, zipf_exponent

__all__ = ["coordinates", "leading_sizes", "listed"]

Numbers = npt.NDArray[np.int64]

ALLOWED = '"uniform", "zipf EXPONENT", "sorted", "sequential", "duplicates", "permutation", or numbers such as "3 0 5"'
REPEATS = 8  # chosen: how often each row of "duplicates" comes, in the mean


@cache
def listed(text: str, count: int, entries: int, seed: int, dtype: str = "int32") -> tuple[int, ...]:
    """`count` rows of `entries`, in a tensor of `dtype`.

    Raises UserError for a text that means nothing, numbers that cannot be, and too many of them (`check_list`).

    uniform: each row as likely. zipf s: row i in proportion to (i + 1)^-s, as words of a vocabulary that is sorted by
    frequency. sorted: uniform, ascending. sequential: 0, 1, ..., from the beginning again behind the last row.
    duplicates: uniform of an eighth as many rows. permutation: uniform, none twice before all have come.
    """
    check_list(count, entries, dtype)
    words = text.replace(",", " ").split()
    rng, turns = np.random.default_rng(seed), range(ceil_div(count, entries))
    exponent = zipf_exponent(words)
    if exponent is not None:
        return _numbers(drawn_zipf(rng, exponent, entries, count))
    draws: dict[str, Callable[[], Numbers]] = {
        "uniform": lambda: rng.integers(0, entries, count),
        "sorted": lambda: np.sort(rng.integers(0, entries, count)),
        "sequential": lambda: np.arange(count) % entries,
        "duplicates": lambda: rng.choice(rng.integers(0, entries, max(count // REPEATS, 1)), count),
        "permutation": lambda: np.concatenate([drawn_once(rng, entries, count) for _ in turns])[:count],
    }
    if len(words) == 1 and words[0] in draws:
        return _numbers(draws[words[0]]())
    return _given(words, text, count, entries)


def _numbers(values: Numbers) -> tuple[int, ...]:
    return tuple(values.tolist())


def _integers(words: list[str]) -> tuple[int, ...]:
    """The numbers that they all are; none where one is something else."""
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        return ()


def _given(words: list[str], text: str, count: int, entries: int) -> tuple[int, ...]:
    rows = _integers(words)
    if not rows:
        raise UserError("impossible indices", found=text, allowed=ALLOWED)
    if len(rows) != count:
        raise UserError("indices that are not as many as count", found=f"{len(rows)} numbers", allowed=f"{count}")
    for place, row in enumerate(rows):
        if not 0 <= row < entries:
            found = f"{row}, number {place} of the list, counted from 0"
            raise UserError("an index out of range", found=found, allowed=f"0 to {entries - 1}")
    return rows


@cache
def coordinates(text: str, count: int, sizes: tuple[int, ...], seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(numbers of rows, their coordinates one row after the other) for a tensor with these leading sizes.

    Numbers in `text` are coordinates. Raises UserError as `listed`; numbers of rows are int32, as they are computed.
    """
    entries = prod(sizes)
    check_list(count * len(sizes), entries)
    given = _integers(text.replace(",", " ").split())
    if given:
        columns = _columns(given, count, sizes)
        rows = _numbers(np.asarray(np.ravel_multi_index(columns, sizes)))
    else:
        rows = listed(text, count, entries, seed)
    places = np.stack(np.unravel_index(np.array(rows, np.int64), sizes), axis=1)
    return rows, _numbers(places.reshape(-1))


def _columns(given: tuple[int, ...], count: int, sizes: tuple[int, ...]) -> tuple[Numbers, ...]:
    """The coordinates along each of `sizes`. Raises UserError for too many or few numbers, or one out of range."""
    depth = len(sizes)
    if len(given) != count * depth:
        allowed = f"{count * depth}: count times {depth}"
        raise UserError("not all coordinates", found=f"{len(given)} numbers", allowed=allowed)
    for place, number in enumerate(given):
        row, axis = divmod(place, depth)
        if not 0 <= number < sizes[axis]:
            found = f"{number}, coordinate {axis} of row {row} of the list, both counted from 0"
            raise UserError("an index out of range", found=found, allowed=f"0 to {sizes[axis] - 1}")
    return tuple(np.array(given, np.int64).reshape(count, depth).T)


def leading_sizes(text: str) -> tuple[int, ...]:
    """The sizes that `text` tells. Raises UserError for anything but two or three of them."""
    sizes = _integers(text.replace(",", " ").split())
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise UserError("impossible sizes", found=text, allowed='two or three sizes, such as "8 16"')
    return sizes
