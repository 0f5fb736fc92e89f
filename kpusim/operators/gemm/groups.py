"""How rows are dealt to groups."""

from __future__ import annotations

from functools import cache

from kpusim.errors import UserError
from kpusim.operators.lists import zipf_exponent

__all__ = ["group_rows"]

ALLOWED = '"even", "zipf EXPONENT", or a number for each group, such as "3 0 5"'


@cache
def group_rows(text: str, groups: int, total: int) -> tuple[int, ...]:
    """Rows of each group, `total` in all. Raises UserError for a text that means nothing, or another sum."""
    words = text.replace(",", " ").split()
    exponent = zipf_exponent(words)
    if exponent is not None:
        return _apportioned([rank**-exponent for rank in range(1, groups + 1)], total)
    try:
        if words == ["even"]:
            return _apportioned([1.0] * groups, total)
        rows = tuple(int(word) for word in words)
    except ValueError:
        rows = ()
    if not rows or min(rows) < 0:
        raise UserError("impossible rows", found=text, allowed=ALLOWED)
    if len(rows) != groups or sum(rows) != total:
        found = f"{len(rows)} numbers that add up to {sum(rows)}"
        raise UserError("rows of the groups", found=found, allowed=f"{groups} that add up to m = {total}")
    return rows


def _apportioned(weights: list[float], total: int) -> tuple[int, ...]:
    """`total` in proportion to `weights`, by largest remainders (Hamilton's method; ties: the first)."""
    shares = [total * weight / sum(weights) for weight in weights]
    rows = [int(share) for share in shares]
    order = sorted(range(len(rows)), key=lambda i: (rows[i] - shares[i], i))
    for i in order[: total - sum(rows)]:
        rows[i] += 1
    return tuple(rows)
