"""What cattrs found wrong in a TOML table: single errors, each with the key where it happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import cattrs

from kpusim.tomlfile import Key

__all__ = ["leaves"]

Path = tuple[Key, ...]


def leaves(
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
            yield from leaves(child, key_of, path, error.cl)
    else:
        yield path, error
