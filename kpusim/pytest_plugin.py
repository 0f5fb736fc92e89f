"""The pytest plugin: the fixture `kpusim_cycles` compares cycle counts with a golden file beside the test file.

    def test_decode(kpusim_cycles):
        kpusim_cycles("gemm(m=1, n=2048, k=2048)", machine="kpu-edge")

The golden file of `test_speed.py` is `test_speed.cycles.toml`: a suite, so `kpusim regress` takes it too. `pytest
--kpusim-update --kpusim-reason "..."` records. Everything else of kpusim is imported when a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kpusim.golden import Case, Change, Measured, Recorded

__all__ = ["CycleCheck", "kpusim_cycles"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kpusim-update` and `--kpusim-reason`."""
    group = parser.getgroup("kpusim", "cycle counts")
    group.addoption("--kpusim-update", action="store_true", help="record what the kpusim_cycles tests take")
    group.addoption("--kpusim-reason", default="", metavar="TEXT", help="why numbers moved; kept in the golden file")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses options that do not go together."""
    if config.getoption("kpusim_reason") and not config.getoption("kpusim_update"):
        raise pytest.UsageError("--kpusim-reason belongs to --kpusim-update")
    if config.getoption("kpusim_update") and config.getoption("dist", "no") != "no":
        raise pytest.UsageError("--kpusim-update writes one file from one process: run it with -n 0")
    config.stash[_GOLDENS] = {}
    config.stash[_RECORDED] = []


@pytest.fixture
def kpusim_cycles(request: pytest.FixtureRequest) -> CycleCheck:
    """Compares what an operator, a program or a workload takes with the numbers recorded for this test."""
    goldens = request.config.stash[_GOLDENS]
    path = request.path.with_suffix(".cycles.toml")
    golden = goldens.setdefault(path, _Golden(path))
    return CycleCheck(request.node.nodeid.partition("::")[2], golden, request.config)


class CycleCheck:
    """What the fixture `kpusim_cycles` is: call it with what to run. Relative paths start at the test file's folder."""

    def __init__(self, test: str, golden: _Golden, config: pytest.Config) -> None:
        self._test, self._golden, self._config = test, golden, config

    def __call__(
        self, what: str | Path, machine: str | Path = "kpu-datacenter", *, set: Sequence[str] = (), run: str = "",
        symbols: Mapping[str, int | str] | None = None,
    ) -> Measured:  # fmt: skip
        """What `what` takes. The test fails where that is not what is recorded, or nothing is.

        what: an operator such as "gemm(m=64, n=64, k=64)", a .kasm file, or a workload (file), which may have `run` and
        `symbols`. set: changes of the machine, such as "hbm.stacks=8".
        """
        __tracebackhide__ = True
        from kpusim.errors import UserError
        from kpusim.golden import changes, measure

        try:
            case = self._golden.case(self._test, str(what), str(machine), tuple(set), run, dict(symbols or {}))
            now = measure(case)
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
        moved = changes(case.golden, now)
        if not self._config.getoption("kpusim_update"):
            if moved:
                pytest.fail(_told(case, moved, self._golden.path), pytrace=False)
        elif moved and case.golden is not None and not self._config.getoption("kpusim_reason"):
            why = 'give the reason: --kpusim-update --kpusim-reason "..."; nothing is recorded for it'
            pytest.fail(f"{_told(case, moved, self._golden.path)}\n{why}", pytrace=False)
        else:
            self._golden.measured[case.name] = case, now
        return now


class _Golden:
    """A golden file, and what is to be recorded in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.measured: dict[str, tuple[Case, Measured]] = {}

    @cached_property
    def _cases(self) -> dict[str, Case]:
        from kpusim.golden import load_suite

        return {case.name: case for case in load_suite(self.path).cases} if self.path.exists() else {}

    def case(
        self, test: str, what: str, machine: str, set: tuple[str, ...], run: str, symbols: dict[str, int | str]
    ) -> Case:
        """The case that this call of a test is, as it is recorded. Raises UserError for a file that is no suite."""
        from attrs import evolve

        from kpusim.golden import Case, what_runs

        folder, kind = self.path.parent, what_runs(what)
        what, machine = (_relative(each, folder) for each in (what, machine))
        options = [run, *(f"{key}={value}" for key, value in symbols.items()), *set]
        name = " ".join([f"{test}: {what} on {machine}", *filter(None, options)])
        given = {"name": name, "machine": machine, kind: what, "run": run, "symbols": symbols, "set": set}
        case = Case(**given, folder=folder, where=f"case {name!r}")  # type: ignore[arg-type]
        recorded = self._cases.get(name)
        return case if recorded is None else evolve(case, golden=recorded.golden, where=recorded.where)

    def record(self, reason: str) -> Recorded:
        """Write what was measured. Ends the session for a file that cannot be written."""
        from kpusim.errors import UserError
        from kpusim.golden import record

        header = f"What the tests of {self.path.name.removesuffix('.cycles.toml')}.py take: pytest --kpusim-update"
        try:
            recorded = record(self.path, [*self.measured.values()], reason, header)
            recorded.write()
        except UserError as error:
            pytest.exit(str(error), returncode=2)
        return recorded


def _relative(name: str, folder: Path) -> str:
    """An absolute path as seen from `folder`, so that a golden file holds on other computers."""
    return Path(os.path.relpath(name, folder)).as_posix() if os.path.isabs(name) else name


def _told(case: Case, moved: Sequence[Change], path: Path) -> str:
    """What moved, and how that is recorded."""
    if case.golden is None:
        return f"{case.name}: not recorded in {path.name}; to record it: pytest --kpusim-update"
    lines = []
    for change in moved:
        what, golden, now, percent, because = change.cells
        lines.append(f"  {what} {golden} -> {now}" + f" ({percent})" * bool(percent) + f": {because}" * bool(because))
    how = 'if that is meant: pytest --kpusim-update --kpusim-reason "..."'
    return "\n".join([f"{case.name}: not as in {path.name}", *lines, how])


_GOLDENS = pytest.StashKey[dict[Path, _Golden]]()
_RECORDED = pytest.StashKey[list["Recorded"]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes what was measured, with one reason for all of it."""
    config = session.config
    for golden in config.stash[_GOLDENS].values():
        if golden.measured:
            config.stash[_RECORDED].append(golden.record(config.getoption("kpusim_reason")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was recorded."""
    for each in config.stash[_RECORDED]:
        terminalreporter.write_line(f"kpusim: {each.path.name}: {len(each.moved)} moved, {len(each.added)} added")
