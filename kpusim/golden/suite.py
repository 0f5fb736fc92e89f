"""Suites: TOML files of cases, each with what to run and what that took when it was recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
import cattrs
from attrs import evolve, field, frozen
from cattrs.gen import make_dict_structure_fn

from kpusim.errors import UserError
from kpusim.plan.spec import Size
from kpusim.structured import BadValue, array_hook, at, exactly, expect, has_origin, telling_error
from kpusim.tomlfile import Key, TomlFile, read_toml

__all__ = ["KINDS", "Case", "Measured", "Suite", "load_suite", "what_runs"]

KINDS = ("operator", "program", "workload")
"""What a case can run; each is a key of its own."""


@frozen(kw_only=True)
class Measured:
    """What a case takes; of a workload, also what each of its operators takes, and so of an operator in several parts.

    cycles: of one execution, launch not included; of a workload from its first launch to the end. hbm_bytes: read and
    written. row_hits: accesses that found their HBM row open. top_stall: such as "matrix for dma"; "" for none, and for
    a workload. units: by kind of unit how many the program uses ("units") and the unit-cycles that they were busy and
    waited, by cause, without zeros; the rest was idle. name, count: of an operator, and how often it runs.
    """

    name: str = ""
    count: int = 1
    cycles: int
    hbm_bytes: int
    row_hits: int
    top_stall: str = ""
    units: Mapping[str, Mapping[str, int]] = field(factory=dict)
    operators: tuple[Measured, ...] = ()

    def table(self) -> dict[str, Any]:
        """As it stands in a suite: without what has its default."""
        written = attrs.asdict(self, recurse=False, filter=lambda attribute, value: value != _default(attribute))
        if self.operators:
            written["operators"] = [operator.table() for operator in self.operators]
        return written


def _default(attribute: attrs.Attribute[Any]) -> object:
    default: Any = attribute.default
    return {} if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


@frozen(kw_only=True)
class Case:
    """What to run on which machine: one of an operator, a program and a workload.

    set: changes of the machine, such as "hbm.stacks=8". run, symbols: of a workload, as `kpusim run` takes them.
    golden: what it took; None before that is recorded. folder: where relative paths start. where: for messages.
    """

    name: str
    machine: str
    operator: str = ""
    program: str = ""
    workload: str = ""
    run: str = ""
    symbols: Mapping[str, Size] = field(factory=dict)
    set: tuple[str, ...] = ()
    golden: Measured | None = None
    folder: Path = Path()
    where: str = ""

    def table(self) -> dict[str, Any]:
        """As it stands in a suite, without its golden numbers."""
        given = {key: getattr(self, key) for key in INPUTS}
        return {key: list(value) if key == "set" else value for key, value in given.items() if value}


NUMBERS = [each.name for each in attrs.fields(Measured) if each.name not in ("name", "count")]
INPUTS = [each.name for each in attrs.fields(Case) if each.name not in ("golden", "folder", "where")]


@frozen
class Entry:
    """One change of golden numbers: why, and what moved."""

    reason: str
    changes: tuple[str, ...]


@frozen(kw_only=True)
class Suite:
    """A suite and the file that it stands in."""

    path: Path
    file: TomlFile
    cases: tuple[Case, ...] = ()
    history: tuple[Entry, ...] = ()


@frozen
class _File:
    cases: tuple[Case, ...] = ()
    history: tuple[Entry, ...] = ()


def what_runs(what: str) -> str:
    """The key of a case, one of `KINDS`, under which `what` stands."""
    if "(" in what:
        return "operator"
    return "program" if what.endswith(".kasm") else "workload"


def load_suite(path: Path) -> Suite:
    """The suite in a file. Raises UserError, naming file, line and key, for what is misspelt or contradicts itself."""
    file = read_toml(path)
    try:
        structured: _File = _converter().structure(_regrouped(file.table), _File)
    except cattrs.ClassValidationError as group:
        place, error = telling_error(group)
        raise _user_error(file, place, error) from None
    seen = set[str]()
    for number, case in enumerate(structured.cases):
        _check(file, number, case, seen)
        seen.add(case.name)
    cases = tuple(
        evolve(case, folder=path.parent, where=f"{file.line(('cases', number))}: case {case.name!r}")
        for number, case in enumerate(structured.cases)
    )
    return Suite(path=path, file=file, cases=cases, history=structured.history)


def _regrouped(table: Mapping[str, Any]) -> dict[str, Any]:
    """The file's table with the numbers of each case apart, under "golden"."""
    cases = table.get("cases")
    if not isinstance(cases, list):
        return dict(table)
    return {**table, "cases": [_apart(case) if isinstance(case, dict) else case for case in cases]}


def _apart(case: Mapping[str, Any]) -> dict[str, Any]:
    golden = {key: value for key, value in case.items() if key in NUMBERS}
    inputs = {key: value for key, value in case.items() if key not in NUMBERS}
    return {**inputs, "golden": golden} if golden else inputs


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def table_hook(cls: type) -> Callable[[Any, Any], Any]:
        inside = {"folder": cattrs.override(omit=True), "where": cattrs.override(omit=True)} if cls is Case else {}
        structure: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter, **inside)  # type: ignore[arg-type]
        return lambda found, kind: structure(expect(found, dict, "a table"), kind)

    def size(found: object, _: Any) -> object:
        if type(found) not in (int, str):
            raise BadValue("wrong type", "a whole number or an expression in quotes")
        return found

    converter.register_structure_hook_factory(attrs.has, table_hook)
    converter.register_structure_hook_func(has_origin(tuple), array_hook(converter))
    converter.register_structure_hook_func(has_origin(Annotated), size)
    converter.register_structure_hook(str, exactly)
    converter.register_structure_hook(int, exactly)
    return converter


def _user_error(file: TomlFile, place: tuple[Key, ...], error: BaseException) -> UserError:
    """The message for one error of structuring."""
    path = tuple(part for part in place if part != "golden")
    table = at(file.table, path)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        extra = next(key for key in table if key in error.extra_fields)
        keys = [*INPUTS, *NUMBERS] if error.cl is Case else [each.name for each in attrs.fields(error.cl)]
        return UserError("unknown key", where=file.where((*path, extra)), found=extra, allowed=keys)
    if isinstance(error, KeyError):
        hint = "or leave out all numbers of the case, and record them anew" if path[-1] in NUMBERS else None
        return UserError("missing", where=file.where(path), hint=hint)
    problem, allowed = (error.problem, error.allowed) if isinstance(error, BadValue) else ("wrong type", "a table")
    return UserError(problem, where=file.where(path), found=table, allowed=allowed)


def _check(file: TomlFile, number: int, case: Case, seen: set[str]) -> None:
    """What is wrong between keys that are right by themselves. Raises UserError for the first such thing."""
    if not case.name.strip():
        raise UserError("a case needs a name", where=file.where(("cases", number, "name")))
    if case.name in seen:
        raise UserError("a second case of this name", where=file.where(("cases", number, "name")), found=case.name)
