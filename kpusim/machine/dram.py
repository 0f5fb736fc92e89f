"""One channel of DRAM: its organisation, its timings in its own clock, and the gaps between commands that follow."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Annotated, Literal

from attrs import Factory, field, frozen

from kpusim.machine.quantities import Count, Dimension

__all__ = ["PERIOD", "Dram", "DramName", "DramTiming", "Gaps", "Organisation"]

RATE = Dimension("rate", ("b/s",), "6.4 Gb/s", positive=True)
PERIOD = Dimension("period", ("s",), "625 ps", positive=True)

Rate = Annotated[Fraction, RATE]  # bits a second
Period = Annotated[Fraction, PERIOD]  # picoseconds
Protocol = Literal["hbm2", "hbm3"]
DramName = Literal[
    "hbm2-2000",
    "hbm2-2400",
    "hbm2e-3200",
    "hbm2e-3600",
    "hbm3-5200",
    "hbm3-6400",
    "hbm3e-8000",
    "hbm3e-9200",
    "lpddr5x-8533",
]

TICKS_PER_CK = {"hbm2": 1, "hbm3": 2}
"""HBM3 issues row commands on both edges of CK."""

ACTIVATE_TICKS = {"hbm2": 2, "hbm3": 3}
COLUMN_TICKS = {"hbm2": 1, "hbm3": 2}
ROW_COMMAND_TICKS = 1
"""Ticks on the command bus: of ACT; of RD and WR; of PRE, PREA (all banks) and REF."""


@frozen
class Organisation:
    """What a channel consists of. A bank group is one of a stack id, a stack id one of a pseudo-channel."""

    pseudochannels: Count
    stack_ids: Count
    bank_groups: Count
    banks: Count
    """Banks of a bank group."""
    rows: Count
    columns: Count
    prefetch: Count
    """Columns of one burst."""
    width: Count
    """Bits of a pseudo-channel's data."""

    @property
    def burst_bytes(self) -> int:
        """Bytes of one burst."""
        return self.prefetch * self.width // 8

    @property
    def bursts(self) -> int:
        """Bursts of a row."""
        return self.columns // self.prefetch

    @property
    def banks_of_pseudochannel(self) -> int:
        """Banks of a pseudo-channel."""
        return self.stack_ids * self.bank_groups * self.banks

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the channel."""
        return self.pseudochannels * self.banks_of_pseudochannel * self.rows * self.bursts * self.burst_bytes


@frozen(kw_only=True)
class DramTiming:
    """JEDEC's timings in CK, under JEDEC's names without the t; s and l: in another, in the same bank group."""

    bl: Count
    """A burst on the data bus."""
    cl: int
    cwl: int
    """From RD, from WR to its data."""
    rcdrd: int
    rcdwr: int
    """From ACT to RD, to WR."""
    rp: int
    ras: int
    rc: int
    """From PRE to ACT, from ACT to PRE, from ACT to ACT of one bank."""
    rtp: int
    wr: int
    """From RD, from the end of written data to PRE."""
    ccds: int
    ccdl: int
    ccdr: int | None = None
    """Between RDs or WRs; between RDs of two stack ids (None: as ccds)."""
    rrds: int
    rrdl: int
    faw: int
    """Between ACTs; of five ACTs from the first to the last."""
    wtrs: int
    wtrl: int
    """From the end of written data to RD."""
    rtw: int | None = None
    """From RD to WR (None: the data bus turns round in 2 CK)."""
    ppd: int | None = None
    """Between PREs (None: as the command bus allows)."""
    refi: int
    rfc: int
    """Between refreshes; what one takes."""

    @property
    def least_refi(self) -> int:
        """CK between refreshes in which, in spite of them, a request can be served: at most what one takes."""
        served = (self.rcdrd, self.rcdwr, self.cl, self.cwl, self.bl, self.wr, self.rtp, self.rc, self.rp)
        return self.rfc + sum(served)


@frozen(kw_only=True)
class Gaps:
    """Least ticks from the first tick of a command to the first tick of another.

    A command is allowed at tick t when every earlier relevant command was at t - gap or before. Of one bank where
    nothing else is said; `_bg`: of one bank group; `rd`, `wr` with one another, `act_act`, `act_faw`, `pre_pre` and all
    with `ref`: of one pseudo-channel. PREA, which closes all banks, keeps the gaps of PRE to every bank.
    """

    act_rowbus: int
    """From ACT to any row command of the channel."""
    col_colbus: int
    """Between any two RD or WR of the channel."""
    rd_rd: int
    rd_rd_othersid: int
    """Of one stack id; of two."""
    rd_rd_bg: int
    wr_wr: int
    wr_wr_bg: int
    rd_wr: int
    wr_rd: int
    wr_rd_bg: int
    act_act: int
    act_act_bg: int
    act_act_bank: int
    act_faw: int
    """From the first to the last of five ACTs."""
    act_rd: int
    act_wr: int
    act_pre: int
    rd_pre: int
    wr_pre: int
    pre_pre: int
    pre_act: int
    act_ref: int
    pre_ref: int
    ref_act: int
    ref_prea: int


@frozen(kw_only=True)
class Dram:
    """One channel of a DRAM, on a clock of its own; a tick is a step of its controller.

    Every burst occupies one of `pseudochannels` data buses; row commands, and column commands, have one bus each for
    all of them.
    """

    name: str
    description: str
    rate: Rate
    """Bits a second of a pin of the data bus."""
    channels: Count
    """Channels of a stack."""
    protocol: Protocol
    organisation: Organisation
    timing: DramTiming
    ck_ps: Period = field(
        default=Factory(
            lambda self: self.organisation.prefetch * 10**12 / (self.timing.bl * self.rate), takes_self=True
        )
    )
    """Period of the command clock CK in ps: what a burst takes at the rate, over BL; a file may round it."""

    @property
    def ticks_per_ck(self) -> int:
        """Ticks of the controller in a CK: with 2, odd ticks are rising edges and even ticks falling edges."""
        return TICKS_PER_CK[self.protocol]

    @property
    def tick_ps(self) -> Fraction:
        """Picoseconds of a tick."""
        return self.ck_ps / self.ticks_per_ck

    @property
    def both_edges(self) -> bool:
        """Whether only PRE and PREA may be issued on falling edges (even ticks)."""
        return self.ticks_per_ck > 1

    @property
    def read_ticks(self) -> int:
        """From RD to the end of its data: CL + BL."""
        return (self.timing.cl + self.timing.bl) * self.ticks_per_ck

    @property
    def refresh_ticks(self) -> int:
        """Between two refreshes of a pseudo-channel: tREFI."""
        return self.timing.refi * self.ticks_per_ck

    @property
    def peak_bytes_per_second(self) -> Fraction:
        """What the data buses move, or the column commands ask for, whichever is less."""
        a_ck = min(Fraction(self.organisation.pseudochannels, self.timing.bl), Fraction(1))
        return a_ck * self.organisation.burst_bytes * 10**12 / self.ck_ps

    @cached_property
    def gaps(self) -> Gaps:
        """JEDEC counts from where a command ends: from first tick to first tick a timing grows by the first command's
        length and shrinks by the second's. Bus rules are the length itself.
        """
        t, scale = self.timing, self.ticks_per_ck
        act, column, row = ACTIVATE_TICKS[self.protocol], COLUMN_TICKS[self.protocol], ROW_COMMAND_TICKS

        def gap(ck: int, first: int, second: int) -> int:
            return ck * scale + first - second

        columns = max(t.bl, t.ccds)
        return Gaps(
            act_rowbus=act,
            col_colbus=column,
            rd_rd=columns * scale,
            rd_rd_othersid=(columns if t.ccdr is None else t.ccdr) * scale,
            rd_rd_bg=t.ccdl * scale,
            wr_wr=columns * scale,
            wr_wr_bg=t.ccdl * scale,
            rd_wr=(t.cl + t.bl + 2 - t.cwl if t.rtw is None else t.rtw) * scale,
            wr_rd=(t.cwl + t.bl + t.wtrs) * scale,
            wr_rd_bg=(t.cwl + t.bl + t.wtrl) * scale,
            act_act=t.rrds * scale,
            act_act_bg=t.rrdl * scale,
            act_act_bank=t.rc * scale,
            act_faw=t.faw * scale,
            act_rd=gap(t.rcdrd, act, column),
            act_wr=gap(t.rcdwr, act, column),
            act_pre=gap(t.ras, act, row),
            rd_pre=gap(t.rtp, column, row),
            wr_pre=gap(t.cwl + t.bl + t.wr, column, row),
            pre_pre=row if t.ppd is None else t.ppd * scale,
            pre_act=gap(t.rp, row, act),
            act_ref=gap(t.rc, act, row),
            pre_ref=gap(t.rp, row, row),
            ref_act=gap(t.rfc, row, act),
            ref_prea=gap(t.rfc, row, row),
        )
