"""Machine files: TOML to `Machine` and back, with messages that point at the line."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs
import cattrs

from kpusim.errors import UserError
from kpusim.machine.check import Impossible, KeyPath, toml_key
from kpusim.machine.drams import dram_names, hbm_keys
from kpusim.machine.quantities import CLOCK, parse, text
from kpusim.machine.spec import Machine
from kpusim.structured import BadValue, at, choice, exactly, has_origin, table_hook, telling_error
from kpusim.tomlfile import TomlFile, parse_toml, read_toml

__all__ = ["changed_toml", "load_machine", "machine_file", "machine_names", "machine_toml", "parse_machine"]

_DRAM: KeyPath = ("hbm", "dram")
_MACHINES = Path(__file__).parent.parent / "machines"


def machine_names() -> tuple[str, ...]:
    """Names of the machines that come with kpusim, sorted."""
    return tuple(sorted(path.stem for path in _MACHINES.glob("*.toml")))


def machine_file(name_or_path: str | Path) -> TomlFile:
    """The file of a machine that comes with kpusim, or at a path. Raises UserError if there is none, or no TOML."""
    names = machine_names()
    if name_or_path in names:
        return read_toml(_MACHINES / f"{name_or_path}.toml")
    if Path(name_or_path).suffix == ".toml" or Path(name_or_path).exists():
        return read_toml(Path(name_or_path))
    raise UserError("unknown machine", found=str(name_or_path), allowed=[*names, "a path to a .toml file"])


def load_machine(name_or_path: str | Path, sets: Sequence[str] = ()) -> Machine:
    """The machine of that name, or of the TOML file at that path, with some of its quantities changed.

    sets: changes such as "hbm.stacks=8" or "clock=1.2 GHz". Raises UserError, naming file, line and key (or the
    change), for a machine that is unknown, unreadable, misspelt, measured in wrong units, or impossible.
    """
    return _structure(machine_file(name_or_path), sets)


def parse_machine(toml: str, name: str = "machine", sets: Sequence[str] = ()) -> Machine:
    """The machine that TOML text describes; `name` stands for the file in messages. Raises as `load_machine`."""
    return _structure(parse_toml(toml, name), sets)


def _structure(file: TomlFile, sets: Sequence[str]) -> Machine:
    table = deepcopy(file.table)
    changed = _changes(table, sets)

    def where(path: KeyPath) -> str:
        if any(path[: len(key)] == key[: len(path)] for key in changed):
            return f"--set {'.'.join(path)}"
        return file.where(path)

    _take_dram(table, where)
    try:
        machine: Machine = _converter(_clock_hz(table)).structure(table, Machine)
        return machine
    except cattrs.ClassValidationError as group:
        path, error = telling_error(group, toml_key)
        raise _user_error(table, tuple(map(str, path)), error, where, changed) from None


def _changes(table: dict[str, Any], sets: Sequence[str]) -> list[KeyPath]:
    """Apply changes to a machine's table; their keys. A DRAM goes before what the file says, but not before changes."""
    changed = [_change(table, change) for change in sets]
    if _DRAM in changed and table["hbm"]["dram"] in dram_names():
        for key in hbm_keys(table["hbm"]["dram"]):
            if ("hbm", key) not in changed:
                table["hbm"].pop(key, None)
    return changed


def _take_dram(table: dict[str, Any], where: Callable[[KeyPath], str]) -> None:
    """Fill in what [hbm] leaves to its DRAM. Raises UserError if there is none of that name."""
    hbm = table.get("hbm")
    name = hbm.get("dram", "none") if isinstance(hbm, dict) else "none"
    if name in dram_names():
        table["hbm"] = hbm_keys(name) | table["hbm"]
    elif name != "none":
        raise UserError("unknown DRAM", where=where(_DRAM), found=name, allowed=["none", *dram_names()])


