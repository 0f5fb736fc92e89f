"""Composite operators: one that stands in a plan as several steps, which hand tensors to each other through memory."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from kpusim.errors import UserError
from kpusim.isa.layout import DENSE
from kpusim.operators import Operator, Port, parts_of
from kpusim.plan.bind import Bound, Shaped
from kpusim.plan.spec import TensorSpec

__all__ = ["handed_on", "unfolded"]


def handed_on(operator: Operator) -> Mapping[str, Port]:
    """The tensors that parts of a composite write for each other, with the port that writes each."""
    own = {port.name for port in operator.ports}
    return {
        part.ports[port.name]: port
        for part in parts_of(operator)
        for port in part.operator.ports
        if port.role == "out" and part.ports[port.name] not in own
    }


def unfolded(bound: Bound, where: str) -> tuple[Bound, ...]:
    """The parts of a composite with their tensors, each but the first behind a launch; else the operator itself.

    Raises UserError, with `where`, for a tensor that is not laid out as the parts read it, each in a shape of its own.
    """
    parts = parts_of(bound.operator)
    if not parts:
        return (bound,)
    spec, tensors = bound.spec, dict(bound.tensors)
    for tensor in tensors.values():
        if tensor.spec.layout != DENSE:
            problem = f"{spec.name} is several programs, and {tensor.name} has other shapes in them"
            raise UserError(problem, where=where, found=str(tensor.spec.layout), allowed="layout row-major")
    for name, port in handed_on(bound.operator).items():
        handed = TensorSpec(port.shape, "activation", dtype=port.dtype)
        tensors[name] = Shaped(f"{spec.name}.{name}", handed, port.shape)
    return tuple(
        Bound(
            evolve(
                spec, name=f"{spec.name}.{part.name}", family=part.operator.family,
                boundary="launch" if number else spec.boundary,
            ),
            part.operator,
            {port: tensors[name] for port, name in part.ports.items()},
        )
        for number, part in enumerate(parts)
    )  # fmt: skip
