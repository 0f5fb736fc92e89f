"""What the memory behind a machine's DMA engines is."""

from fractions import Fraction
from typing import Literal

from attrs import Factory, field, frozen

from kpusim.machine.dram import DramName
from kpusim.machine.quantities import Bandwidth, Count, Delay, Size, Time, about

__all__ = ["Hbm"]


@frozen
class Hbm:
    """The memory behind the DMA engines, one clock of its own; a channel is a pseudo-channel in HBM's own words."""

    stacks: Count = field(metadata=about("Stacks of memory, all alike."))
    channels: Count = field(metadata=about("Channels of a stack."))
    banks: Count = field(metadata=about("Banks of a channel."))
    capacity_bytes: Size = field(metadata=about("Capacity of a stack."))
    bytes_per_cycle: Bandwidth = field(metadata=about("Peak bandwidth of a stack; refresh takes its share of it."))
    row_bytes: Size = field(metadata=about("Size of a row; one row of a bank is open at a time."))
    access_bytes: Size = field(metadata=about("Size of one burst, the least that a channel moves."))
    interleave_bytes: Size = field(metadata=about("Contiguous bytes in one channel, before the next channel's turn."))
    hash: Literal["rotate", "xor", "none"] = field(
        metadata=about(
            '"rotate" turns the order of the channels from one interleave period to the next, and that of the banks '
            'from row to row; "xor" turns the order of the stacks, and XORs the channel of a stack with further bits '
            'of the address and the bank with the row; "none" does neither.'
        )
    )
    row_activate_cycles: Time = field(metadata=about("tRCD: from opening a row to the first column command."))
    precharge_cycles: Time = field(metadata=about("tRP: closing a row before another of its bank is opened."))
    read_cycles: Time = field(metadata=about("CL + BL: from a column command to the end of its burst."))
    activate_gap_cycles: Time = field(metadata=about("tRRD: the least time between openings of two rows of a channel."))
    refresh_interval_cycles: Time = field(metadata=about("tREFI: from one refresh to the next."))
    refresh_cycles: Time = field(metadata=about("tRFC: what a refresh takes, while the channel moves nothing."))
    controller_cycles: Time = field(
        metadata=about(
            "Time from where the memory is reached (`hbm.attach`) to the channel and back, less what the DRAM itself "
            "takes."
        )
    )
    bank_groups: Count = field(
        default=1, metadata=about("Groups that the banks of a channel form (those of all its stack ids).")
    )
    bank_interleave_bytes: Size = field(
        default=Factory(lambda self: self.row_bytes, takes_self=True),
        metadata=about("Bytes of a channel in one row, before the turn of the next of the alternating bank groups."),
    )
    alternating_groups: Count = field(
        default=1,
        metadata=about(
            "Bank groups that take turns within a row, so that its bursts need not wait for tCCD_L; as many rows are "
            "opened at once."
        ),
    )
    queue: Count = field(
        default=64, metadata=about("Bursts that a channel's controller keeps for reading, and as many for writing.")
    )
    four_activates_cycles: Delay = field(
        default=Fraction(0), metadata=about("tFAW: from the first to the fifth of the rows that a channel opens.")
    )
    row_cycle_cycles: Delay = field(
        default=Fraction(0), metadata=about("tRC: the least time between openings of two rows of a bank.")
    )
    same_group_gap_cycles: Delay = field(
        default=Fraction(0), metadata=about("tCCD_L: the least time between column commands to one bank group.")
    )
    read_to_precharge_cycles: Delay = field(
        default=Fraction(0), metadata=about("tRTP: from reading a row to closing it.")
    )
    write_latency_cycles: Delay = field(
        default=Fraction(0), metadata=about("CWL: from a write command to its data on the bus.")
    )
    write_recovery_cycles: Delay = field(
        default=Fraction(0), metadata=about("tWR: from the end of written data to closing its row.")
    )
    write_to_read_cycles: Delay = field(
        default=Fraction(0), metadata=about("tWTR: from the end of written data to a read command of the channel.")
    )
    read_to_write_cycles: Delay = field(
        default=Fraction(0), metadata=about("tRTW: from a read command to a write command of the channel.")
    )

    attach: Literal["engines", "edges"] = field(
        default="engines",
        metadata=about(
            'How the memory is reached. "engines": every DMA engine has a way of its own to all channels, which takes '
            '`hbm.controller`; "edges": the stacks sit at the west and the east edge by turns, their channels spread '
            "over its rows, and what goes between a channel and an engine crosses the network as well."
        ),
    )
    dram: Literal["none", DramName] = field(
        default="none",
        metadata=about(
            "DRAM (`kpusim hbm --list`) that gives what the file does not say; with --set, before the file."
        ),
    )

    @property
    def channel_count(self) -> int:
        """Channels of all stacks."""
        return self.stacks * self.channels

    @property
    def channel_bytes_per_cycle(self) -> Fraction:
        """Peak bytes/cycle of one channel."""
        return self.bytes_per_cycle / self.channels

    @property
    def total_capacity_bytes(self) -> int:
        """Bytes of all stacks."""
        return self.stacks * self.capacity_bytes

    @property
    def peak_bytes_per_cycle(self) -> Fraction:
        """Peak bytes/cycle of all stacks."""
        return self.stacks * self.bytes_per_cycle

    @property
    def attainable_fraction(self) -> Fraction:
        """The part of the peak that refresh leaves to an ideal stream: 1 - tRFC/tREFI."""
        return 1 - Fraction(self.refresh_cycles, self.refresh_interval_cycles)

    @property
    def attainable_bytes_per_cycle(self) -> Fraction:
        """Bytes/cycle of all stacks that refresh leaves to an ideal stream."""
        return self.peak_bytes_per_cycle * self.attainable_fraction

    @property
    def separate_banks(self) -> int:
        """Banks of a channel, those that alternate counted as one."""
        return self.banks // self.alternating_groups

    @property
    def closed_read_cycles(self) -> int:
        """Time of a read whose row is closed, with nothing else to do: tRP, tRCD, CL + BL and the controller."""
        return self.precharge_cycles + self.row_activate_cycles + self.read_cycles + self.controller_cycles

    @property
    def opening_cycles(self) -> Fraction:
        """The least time from opening a row to opening the next (tRRD, tFAW / 4)."""
        return max(Fraction(self.activate_gap_cycles), self.four_activates_cycles / 4)

    @property
    def alignment_bytes(self) -> int:
        """Bytes after which the pattern of channels and rows repeats: tensors aligned to it time alike, but for which
        of their rows share a bank where a hash turns banks.
        """
        return self.channel_count * self.row_bytes * self.banks
