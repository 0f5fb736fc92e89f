"""Attention: scores, softmax and weighted values, fused or not, for every place where keys and values may be."""

from kpusim.operators.attention.operator import Attention, Mla

__all__ = ["Attention", "Mla"]
