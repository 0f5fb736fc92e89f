"""Regression on cycle counts: suites of cases, what they take now, and what of that has moved."""

from kpusim.golden.compare import Change, changes
from kpusim.golden.measure import measure
from kpusim.golden.record import Recorded, record
from kpusim.golden.suite import Case, Measured, Suite, load_suite, what_runs

__all__ = [
    "Case",
    "Change",
    "Measured",
    "Recorded",
    "Suite",
    "changes",
    "load_suite",
    "measure",
    "record",
    "what_runs",
]
