"""Operators of a workload with their sizes: what the tensors at its ports say about an operator, and agree on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import frozen

from kpusim.errors import UserError
from kpusim.operators import FAMILIES, Operator, Port, build_operator
from kpusim.plan.expression import evaluate
from kpusim.plan.load import WorkloadFile
from kpusim.plan.spec import OperatorSpec, TensorSpec
from kpusim.tomlfile import Key

__all__ = ["Bound", "Shaped", "bind", "shapes"]


@frozen
class Shaped:
    """A tensor with its sizes."""

    name: str
    spec: TensorSpec
    shape: tuple[int, ...]


@frozen
class Bound:
    """An operator with its sizes, and the tensor at each of its ports."""

    spec: OperatorSpec
    operator: Operator
    tensors: Mapping[str, Shaped]


def shapes(loaded: WorkloadFile, symbols: Mapping[str, int]) -> dict[str, Shaped]:
    """Every tensor with its shape. Raises UserError for a size below 1 or a layout that is none for it."""
    shaped = {}
    for name, spec in loaded.workload.tensors.items():
        where = loaded.where("tensors", name, "shape")
        sizes = tuple(evaluate(size, symbols, where) for size in spec.shape)
        for size, text in zip(sizes, spec.shape, strict=True):
            if size < 1:
                shown = "" if isinstance(text, int) else f" ({text})"
                raise UserError(f"a size of {name} is {size}{shown}", where=where, allowed="at least 1")
        problem = spec.layout.problem(sizes, spec.dtype, loaded.where("tensors", name, "layout"))
        if problem is not None:
            raise problem
        shaped[name] = Shaped(name, spec, sizes)
    return shaped


def bind(
    loaded: WorkloadFile, path: tuple[Key, ...], spec: OperatorSpec, tensors: Mapping[str, Shaped],
    symbols: Mapping[str, int],
) -> Bound:  # fmt: skip
    """The operator `spec` (at key `path`) with the sizes of the tensors at its ports.

    The family's parameters without a default are its dimensions and come from the shapes; `dtype` and `out_dtype`,
    where the options do not give them, from its first input and output. Raises UserError where anything disagrees.
    """
    where = loaded.where(*path, "family")
    if spec.family not in FAMILIES:
        raise UserError("unknown operator", where=where, found=spec.family, allowed=list(FAMILIES))
    fields = {field.name: field for field in attrs.fields(FAMILIES[spec.family])}
    dimensions = [name for name, field in fields.items() if field.default is attrs.NOTHING]
    options = dict(_options(loaded, path, spec, fields, dimensions, symbols))
    where = loaded.where(*path, "options")
    probe = build_operator(spec.family, options | dict.fromkeys(dimensions, 1), where, check=False)
    ports = [port.name for port in probe.ports]
    for name in spec.ports:
        if name not in ports:
            raise UserError("no such port", where=loaded.where(*path, "ports"), found=name, allowed=ports)
    at = {port.name: _tensor_at(loaded, path, spec, port, probe, tensors) for port in probe.ports}
    sizes = {axis: size for axis, size in _sizes(loaded, path, spec, probe, at).items() if axis in fields}
    operator = build_operator(spec.family, _dtypes(fields, probe, at) | options | sizes, loaded.where(*path))
    for port in operator.ports:
        tensor = at[port.name]
        if port.dtype != tensor.spec.dtype:
            problem = f"port {port.name} of {spec.name} is {port.dtype}, but {tensor.name} is {tensor.spec.dtype}"
            raise UserError(problem, where=loaded.where(*path, "ports"))
        if port.shape != tensor.shape:
            problem = (
                f"port {port.name} of {spec.name} is {list(port.shape)}, but {tensor.name} is {list(tensor.shape)}"
            )
            raise UserError(problem, where=loaded.where(*path, "ports"))
    return Bound(spec, operator, at)


def _options(
    loaded: WorkloadFile, path: tuple[Key, ...], spec: OperatorSpec, fields: Mapping[str, Any],
    dimensions: list[str], symbols: Mapping[str, int],
) -> Iterator[tuple[str, object]]:  # fmt: skip
    """The options with their values: those that are integers may be expressions."""
    for name, value in spec.options.items():
        where = loaded.where(*path, "options")
        allowed = [field for field in fields if field not in dimensions]
        if name not in allowed:
            problem = "comes from the shapes of the tensors" if name in dimensions else "no such option"
            raise UserError(problem, where=where, found=name, allowed=allowed)
        numeric = fields[name].type in (int, "int")
        yield name, evaluate(value, symbols, where) if numeric and isinstance(value, str) else value


def _tensor_at(
    loaded: WorkloadFile, path: tuple[Key, ...], spec: OperatorSpec, port: Port, probe: Operator,
    tensors: Mapping[str, Shaped],
) -> Shaped:  # fmt: skip
    where = loaded.where(*path, "ports")
    if port.name not in spec.ports:
        names = ", ".join(f"{other.name} [{', '.join(other.axes)}]" for other in probe.ports)
        raise UserError(f"{spec.name} has no tensor at port {port.name}", where=where, allowed=f"ports {names}")
    name = spec.ports[port.name]
    if name not in tensors:
        raise UserError("unknown tensor", where=where, found=name, allowed=list(tensors))
    tensor = tensors[name]
    if len(tensor.shape) != len(port.axes):
        problem = f"port {port.name} of {spec.name} is [{', '.join(port.axes)}], but {name} is {list(tensor.shape)}"
        raise UserError(problem, where=where)
    if port.role == "out" and tensor.spec.role in ("input", "weight"):
        raise UserError(f"{spec.name} writes {name}, whose role is {tensor.spec.role}", where=where)
    return tensor


def _sizes(
    loaded: WorkloadFile, path: tuple[Key, ...], spec: OperatorSpec, probe: Operator, at: Mapping[str, Shaped]
) -> dict[str, int]:
    """The dimensions, on which all tensors must agree."""
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for port in probe.ports:
        tensor = at[port.name]
        for axis, size in zip(port.axes, tensor.shape, strict=True):
            if not axis:
                continue  # follows from the others
            here = f"{size} in {tensor.name} {list(tensor.shape)} at port {port.name} [{', '.join(port.axes)}]"
            if sizes.setdefault(axis, size) != size:
                problem = f"{axis} of {spec.name} is {origin[axis]}, but {here}"
                raise UserError(problem, where=loaded.where(*path, "ports"))
            origin.setdefault(axis, here)
    return sizes


def _dtypes(fields: Mapping[str, Any], probe: Operator, at: Mapping[str, Shaped]) -> dict[str, object]:
    """`dtype` and `out_dtype`, as far as the family has them, of its first input and output."""
    found: dict[str, object] = {}
    for field, role in (("dtype", "in"), ("out_dtype", "out")):
        port = next((port for port in probe.ports if port.role == role), None)
        if field in fields and port is not None:
            found[field] = at[port.name].spec.dtype
    return found
