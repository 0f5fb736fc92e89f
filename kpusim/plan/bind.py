"""Operators of a workload with their sizes: what the tensors at its ports say about an operator, and agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import attrs
from attrs import frozen

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_GROUPS
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

    The family's parameters without a default are its dimensions and come from the shapes, or from the options where no
    port has an axis of that name; dtypes, where the options do not give them, from the tensors (see `_dtypes`). Raises
    UserError where anything disagrees.
    """
    where = loaded.where(*path, "family")
    if spec.family not in FAMILIES:
        raise UserError("unknown operator", where=where, found=spec.family, allowed=list(FAMILIES))
    fields = {field.name: field for field in attrs.fields(cast(Any, FAMILIES[spec.family]))}
    dimensions = [name for name, field in fields.items() if field.default is attrs.NOTHING]
    options = dict(_options(loaded, path, spec, fields, symbols))
    where = loaded.where(*path, "options")
    ones = {name: 1 for name in dimensions if fields[name].type in (int, "int")}
    sizeless = _Sizeless(spec.family, fields, ones | options, where)
    _check_sources(spec, sizeless, options, dimensions, where)
    dtypes = _dtypes(fields, sizeless.ports(), spec, tensors)
    place, where = f"{loaded.file.line(path)}: {spec.name}", loaded.where(*path, "ports")
    sizeless = attrs.evolve(sizeless, params={**dtypes, **sizeless.params}, where=place)
    at = dict(_tensors(spec, sizeless, tensors, where))
    _check_ranks(spec, sizeless, at, where)
    sizes = {axis: size for axis, size in _sizes(spec, sizeless.ports(), at, options, where).items() if axis in fields}
    operator = build_operator(spec.family, dtypes | options | sizes, place)
    for port in operator.ports:
        tensor = at[port.name]
        for wanted, found in ((port.dtype, tensor.spec.dtype), (list(port.shape), list(tensor.shape))):
            if wanted != found:
                problem = f"port {port.name} of {spec.name} is {wanted}, but {tensor.name} is {found}"
                raise UserError(problem, where=where)
    return Bound(spec, operator, at)


@frozen
class _Sizeless:
    """An operator before its sizes are known: all dimensions in `params` are 1."""

    family: str
    fields: Mapping[str, Any]
    params: Mapping[str, object]
    where: str

    def ports(self, **more: object) -> tuple[Port, ...]:
        """Its ports, whose axes are right, with `more` params. Raises UserError for an impossible option."""
        return build_operator(self.family, {**self.params, **more}, self.where, check=False).ports

    def option_for(self, wanted: Callable[[tuple[Port, ...]], bool]) -> str:
        """The option that is off and would give it ports as `wanted`; "" if none would."""
        for name, field in self.fields.items():
            on = {"int": 1, "bool": True}.get(field.type)
            if on and not self.params.get(name) and wanted(self.ports(**{name: on})):
                return name
        return ""


def _options(
    loaded: WorkloadFile, path: tuple[Key, ...], spec: OperatorSpec, fields: Mapping[str, Any],
    symbols: Mapping[str, int],
) -> Iterator[tuple[str, object]]:  # fmt: skip
    """The options with their values: those that are integers may be expressions."""
    for name, value in spec.options.items():
        where = loaded.where(*path, "options")
        if name not in fields:
            raise UserError("no such option", where=where, found=name, allowed=list(fields))
        numeric = fields[name].type in (int, "int")
        yield name, evaluate(value, symbols, where) if numeric and isinstance(value, str) else value


def _check_sources(
    spec: OperatorSpec, sizeless: _Sizeless, options: Mapping[str, object], dimensions: list[str], where: str
) -> None:
    """Raises UserError for a dimension that is given twice, by tensors and options, or not at all."""
    axes = {axis for port in sizeless.ports() for axis in port.axes}
    for name in dimensions:
        if name in options and name in axes:
            allowed = [field for field in sizeless.fields if field not in axes]
            raise UserError("comes from the shapes of the tensors", where=where, found=name, allowed=allowed)
        if name not in options and name not in axes:
            problem = f"{spec.name} needs the option {name}: no axis of its tensors is that"
            raise UserError(problem, where=where, found=", ".join(options) or "none")


