"""Spans: what each unit did and when, recorded as fast as CPython allows.

A span is one instruction on one unit. Spans are packed into a byte buffer one at a time and handed on as
numpy rows, 65536 at once: the simulation pays about 0.3 us a span, and whoever listens sees whole columns.
"""

import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kpusim.engines import stalls

STALLS, NO_SPAN = stalls.CAUSES, stalls.NO_SPAN

ROWS = 65536
"""Rows a sink gets at once; also the chunk of the trace file."""

SPAN: np.dtype[np.void] = np.dtype(
    [
        ("start_cycle", "<u8"),  # the unit is occupied from start_cycle ...
        ("end_cycle", "<u8"),  # ... up to, not including, end_cycle
        ("done_cycle", "<u8"),  # the result is visible; >= end_cycle for a matrix drain and for DMA
        ("unit", "<u2"),
        ("opcode", "u1"),
        ("pc", "<u4"),
        ("iteration", "<u4"),
        ("released_by", "<u8"),  # row of the span that ended this one's last wait, or NO_SPAN
        ("bytes", "<u8"),
        *((f"stall_{cause}", "<u4") for cause in STALLS),
    ]
)
"""One row a span. Times are cycles since the operator's start, rows count from the operator's first span.
stall_engine and _memory are cycles inside [start_cycle, end_cycle), all others cycles between the end of the
unit's previous span and start_cycle."""

Rows = npt.NDArray[np.void]
"""Shape [n], dtype SPAN."""

_PACKED = struct.Struct("<QQQHBIIQQ7I")


class Record(Protocol):
    """Records one span and returns its row; raises struct.error on a value outside its column's range."""

    def __call__(
        self,
        start_cycle: int,
        end_cycle: int,
        done_cycle: int,
        unit: int,
        opcode: int,
        pc: int,
        iteration: int,
        released_by: int = NO_SPAN,
        nbytes: int = 0,
        stall_dma: int = 0,
        stall_matrix: int = 0,
        stall_vector: int = 0,
        stall_barrier: int = 0,
        stall_engine: int = 0,
        stall_memory: int = 0,
        stall_port: int = 0,
        /,
    ) -> int: ...


class SpanBuffer:
    """Collects the spans of one operator and hands them to `sink` in the order of recording.

    `sink` gets arrays of ROWS rows that are its own to keep, and fewer at `flush`. A row's number is its
    index in the order of recording.
    """

    record: Record
    """Records one span; a plain function, worth binding to a local name."""

    record_block: Callable[[Rows], int]
    """Records spans that are already rows (dtype SPAN); returns the row of the first."""

    flush: Callable[[], None]
    """Hands on what is left; call it once after the last span."""

    def __init__(self, sink: Callable[[Rows], Any]) -> None:
        # Closures over three local names: half the cost of the same on attributes.
        buffer = bytearray(ROWS * _PACKED.size)
        offset = count = 0
        limit, size, pack_into = len(buffer), _PACKED.size, _PACKED.pack_into

        def record(
            start: int, end: int, done: int, unit: int, opcode: int, pc: int, iteration: int,
            released_by: int = NO_SPAN, nbytes: int = 0, dma: int = 0, matrix: int = 0, vector: int = 0,
            barrier: int = 0, engine: int = 0, memory: int = 0, port: int = 0, /,
        ) -> int:  # fmt: skip
            nonlocal offset, count
            pack_into(buffer, offset, start, end, done, unit, opcode, pc, iteration, released_by, nbytes,
                      dma, matrix, vector, barrier, engine, memory, port)  # fmt: skip
            offset += size
            if offset == limit:
                flush()
            count += 1
            return count - 1

        def record_block(rows: Rows) -> int:
            nonlocal offset, count
            first, data, taken = count, memoryview(rows.tobytes()), 0
            while taken < len(data):
                piece = data[taken : taken + limit - offset]
                buffer[offset : offset + len(piece)] = piece
                taken += len(piece)
                offset += len(piece)
                if offset == limit:
                    flush()
            count += len(rows)
            return first

        def flush() -> None:
            nonlocal buffer, offset
            if offset:
                rows = np.frombuffer(buffer, SPAN, offset // size)
                buffer, offset = bytearray(limit), 0
                sink(rows)

        self.record, self.record_block, self.flush = record, record_block, flush
        self._count: Callable[[], int] = lambda: count

    @property
    def count(self) -> int:
        """Spans recorded so far: the row that the next one gets."""
        return self._count()
