"""A program that is given as it is, as an operator: it knows its tensors, and nothing of what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from kpusim.errors import UserError
from kpusim.isa.check import check_program
from kpusim.isa.layout import DENSE
from kpusim.isa.program import Instruction, Program, View
from kpusim.machine import Machine
from kpusim.machine.limits import limits_of
from kpusim.operators.base import ROW_MAJOR, Array, Layouts, Lowered, Port

__all__ = ["Given"]


@frozen
class Given:
    """A program as an operator without dimensions; `source` is its file, for messages."""

    family: ClassVar[str] = "program"
    error_origin: ClassVar[str] = ""
    mapping_type: ClassVar[type | None] = None

    program: Program
    source: str = field(default="", eq=False)

    @property
    def dimensions(self) -> Mapping[str, int]:
        """None."""
        return {}

    @property
    def ports(self) -> tuple[Port, ...]:
        """Its tensors."""
        return tuple(
            Port(tensor.name, tensor.role, ("",) * len(tensor.shape), tensor.shape, tensor.dtype)
            for tensor in self.program.tensors
        )

    @property
    def macs(self) -> int:
        """0: not known before it has run."""
        return 0

    @property
    def flops(self) -> int:
        """0: not known before it has run."""
        return 0

    @property
    def math_dtype(self) -> str:
        """Dtype of the factors of its first matmul; bf16 where it has none."""
        buffers = {buffer.name: buffer.dtype for buffer in self.program.buffers}
        for _, node, section in self.program.instructions():
            if section.unit == "matrix" and isinstance(node, Instruction) and len(node.operands) > 1:
                factor = node.operands[1]
                if isinstance(factor, View):
                    return buffers[factor.buffer]
        return "bf16"

    @property
    def vector_work(self) -> Mapping[str, int]:
        """Not known before it has run."""
        return {}

    @property
    def compulsory_bytes(self) -> int:
        """Every tensor once, without what lies between its rows."""
        return sum(DENSE.size_bytes(tensor.shape, tensor.dtype) for tensor in self.program.tensors)

    def check(self) -> None:
        """It has no parameters."""

    def io_bound_bytes(self, machine: Machine) -> int:
        """Every tensor once."""
        return self.compulsory_bytes

    def lower(
        self, machine: Machine, layouts: Layouts = ROW_MAJOR, *, mapping: Any = None, fold_instructions: bool = False
    ) -> Lowered:
        """The program itself, as it is. Raises UserError where the static check finds it wrong on that machine."""
        check_program(self.program, limits_of(machine), self.source)
        return Lowered(self.program, ())

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float64]]:
        """There is none. Raises UserError."""
        raise UserError("a program says how, not what: there is no reference to compare with", where=self.source)

    def error_bound(self, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float64]]:
        """There is none. Raises UserError."""
        return self.reference(inputs)
