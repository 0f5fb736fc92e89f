"""`kpusim hbm`: one channel of memory, burst by burst, under a stream of requests; or a sweep of all of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kpusim.cli.complete import address_mappers, address_patterns, dram_files, files, machine_files
from kpusim.cli.options import json_option, set_option, size_bytes

if TYPE_CHECKING:
    from kpusim.dram.requests import Requests
    from kpusim.machine.dram import Dram

__all__ = ["command"]

DRAM = "hbm3-6400"
STRIDE = "4 KiB"
QUEUE = 64  # as the default of machines' hbm.queue
SHORT = 20  # buffers' worth of requests: what is left in them is then up to a tenth
REQUESTS = 100_000
SPAN = 1 << 30
ONE_CHANNEL = {
    "as_list": "--list", "dram": "--dram", "pattern": "--pattern", "mapper": "--mapper", "queue": "--queue",
    "requests": "--requests",
}  # fmt: skip
INSTEAD = {
    "dram": "; for another memory of the machine: --set hbm.dram=NAME",
    "queue": "; for another queue of the machine: --set hbm.queue=N",
}


@click.command(short_help="Measure memory: one channel burst by burst, or a sweep of all.")
@click.option("--list", "as_list", is_flag=True, help="List the DRAMs that come with kpusim.")
@click.option(
    "--dram",
    metavar="NAME|FILE",
    shell_complete=dram_files,
    help=f"The DRAM, from --list or a TOML file.  [default: {DRAM}]",
)
@click.option(
    "-m", "--machine", metavar="NAME|FILE", shell_complete=machine_files, help="Instead: of that machine's HBM."
)
@set_option
@click.option(
    "--pattern", default="stream", show_default=True, metavar="stream|random|strided|FILE",
    shell_complete=address_patterns, help="The addresses, or a file of them.",
)  # fmt: skip
@click.option(
    "--mapper", default="RoBaRaCoCh", show_default=True, metavar="NAME", shell_complete=address_mappers,
    help="How addresses are mapped to banks and rows: RoBaRaCoCh, ChRaBaRoCo, MOP4CLXOR.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(min=1), metavar="N",
    help=f"Requests that wait for reading, and as many for writing.  [default: {QUEUE}, or the machine's]",
)  # fmt: skip
@click.option(
    "--writes", default="0", show_default=True, metavar="PART",
    help='How many of the requests write, such as "1/3": the third, the sixth, ...',
)  # fmt: skip
@click.option(
    "--requests", type=click.IntRange(1, 10_000_000), metavar="N",
    help=f"Requests of one burst each.  [default: {REQUESTS}, or all of the file]",
)  # fmt: skip
@click.option("--span", metavar="SIZE", help="Bytes of addresses.  [default: 1 GiB, or all there is]")
@click.option(
    "--stride", metavar="SIZE", help=f"Bytes between strided addresses.  [default: {STRIDE}; of a sweep 8 KiB]"
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of what is random.")
@click.option("--sweep", is_flag=True, help="Instead: all of a machine's memory, as the simulator models it.")
@click.option("--reference", is_flag=True, help="Sweep the reference, too: minutes on a large machine.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", shell_complete=files(".svg", ".png", ".pdf"),
    help="Draw the sweep: .svg, .png or .pdf.",
)  # fmt: skip
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_list: bool, as_json: bool, **options: Any) -> None:
    """Run one channel of a DRAM at full load, burst by burst: the reference that the simulator's own model is held to.

    Requests come in order, as fast as the controller's buffers take them, until the last is accepted: of a short run
    much is still in the buffers then. Reads and writes go first-ready, first-come; rows stay open; all banks are
    refreshed at once.

    \b
    Patterns:
      stream    one burst behind the other
      random    uniform over the span
      strided   --stride apart; at the end of the span from its beginning, one burst further
      FILE      an address a line, decimal or 0x..., with R or W behind it where --writes does not say

    \b
    JSON: dram, pattern, mapper, queue_depth, requests, request_bytes, dram_cycles (steps of the controller: a CK, half
    a CK in HBM3), gb_per_s, peak_gb_per_s, fraction_of_peak, avg_read_latency_ns (buffered to data complete; null
    without reads), and
    row_hits, row_misses, row_conflicts (requests by their first command). With --list: a list of {name, description,
    peak_gb_per_s, capacity_bytes}, of a channel.

    With --sweep all channels of a machine (kpu-datacenter, or --machine) are asked for streams: the latency of reads
    of 4 KiB, at parts of the bandwidth that the stream reaches, and that bandwidth for accesses of 64 B to 16 KiB. A
    stream is sequential, strided (pieces of 256 B for the latency), random, or sequential and random by turns.

    \b
    JSON of --sweep: machine, peak_gb_per_s, attainable_gb_per_s (the peak less refresh), latency: [{pattern, load,
    gb_per_s, latency_ns, reference_ns}], bandwidth: [{pattern, access_bytes, gb_per_s, reference_gb_per_s}]; null for
    a reference that was not asked for.

    \b
    Examples:
      kpusim hbm --dram hbm3e-9200 --pattern random
      kpusim hbm --dram hbm2-2000 --mapper MOP4CLXOR --queue 128 --writes 1/3 --json
      kpusim hbm -m kpu-edge --set hbm.queue=16 --pattern strided --stride "2 KiB"
      kpusim hbm --sweep -m kpu-edge --reference -o edge.svg
    """
    if options["sweep"]:
        _sweep(ctx, options, as_json)
        return
    for name, option in ("reference", "--reference"), ("output", "--output"):
        if options[name]:
            raise click.UsageError(f"{option} belongs to --sweep.")
    if as_list:
        _list(as_json)
        return
    from kpusim.dram.measure import measure

    dram, queue = _channel(options["dram"], options["machine"], options["sets"], options["queue"])
    requests = _requests(dram, options)
    found = measure(dram, queue, requests)
    data = {
        "dram": dram.name,
        "pattern": options["pattern"],
        "mapper": options["mapper"],
        "queue_depth": queue,
        "requests": found.requests,
        "request_bytes": dram.organisation.burst_bytes,
        "dram_cycles": found.dram_cycles,
        "gb_per_s": round(found.gb_per_s, 3),
        "peak_gb_per_s": round(found.peak_gb_per_s, 3),
        "fraction_of_peak": round(found.gb_per_s / found.peak_gb_per_s, 4),
        "avg_read_latency_ns": round(found.avg_read_latency_ns, 2) or None,
        "row_hits": found.row_hits,
        "row_misses": found.row_misses,
        "row_conflicts": found.row_conflicts,
    }
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        _print(data, dram)


def _sweep(ctx: click.Context, options: dict[str, Any], as_json: bool) -> None:
    from kpusim.cli.hbm_sweep import run

    for name, option in ONE_CHANNEL.items():
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} belongs to one channel, without --sweep{INSTEAD.get(name, '')}.")
    run(options, _part(options["writes"]), as_json)


def _print(data: dict[str, Any], dram: Dram) -> None:
    from kpusim.cli.tables import print_table

    rows = [
        ("requests", data["requests"], f"of {data['request_bytes']} B"),
        ("bandwidth", data["gb_per_s"], "GB/s"),
        ("of the peak", 100 * data["fraction_of_peak"], "%"),
        ("mean read latency", data["avg_read_latency_ns"] or "-", "ns"),
        ("row hits", data["row_hits"], ""),
        ("row misses", data["row_misses"], ""),
        ("row conflicts", data["row_conflicts"], ""),
        ("cycles", data["dram_cycles"], f"of {float(dram.tick_ps):g} ps"),
    ]
    print_table(f"{data['dram']}, {data['pattern']}, {data['mapper']}", ("of the channel", "", ""), rows)
    if data["requests"] < SHORT * data["queue_depth"]:
        click.echo("A short run: it ends when the last request is accepted, and many are then still in the buffers.")


def _channel(name: str | None, machine: str | None, sets: tuple[str, ...], queue: int | None) -> tuple[Dram, int]:
    """The DRAM that is asked for, and the length of its buffers."""
    from kpusim.machine import load_machine
    from kpusim.machine.drams import dram_of, load_dram
    from kpusim.streams.sweep import refuse_ideal

    if machine is None:
        if sets:
            raise click.UsageError("--set changes a machine: it needs --machine.")
        return load_dram(name or DRAM), queue or QUEUE
    if name is not None:
        raise click.UsageError("--dram and --machine exclude each other.")
    loaded = load_machine(machine, sets)
    refuse_ideal(loaded)
    return dram_of(loaded), queue or loaded.hbm.queue


def _requests(dram: Dram, options: dict[str, Any]) -> Requests:
    """The requests that the options describe. Raises UserError."""
    from kpusim.dram.patterns import PATTERNS, addresses_of, read_trace, spread_writes
    from kpusim.dram.requests import Requests, decode
    from kpusim.errors import UserError

    organisation, pattern, count = dram.organisation, options["pattern"], options["requests"]
    part, writes = _part(options["writes"]), None
    stride = size_bytes(options["stride"] or STRIDE, "--stride")
    capacity = organisation.capacity_bytes
    span = min(SPAN, capacity) if options["span"] is None else size_bytes(options["span"], "--span")
    if pattern in PATTERNS:
        addresses = addresses_of(pattern, count or REQUESTS, organisation, span, stride, options["seed"])
    elif Path(pattern).exists() or Path(pattern).suffix:
        addresses, writes = read_trace(Path(pattern), organisation, count)
        if writes is not None and part:
            raise UserError("the file says which requests write", where="--writes", found=options["writes"])
    else:
        raise UserError("unknown pattern", where="--pattern", found=pattern, allowed=[*PATTERNS, "a file of addresses"])
    banks, rows = decode(organisation, options["mapper"], addresses)
    return Requests(banks, rows, spread_writes(part, len(addresses)) if writes is None else writes, addresses)


def _part(text: str) -> Fraction:
    """The part of requests that write. Raises UserError."""
    from kpusim.errors import UserError

    try:
        part = Fraction(text) if len(text) < 20 else Fraction(-1)
    except (ValueError, ZeroDivisionError):
        part = Fraction(-1)
    if not 0 <= part <= 1:
        raise UserError("not a part", where="--writes", found=text, allowed='0 to 1, such as "1/3" or 0.25')
    return part


def _list(as_json: bool) -> None:
    """Print the DRAMs that come with kpusim."""
    from kpusim.cli.tables import print_table
    from kpusim.machine.drams import dram_names, load_dram

    drams = [load_dram(name) for name in dram_names()]
    rates = [round(float(dram.peak_bytes_per_second / 10**9), 3) for dram in drams]
    if as_json:
        data = [
            {
                "name": dram.name,
                "description": dram.description,
                "peak_gb_per_s": rate,
                "capacity_bytes": dram.organisation.capacity_bytes,
            }
            for dram, rate in zip(drams, rates, strict=True)
        ]
        click.echo(json.dumps(data, indent=2))
        return
    rows = [
        (dram.name, rate, f"{dram.organisation.capacity_bytes / 2**30:g} GiB", dram.description)
        for dram, rate in zip(drams, rates, strict=True)
    ]
    print_table("DRAMs, by channel", ("name", "GB/s", "capacity", "what it is"), rows)
