"""Rows of a table by index: gather, gather_nd, scatter, scatter_add."""

from kpusim.operators.gather.operator import Gather, GatherNd
from kpusim.operators.gather.update import Scatter, ScatterAdd

__all__ = ["Gather", "GatherNd", "Scatter", "ScatterAdd"]
