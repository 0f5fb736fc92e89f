"""What a trace file holds: names, units, and the schema's version.

    /entry                    NXentry, default plot: utilization
      utilization, hbm_bandwidth, stalls, roofline     NXdata
      events/                 one 1-D dataset a SPAN column; times relative to the operator's start
      ops/table               one row an operator run; identical operators refer to one block of events
      counters/               one dataset a counter, a value for each row of ops
      program/block_K/        the program of block K: text and arrays
      machine/, kpusim/       machine file, units, workload file, options, versions

A block is the events of one simulated program: rows [first, first + count) of the event columns. `released_by`
counts rows from the block's first; NO_SPAN means none.
"""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from kpusim.engines.stalls import MEANINGS
from kpusim.simulate.spans import ROWS, SPAN, STALLS

SCHEMA: Final = "kpusim-trace"
SCHEMA_VERSION: Final = 2
CHUNK: Final = ROWS
"""Rows of an event column that are compressed together, committed together, and share a row of the block index."""
BINS: Final = 512
"""Bins of a plot over time, at most; their width is a power of two."""
PART: Final = ".part"
"""Suffix of a trace being written."""

COLUMNS: Final[Mapping[str, tuple[str, str]]] = {
    "start_cycle": ("cycle", "Start, since the operator's start"),
    "end_cycle": ("cycle", "End (unit free), since the operator's start"),
    "done_cycle": ("cycle", "Result visible, since the operator's start"),
    "unit": ("", "Unit number"),
    "opcode": ("", "Opcode"),
    "pc": ("", "Instruction number in the program"),
    "iteration": ("", "Loop iteration"),
    "released_by": ("", "Row in the block of the span that ended the last wait"),
    "bytes": ("byte", "Bytes moved"),
    **{f"stall_{cause}": ("cycle", f"Waited for {MEANINGS[cause].partition(':')[0]}") for cause in STALLS},
}
"""Event columns: name -> (units, long name)."""

assert tuple(COLUMNS) == SPAN.names


@frozen(kw_only=True)
class TraceMeta:
    """What a trace says about its run. Times and rates are in core-clock cycles and bytes."""

    title: str
    program_name: str = "kpusim"
    version: str
    unit_names: tuple[str, ...]
    """Unit number -> name, such as chip0.tile3.matrix."""
    clock_hz: int
    opcode_names: Mapping[int, str]
    hbm_opcodes: frozenset[int]
    """Opcodes whose `bytes` are traffic of `memory`."""
    memory: str = "HBM"
    """What DMA engines read and write: HBM, or a shared level and what is behind it."""
    machine_text: str
    workload_text: str
    options: Mapping[str, str]
    peak_hbm_bytes_per_cycle: float
    peak_flops_per_cycle: float
    start_time: str = "1970-01-01T00:00:00"
    """ISO 8601; a constant by default, so that equal runs write equal files."""


def unit_kind(name: str) -> str:
    """The kind of a unit from its name: chip0.tile3.matrix -> matrix, chip0.dma5.q2 -> dma."""
    words = [word.rstrip("0123456789") for word in name.split(".")]
    return words[-2] if words[-1] == "q" and len(words) > 1 else words[-1]
