"""GEMM in all its forms: plain, batched and grouped, with quantised weights and epilogues."""

from kpusim.operators.gemm.operator import Gemm, GroupedGemm

__all__ = ["Gemm", "GroupedGemm"]
