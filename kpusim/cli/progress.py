"""Progress on the terminal for whatever takes longer than a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import Any

__all__ = ["progress"]

DELAY = 1.0  # seconds


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[str], None]]:
    """Yield what is called at the beginning of each of `total` steps (None: nobody knows how many), with its name.

    After a second a bar appears on stderr, and goes at the end; nothing is shown where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    bar = _Bar(label, total)
    timer = Timer(DELAY, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar.begin
    finally:
        timer.cancel()
        bar.close()


class _Bar:
    def __init__(self, label: str, total: int | None) -> None:
        self._label, self._total = label, total
        self._begun, self._name, self._closed = 0, "", False
        self._lock = Lock()
        self._shown: Any = None

    def begin(self, name: str) -> None:
        with self._lock:
            self._begun, self._name = self._begun + 1, name
            self._update()

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if not self._closed:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
                self._task = self._shown.add_task(self._label, total=self._total)
                self._update()
                self._shown.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._shown is not None:
                self._shown.stop()

    def _update(self) -> None:
        if self._shown is not None:
            done = max(self._begun - 1, 0)
            self._shown.update(self._task, completed=done, description=f"{self._label} {self._name}")
