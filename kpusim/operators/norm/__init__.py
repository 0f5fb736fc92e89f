"""Operators that normalise rows or columns."""

from kpusim.operators.norm.batch import BatchNorm
from kpusim.operators.norm.layer import LayerNorm
from kpusim.operators.norm.rms import RmsNorm
from kpusim.operators.norm.softmax import Softmax

__all__ = ["NORMS", "BatchNorm", "LayerNorm", "RmsNorm", "Softmax"]

NORMS = (RmsNorm, LayerNorm, BatchNorm, Softmax)
