"""Operators on each element by itself: arithmetic, activations, gates, rotations and conversions."""

from kpusim.operators.elementwise.activation import GeGlu, Gelu, GeluTanh, Relu, Silu, SwiGlu
from kpusim.operators.elementwise.arithmetic import Add, Mul
from kpusim.operators.elementwise.convert import Cast, Dequantize, Quantize
from kpusim.operators.elementwise.rope import Rope

__all__ = [
    "ELEMENTWISE",
    "Add",
    "Cast",
    "Dequantize",
    "GeGlu",
    "Gelu",
    "GeluTanh",
    "Mul",
    "Quantize",
    "Relu",
    "Rope",
    "Silu",
    "SwiGlu",
]

ELEMENTWISE = (Add, Mul, Relu, Gelu, GeluTanh, Silu, SwiGlu, GeGlu, Rope, Cast, Quantize, Dequantize)
