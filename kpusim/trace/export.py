"""Exports a trace for Perfetto (https://ui.perfetto.dev) and chrome://tracing."""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from kpusim.files import atomic_path
from kpusim.simulate.spans import STALLS
from kpusim.trace.reader import Trace
from kpusim.trace.schema import unit_kind
from kpusim.trace.summary import OpRun

_FIRST_THREAD = 1000  # Perfetto merges tracks and drops slices where thread ids are below 1000
_COLUMNS = (
    "unit", "start_cycle", "end_cycle", "opcode", "pc", "iteration", "bytes", *(f"stall_{cause}" for cause in STALLS),
)  # fmt: skip


def export_perfetto(trace: Trace, path: Path, progress: Callable[[int], None] = lambda slices: None) -> int:
    """Write the trace as gzipped Chrome JSON: a process a kind of unit, a thread a unit, a slice a span.

    Times are microseconds. Operators and the HBM bandwidth (byte/cycle) are a process of their own. `progress` is told
    the number of slices of each piece written. Returns the number of slices; raises UserError if `path` cannot
    be written.
    """
    template = cache(partial(_template, trace))
    slices = 0
    with (
        atomic_path(path) as part,
        open(part, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as out,
    ):
        out.write(b'{"displayTimeUnit":"ns","traceEvents":[\n')
        out.write(",\n".join(_header(trace)).encode())
        for op in trace.ops:
            for lines in _slices(trace, op, template):
                out.write((",\n" + ",\n".join(lines)).encode())
                slices += len(lines)
                progress(len(lines))
        out.write(b"\n]}\n")
    return slices


def _header(trace: Trace) -> Iterator[str]:
    """Names of processes and threads, a slice for each operator run, and the bandwidth counter."""
    tick = 1e6 / trace.meta.clock_hz
    kinds = _processes(trace)
    for name, pid in {"operators": 1, **kinds}.items():
        yield _dump("M", pid, 0, name="process_name", args={"name": name})
    yield _dump("M", 1, _FIRST_THREAD, name="thread_name", args={"name": "operators"})
    for unit, name in enumerate(trace.meta.unit_names):
        thread = _FIRST_THREAD + 1 + unit
        yield _dump("M", kinds[unit_kind(name)], thread, name="thread_name", args={"name": name})
        yield _dump("M", kinds[unit_kind(name)], thread, name="thread_sort_index", args={"sort_index": unit})
    for op in trace.ops:
        when = {"ts": op.start_cycle * tick, "dur": op.cycles * tick}
        yield _dump("X", 1, _FIRST_THREAD, name=op.name, args={"type": op.type, "top stall": op.top_stall}, **when)
    for rate, cycle in zip(*trace.hbm_bandwidth(), strict=True):
        args = {"byte/cycle": round(float(rate), 3)}
        yield _dump("C", 1, _FIRST_THREAD, name="HBM bandwidth", ts=int(cycle) * tick, args=args)


def _template(trace: Trace, unit: int, opcode: int) -> str:
    """The slice of an instruction on a unit, with % fields for what differs from span to span."""
    name = json.dumps(trace.meta.opcode_names.get(opcode, str(opcode))).replace("%", "%%")
    pid = _processes(trace)[unit_kind(trace.meta.unit_names[unit])]
    stalls = "".join(f',"stall {cause}":%d' for cause in STALLS)
    return (
        f'{{"ph":"X","pid":{pid},"tid":{_FIRST_THREAD + 1 + unit},"name":{name},"ts":%.6f,"dur":%.6f,'
        f'"args":{{"pc":%d,"iteration":%d,"bytes":%d{stalls}}}}}'
    )


def _slices(trace: Trace, op: OpRun, template: Callable[[int, int], str]) -> Iterator[list[str]]:
    """A slice for each span of an operator run, chunk by chunk; % is ten times as fast as json.dumps."""
    tick = 1e6 / trace.meta.clock_hz
    for chunk in trace.chunks(op, _COLUMNS):
        start, end = chunk["start_cycle"].astype(float), chunk["end_cycle"].astype(float)
        values = [(start + op.start_cycle) * tick, (end - start) * tick, *(chunk[key] for key in _COLUMNS[4:])]
        templates = map(template, chunk["unit"].tolist(), chunk["opcode"].tolist())
        rows = zip(*(value.tolist() for value in values), strict=True)
        yield [line % row for line, row in zip(templates, rows, strict=True)]


def _processes(trace: Trace) -> dict[str, int]:
    """Kind of unit -> process id."""
    kinds = dict.fromkeys(unit_kind(name) for name in trace.meta.unit_names)
    return {kind: pid for pid, kind in enumerate(kinds, start=2)}


def _dump(phase: str, pid: int, tid: int, **values: object) -> str:
    return json.dumps({"ph": phase, "pid": pid, "tid": tid, **values}, separators=(",", ":"))
