"""fp32, in which the vector engine computes: its range, and how far a rounding is off."""

from __future__ import annotations

__all__ = ["FP32_LEAST", "FP32_MAX", "U"]

FP32_MAX = (2 - 2.0**-23) * 2.0**127  # IEEE 754 binary32
FP32_LEAST = 2.0**-126  # the least normal number, IEEE 754 binary32
U = 2.0**-24  # unit roundoff: the greatest relative error of a rounding, `dtypes.unit_roundoff("fp32")`
