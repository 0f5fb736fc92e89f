"""kpusim: a cycle-approximate simulator of KPU accelerators.

The Python API is `kpusim.api`, exported here: `run`, `op`, `gemm`, `get_machine`, `verify`, `open_trace` and `Result`.
`help(kpusim.api)` has examples.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kpusim.api import Result as Result
    from kpusim.api import gemm as gemm
    from kpusim.api import get_machine as get_machine
    from kpusim.api import op as op
    from kpusim.api import run as run
    from kpusim.api import verify as verify
    from kpusim.trace.reader import open_trace as open_trace

_EXPORTS = dict.fromkeys(("Result", "gemm", "get_machine", "op", "run", "verify"), "kpusim.api")
_EXPORTS["open_trace"] = "kpusim.trace.reader"


def __getattr__(name: str) -> Any:
    """The API, imported when it is first asked for: the command line answers without it."""
    from importlib import import_module

    if name == "api":
        return import_module("kpusim.api")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'kpusim' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_EXPORTS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
