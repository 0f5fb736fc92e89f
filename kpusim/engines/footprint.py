"""Where a chunk lies in HBM: its channels, banks and rows, and how long they are at work on it.

Interleave blocks go round the channels; a channel's own bytes fill a row, then one of the next bank. Where bank groups
alternate (`hbm.alternating_groups`), so many banks of different groups are opened together and take turns within a
row; they count as one bank here, with a row so many times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kpusim.machine import Hbm

__all__ = ["Banks", "Footprint", "Ints", "Run", "Timing", "bursts_of", "footprint", "locate", "timing_of"]

Ints: TypeAlias = npt.NDArray[np.int64]
Run = tuple[int, int, int, int]
"""(block, count, step, bursts): `count` interleave blocks, `step` apart, and the bursts that are wanted of each."""

FINEST = 64  # ticks of a cycle at least: timings of some nanoseconds are within a percent
FINE = 1 << 20  # ticks of a cycle at most: at 2 GHz, 64 bits last for an hour
SLIGHT = 8  # chosen: a part of tRC that is not worth the time to simulate it
DRAINED = Fraction(6, 10)  # of a write buffer at once: from 8/10 down to 2/10, as the controller of `kpusim.dram`


@frozen
class Timing:
    """Times of a channel in ticks, `ticks` of which are a core cycle.

    burst: its bus for one burst. column: from one burst of a bank to the next. activate: what opening a row takes of
    the rate of openings (tRRD, tFAW). opening: tRP + tRCD. precharge: tRTP, before a bank in use is closed. row_cycle:
    tRC. recovery: from the end of writing a row until it may be closed. turnaround, drain: what the bus loses for one
    burst that is written, always and where its row is closed. latency: from the start of a burst on the bus to its
    arrival. interval: tREFI. refresh: tRFC, and tRP before it.
    """

    ticks: int
    burst: int
    column: int
    activate: int
    opening: int
    precharge: int
    row_cycle: int
    recovery: int
    turnaround: int
    drain: int
    latency: int
    interval: int
    refresh: int


def timing_of(hbm: Hbm) -> Timing:
    """The timing of a channel: a burst is exact (unless its denominator is above `FINE`), the rest rounded to ticks.

    A drain of the write buffer turns the bus to writing (tRTW) and back (CWL, tWTR); on the way there it also opens its
    first row, where that is closed. Each burst of the `DRAINED` part of the buffer pays its share.
    """
    burst, opening = hbm.access_bytes / hbm.channel_bytes_per_cycle, hbm.precharge_cycles + hbm.row_activate_cycles
    ticks = min(burst.denominator, FINE)
    ticks *= -(-FINEST // ticks)

    def whole(cycles: int | Fraction) -> int:
        return round(max(cycles, Fraction(0)) * ticks)

    there, back = hbm.read_to_write_cycles, hbm.write_latency_cycles + hbm.write_to_read_cycles
    drained = DRAINED * hbm.queue
    return Timing(
        ticks=ticks,
        burst=whole(burst),
        column=whole(max(burst, hbm.same_group_gap_cycles / hbm.alternating_groups)),
        activate=whole(hbm.opening_cycles),
        opening=whole(opening),
        precharge=whole(hbm.read_to_precharge_cycles),
        row_cycle=whole(hbm.row_cycle_cycles),
        recovery=whole(hbm.write_latency_cycles + hbm.write_recovery_cycles),
        turnaround=whole((there + back - burst) / drained),
        drain=whole((opening - there) / drained) if there else 0,
        latency=whole(hbm.read_cycles - burst),
        interval=whole(hbm.refresh_interval_cycles),
        refresh=whole(hbm.refresh_cycles + hbm.precharge_cycles) if hbm.refresh_cycles else 0,
    )


@frozen
class Banks:
    """Banks of a chunk that has several in a channel.

    first: where those of each channel begin. channel: the channel of each, by place.
    """

    first: npt.NDArray[np.intp]
    channel: npt.NDArray[np.intp]


@frozen(eq=False)
class Footprint:
    """What one chunk needs. Resources are numbered: the buses of all channels, their banks, their rates of openings.

    `resources` are those that it occupies, for `work` ticks beside what its closed rows take (`written`: where it is
    stored): first `channels` buses, then `banks` banks, then rates. `rows`, `last`: the first and the last row that is
    wanted of each bank; `further`: rows after the first ones, in all. `others`: ticks that other bursts take on the bus
    when a bank's fill their part of the read buffer; `long`: they fill half of it somewhere; `buffered`: ticks that a
    full write buffer takes. `drain`: what the bus loses for writing a bank's first row where that is closed. `rest`:
    what tRC takes beside opening a bank's row and its bursts; None where that is next to nothing. `activate`: ticks of
    the rate of openings that each bank's first row takes; None where its bursts take longer everywhere, so that the
    rate is no resource. `several`: None where each channel has one row of one bank.
    """

    accesses: int
    resources: npt.NDArray[np.intp]
    work: Ints
    written: Ints
    channels: int
    banks: int
    rows: Ints
    last: Ints
    further: int
    others: Ints
    long: bool
    buffered: int
    drain: Ints
    rest: Ints | None
    activate: Ints | None
    several: Banks | None


def locate(blocks: Ints, hbm: Hbm) -> tuple[Ints, Ints, Ints]:
    """(channel, bank among those of all channels, row) of interleave blocks by number."""
    stripe, index = np.divmod(blocks, hbm.channel_count)
    banks = hbm.separate_banks
    row, bank = np.divmod(stripe // (hbm.alternating_groups * hbm.row_bytes // hbm.interleave_bytes), banks)
    if hbm.hash == "rotate":
        index, bank = (index + stripe) % hbm.channel_count, (bank + row) % banks
    elif hbm.hash == "xor":
        stack, channel = np.divmod(index, hbm.channels)
        index = (stack + stripe) % hbm.stacks * hbm.channels + (channel ^ (stripe % hbm.channels))
        bank ^= row % banks
    return index, index * banks + bank, row


def bursts_of(runs: Sequence[Run]) -> tuple[Ints, Ints]:
    """(number, bursts wanted) of every interleave block of `runs`."""
    if len(runs) == 1:
        ((block, count, step, wanted),) = runs
        return np.arange(block, block + count * step, step), np.full(count, wanted)
    first, count, step, bursts = np.array(runs, np.int64).T
    inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + np.repeat(step, count) * inside, np.repeat(bursts, count)


def footprint(runs: Sequence[Run], place: int, hbm: Hbm, timing: Timing) -> Footprint:
    """The footprint of runs that count from block `place`."""
    blocks, bursts = bursts_of(runs)
    channel, bank, row = locate(blocks + place, hbm)
    if int(np.bincount(channel).max()) > 1:
        return _several(channel, bank, row, bursts, hbm, timing)
    bus, columns = bursts * timing.burst, (bursts - 1) * timing.column + timing.burst
    activate, slowest = _openings(bursts, hbm) * timing.activate, timing.burst
    rates = channel + hbm.channel_count * (1 + hbm.separate_banks)
    rated = bool((bus < activate).any())
    if rated:
        slowest = max(slowest, int(activate.sum()) // int(bursts.sum()))
    else:
        rates = rates[:0]
    none = np.zeros(len(rates), np.int64)
    return Footprint(
        accesses=int(bursts.sum()),
        resources=np.concatenate((channel, hbm.channel_count + bank, rates)),
        work=np.concatenate((bus, columns, none)),
        written=np.concatenate((bus + bursts * timing.turnaround, columns, none)),
        channels=len(channel), banks=len(bank), rows=row, last=row, further=0,
        **_of_banks(bursts, columns, slowest, hbm, timing),
        activate=activate if rated else None, several=None,
    )  # fmt: skip


def _several(channel: Ints, bank: Ints, row: Ints, bursts: Ints, hbm: Hbm, timing: Timing) -> Footprint:
    """The footprint of blocks that share channels."""
    order = np.lexsort((row, bank))
    channel, bank, row, bursts = channel[order], bank[order], row[order], bursts[order]
    piece = np.flatnonzero((np.diff(bank, prepend=-1) != 0) | (np.diff(row, prepend=-1) != 0))  # a row of a bank
    channel, bank, row, bursts = channel[piece], bank[piece], row[piece], np.add.reduceat(bursts, piece)
    start = np.flatnonzero(np.diff(bank, prepend=-1))
    again = np.diff(start, append=len(bank)) - 1
    columns = (bursts - 1) * timing.column + timing.burst
    held = np.maximum(timing.opening + columns, timing.row_cycle)  # what each further row takes of its bank
    held[start] = columns[start]
    activate = _openings(bursts, hbm) * timing.activate
    slowest = max(timing.burst, int(activate.sum()) // int(bursts.sum()))
    at_first = activate[start]
    activate[start] = 0
    first = np.flatnonzero(np.diff(channel[start], prepend=-1))
    in_channel, in_bank = np.add.reduceat(bursts, start[first]), np.add.reduceat(bursts, start)
    columns, rates = np.add.reduceat(held, start), np.add.reduceat(activate, start[first])
    last, bank, row, channel = row[start + again], bank[start], row[start], channel[start]
    count, banks = hbm.channel_count, hbm.channel_count * hbm.separate_banks
    bus = in_channel * timing.burst
    return Footprint(
        accesses=int(bursts.sum()),
        resources=np.concatenate((channel[first], count + bank, count + banks + channel[first])),
        work=np.concatenate((bus, columns, rates)),
        written=np.concatenate((bus + in_channel * timing.turnaround, columns, rates)),
        channels=len(first), banks=len(bank), rows=row, last=last, further=int(again.sum()),
        **_of_banks(in_bank, columns, slowest, hbm, timing),
        activate=at_first,
        several=Banks(first, np.repeat(np.arange(len(first)), np.diff(first, append=len(bank)))),
    )  # fmt: skip


def _of_banks(bursts: Ints, columns: Ints, slowest: int, hbm: Hbm, timing: Timing) -> dict[str, Any]:
    """What a footprint knows of banks with so many bursts; slowest: ticks of one, where openings hold it up."""
    rest = np.maximum(timing.row_cycle - timing.opening - columns, 0)
    return {
        "others": np.maximum(hbm.queue - bursts, 0) * timing.burst,
        "long": 2 * int(bursts.max()) > hbm.queue,
        "buffered": hbm.queue * slowest,
        "drain": bursts * timing.drain,
        "rest": rest if int(rest.max()) * SLIGHT > timing.row_cycle else None,
    }


def _openings(bursts: Ints, hbm: Hbm) -> Ints:
    """Rows of the alternating banks that are opened for so many bursts."""
    return np.minimum(-(-bursts * hbm.access_bytes // hbm.bank_interleave_bytes), hbm.alternating_groups)
