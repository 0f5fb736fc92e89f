"""Lists of rows that a program assumes: how long they may be, and how their rows are drawn."""

from __future__ import annotations

from math import inf

import numpy as np
import numpy.typing as npt

from kpusim.dtypes import integer_range
from kpusim.errors import UserError

__all__ = ["LONGEST", "check_list", "drawn_once", "drawn_zipf", "zipf_exponent"]

Numbers = npt.NDArray[np.int64]

LONGEST = 1 << 24  # numbers; chosen: a list is a table of the program, of some 70 bytes a number here
SHUFFLED = 1 << 26  # rows; chosen: that many are shuffled at once, 512 MiB; of more, some are drawn one by one
HEAD = 1 << 20  # ranks; chosen: the integral behind them is off by s (s + 1) / 24 HEAD^2, 1e-13 for s = 1


def check_list(numbers: int, rows: int, dtype: str = "int32") -> None:
    """Raises UserError for a list of too many numbers, or rows of a table that `dtype` cannot number."""
    if numbers > LONGEST:
        problem = "a list that is too long: it is a table of the program"
        raise UserError(problem, found=f"{numbers:,} numbers", allowed=f"up to {LONGEST:,}")
    most = integer_range(dtype)[1] + 1
    if rows > most:
        raise UserError(f"more rows than {dtype} can number", found=f"{rows:,} rows", allowed=f"up to {most:,}")


def drawn_once(rng: np.random.Generator, rows: int, count: int) -> Numbers:
    """`count` different ones of `rows`, in any order; all of them where there are not as many."""
    if rows <= SHUFFLED:
        return rng.permutation(rows)[:count]
    return rng.choice(rows, min(count, rows), replace=False)


def zipf_exponent(words: list[str]) -> float | None:
    """The exponent where the words are "zipf EXPONENT", at least 0 and finite; else None."""
    if len(words) != 2 or words[0] != "zipf":
        return None
    try:
        exponent = float(words[1])
    except ValueError:
        return None
    return exponent if 0 <= exponent < inf else None


def drawn_zipf(rng: np.random.Generator, exponent: float, rows: int, count: int) -> Numbers:
    """Row i in proportion to (i + 1)^-exponent.

    Of more than HEAD rows those behind are drawn from the integral of x^-exponent from HEAD + 1/2 to rows + 1/2 (the
    midpoint rule), by its inverse: no array is as long as the table.
    """
    with np.errstate(under="ignore"):
        weights = np.arange(1, min(rows, HEAD) + 1, dtype=np.float64) ** -exponent
    if rows <= HEAD:
        return rng.choice(rows, count, p=weights / weights.sum())
    start, t = HEAD + 0.5, 1 - exponent
    scale, length = start**t, np.log((rows + 0.5) / start)  # x = start * e^l, l from 0 to length
    sums = np.append(weights.cumsum(), 0.0)
    sums[-1] = sums[-2] + scale * (np.expm1(t * length) / t if t else length)
    drawn = rng.random(count) * sums[-1]
    found: Numbers = sums.searchsorted(drawn, side="right")
    behind = found >= HEAD
    share = (drawn[behind] - sums[-2]) / scale if scale else np.zeros(0)
    places = start * np.exp(np.log1p(t * share) / t if t else share)
    found[behind] = np.clip(np.rint(places).astype(np.int64) - 1, HEAD, rows - 1)
    return found
