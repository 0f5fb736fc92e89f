"""Reads traces: columns as numpy arrays, and windows of time without reading the rest."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from kpusim.errors import UserError
from kpusim.simulate.spans import STALLS
from kpusim.trace.header import read_meta
from kpusim.trace.nexus import text
from kpusim.trace.schema import CHUNK, COLUMNS, PART, TraceMeta
from kpusim.trace.summary import OpRun, read_ops

Column = npt.NDArray[Any]
Columns = Mapping[str, Column]


class Trace:
    """An open trace; a context manager. Its methods raise UserError where the file is damaged.

    meta: what the run was made from. ops: the operator runs, in order. total_cycles: length of the run.
    event_count: rows stored (a block that runs several times is stored once).
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self.meta: TraceMeta = read_meta(file)
        self._entry: Any = file["entry"]
        self._events: Any = self._entry["events"]
        self.ops: tuple[OpRun, ...] = read_ops(self._entry)
        self.total_cycles = int(self._entry["stalls/total_cycles"][()])
        self.event_count = int(self._events["n_committed"][()])
        self._chunk_start = self._events["chunk_start"][()]
        self._chunk_end = self._events["chunk_end"][()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def block_count(self) -> int:
        """Number of blocks: of different programs that ran."""
        return len(self._entry["program"])

    def program_text(self, block: int) -> str:
        """The program of a block, as text."""
        with _reading(self.path):
            return text(self._entry[f"program/block_{block}/text"])

    def program_arrays(self, block: int) -> Columns:
        """The program of a block, as the arrays it was stored with."""
        with _reading(self.path):
            stored = self._entry[f"program/block_{block}"]
            return {key: _array(dataset) for key, dataset in stored.items() if key != "text"}

    def source_lines(self, block: int) -> dict[int, str]:
        """The program line of each pc, as far as the program says: by its array `line`, 1-based."""
        lines, numbers = self.program_text(block).splitlines(), self.program_arrays(block).get("line", np.empty(0, int))
        found = enumerate(numbers.tolist())
        return {pc: lines[number - 1].strip() for pc, number in found if 0 < number <= len(lines)}

    def events(self, op: OpRun, columns: tuple[str, ...] = tuple(COLUMNS)) -> Columns:
        """All events of an operator run, times relative to its start, `released_by` to its first row."""
        return self._read(op.first_event, op.first_event + op.events, columns)

    def chunks(self, op: OpRun, columns: tuple[str, ...] = tuple(COLUMNS)) -> Iterator[Columns]:
        """The events of an operator run as `events` gives them, in pieces of at most CHUNK rows."""
        for first, last in self._pieces(op):
            yield self._read(first, last, columns)

    def window(self, first_cycle: int, end_cycle: int, units: tuple[int, ...] | None = None) -> Columns:
        """The events that overlap cycles [first_cycle, end_cycle) of the run, in order of start.

        Columns as in the file, with times since the run's start, and `op` (index into ops) and `row` (in the block)
        besides. An event of no length counts where it starts. units: only these.
        """
        none = self._read(0, 0, tuple(COLUMNS)) | {"row": np.empty(0, np.int64), "op": np.empty(0, np.int64)}
        with _reading(self.path):
            parts = [none]
            for number, op in enumerate(self.ops):
                parts += self._window(number, op, first_cycle, end_cycle, units)
        merged = {key: np.concatenate([part[key] for part in parts]) for key in none}
        order = np.lexsort((merged["unit"], merged["start_cycle"]))
        return {key: column[order] for key, column in merged.items()}

    def utilization(self) -> tuple[Column, Column]:
        """Share of busy cycles [units, bins], and each bin's first cycle [bins]."""
        return self._plot("utilization", "utilization")

    def hbm_bandwidth(self) -> tuple[Column, Column]:
        """HBM bytes a cycle [bins], and each bin's first cycle [bins]."""
        return self._plot("hbm_bandwidth", "bandwidth")

    def accounts(self) -> Columns:
        """Cycles by unit, [units] each: busy, a column for each of STALLS, idle; they add up to total_cycles."""
        with _reading(self.path):
            table = self._entry["stalls"]
            stalls = {cause: table[f"stall_{cause}"][()].astype(np.int64) for cause in STALLS}
            return {"busy": table["busy"][()].astype(np.int64), **stalls, "idle": table["idle"][()].astype(np.int64)}

    def _window(
        self, number: int, op: OpRun, first_cycle: int, end_cycle: int, units: tuple[int, ...] | None
    ) -> Iterator[dict[str, Column]]:
        """The pieces of `window` that one operator run has, in the order of the file."""
        low, high = first_cycle - op.start_cycle, end_cycle - op.start_cycle
        if high <= 0 or low > op.cycles:
            return
        for first, last in self._pieces(op):
            chunk = first // CHUNK
            if self._chunk_start[chunk] >= high or self._chunk_end[chunk] < max(low, 0):
                continue
            start, end = (self._events[key][first:last].astype(np.int64) for key in ("start_cycle", "end_cycle"))
            inside = (start < high) & ((end > low) | ((end == start) & (start >= low)))
            if units is not None:
                inside &= np.isin(self._events["unit"][first:last], units)
            rows = np.flatnonzero(inside)
            if len(rows):
                part = {key: column[rows] for key, column in self._read(first, last, tuple(COLUMNS)).items()}
                for key in ("start_cycle", "end_cycle", "done_cycle"):
                    part[key] += np.uint64(op.start_cycle)
                yield part | {"row": rows + first - op.first_event, "op": np.full(len(rows), number)}

    def _pieces(self, op: OpRun) -> Iterator[tuple[int, int]]:
        """The rows [first, last) of an operator run, chunk by chunk."""
        first, end = op.first_event, op.first_event + op.events
        while first < end:
            last = min(end, (first // CHUNK + 1) * CHUNK)
            yield first, last
            first = last

    def _read(self, first: int, last: int, columns: tuple[str, ...]) -> dict[str, Column]:
        with _reading(self.path):
            return {key: self._events[key][first:last] for key in columns}

    def _plot(self, name: str, signal: str) -> tuple[Column, Column]:
        with _reading(self.path):
            return self._entry[name][signal][()], self._entry[name]["cycle"][()]


def open_trace(path: Path) -> Trace:
    """Open a finished trace. Raises UserError if it is missing, unfinished, damaged, or no trace of this schema."""
    if path.suffix == PART:
        # Never opened: HDF5 can hang on a file whose writer was killed.
        raise UserError("is an unfinished trace: its run is still going on or was killed", where=str(path))
    if not path.exists():
        raise UserError("no such file", where=str(path))
    with _reading(path):
        if not path.is_file() or not h5py.is_hdf5(path):
            raise UserError("is not an HDF5 file", where=str(path))
        file = h5py.File(path, "r")
        try:
            return Trace(path, file)
        except BaseException:
            file.close()
            raise


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into a UserError."""
    try:
        yield
    except UserError as error:
        raise error if str(path) in str(error) else UserError(str(error), where=str(path)) from None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot be read, damaged or truncated: {error}", where=str(path)) from error


def _array(dataset: h5py.Dataset) -> Column:
    return np.asarray(dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()])
