"""Files written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC
from itertools import count
from pathlib import Path

from kpusim.errors import UserError

__all__ = ["atomic_path", "write_text_atomic"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `path`; it becomes `path` on success and is removed on any exception.

    It is called `path` + ".part", or ".1.part" and so on where that is there already: of several that write the same
    `path` at once each has its own, and the last to succeed wins. Missing directories on the way are made. Raises
    UserError if `path` is a directory or cannot be written.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.is_dir():
            raise UserError("is a directory, not a file", where=str(path))
        if path.exists() and not path.is_file():
            raise UserError("is a device, not a file", where=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _new_part(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from error
    try:
        yield part
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == ENOSPC:
            raise UserError("cannot be written: no space left", where=str(path)) from error
        raise


def _new_part(path: Path) -> Path:
    """The first file of those names that is not there, made."""
    for number in count():
        part = path.with_name(f"{path.name}.{number}.part" if number else f"{path.name}.part")
        with suppress(FileExistsError):
            part.touch(exist_ok=False)
            break
    return part


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all. Raises UserError as `atomic_path` does."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
