"""Kernels on independent rows, for recipes of what is made of several launches."""

from __future__ import annotations

from kpusim.machine import Machine
from kpusim.recipes import elementwise, norm
from kpusim.recipes.kernel import Kernel

__all__ = ["KINDS", "rowwise_kernels"]

KINDS = *norm.KINDS, *elementwise.KINDS


def rowwise_kernels(kind: str, rows: int, dim: int, dtype: str, machine: Machine) -> tuple[Kernel, ...]:
    """The launches of an operator of families norm and eltwise on `rows` rows of `dim` elements; kind: of `KINDS`.

    What only moves elements (concatenation, transposition) or changes their sign is a "copy".
    """
    if kind in norm.KINDS:
        return norm.norm_kernels(kind, rows, dim, dtype, machine)
    return elementwise.elementwise_kernels(kind, rows * dim, dtype, machine)
