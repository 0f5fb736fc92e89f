"""`kpusim bench`: measure the simulator's own speed and the quality of lowering."""

from __future__ import annotations

import json

import click

from kpusim.cli.options import json_option
from kpusim.cli.progress import progress

__all__ = ["command"]


@click.command(short_help="Measure the simulator's own speed and the quality of lowering.")
@click.option("--only", "names", multiple=True, metavar="GROUP", help="Only this group of measurements. Repeatable.")
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Measure the simulator's own speed and memory, and the quality of what is lowered.

    Speed is told in timeouts: the wall time over that of one bare SimPy timeout in a run of 288 processes that do
    nothing else, measured in the same run (timeout.microseconds).

    \b
    Groups: unit, gemm4096, gemm4096_folds, gemm4096_edge, trace, memory, array128, decode1, decode32,
    gemm_dtypes, gemm_dataflows, gemm_machines, gemm_forms, gather_bandwidth, memory_bound.

    \b
    JSON: {key: number}:
      timeout.microseconds
      gemm4096.lower.wall_in_timeouts, .local.wall_in_timeouts, .plain.wall_in_timeouts, .cycles, .instructions,
        .matrix_utilisation, .traffic_over_bound (HBM bytes over the I/O bound), .peak_memory_megabytes
      gemm4096_folds.local.wall_in_timeouts, .plain.wall_in_timeouts, .instructions
      gemm4096_edge.wall_in_timeouts, .cycles, .matrix_utilisation, .traffic_over_bound
      trace.spans, .timeouts_per_span (what tracing adds), .bytes_per_span
      array128.wall_seconds (1024 cubed on one 128x128 array: process start to trace written)
      decodeM.cycles (launch not included), .launch_cycles, .first_byte_cycles, .bytes_per_cycle (behind the first
        byte), .ideal_bytes_per_cycle (of a program that only reads), .bandwidth_over_ideal, .ideal_over_attainable
      gemm_GROUP.ROW.cycles, .matrix_utilisation, .roofline_over_cycles (those of the higher bound: arrays, HBM),
        .traffic_over_bound, .estimate_over_cycles (what the mapping was chosen by), .plain_equals_local (1: the modes
        agree in everything); such as gemm_dtypes.fp8_e4m3, gemm_machines.kpu-edge_decode32, gemm_forms.grouped_zipf
      memory_bound.MACHINE.OPERATOR.wall_in_timeouts, .cycles, .bandwidth_over_mix (bytes/cycle, over what HBM reaches
        for streams of as many reads and writes)
      attention16k.MACHINE.MASK_VARIANT.cycles, .matrix_utilisation, .traffic_over_bound, .traffic_over_compulsory
      attention_decode.MACHINE.ROW.cycles, .bandwidth_over_mix, .bandwidth_over_attainable
      attention_scale.16k.wall_in_timeouts, .whole_wall_in_timeouts (--whole), .share_over_whole_cycles;
        .128k.wall_in_timeouts, .peak_memory_megabytes

    \b
    Example:
      kpusim bench --only gemm4096 --json
      kpusim bench --only gemm_dtypes --only gemm_forms
    """
    from kpusim.bench import GROUPS, target_of
    from kpusim.errors import UserError

    for name in names:
        if name not in GROUPS:
            raise UserError("unknown group of measurements", where="--only", found=name, allowed=list(GROUPS))
    chosen = [name for name in GROUPS if not names or name in names]
    found: dict[str, float] = {}
    with progress("measuring", len(chosen)) as begins:
        for name in chosen:
            begins(name)
            found |= dict(GROUPS[name]())
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    from kpusim.report.table import number, print_table

    rows = []
    for key, value in found.items():
        target = target_of(key)
        wanted = f"{'at least' if target.at_least else 'at most'} {number(target.limit)}" if target else ""
        rows.append((key, number(value), wanted, "" if target is None else "met" if target.met(value) else "MISSED"))
    print_table("Benchmark", ("measurement", "value", "target", ""), rows)
