"""The GEMM operator: dimensions, work, bounds and reference."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from attrs import Attribute, field, frozen, validators

from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.base import ROW_MAJOR, Array, Layouts, Lowered, Port
from kpusim.operators.gemm.lowering import lower
from kpusim.operators.gemm.mapping import Problem

__all__ = ["Gemm"]


def whole(_: object, attribute: Attribute[int], value: object) -> None:
    """Validates an int. Unlike `instance_of(int)`: True is none."""
    if type(value) is not int:
        raise TypeError(f"{attribute.name} must be an int", attribute, int, value)


positive = [whole, validators.ge(1)]


@frozen
class Gemm:
    """out[m, n] = sum over k of a[m, k] * b[k, n] (b[n, k] with transpose_b), accumulated in fp32."""

    family: ClassVar[str] = "gemm"
    error_origin: ClassVar[str] = "gamma_k * |a||b| for k sums in fp32 (Higham 2002, eq. 3.13)"

    m: int = field(validator=positive)
    n: int = field(validator=positive)
    k: int = field(validator=positive)
    dtype: str = field(default="bf16", validator=validators.in_(("bf16", "fp16")))
    out_dtype: str = field(default="bf16", validator=validators.in_(("bf16", "fp16", "fp32")))
    transpose_b: bool = field(default=False, validator=validators.instance_of(bool))

    @property
    def dimensions(self) -> Mapping[str, int]:
        """M, N and K."""
        return {"m": self.m, "n": self.n, "k": self.k}

    @property
    def ports(self) -> tuple[Port, ...]:
        """a, b and out."""
        b = (("n", "k"), (self.n, self.k)) if self.transpose_b else (("k", "n"), (self.k, self.n))
        return (
            Port("a", "in", ("m", "k"), (self.m, self.k), self.dtype),
            Port("b", "in", *b, self.dtype),
            Port("out", "out", ("m", "n"), (self.m, self.n), self.out_dtype),
        )

    @property
    def macs(self) -> int:
        """m * n * k."""
        return self.m * self.n * self.k

    @property
    def flops(self) -> int:
        """Two a multiply-accumulate."""
        return 2 * self.macs

    @property
    def math_dtype(self) -> str:
        """Dtype of the factors."""
        return self.dtype

    @property
    def compulsory_bytes(self) -> int:
        """A, B and the output once."""
        return sum(int(np.prod(port.shape)) * DTYPE_BITS[port.dtype] // 8 for port in self.ports)

    def io_bound_bytes(self, machine: Machine) -> int:
        """The larger of compulsory traffic and 2MNK/sqrt(S) words, S the words of all SRAM (Hong & Kung 1981)."""
        word = DTYPE_BITS[self.dtype] // 8
        words = machine.tiles.count * machine.sram.capacity_bytes / word
        return max(self.compulsory_bytes, int(2 * self.macs / sqrt(words)) * word)

    def lower(self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, fold_instructions: bool = False) -> Lowered:
        """The program; with `fold_instructions`, one matmul for each fold of the array instead of one an SRAM tile."""
        problem = Problem(self.m, self.n, self.k, self.dtype, self.out_dtype, self.transpose_b)
        return lower(problem, machine, layouts, fold_instructions)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float64]]:
        """`out` in float64."""
        a, b = self._factors(inputs)
        return {"out": a @ b}

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float64]]:
        """gamma_k * |a| |b|, gamma_k = k*u / (1 - k*u), u = 2^-24 (Higham, Accuracy and Stability, 2002, eq. 3.13)."""
        a, b = self._factors(inputs)
        error = self.k * 2.0**-24
        return {"out": error / (1 - error) * (np.abs(a) @ np.abs(b))}

    def _factors(self, inputs: Mapping[str, Array]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        a, b = inputs["a"].astype(np.float64), inputs["b"].astype(np.float64)
        return a, b.T if self.transpose_b else b
