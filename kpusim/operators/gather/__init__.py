"""Rows of a table by index: gather, gather_nd."""

from kpusim.operators.gather.operator import Gather, GatherNd

__all__ = ["Gather", "GatherNd"]
