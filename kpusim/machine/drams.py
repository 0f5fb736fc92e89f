"""DRAMs by name: files of `kpusim/drams` and of users, and the DRAM that a machine file describes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args

import attrs
import cattrs

from kpusim.errors import UserError
from kpusim.machine.dram import PERIOD, Dram, DramName, DramTiming, Organisation
from kpusim.machine.quantities import COUNT, TIME, parse, text
from kpusim.machine.spec import Hbm, Machine
from kpusim.structured import BadValue, at, choice, exactly, has_origin, table_hook, telling_error
from kpusim.tomlfile import Key, TomlFile, read_toml

__all__ = ["dram_names", "dram_of", "hbm_keys", "load_dram"]

_DRAMS = Path(__file__).parent.parent / "drams"
LARGEST = 1 << 24  # of any count or timing: far above every DRAM, and exact arithmetic stays quick
MOST_BANKS = 1 << 10


def dram_names() -> tuple[str, ...]:
    """Names of the DRAMs that come with kpusim, by kind and rate."""
    return get_args(DramName)


def load_dram(name_or_path: str | Path) -> Dram:
    """The DRAM of that name, or of the TOML file at that path.

    Raises UserError, naming file, line and key, for one that is unknown, unreadable, misspelt or impossible.
    """
    names = dram_names()
    if name_or_path in names:
        return _structure(read_toml(_DRAMS / f"{name_or_path}.toml"))
    if Path(name_or_path).suffix == ".toml" or Path(name_or_path).exists():
        return _structure(read_toml(Path(name_or_path)))
    raise UserError("unknown DRAM", found=str(name_or_path), allowed=[*names, "a path to a .toml file"])


def dram_of(machine: Machine) -> Dram:
    """One channel of a machine's HBM as a DRAM of its own: one pseudo-channel, and times in CK, rounded up.

    A CK is half the time of a burst. Commands take the bus as HBM2's do. tRAS is what tRC leaves to tRP; where the
    file knows one time for two (tRCD, tRRD, tWTR), both are that. Raises UserError for one that can only refresh.
    """
    hbm = machine.hbm
    ck = Fraction(hbm.access_bytes) / hbm.channel_bytes_per_cycle / 2  # in core cycles
    organisation = Organisation(
        pseudochannels=1,
        stack_ids=1,
        bank_groups=hbm.bank_groups,
        banks=hbm.banks // hbm.bank_groups,
        rows=max(1, hbm.capacity_bytes // (hbm.channels * hbm.banks * hbm.row_bytes)),
        columns=4 * (hbm.row_bytes // hbm.access_bytes),
        prefetch=4,
        width=2 * hbm.access_bytes,
    )
    timing = _timing(hbm, ck)
    if timing.refi <= timing.least_refi:
        least = f"more than {text(ceil(timing.least_refi * ck), TIME, machine.clock_hz)}"
        raise UserError("no time is left between refreshes", where="[hbm] refresh_interval", allowed=least)
    return Dram(
        name=machine.name,
        description=machine.description,
        rate=hbm.channel_bytes_per_cycle * 8 * machine.clock_hz / organisation.width,
        channels=hbm.channels,
        protocol="hbm2",
        organisation=organisation,
        timing=timing,
    )


def _timing(hbm: Hbm, ck: Fraction) -> DramTiming:
    """A machine's timings in CK. ck: core cycles of one."""

    def cks(cycles: int | Fraction) -> int:
        return ceil(cycles / ck)

    opening, closing, row = cks(hbm.row_activate_cycles), cks(hbm.precharge_cycles), cks(hbm.row_cycle_cycles)
    gap, turn = cks(hbm.activate_gap_cycles), cks(hbm.write_to_read_cycles)
    return DramTiming(
        bl=2,
        cl=max(0, cks(hbm.read_cycles) - 2),
        cwl=cks(hbm.write_latency_cycles),
        rcdrd=opening,
        rcdwr=opening,
        rp=closing,
        ras=max(0, row - closing),
        rc=row,
        rtp=cks(hbm.read_to_precharge_cycles),
        wr=cks(hbm.write_recovery_cycles),
        ccds=2,
        ccdl=max(2, cks(hbm.same_group_gap_cycles)),
        rrds=gap,
        rrdl=gap,
        faw=cks(hbm.four_activates_cycles),
        wtrs=turn,
        wtrl=turn,
        rtw=cks(hbm.read_to_write_cycles),
        refi=cks(hbm.refresh_interval_cycles),
        rfc=cks(hbm.refresh_cycles),
    )


