"""The rooms of the house: imports point down only, and no file outgrows a screenful of thought."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kpusim"

# Room -> floor. A room may import rooms on lower floors and itself.
FLOORS = {
    "errors": 0,
    "files": 0.1,
    "processes": 0.1,
    "data": 0,
    "tomlfile": 0.1,
    "structured": 0.2,
    "isa": 1,
    "machine": 2,
    "dtypes": 1.1,
    "costs": 2.1,
    "dram": 2.1,
    "engines": 3,
    "operators": 3,
    "streams": 3.1,
    "plan": 4,
    "function": 4,
    "simulate": 4.1,
    "recipes": 4.2,
    "trace": 5,
    "report": 6,
    "golden": 6,
    "api": 6.1,
    "fuzz": 6.1,
    "bench": 6.2,
    "validate": 6.2,
    "pytest_plugin": 7,
    "cli": 7,
    "__main__": 8,
}
# Library -> the rooms that may import it.
LIBRARIES = {
    "simpy": {"engines", "simulate", "bench"}, "h5py": {"trace"}, "click": {"cli"}, "rich": {"cli", "report"},
    "tomlkit": {"golden"}, "pytest": {"pytest_plugin"}, "matplotlib": {"report", "validate"},
}  # fmt: skip
LINES = 400

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """The room of `kpusim.room.x`; the package itself is the room ""."""
    return [*module.split("."), ""][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports anywhere, in functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path):
    room = room_of(module_of(path))
    if room == "":
        return  # the package's front door shows what is behind it
    assert room in FLOORS, f"{path}: no floor is known for the room {room!r}"
    for name in imports_of(path):
        library, target = name.split(".")[0], room_of(name)
        if library == "kpusim" and target in FLOORS and target != room:
            assert FLOORS[target] < FLOORS[room], f"{room} must not import {target}"
        if library in LIBRARIES:
            assert room in LIBRARIES[library], f"{room} must not import {library}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < LINES
