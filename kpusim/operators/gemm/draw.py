"""Random GEMMs for tests."""

from __future__ import annotations

from random import Random
from typing import Any

from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.activations import ACTIVATIONS
from kpusim.operators.gemm.problem import PROLOGUES

__all__ = ["MOST", "draw_matmul", "draw_size"]

MOST = 96  # along a dimension: several blocks on kpu-tiny, several folds on all


def draw_size(random: Random, most: int = MOST, steps: int = 1) -> int:
    """A size, a multiple of `steps`: often one of them, mostly odd ones."""
    return steps * random.choice((1, *(random.randint(1, max(most // steps, 1)) for _ in range(2))))


def draw_matmul(random: Random) -> tuple[int, int, int, dict[str, Any]]:
    """m, n, k and all other parameters that `Matmul` has."""
    dtype = random.choice(DTYPE_GROUPS["factor"])
    options: dict[str, Any] = {"dtype": dtype} | {f"transpose_{name}": random.random() < 0.5 for name in "ab"}
    options["out_dtype"] = random.choice(("fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"))
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
    return draw_size(random), draw_size(random, steps=steps), draw_size(random, steps=steps), options
