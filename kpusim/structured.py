"""TOML tables as attrs classes: the hooks that all loaders share, and what cattrs found wrong, with the key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from kpusim.tomlfile import Key

__all__ = ["BadValue", "array_hook", "at", "choice", "exactly", "expect", "has_origin", "table_hook", "telling_error"]

Path = tuple[Key, ...]
KINDS = {str: "text in quotes", int: "a whole number", bool: "true, false"}


class BadValue(ValueError):
    """A value that cannot stand where it stands; the loader adds the place."""

    def __init__(self, problem: str, allowed: Iterable[str] | str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.allowed = allowed


def expect(found: object, kind: type, allowed: str) -> Any:
    """`found`, if it is of that very type. Raises BadValue."""
    if type(found) is not kind:
        raise BadValue("wrong type", allowed)
    return found


def exactly(found: object, kind: type) -> object:
    """Structures text, a whole number or a truth value: nothing is converted. Raises BadValue."""
    return expect(found, kind, KINDS[kind])


def choice(found: object, kind: Any) -> object:
    """Structures a Literal. Raises BadValue."""
    if found not in get_args(kind):
        raise BadValue("unknown", get_args(kind))
    return found


def array_hook(converter: cattrs.Converter) -> Callable[[object, Any], tuple[Any, ...]]:
    """Structures tuple[entry, ...] from a TOML array."""

    def array(found: object, kind: Any) -> tuple[Any, ...]:
        expect(found, list, "an array in [ ]")
        entries: Any = list[get_args(kind)[0]]  # type: ignore[misc]
        return tuple(converter.structure(found, entries))

    return array


def table_hook(
    converter: cattrs.Converter, key_of: Callable[[attrs.Attribute[Any]], str]
) -> Callable[[type], Callable[[object, Any], object]]:
    """A factory of hooks that structure an attrs class from a TOML table, whose keys are those of `key_of`."""

    def hook(cls: type) -> Callable[[object, Any], object]:
        renames = {a.name: override(rename=key_of(a)) for a in attrs.fields(cls) if key_of(a) != a.name}
        structure: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter, **renames)  # type: ignore[arg-type]

        def from_table(found: object, kind: Any) -> object:
            if not isinstance(found, dict):
                raise BadValue("not a table", f"a table with {', '.join(map(key_of, attrs.fields(cls)))}")
            return structure(found, kind)

        return from_table

    return hook


def has_origin(origin: Any) -> Callable[[Any], bool]:
    """Whether a type is one of `origin`, such as tuple or Literal."""
    return lambda kind: get_origin(kind) is origin


def at(table: Any, path: Path) -> Any:
    """What stands at a key; None where nothing does."""
    for key in path:
        table = table[key] if isinstance(key, int) else table.get(key)
    return table


def telling_error(
    group: BaseException, key_of: Callable[[attrs.Attribute[Any]], str] = lambda attribute: attribute.name
) -> tuple[Path, BaseException]:
    """(key path, error) of what cattrs complained about: an unknown key if there is one, else the first."""
    return min(_leaves(group, key_of), key=lambda leaf: not isinstance(leaf[1], cattrs.ForbiddenExtraKeysError))


def _leaves(
    error: BaseException, key_of: Callable[[attrs.Attribute[Any]], str], path: Path = (), owner: type | None = None
) -> Iterator[tuple[Path, BaseException]]:
    """The single errors inside a group of cattrs, each with its key path; `key_of` gives an attribute's key."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, cattrs.AttributeValidationNote):
            assert owner is not None
            path = (*path, key_of(attrs.fields_dict(owner)[note.name]))
        elif isinstance(note, cattrs.IterableValidationNote):
            path = (*path, note.index)
    if isinstance(error, cattrs.BaseValidationError):
        for child in error.exceptions:
            yield from _leaves(child, key_of, path, error.cl)
    else:
        yield path, error
