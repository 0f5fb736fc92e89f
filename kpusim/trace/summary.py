"""The plots and tables of a finished trace: utilization, bandwidth, stalls, roofline, operators, counters."""

from collections.abc import Mapping, Sequence

import h5py
import numpy as np
import numpy.typing as npt
from attrs import field as attribute
from attrs import frozen

from kpusim.simulate.spans import STALLS
from kpusim.trace.nexus import by_key, field, group, named_fields, plot
from kpusim.trace.profile import Floats
from kpusim.trace.schema import TraceMeta

Counts = npt.NDArray[np.int64]


@frozen(kw_only=True)
class OpRun:
    """One run of an operator: a row of /entry/ops. Cycles count from the run's start."""

    name: str
    type: str
    start_cycle: int
    end_cycle: int
    launch_cycles: int
    block: int
    first_event: int
    events: int
    flops: int
    macs: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    busy_cycles: int
    """Summed over the units, as are the stalls."""
    stall_cycles: Mapping[str, int]
    top_stall: str
    counters: Mapping[str, int] = attribute(factory=dict)

    @property
    def cycles(self) -> int:
        """From start to end."""
        return self.end_cycle - self.start_cycle


_OP_NUMBERS = (
    "start_cycle", "end_cycle", "launch_cycles", "block", "first_event", "events", "flops", "macs",
    "hbm_read_bytes", "hbm_write_bytes", "busy_cycles",
)  # fmt: skip
_OP_TEXTS = ("name", "type", "top_stall")


def write_ops(entry: h5py.Group, ops: Sequence[OpRun]) -> None:
    """Write /entry/ops/table, a compound row an operator run, and /entry/counters, a dataset a counter."""
    texts = {key: [getattr(op, key).encode() for op in ops] for key in _OP_TEXTS}
    dtype = [(key, h5py.string_dtype(length=max([1, *map(len, texts[key])]))) for key in _OP_TEXTS]
    numbers: dict[str, list[int]] = {key: [getattr(op, key) for op in ops] for key in _OP_NUMBERS}
    numbers |= {f"stall_{cause}": [op.stall_cycles[cause] for op in ops] for cause in STALLS}
    table = np.zeros(len(ops), [*dtype, *((key, "<u8") for key in numbers)])
    for key, column in (texts | numbers).items():
        table[key] = column
    field(group(entry, "ops", "NXcollection"), "table", table, "", "Operator runs")
    keys = sorted({key for op in ops for key in op.counters})
    columns = {key: np.array([op.counters.get(key, 0) for op in ops], np.uint64) for key in keys}
    named_fields(entry, "counters", columns)


def read_ops(entry: h5py.Group) -> tuple[OpRun, ...]:
    """The rows of /entry/ops with their counters, in the order of their runs."""
    table = entry["ops/table"][()]
    counters = {key: dataset[()] for key, dataset in by_key(entry["counters"]).items()}
    return tuple(
        OpRun(
            **{key: row[key].decode() for key in _OP_TEXTS} | {key: int(row[key]) for key in _OP_NUMBERS},
            stall_cycles={cause: int(row[f"stall_{cause}"]) for cause in STALLS},
            counters={key: int(values[number]) for key, values in counters.items()},
        )
        for number, row in enumerate(table)
    )


