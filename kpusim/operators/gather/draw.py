"""Random selections for tests."""

from __future__ import annotations

from random import Random
from typing import Any

from kpusim.dtypes import per_byte
from kpusim.isa.tables import DTYPE_GROUPS

__all__ = ["draw_rows"]

DRAWS = ("uniform", "zipf 1.2", "zipf 3", "sorted", "sequential", "duplicates", "permutation")
ROWS = 90  # several blocks for each lane of kpu-tiny
WIDTHS = (1, 3, 17, 64, 129, 1500)  # the longest does not fit into kpu-tiny's slots


def draw_rows(random: Random, dtypes: tuple[str, ...]) -> tuple[int, int, int, dict[str, Any]]:
    """Entries, width, count and the other parameters of an operator by index."""
    dtype = random.choice(dtypes)
    packed = per_byte(dtype)
    width = random.choice(WIDTHS) * packed
    most = ROWS if width < WIDTHS[-1] else 8
    options = {"dtype": dtype, "index_dtype": random.choice(DTYPE_GROUPS["index"]), "indices": random.choice(DRAWS)}
    return random.randint(1, most), width, random.randint(1, most), options | {"seed": random.randint(0, 99)}
