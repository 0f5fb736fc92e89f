"""A workload file as values: symbols, tensors, operators, repeat blocks and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from attrs import field, frozen

from kpusim.isa.layout import DENSE, Layout

__all__ = ["BOUNDARIES", "Boundary", "OperatorSpec", "RepeatSpec", "Size", "TensorName", "TensorSpec", "Workload"]

Boundary = Literal["launch", "barrier", "fused"]

BOUNDARIES: dict[Boundary, str] = {
    "launch": "The operator is a launch of its own: its program starts `front_end.launch` after the host's call, of "
    "which `front_end.in_flight` may be under way, so that only what is not hidden shows.",
    "barrier": "The operator belongs to the launch of the one before and starts behind a barrier, `front_end.barrier` "
    "after that has ended.",
    "fused": "The operator and the one before are one, where there is a rule for the two; the tensor between them is "
    "in no memory.",
}
"""What stands between an operator and the one before."""

Size = Annotated[int | str, "size"]  # a number, or an expression over symbols
TensorName = Annotated[str, "name"]
Option = Annotated[int | float | bool | str, "option"]


@frozen
class TensorSpec:
    """A tensor in memory.

    role: inputs, weights and outputs stay there all the time; an activation from the operator that writes it to its
    last reader. memory: HBM, or the machine's shared buffer, where inputs and weights are before the run begins. per:
    the repeat block of which each iteration has one of its own. layout: in a file "row-major", "row-major pitch 4160"
    or "blocked [32, 32]". seed: of the values for a functional run.
    """

    shape: tuple[Size, ...]
    role: Literal["input", "weight", "activation", "output"]
    memory: Literal["hbm", "shared"] = field(default="hbm", kw_only=True)
    dtype: Annotated[str, "dtype"] = "bf16"
    per: str = ""
    layout: Layout = DENSE
    seed: int = 0


@frozen
class OperatorSpec:
    """An operator: `ports` says which tensor stands at which port, `boundary` what is before it ("": the file's)."""

    name: str
    family: str
    ports: Mapping[str, TensorName]
    options: Mapping[str, Option] = field(factory=dict)
    boundary: Boundary | None = None


@frozen
class RepeatSpec:
    """Operators that run `repeat` times, one iteration after the other."""

    name: str
    repeat: Size
    operators: tuple[OperatorSpec, ...]


@frozen
class Workload:
    """A workload file. runs: values of symbols by name of a run; without any there is one run with the defaults."""

    name: str
    tensors: Mapping[str, TensorSpec]
    operators: tuple[OperatorSpec | RepeatSpec, ...]
    description: str = ""
    boundary: Boundary = "launch"
    symbols: Mapping[str, Size] = field(factory=dict)
    runs: Mapping[str, Mapping[str, Size]] = field(factory=dict)

    def entries(self) -> Iterator[tuple[tuple[str | int, ...], RepeatSpec | None, OperatorSpec]]:
        """(key path, repeat block or None, operator) for each operator, in order."""
        for number, entry in enumerate(self.operators):
            if isinstance(entry, RepeatSpec):
                for inner, operator in enumerate(entry.operators):
                    yield ("operators", number, "operators", inner), entry, operator
            else:
                yield ("operators", number), None, entry