def hbm_keys(name: str) -> dict[str, str | int]:
    """The keys of a machine's [hbm] that a DRAM that comes with kpusim gives, as a machine file has them.

    A channel of [hbm] is a pseudo-channel, and a bank group one of a stack id. Times are rounded to a picosecond.
    """
    dram = load_dram(name)
    organisation, timing, gaps = dram.organisation, dram.timing, dram.gaps
    stack_rate = dram.rate * organisation.width * organisation.pseudochannels * dram.channels / 8
    times = {
        "row_activate": timing.rcdrd,
        "precharge": timing.rp,
        "read": timing.cl + timing.bl,
        "activate_gap": timing.rrds,
        "refresh_interval": timing.refi,
        "refresh": timing.rfc,
        "four_activates": timing.faw,
        "row_cycle": timing.rc,
        "same_group_gap": timing.ccdl,
        "read_to_precharge": timing.rtp,
        "write_latency": timing.cwl,
        "write_recovery": timing.wr,
        "write_to_read": timing.wtrs,
        "read_to_write": gaps.rd_wr // dram.ticks_per_ck,
    }
    return {
        "channels": dram.channels * organisation.pseudochannels,
        "banks": organisation.banks_of_pseudochannel,
        "bank_groups": organisation.stack_ids * organisation.bank_groups,
        "capacity": f"{dram.channels * organisation.capacity_bytes} B",
        "bandwidth": f"{float(stack_rate / 10**9):.12g} GB/s",
        "row": f"{organisation.bursts * organisation.burst_bytes} B",
        "access": f"{organisation.burst_bytes} B",
        **{key: f"{round(ck * dram.ck_ps)} ps" for key, ck in times.items()},
    }


def _structure(file: TomlFile) -> Dram:
    try:
        dram: Dram = _converter().structure(file.table, Dram)
    except cattrs.ClassValidationError as group:
        path, error = telling_error(group, _key)
        raise _user_error(file, tuple(map(str, path)), error) from None
    for path, problem, allowed in _contradictions(dram):
        raise UserError(problem, where=file.where(path), found=at(file.table, path), allowed=allowed)
    return dram


def _key(attribute: attrs.Attribute[Any]) -> str:
    return "ck" if attribute.name == "ck_ps" else attribute.name


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def quantity(found: object, kind: Any) -> int | Fraction:
        dimension = kind.__metadata__[0]
        value = parse(found, dimension, 10**18)  # a period in attoseconds: parse rounds it up
        if value < dimension.least or (dimension.positive and not value):
            raise BadValue("too small", f"such as {dimension.example}")
        if dimension is COUNT and value > LARGEST:
            raise BadValue("too large", f"at most {LARGEST}")
        return Fraction(value, 10**6) if dimension is PERIOD else value

    def count(found: object, kind: Any) -> object:
        if not 0 <= exactly(found, int) <= LARGEST:  # type: ignore[operator]
            raise BadValue("out of range", f"0 to {LARGEST}")
        return found

    converter.register_structure_hook_factory(attrs.has, table_hook(converter, _key))
    converter.register_structure_hook_func(has_origin(Literal), choice)
    converter.register_structure_hook_func(has_origin(UnionType), count)
    converter.register_structure_hook(int, count)
    converter.register_structure_hook(str, exactly)
    converter.register_structure_hook_func(has_origin(Annotated), quantity)
    return converter


def _user_error(file: TomlFile, path: tuple[str, ...], error: BaseException) -> UserError:
    """The message for one error of structuring."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        extra = next(key for key in at(file.table, path) if key in error.extra_fields)
        keys = [_key(a) for a in attrs.fields(error.cl)]
        return UserError("unknown key", where=file.where((*path, extra)), found=extra, allowed=keys)
    if isinstance(error, KeyError):
        return UserError("missing", where=file.where(path))
    if not isinstance(error, BadValue):
        error = BadValue("not a table", "a table")
    return UserError(error.problem, where=file.where(path), found=at(file.table, path), allowed=error.allowed)


def _contradictions(dram: Dram) -> Iterator[tuple[tuple[Key, ...], str, str | None]]:
    """(key, problem, what is allowed) of what no DRAM can be."""
    organisation, timing = dram.organisation, dram.timing
    for name, value in attrs.asdict(organisation).items():
        if name != "rows" and value & (value - 1):
            yield ("organisation", name), "not a power of two", "1, 2, 4, ..."
    if organisation.columns < organisation.prefetch:
        yield ("organisation", "columns"), "a row is shorter than a burst", "organisation.prefetch at least"
    if organisation.prefetch * organisation.width < 8:
        yield ("organisation", "width"), "a burst is shorter than a byte", None
    if organisation.pseudochannels * organisation.banks_of_pseudochannel > MOST_BANKS:
        yield ("organisation", "banks"), "too many banks", f"{MOST_BANKS} in all pseudo-channels"
    if timing.refi <= timing.least_refi:
        yield ("timing", "refi"), "no time is left between refreshes", f"more than {timing.least_refi}"
    for name in ("ras", "rfc", "ppd"):
        if dram.both_edges and not getattr(timing, name):
            yield ("timing", name), f"{dram.protocol} needs at least 1 CK", None