def write_timelines(entry: h5py.Group, meta: TraceMeta, rates: Floats, width: int) -> None:
    """Write the plots over time from rates [units + 1, bins]: a row a unit, then HBM bytes a cycle."""
    cycles = np.arange(rates.shape[1], dtype=np.uint64) * np.uint64(width)
    shares = plot(entry, "utilization", f"Utilization: {meta.title}", ["unit", "cycle"], "utilization")
    field(shares, "utilization", rates[:-1].astype(np.float32), "", "Share of cycles in which the unit is busy")
    field(shares, "unit", np.arange(len(rates) - 1, dtype=np.uint16), "", "Unit number")
    field(shares, "cycle", cycles, "cycle", "Cycle")
    field(shares, "unit_name", meta.unit_names, "", "Unit")
    name = f"{meta.memory} bandwidth (byte/cycle)"
    attainable = "attainable" if meta.memory == "HBM" else "attainable of HBM"
    title = f"{name}, {attainable} {meta.peak_hbm_bytes_per_cycle:g}: {meta.title}"
    bandwidth = plot(entry, "hbm_bandwidth", title, "cycle", "bandwidth")
    bandwidth.attrs["units"] = "byte/cycle"
    field(bandwidth, "bandwidth", rates[-1], "byte/cycle", name)
    field(bandwidth, "cycle", cycles, "cycle", "Cycle")


def write_stalls(entry: h5py.Group, meta: TraceMeta, total: int, busy: Counts, stalls: Counts) -> None:
    """Write the accounting: for each unit busy + stalls + idle = total cycles.

    busy: [units], stalls: [units, len(STALLS)]. Raises ValueError if a unit's cycles exceed the total.
    """
    idle = total - busy - stalls.sum(axis=1)
    if len(idle) and idle.min() < 0:
        worst = int(idle.argmin())
        raise ValueError(f"{meta.unit_names[worst]}: busy + stalls exceed {total} cycles by {-idle[worst]}")
    causes = [f"stall_{cause}" for cause in STALLS]
    table = plot(entry, "stalls", f"Cycles by unit: {meta.title}", "unit", "busy", (*causes, "idle"))
    field(table, "busy", busy.astype(np.uint64), "cycle", "Busy")
    for number, cause in enumerate(STALLS):
        field(table, f"stall_{cause}", stalls[:, number].astype(np.uint64), "cycle", f"Waiting: {cause}")
    field(table, "idle", idle.astype(np.uint64), "cycle", "Idle")
    field(table, "unit", np.arange(len(busy), dtype=np.uint16), "", "Unit number")
    field(table, "unit_name", meta.unit_names, "", "Unit")
    field(table, "total_cycles", np.uint64(total), "cycle", "Cycles of the run")


def write_roofline(entry: h5py.Group, meta: TraceMeta, ops: Sequence[OpRun]) -> None:
    """Write the roof min(peak, bandwidth * intensity), and below it each operator with operations and HBM traffic.

    An operator is a vertical line from the roof down to its performance (three samples: roof, performance, NaN), so
    that a viewer that draws lines only shows a lone operator too, and how far it is from the roof.
    """
    peak, bandwidth = meta.peak_flops_per_cycle, meta.peak_hbm_bytes_per_cycle
    points: list[tuple[float, float, str]] = [(peak / bandwidth, np.nan, "")]
    for op in ops:
        traffic = op.hbm_read_bytes + op.hbm_write_bytes
        if op.flops and traffic and op.cycles:
            x = op.flops / traffic
            roof = min(peak, bandwidth * x)
            points += [(x, roof, ""), (x, op.flops / op.cycles, op.name), (x, np.nan, "")]
    points.sort(key=lambda point: point[0])
    points = [(points[0][0] / 4, np.nan, ""), *points, (points[-1][0] * 4, np.nan, "")]
    intensity = np.array([point[0] for point in points])
    scale = meta.clock_hz / 1e12
    chart = plot(entry, "roofline", f"Roofline (TFLOP/s): {meta.title}", "intensity", "performance", ("roof",))
    chart.attrs["SILX_style"] = '{"axes_scale_types": ["log"], "signal_scale_type": "log"}'
    field(chart, "performance", np.array([point[1] for point in points]) * scale, "TFLOP/s", "Performance (TFLOP/s)")
    field(chart, "roof", np.minimum(peak, bandwidth * intensity) * scale, "TFLOP/s", "Roof (TFLOP/s)")
    field(chart, "intensity", intensity, "flop/byte", "Arithmetic intensity (flop/byte)")
    field(chart, "op_name", [point[2] for point in points], "", "Operator")
