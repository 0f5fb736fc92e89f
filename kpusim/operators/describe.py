"""What a family is, from its class: what it says of itself, its parameters, its ports and its examples."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, cast

import attrs
from attrs import frozen

from kpusim.operators.base import Example, Port
from kpusim.operators.fusion import RULES
from kpusim.operators.registry import FAMILIES, allowed_by, make_operator

__all__ = ["Description", "Parameter", "describe", "value_text"]

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
PROBES = (None, -(1 << 62), 1 << 62)  # values that a validator refuses; why tells what it takes


@frozen
class Parameter:
    """A parameter of a family. default: as it is written, "" where it must be given; allowed: in words."""

    name: str
    default: str
    allowed: str


@frozen
class Description:
    """A family. summary: a line; text: the paragraphs behind it. parameters: first those that must be given.

    ports: all that its examples have, inputs first. fusions: what it becomes one operator with, before or behind it.
    """

    family: str
    summary: str
    text: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    ports: tuple[Port, ...]
    examples: tuple[Example, ...]
    fusions: tuple[str, ...]


def describe(family: str) -> Description:
    """The family of that name."""
    kind = FAMILIES[family]
    own, *bases = (_paragraphs(cls) for cls in kind.__mro__ if attrs.has(cls))
    shared = (paragraph for paragraphs in bases if len(paragraphs) > 1 for paragraph in paragraphs)
    ports = {port.name: port for example in kind.examples for port in make_operator(example.text).ports}.values()
    fields = sorted(attrs.fields(cast(Any, kind)), key=lambda field: field.default is not attrs.NOTHING)
    return Description(
        family=family,
        summary=own[0],
        text=(*own[1:], *shared),
        parameters=tuple(map(_parameter, fields)),
        ports=tuple(sorted(ports, key=lambda port: port.role != "in")),
        examples=kind.examples,
        fusions=tuple(f"{one} + {two}" for one, two in RULES if family in (one, two)),
    )


def _paragraphs(cls: type) -> list[str]:
    """What a class says of itself, a line a paragraph."""
    return [" ".join(each.split()) for each in cleandoc(cls.__doc__ or "").split("\n\n")]


def _parameter(field: Any) -> Parameter:
    default = "" if field.default is attrs.NOTHING else value_text(field.default)
    told = dict.fromkeys(text for probe in PROBES for text in _complaint(field, probe))
    return Parameter(field.name, default, ", ".join(told))


def value_text(value: object) -> str:
    """As `make_operator` reads it."""
    if isinstance(value, str):
        return value if value.isidentifier() else f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _complaint(field: Any, value: object) -> Iterator[str]:
    """What a parameter allows instead of `value`, if it does not allow that."""
    try:
        if field.validator is not None:
            field.validator(None, field, value)
    except TypeError as error:
        yield KINDS[error.args[2]]
    except ValueError as error:
        allowed = allowed_by(error)
        yield allowed if isinstance(allowed, str) else ", ".join(allowed)
