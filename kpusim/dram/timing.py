"""What each command forbids, and until when: the earliest tick of every next command."""

from __future__ import annotations

from collections import deque

from kpusim.machine.dram import Dram

__all__ = ["Timing"]

Ticks = list[int]


class Timing:
    """Earliest ticks of commands, each over all earlier commands; a command needs the latest of those that concern it.

    A command was allowed when it came, so a gap to its own kind replaces what was; others may find something later.
    Banks count through pseudo-channels, stack ids, bank groups and banks; groups and ranks (a stack id of a
    pseudo-channel) alike. Lists of `..._column` hold those of RD, then those of WR.
    """

    def __init__(self, dram: Dram):
        organisation, self._gaps = dram.organisation, dram.gaps
        pseudochannels, stack_ids = organisation.pseudochannels, organisation.stack_ids
        self._ranks = [range(first * stack_ids, (first + 1) * stack_ids) for first in range(pseudochannels)]
        self._banks = organisation.banks_of_pseudochannel
        banks = range(pseudochannels * self._banks)
        self.group = [bank // organisation.banks for bank in banks]
        self.rank = [group // organisation.bank_groups for group in self.group]
        self.pseudochannel = [bank // self._banks for bank in banks]
        groups, ranks = self.group[-1] + 1, self.rank[-1] + 1
        self.column_bus = self.row_bus = 0
        self.bank_column: tuple[Ticks, Ticks] = [0] * len(banks), [0] * len(banks)
        self.group_column: tuple[Ticks, Ticks] = [0] * groups, [0] * groups
        self.rank_column: tuple[Ticks, Ticks] = [0] * ranks, [0] * ranks
        self.bank_activate: Ticks = [0] * len(banks)
        self.group_activate: Ticks = [0] * groups
        self.activate: Ticks = [0] * pseudochannels
        self.bank_precharge: Ticks = [0] * len(banks)
        self.precharge: Ticks = [0] * pseudochannels
        self._after_refresh: Ticks = [0] * pseudochannels  # PREA
        self._last_precharge = [-self._gaps.pre_ref] * pseudochannels
        before = -max(self._gaps.act_faw, self._gaps.act_ref)
        self._last_activates = [deque([before] * 4, maxlen=4) for _ in range(pseudochannels)]

    def on_read(self, tick: int, bank: int) -> None:
        """RD of a bank at a tick."""
        gaps, rank = self._gaps, self.rank[bank]
        self.column_bus = tick + gaps.col_colbus
        self.group_column[0][self.group[bank]] = tick + gaps.rd_rd_bg
        for each in self._ranks[self.pseudochannel[bank]]:
            _raise(self.rank_column[0], each, tick + (gaps.rd_rd if each == rank else gaps.rd_rd_othersid))
            _raise(self.rank_column[1], each, tick + gaps.rd_wr)
        _raise(self.bank_precharge, bank, tick + gaps.rd_pre)

    def on_write(self, tick: int, bank: int) -> None:
        """WR of a bank at a tick."""
        gaps, group = self._gaps, self.group[bank]
        self.column_bus = tick + gaps.col_colbus
        _raise(self.group_column[0], group, tick + gaps.wr_rd_bg)
        self.group_column[1][group] = tick + gaps.wr_wr_bg
        for each in self._ranks[self.pseudochannel[bank]]:
            _raise(self.rank_column[0], each, tick + gaps.wr_rd)
            self.rank_column[1][each] = tick + gaps.wr_wr
        _raise(self.bank_precharge, bank, tick + gaps.wr_pre)

    def on_activate(self, tick: int, bank: int) -> None:
        """ACT of a bank at a tick."""
        gaps, pseudochannel = self._gaps, self.pseudochannel[bank]
        last = self._last_activates[pseudochannel]
        last.append(tick)
        self.row_bus = tick + gaps.act_rowbus
        _raise(self.bank_column[0], bank, tick + gaps.act_rd)
        _raise(self.bank_column[1], bank, tick + gaps.act_wr)
        self.bank_activate[bank] = tick + gaps.act_act_bank
        self.group_activate[self.group[bank]] = tick + gaps.act_act_bg
        fifth = last[0] + gaps.act_faw
        self.activate[pseudochannel] = fifth if fifth > tick + gaps.act_act else tick + gaps.act_act
        _raise(self.bank_precharge, bank, tick + gaps.act_pre)

    def on_precharge(self, tick: int, bank: int) -> None:
        """PRE of a bank at a tick."""
        _raise(self.bank_activate, bank, tick + self._gaps.pre_act)
        self._after_precharge(tick, self.pseudochannel[bank])

    def on_precharge_all(self, tick: int, pseudochannel: int) -> None:
        """PREA of a pseudo-channel at a tick."""
        self._before_activate(pseudochannel, tick + self._gaps.pre_act)
        self._after_precharge(tick, pseudochannel)

    def on_refresh(self, tick: int, pseudochannel: int) -> None:
        """REF of a pseudo-channel at a tick."""
        self.row_bus = tick + 1
        self._before_activate(pseudochannel, tick + self._gaps.ref_act)
        self._after_refresh[pseudochannel] = tick + self._gaps.ref_prea

    def precharge_all(self, pseudochannel: int) -> int:
        """Earliest tick of PREA of a pseudo-channel, but for the bus."""
        banks = self.bank_precharge[pseudochannel * self._banks : (pseudochannel + 1) * self._banks]
        return max(*banks, self.precharge[pseudochannel], self._after_refresh[pseudochannel])

    def refresh(self, pseudochannel: int) -> int:
        """Earliest tick of REF of a pseudo-channel, but for the bus."""
        activated, precharged = self._last_activates[pseudochannel][-1], self._last_precharge[pseudochannel]
        return max(activated + self._gaps.act_ref, precharged + self._gaps.pre_ref)

    def _before_activate(self, pseudochannel: int, tick: int) -> None:
        """No ACT in a pseudo-channel before a tick."""
        for bank in range(pseudochannel * self._banks, (pseudochannel + 1) * self._banks):
            _raise(self.bank_activate, bank, tick)

    def _after_precharge(self, tick: int, pseudochannel: int) -> None:
        self.row_bus = tick + 1
        self.precharge[pseudochannel] = tick + self._gaps.pre_pre
        self._last_precharge[pseudochannel] = tick


def _raise(ticks: Ticks, index: int, tick: int) -> None:
    """Makes one of the ticks no earlier than `tick`."""
    if ticks[index] < tick:
        ticks[index] = tick
