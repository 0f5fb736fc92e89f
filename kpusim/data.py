"""Where the files that users read and edit are: `isa/` and `workloads/`."""

from pathlib import Path

__all__ = ["data_dir"]


def data_dir(name: str) -> Path:
    """The directory `name` ("isa" or "workloads"): in the installed package, else at the repository root."""
    package = Path(__file__).parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name