def _change(table: dict[str, Any], change: str) -> KeyPath:
    """Apply one change such as "hbm.stacks=8" to a machine's table; its key."""
    name, equals, value = change.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not (equals and all(path)):
        raise UserError("not a change", where=f"--set {change}", allowed='table.key=value, such as "hbm.stacks=8"')
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"{part!r} has no keys below it", where=f"--set {name}")
    try:
        table[path[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[path[-1]] = value.strip()  # a quantity needs no quotes on the command line
    return path


def _clock_hz(table: Mapping[str, Any]) -> int:
    """The clock that other quantities are converted with; structuring complains about a bad one."""
    try:
        return max(1, int(parse(table.get("clock"), CLOCK, 1)))
    except BadValue:
        return 1


def _converter(clock_hz: int) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def quantity(found: object, kind: Any) -> object:
        return parse(found, kind.__metadata__[0], clock_hz)

    converter.register_structure_hook_factory(attrs.has, table_hook(converter, toml_key))
    converter.register_structure_hook_func(has_origin(Annotated), quantity)
    converter.register_structure_hook_func(has_origin(Literal), choice)
    converter.register_structure_hook_func(has_origin(tuple), _integers)
    converter.register_structure_hook(str, exactly)
    converter.register_structure_hook(bool, exactly)
    return converter


def _integers(found: object, kind: object) -> tuple[int, ...]:
    if not isinstance(found, list) or any(type(entry) is not int for entry in found):
        raise BadValue("not an array of whole numbers", "such as [1, 0, 0, 0]")
    return tuple(found)


def _user_error(
    table: Mapping[str, Any],
    path: KeyPath,
    error: BaseException,
    where: Callable[[KeyPath], str],
    changed: Sequence[KeyPath],
) -> UserError:
    """The message for one error of structuring."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        keys = [toml_key(a) for a in attrs.fields(error.cl)]
        extra = next(key for key in at(table, path) if key in error.extra_fields)
        return UserError("unknown key", where=where((*path, extra)), found=extra, allowed=keys)
    if isinstance(error, KeyError):
        return UserError("missing", where=where(path))
    if isinstance(error, Impossible):
        path = next((key for key in error.keys if key in changed), error.keys[0])
        if error.wrong_key:
            return UserError(error.problem, where=where(path), found=path[-1], allowed=error.allowed)
    elif not isinstance(error, BadValue):
        error = BadValue("not a table", "a table")
    return UserError(error.problem, where=where(path), found=at(table, path), allowed=error.allowed)


def changed_toml(name_or_path: str | Path, sets: Sequence[str]) -> str:
    """The file of a machine with changes made to it, every other quantity as it is written there.

    Raises UserError as `load_machine` does.
    """
    load_machine(name_or_path, sets)
    table = deepcopy(machine_file(name_or_path).table)
    _changes(table, sets)

    def show(value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{key} = {show(entry)}" for key, entry in value.items()) + " }"
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    lines = [f"{key} = {show(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for name, part in table.items():
        if isinstance(part, dict):
            lines += ["", f"[{name}]", *(f"{key} = {show(value)}" for key, value in part.items())]
    return "\n".join(lines) + "\n"


def machine_toml(machine: Machine) -> str:
    """TOML text that `parse_machine` reads back as an equal machine."""

    def show(value: Any, kind: Any) -> str:
        if attrs.has(type(value)):
            pairs = ((toml_key(a), show(getattr(value, a.name), a.type)) for a in attrs.fields(type(value)))
        elif isinstance(value, Mapping):
            pairs = ((key, show(entry, get_args(kind)[1])) for key, entry in value.items())
        elif get_origin(kind) is Annotated and (kind.__metadata__[0].units or isinstance(value, Fraction)):
            return json.dumps(text(value, kind.__metadata__[0], machine.clock_hz))
        else:
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        return "{ " + ", ".join(f"{key} = {entry}" for key, entry in pairs) + " }"

    lines: list[str] = []
    for attribute in attrs.fields(Machine):
        value = getattr(machine, attribute.name)
        if not attrs.has(type(value)):
            lines.append(f"{toml_key(attribute)} = {show(value, attribute.type)}")
            continue
        if value == attribute.default:
            continue  # an optional table that says nothing
        lines += ["", f"[{attribute.name}]"]
        lines += [f"{toml_key(a)} = {show(getattr(value, a.name), a.type)}" for a in attrs.fields(type(value))]
    return "\n".join(lines) + "\n"
