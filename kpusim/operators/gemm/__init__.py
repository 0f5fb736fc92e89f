"""GEMM: out[m, n] = sum over k of a[m, k] * b[k, n]."""

from kpusim.operators.gemm.operator import Gemm

__all__ = ["Gemm"]
