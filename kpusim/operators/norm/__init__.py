"""Operators that normalise rows or columns."""
