"""Random GEMMs for tests."""

from __future__ import annotations

from random import Random
from typing import Any

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.activations import ACTIVATIONS
from kpusim.operators.draw import draw_size
from kpusim.operators.gemm.problem import PROLOGUES
from kpusim.operators.parameters import FLOATS

__all__ = ["draw_matmul"]

MOST = 96  # along a dimension: several blocks on kpu-tiny, several folds on all


def draw_matmul(random: Random) -> tuple[int, int, int, dict[str, Any]]:
    """m, n, k and all other parameters that `Matmul` has."""
    dtype = random.choice(DTYPE_GROUPS["factor"])
    options: dict[str, Any] = {"dtype": dtype} | {f"transpose_{name}": random.random() < 0.5 for name in "ab"}
    options["out_dtype"] = random.choice(FLOATS)
    steps = 1
    if dtype in DTYPE_GROUPS["real"] and random.random() < 0.4:
        steps = 4  # elements of int2 in a byte
        options["b_dtype"] = random.choice([each for each in DTYPE_GROUPS["quantized"] if each != dtype])
        options["scale_group"] = random.choice((0, 4, 8, 16))
    if random.random() < 0.5:
        options |= {"alpha": random.choice((1.0, 0.125)), "activation": random.choice(ACTIVATIONS)}
        options |= {name: random.random() < 0.5 for name in ("column_scale", "bias", "residual")}
    elif dtype == "int8" and random.random() < 0.5:
        options["out_dtype"] = "int32"
    if dtype in DTYPE_GROUPS["real"] and random.random() < 0.3:
        options |= {"prologue": random.choice(PROLOGUES[1:]), "transpose_a": False}
    m, n, k = (draw_size(random, MOST, each) for each in (1, steps, steps))
    return m, n, k, options
