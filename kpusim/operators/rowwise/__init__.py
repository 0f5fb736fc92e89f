"""Operators on independent rows: one kernel that streams blocks of rows through the tiles."""

from kpusim.operators.rowwise.operator import Rowwise

__all__ = ["Rowwise"]