def _tensors(
    spec: OperatorSpec, sizeless: _Sizeless, tensors: Mapping[str, Shaped], where: str
) -> Iterator[tuple[str, Shaped]]:
    """The tensor at each port. Raises UserError for a name that is unknown or missing, and for what is not written."""
    ports = {port.name: port for port in sizeless.ports()}
    for name in spec.ports:
        if name not in ports:
            option = sizeless.option_for(lambda found, name=name: name in [port.name for port in found])  # type: ignore[misc]
            hint = f"option {option} makes it one" if option else None
            raise UserError("no such port", where=where, found=name, allowed=list(ports), hint=hint)
    for port in ports.values():
        if port.name not in spec.ports:
            names = ", ".join(f"{other.name} {_axes(other)}" for other in ports.values())
            raise UserError(f"{spec.name} has no tensor at port {port.name}", where=where, allowed=f"ports {names}")
        name = spec.ports[port.name]
        if name not in tensors:
            raise UserError("unknown tensor", where=where, found=name, allowed=list(tensors))
        if port.role == "out" and tensors[name].spec.role in ("input", "weight"):
            raise UserError(f"{spec.name} writes {name}, whose role is {tensors[name].spec.role}", where=where)
        yield port.name, tensors[name]


def _check_ranks(spec: OperatorSpec, sizeless: _Sizeless, at: Mapping[str, Shaped], where: str) -> None:
    """Raises UserError for a tensor with more or fewer dimensions than its port."""

    def misfits(ports: tuple[Port, ...]) -> Iterator[Port]:
        return (port for port in ports if port.name in at and len(at[port.name].shape) != len(port.axes))

    for port in misfits(sizeless.ports()):
        tensor, option = at[port.name], sizeless.option_for(lambda ports: not any(misfits(ports)))
        problem = f"port {port.name} of {spec.name} is {_axes(port)}, but {tensor.name} is {list(tensor.shape)}"
        raise UserError(problem, where=where, hint=f"with option {option} all would fit" if option else None)


def _axes(port: Port) -> str:
    """A port's axes; * is one that follows from the others."""
    return f"[{', '.join(axis or '*' for axis in port.axes)}]"


def _sizes(
    spec: OperatorSpec, ports: tuple[Port, ...], at: Mapping[str, Shaped], options: Mapping[str, object], where: str
) -> dict[str, int]:
    """The sizes of all axes, on which tensors and options must agree."""
    sizes = {name: value for name, value in options.items() if type(value) is int}
    origin = {name: f"{value} in its options" for name, value in sizes.items()}
    for port in ports:
        tensor = at[port.name]
        for axis, size in zip(port.axes, tensor.shape, strict=True):
            if not axis:
                continue  # follows from the others
            here = f"{size} in {tensor.name} {list(tensor.shape)} at port {port.name} {_axes(port)}"
            if sizes.setdefault(axis, size) != size:
                raise UserError(f"{axis} of {spec.name} is {origin[axis]}, but {here}", where=where)
            origin.setdefault(axis, here)
    return sizes


def _dtypes(
    fields: Mapping[str, Any], ports: tuple[Port, ...], spec: OperatorSpec, tensors: Mapping[str, Shaped]
) -> dict[str, object]:
    """The dtypes that a family has and the tensors tell.

    `dtype` is that of its first input, `out_dtype` that of its first output, `b_dtype` that of port b and `kv_dtype`
    that of port k, where these are another dtype in which such things can be stored.
    """
    at = {port.name: tensors[name] for port in ports if (name := spec.ports.get(port.name, "")) in tensors}
    firsts = [next((port.name for port in ports if port.role == role), "") for role in ("in", "out")]
    told = zip(("dtype", "out_dtype", "b_dtype", "kv_dtype"), (*firsts, "b", "k"), strict=True)
    found = {field: at[port].spec.dtype for field, port in told if field in fields and port in at}
    for stored in ("b_dtype", "kv_dtype"):
        if found.get(stored) == found.get("dtype") or found.get(stored) not in DTYPE_GROUPS["quantized"]:
            found.pop(stored, None)
    return dict(found)
