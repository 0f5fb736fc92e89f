"""What fuses into what: two operators, of which one reads what the other writes, as one that a family can lower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
from attrs import evolve, frozen

from kpusim.errors import UserError
from kpusim.operators.activations import ACTIVATIONS
from kpusim.operators.base import Operator
from kpusim.operators.registry import build_operator

__all__ = ["RULES", "Fused", "fuse", "partners"]

FIRST, SECOND = 0, 1


@frozen
class Fused:
    """The operator that two become. ports: of each of its ports, which of the two has its tensor, and at which port."""

    operator: Operator
    ports: Mapping[str, tuple[int, str]]


Rule = Callable[[Any, Any, str], Fused]
"""(first, second, the port of the second that reads what the first writes) -> both as one. Raises UserError."""


def fuse(first: Operator, second: Operator, port: str) -> Fused:
    """Both as one operator, where the second reads at `port` what the first writes.

    Raises UserError saying why there is none: no rule for these families, or options that the fused one has not.
    """
    one, two = first.family, second.family
    if (one, two) not in RULES:
        behind, before = partners(one)[1], partners(two)[0]
        allowed = [f"{one} + {name}" for name in behind] + [f"{name} + {two}" for name in before]
        raise UserError(f"no lowering fuses {one} into {two}", allowed=", ".join(allowed) or "launch, barrier")
    fused = RULES[one, two](first, second, port)
    _check_ports(fused, first, second, port)
    return fused


def _check_ports(fused: Fused, first: Operator, second: Operator, port: str) -> None:
    """Raises UserError for a tensor that the fused operator has not, or has otherwise."""
    for which, operator in enumerate((first, second)):
        for each in operator.ports:
            link = (SECOND, port) == (which, each.name)
            if each.role == "in" and not link and (which, each.name) not in fused.ports.values():
                raise UserError(f"the fused {fused.operator.family} does not read {each.name} of {operator.family}")
    at = [{found.name: found for found in operator.ports} for operator in (first, second)]
    for found in fused.operator.ports:
        which, name = fused.ports[found.name]
        given = at[which][name]
        if (given.shape, given.dtype) != (found.shape, found.dtype):
            raise UserError(
                f"the fused {fused.operator.family} reads and writes {found.name} as {found.dtype} {list(found.shape)}",
                found=f"{given.dtype} {list(given.shape)} at port {name} of {(first, second)[which].family}",
            )


def partners(family: str) -> tuple[list[str], list[str]]:
    """(the families that fuse into this one, those that it fuses into)."""
    before = [one for one, two in RULES if two == family]
    return before, [two for one, two in RULES if one == family]


def _changed(operator: Any, **changes: object) -> Operator:
    """The operator with other parameters. Raises UserError where they are impossible, or contradict each other."""
    params = {field.name: getattr(operator, field.name) for field in attrs.fields(type(operator))}
    return build_operator(operator.family, params | changes, "fused")


def _needs(operator: Any, **options: object) -> None:
    """Raises UserError where an option is another: what it asks for would have to happen between the two."""
    for name, value in options.items():
        if getattr(operator, name, value) != value:
            raise UserError(
                f"{operator.family} with this {name} does not fuse",
                found=f"{name}={getattr(operator, name)}", allowed=f"{name}={value}",
            )  # fmt: skip


def _only(port: str, allowed: str, why: str) -> None:
    if port != allowed:
        raise UserError(why, found=f"port {port}", allowed=f"port {allowed}")


def _own(operator: Operator, which: int, *without: str) -> dict[str, tuple[int, str]]:
    """Ports that stay what they are."""
    return {port.name: (which, port.name) for port in operator.ports if port.name not in without}


def _dtype_at(operator: Operator, name: str) -> str:
    return next(port.dtype for port in operator.ports if port.name == name)


def _normalized(norm: Any, gemm: Any, port: str) -> Fused:
    """norm, GEMM: its prologue."""
    _only(port, "a", "a GEMM normalises A on its way, nothing else")
    _needs(norm, residual=False, activation="none", weight=True, bias=norm.family != "rmsnorm")
    _needs(gemm, prologue="none")
    operator = _changed(gemm, prologue=norm.family, eps=norm.eps)
    vectors = {name: (FIRST, name.removeprefix("norm_")) for name in operator.problem.prologue.vectors}  # type: ignore[attr-defined]
    return Fused(operator, _own(gemm, SECOND, "a") | {"a": (FIRST, "x")} | vectors)


def _activated(first: Any, activation: Any, _: str) -> Fused:
    """A GEMM or a norm, activation: the last of its epilogue."""
    _needs(first, activation="none")
    if first.family in GEMMS:
        _needs(first, residual=False)  # is added behind the activation
    return _ended(first, activation, activation=activation.family)


def _cast(first: Any, cast: Any, _: str) -> Fused:
    """A GEMM or a norm, cast: another out_dtype."""
    return _ended(first, cast)


def _ended(first: Any, second: Any, **changes: object) -> Fused:
    """The first with other parameters, whose out is that of the second."""
    operator = _changed(first, out_dtype=_dtype_at(second, "out"), **changes)
    return Fused(operator, _own(first, FIRST, "out") | {"out": (SECOND, "out")})


def _added(gemm: Any, add: Any, port: str) -> Fused:
    """gemm, add: the residual of its epilogue."""
    _needs(gemm, residual=False)
    both = _ended(gemm, add, residual=True)
    return evolve(both, ports={**both.ports, "residual": (SECOND, "b" if port == "a" else "a")})


def _normalized_sum(add: Any, norm: Any, _: str) -> Fused:
    """add, norm: its residual; the sum is written, too."""
    _needs(norm, residual=False)
    operator = _changed(norm, residual=True)
    sums = {"x": (FIRST, "a"), "residual": (FIRST, "b"), "sum": (FIRST, "out")}
    return Fused(operator, _own(norm, SECOND, "x") | sums)


def _turned(rope: Any, attention: Any, port: str) -> Fused:
    """rope, attention: turns Q on its way."""
    _only(port, "q", "attention turns only Q by itself: what the keys' cache holds is turned already")
    _needs(rope, interleaved=False, table=0, head_dim=attention.head_dim)
    _needs(attention, rope="none", batch=1)  # then a row of the angles is a position
    operator = _changed(attention, rope="q")
    angles = {name: (FIRST, name) for name in ("cos", "sin")}
    return Fused(operator, _own(attention, SECOND, "q") | {"q": (FIRST, "x")} | angles)


GEMMS = "gemm", "grouped_gemm"
ROW_NORMS = "rmsnorm", "layernorm"
NORMS = *ROW_NORMS, "batchnorm"
RULES: Mapping[tuple[str, str], Rule] = MappingProxyType(
    {
        **{(norm, gemm): _normalized for norm in NORMS for gemm in GEMMS},
        **{(first, name): _activated for first in (*GEMMS, *NORMS) for name in ACTIVATIONS[1:]},
        **{(first, "cast"): _cast for first in (*GEMMS, *NORMS)},
        **{(gemm, "add"): _added for gemm in GEMMS},
        **{("add", norm): _normalized_sum for norm in ROW_NORMS},
        ("rope", "attention"): _turned,
    }
)
