"""Activation functions: as chains of vector instructions, in float64, and how far fp32 may be off."""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np

from kpusim.dtypes import smallest
from kpusim.operators.base import Wide
from kpusim.operators.fp32 import U
from kpusim.operators.steps import Step

__all__ = ["ACTIVATIONS", "ROUNDINGS", "STEEPEST", "activated", "activation_steps", "activation_value"]

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
TANH_FACTOR = sqrt(2 / pi)  # of the tanh form of GELU, with 0.044715: Hendrycks & Gimpel, arXiv:1606.08415
TANH_CUBE = 0.044715
STEEPEST = 1.13  # greatest slope of the activations: GELU's, 1.1290 at x = sqrt(2)
ROUNDINGS = 16  # at most so many, in fp32, of an activation's value: no chain is as long


def activation_steps(name: str, x: str, temp: str) -> tuple[Step, ...]:
    """x = activation(x), both fp32, with `temp` beside it."""
    if name == "none":
        return ()
    if name == "relu":
        return (Step("max", x, (x, 0.0)),)
    t = temp
    gates = {
        "gelu": (Step("mul", t, (x, sqrt(0.5))), Step("erf", t, (t,)), Step("fma", t, (t, 0.5, 0.5))),
        "gelu_tanh": (
            Step("mul", t, (x, x)),
            Step("fma", t, (t, TANH_FACTOR * TANH_CUBE, TANH_FACTOR)),
            Step("mul", t, (t, x)),
            Step("tanh", t, (t,)),
            Step("fma", t, (t, 0.5, 0.5)),
        ),
        "silu": (Step("neg", t, (x,)), Step("exp", t, (t,)), Step("add", t, (t, 1.0)), Step("reciprocal", t, (t,))),
    }
    return (*gates[name], Step("mul", x, (x, t)))


def activation_value(name: str, x: Wide) -> Wide:
    """activation(x)."""
    if name == "none":
        return x
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return np.asarray(0.5 * x * (1 + np.asarray(np.frompyfunc(erf, 1, 1)(x * sqrt(0.5)), np.float64)))
    if name == "gelu_tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(TANH_FACTOR * (x + TANH_CUBE * x**3))))
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


def activated(name: str, x: Wide, bound: Wide | float = 0.0) -> tuple[Wide, Wide]:
    """(activation(x), how far fp32 may be off), where x may be off by `bound`.

    An activation is no greater than its argument: so many roundings of that are enough, and one that underflows.
    """
    if name == "none":
        return x, np.asarray(bound, np.float64)
    off = STEEPEST * bound + ROUNDINGS * U * (np.abs(x) + bound) + smallest("fp32")
    return activation_value(name, x), np.asarray(off)
