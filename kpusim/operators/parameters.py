"""Validators of operators' parameters, and dtypes and limits that several families have."""

from __future__ import annotations

from math import inf

from attrs import Attribute, validators

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.fp32 import FP32_MAX

__all__ = ["ENTRIES", "FLOATS", "FP8", "count", "flag", "number", "positive", "whole"]

FP8 = ("fp8_e4m3", "fp8_e5m2")
FLOATS = (*DTYPE_GROUPS["real"], *FP8)
ENTRIES = 4096  # entries of a batch, or groups: their lanes are tables of the program, or loops over them
MOST = 2**63 - 1  # of sizes and seeds: what an int64 holds


def whole(_: object, attribute: Attribute[int], value: object) -> None:
    """Validates an int. Unlike `instance_of(int)`: True is none."""
    if type(value) is not int:
        raise TypeError(f"{attribute.name} must be an int", attribute, int, value)


def number(_: object, attribute: Attribute[float], value: object) -> None:
    """Validates a finite int or float."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -inf < value < inf:
        raise TypeError(f"{attribute.name} must be a number", attribute, float, value)
    if abs(value) > FP32_MAX:
        raise ValueError(f"{attribute.name} must be a number that fp32 holds: {value}")


positive = [whole, validators.ge(1), validators.le(MOST)]
count = [whole, validators.ge(0), validators.le(MOST)]
flag = validators.instance_of(bool)
