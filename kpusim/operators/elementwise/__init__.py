"""Operators on each element by itself: arithmetic, activations, gates, rotations and conversions."""

from kpusim.operators.elementwise.arithmetic import Add, Mul

__all__ = ["Add", "Mul"]
