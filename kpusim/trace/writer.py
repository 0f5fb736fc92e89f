"""Writes a trace while the simulation runs: memory does not grow with the number of spans."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt
from attrs import define

from kpusim.errors import UserError
from kpusim.files import atomic_path
from kpusim.simulate.spans import STALLS, Rows
from kpusim.trace.events import EventColumns
from kpusim.trace.header import write_meta
from kpusim.trace.nexus import field, group
from kpusim.trace.profile import Accumulator, Profile, Timeline
from kpusim.trace.schema import TraceMeta
from kpusim.trace.summary import OpRun, write_ops, write_roofline, write_stalls, write_timelines

_LIBRARY = ("v110", "v110")  # "latest" writes files that h5dump 1.10 cannot read


@define
class _Block:
    """The events of one program: rows [first, first + count) of the columns, and their amounts over time."""

    program_text: str
    program_arrays: Mapping[str, npt.NDArray[Any]]
    first: int
    count: int = 0
    profile: Profile | None = None


class TraceWriter:
    """Writes `path`.part and renames it to `path` at the end; on any exception nothing is left.

        with TraceWriter(path, meta) as trace:
            block = trace.begin_block(text, arrays)
            trace.rows(spans)  # as often as there are some, in order
            trace.end_block()
            trace.op(name="qkv", block=block, start=0, cycles=1200, ...)  # once for each run of the block

    Raises UserError if the file cannot be written.
    """

    def __init__(self, path: Path, meta: TraceMeta) -> None:
        self._path = path
        self._meta = meta
        units = len(meta.unit_names)
        self._blocks: list[_Block] = []
        self._ops: list[OpRun] = []
        self._busy = np.zeros(units, np.int64)
        self._stalls = np.zeros((units, len(STALLS)), np.int64)
        self._timeline = Timeline(units + 1)
        self._open_block: Accumulator | None = None
        self._moves_hbm = np.zeros(256, bool)
        self._moves_hbm[sorted(meta.hbm_opcodes)] = True

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._part = stack.enter_context(atomic_path(self._path))
            with self._writing():
                self._file = h5py.File(self._part, "w", libver=_LIBRARY)
                stack.callback(self._close_file)
                entry = write_meta(self._file, self._meta, self._path.name)
                self._events = EventColumns(group(entry, "events", "NXcollection"))
                self._file.swmr_mode = True
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack, self._writing():
            self._finish()

    def begin_block(self, program_text: str, program_arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        """Start the events of one program and return its block number.

        `program_arrays` are stored as they are; an integer array `line` holds the 1-based line of `program_text`
        for each pc.
        """
        if self._open_block is not None:
            raise ValueError("the block before has not ended")
        self._blocks.append(_Block(program_text, program_arrays, self._events.count))
        self._open_block = Accumulator(len(self._meta.unit_names) + 1)
        return len(self._blocks) - 1

    def rows(self, rows: Rows) -> None:
        """Append spans (dtype SPAN, [n]) to the block that is open; `released_by` counts from its first row."""
        if self._open_block is None:
            raise ValueError("no block is open")
        with self._writing():
            self._events.append(rows)
        start, end = rows["start_cycle"].astype(np.int64), rows["end_cycle"].astype(np.int64)
        inside = rows["stall_engine"].astype(np.int64) + rows["stall_memory"]
        self._open_block.add(rows["unit"].astype(np.int64), start, end, (end - start - inside).astype(np.float64))
        moved = self._moves_hbm[rows["opcode"]]
        done = rows["done_cycle"][moved].astype(np.int64)
        hbm = np.full(len(done), len(self._meta.unit_names))
        self._open_block.add(hbm, start[moved], done, rows["bytes"][moved].astype(np.float64))

    def end_block(self) -> None:
        """End the events of the block that is open."""
        if self._open_block is None:
            raise ValueError("no block is open")
        block = self._blocks[-1]
        block.count = self._events.count - block.first
        block.profile = self._timeline.trim(self._open_block.profile())
        self._open_block = None

    def op(
        self,
        *,
        name: str,
        type: str,
        start: int,
        block: int,
        cycles: int,
        flops: int,
        hbm_read_bytes: int,
        hbm_write_bytes: int,
        busy: npt.NDArray[np.integer[Any]],
        stalls: npt.NDArray[np.integer[Any]],
        macs: int = 0,
        launch_cycles: int = 0,
        top_stall: str = "",
        counters: Mapping[str, int] | None = None,
    ) -> None:
        """Add one run of an operator, whose spans are those of `block` moved by `start` cycles.

        busy: cycles by unit, [units], without stalls; stalls: cycles by unit and cause, [units, len(STALLS)].
        launch_cycles: what the launch took (already in `start`). Raises ValueError for a block that has not ended.
        """
        events = self._blocks[block]
        if events.profile is None:
            raise ValueError(f"block {block} has not ended")
        self._busy += busy
        self._stalls += stalls
        self._timeline.add(events.profile, start, cycles)
        events.profile = self._timeline.trim(events.profile)
        self._ops.append(
            OpRun(
                name=name, type=type, start_cycle=start, end_cycle=start + cycles, launch_cycles=launch_cycles,
                block=block, first_event=events.first, events=events.count, flops=flops, macs=macs,
                hbm_read_bytes=hbm_read_bytes, hbm_write_bytes=hbm_write_bytes, busy_cycles=int(busy.sum()),
                stall_cycles=dict(zip(STALLS, stalls.sum(axis=0).tolist(), strict=True)), top_stall=top_stall,
                counters=counters or {},
            )
        )  # fmt: skip

    def _finish(self) -> None:
        """Write what is known only at the end. Strings and new groups need the file out of SWMR mode."""
        self._events.close()
        self._close_file()
        total = max((op.end_cycle for op in self._ops), default=0)
        with h5py.File(self._part, "r+", libver=_LIBRARY, locking=False) as root:
            entry = root["entry"]
            write_timelines(entry, self._meta, self._timeline.rates(), self._timeline.width)
            write_stalls(entry, self._meta, total, self._busy, self._stalls)
            write_roofline(entry, self._meta, self._ops)
            write_ops(entry, self._ops)
            bounds = self._events.bounds()
            field(entry["events"], "chunk_start", bounds[:, 0], "cycle", "Least start_cycle of each chunk")
            field(entry["events"], "chunk_end", bounds[:, 1], "cycle", "Greatest end_cycle of each chunk")
            programs = group(entry, "program", "NXcollection")
            for number, block in enumerate(self._blocks):
                program = group(programs, f"block_{number}", "NXcollection")
                field(program, "text", block.program_text, "", "Program")
                for key, array in block.program_arrays.items():
                    field(program, key, array)

    def _close_file(self) -> None:
        if self._file:
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot be written: {error}", where=str(self._path)) from error
