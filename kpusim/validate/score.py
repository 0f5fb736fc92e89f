"""How far predictions are off: mean and median error, and whether they put rows in the right order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

__all__ = ["Score", "error_percent", "score", "spearman"]

Floats = npt.NDArray[np.float64]


@frozen
class Score:
    """Of rows that were measured: absolute errors in percent of what was measured, and the rank correlation.

    None where there is none: of no rows, and for the correlation of fewer than two or of equal ones.
    """

    rows: int
    mape_percent: float | None
    median_percent: float | None
    spearman: float | None


def error_percent(measured: float, predicted: float) -> float:
    """How much too long a prediction is, in percent of what was measured; below 0 where it is too short."""
    return 100 * (predicted / measured - 1)


def score(measured: Sequence[float], predicted: Sequence[float]) -> Score:
    """The score of predictions; all times above 0."""
    errors = [abs(error_percent(*pair)) for pair in zip(measured, predicted, strict=True)]
    if not errors:
        return Score(0, None, None, None)
    return Score(len(errors), float(np.mean(errors)), float(np.median(errors)), spearman(measured, predicted))


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; None where it is not defined."""
    if len({*one}) < 2 or len({*other}) < 2:
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> Floats:
    """From 1 for the least."""
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places].astype(np.float64)
