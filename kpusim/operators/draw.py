"""What random operators for tests are drawn from."""

from __future__ import annotations

from random import Random

__all__ = ["draw_size"]


def draw_size(random: Random, most: int, steps: int = 1) -> int:
    """A size up to `most`, a multiple of `steps`: often one of them, mostly odd ones."""
    return steps * random.choice((1, *(random.randint(1, max(most // steps, 1)) for _ in range(2))))
