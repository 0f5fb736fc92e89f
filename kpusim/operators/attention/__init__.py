"""Attention: scores, softmax and weighted values, fused or not, for every place where keys and values may be."""
