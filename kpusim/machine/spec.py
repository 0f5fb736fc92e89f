"""What a machine is: frozen values in core-clock cycles, bytes and exact bytes/cycle."""

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Literal

from attrs import Factory, field, frozen

from kpusim.machine.check import check
from kpusim.machine.dram import DramName
from kpusim.machine.places import engine_count, engine_position
from kpusim.machine.quantities import (
    Bandwidth,
    Clock,
    Count,
    Cycles,
    Delay,
    MacRate,
    PerCycle,
    RowRate,
    Size,
    Time,
    whole,
)
from kpusim.machine.shared import Shared

__all__ = [
    "Dma",
    "FrontEnd",
    "Hbm",
    "Machine",
    "MatrixEngine",
    "Noc",
    "Shared",
    "Sram",
    "SramPorts",
    "Tiles",
    "VectorEngine",
]


def _about(text: str) -> Mapping[str, str]:
    """What `keys.machine_keys` says about a quantity: the one place for it."""
    return {"about": text}


@frozen
class Tiles:
    """The grid of tiles; tile t is at row t // columns, column t % columns."""

    rows: Count = field(metadata=_about("Rows of the grid."))
    columns: Count = field(metadata=_about("Columns of the grid."))

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns


@frozen
class MatrixEngine:
    """The systolic array of a tile."""

    rows: Count = field(metadata=_about("Rows of cells of the array."))
    columns: Count = field(metadata=_about("Columns of cells of the array."))
    dataflow: Literal["output-stationary", "weight-stationary", "input-stationary"] = field(
        metadata=_about(
            "What stays in the cells while the rest streams through: results (output-stationary), factors of b "
            "(weight-stationary) or factors of a (input-stationary)."
        )
    )
    overlap_folds: bool = field(metadata=_about("Whether a fold fills the array while the one before drains."))
    macs_per_cell: Mapping[str, MacRate] = field(
        hash=False,
        metadata=_about(
            'Multiply-accumulates a cell and cycle, whole or a fraction ("1/4"), by dtype of the factors; a dtype '
            "that is not there cannot be multiplied."
        ),
    )


@frozen
class VectorEngine:
    """The vector engine of a tile."""

    lanes: Count = field(metadata=_about("Elements that it works on at once."))
    startup_cycles: Cycles = field(metadata=_about("Start-up that each instruction pays."))
    lane_cycles: Mapping[str, Count] = field(
        hash=False, metadata=_about("Cycles that one element occupies one lane, by class of operation.")
    )


@frozen
class SramPorts:
    """The ports of a tile's SRAM, one for each user."""

    dma: PerCycle = field(metadata=_about("Port of the DMA engines' transfers."))
    matrix: PerCycle = field(metadata=_about("Port of the matrix engine's operands and results."))
    vector: PerCycle = field(metadata=_about("Port of the vector engine's operands and results."))


@frozen
class Sram:
    """The software-managed memory of a tile."""

    capacity_bytes: Size = field(metadata=_about("Capacity of a tile's SRAM."))
    banks: Count = field(metadata=_about("Banks of a tile's SRAM, all alike; they count where it is shared."))
    latency_cycles: Cycles = field(metadata=_about("Time from a request to its first byte."))
    ports: SramPorts
    sharing: Literal["separate", "shared"] = field(
        default="separate",
        metadata=_about(
            'How DMA, matrix and vector engine of a tile come together in its SRAM. "separate", also where a file does '
            'not say it: each has its port for itself; "shared": behind their ports they contend for the banks.'
        ),
    )
    bank_bytes_per_cycle: PerCycle = field(
        default=Fraction(64),  # chosen: a word of 512 bits a cycle
        metadata=_about("Bandwidth of a bank where they count, 64 B/cycle where a file does not say it."),
    )
    interleave_bytes: Size = field(
        default=64,  # chosen: a word of the default bank
        metadata=_about(
            "Contiguous bytes in one bank, before the next bank's turn; 64 B where a file does not say it. With "
            "capacity / banks each bank is one block, and buffers in different banks do not conflict."
        ),
    )

    @property
    def shared_bytes_per_cycle(self) -> Fraction:
        """Bytes/cycle of all banks of a tile."""
        return self.banks * self.bank_bytes_per_cycle


@frozen
class Dma:
    """The DMA engines."""

    placement: Literal["row-ends", "west", "column-ends", "corners", "tile"] = field(
        metadata=_about(
            'Where the engines are. "row-ends": one at the west and one at the east end of each tile row (engine '
            '2*row is west, 2*row+1 east); "west": at the west ends only; "column-ends": one at the north and one at '
            'the south end of each column (2*column north); "corners": four, row by row; "tile": one in each tile.'
        )
    )
    queues: Count = field(metadata=_about("Queues of an engine; each executes one section of a program, in order."))
    bytes_per_cycle: PerCycle = field(metadata=_about("Bandwidth of an engine, for all of its queues."))
    setup_cycles: Cycles = field(metadata=_about("Time that each transfer takes before its first chunk."))
    outstanding_bytes: Size = field(metadata=_about("Bytes that an engine may have under way at once."))
    rows_per_cycle: RowRate = field(
        metadata=_about("Rate at which gather and scatter issue the descriptors of their rows.")
    )
    coalesce_bytes: Size = field(
        default=1,
        metadata=_about(
            "Listed rows that follow each other in the list and in memory are one descriptor where they lie in one "
            "aligned block of this size; with 1 B, and where a file does not say it, each row is one of its own."
        ),
    )
    priorities: tuple[int, ...] = field(
        default=(),
        metadata=_about(
            "The priority of each queue of an engine, such as [1, 0, 0, 0]: an engine takes a chunk of the greatest "
            "that asks, and among equals shares its bytes evenly. Where a file does not say it, all are equal."
        ),
    )

    def priority(self, queue: int) -> int:
        """The priority of a queue of an engine; the greater goes first."""
        return self.priorities[queue] if self.priorities else 0


@frozen
class Noc:
    """The network between tiles, DMA engines and, if it is attached there, memory."""

    topology: Literal["mesh", "torus", "ring", "crossbar"] = field(
        metadata=_about(
            'How tiles are linked. "mesh": each with its neighbours, along the row first; "torus": a mesh whose rows '
            'and columns are circles; "ring": one circle through all tiles, eastward in even rows and westward in odd '
            'ones; both the shorter way round. "crossbar": one switch, a hop from each tile or DMA engine to each.'
        )
    )
    bytes_per_cycle: PerCycle = field(metadata=_about("Bandwidth of a link, in each direction."))
    hop_cycles: Cycles = field(metadata=_about("Time from a router to the next."))


@frozen
class Hbm:
    """The memory behind the DMA engines, one clock of its own; a channel is a pseudo-channel in HBM's own words."""

    stacks: Count = field(metadata=_about("Stacks of memory, all alike."))
    channels: Count = field(metadata=_about("Channels of a stack."))
    banks: Count = field(metadata=_about("Banks of a channel."))
    capacity_bytes: Size = field(metadata=_about("Capacity of a stack."))
    bytes_per_cycle: Bandwidth = field(metadata=_about("Peak bandwidth of a stack; refresh takes its share of it."))
    row_bytes: Size = field(metadata=_about("Size of a row; one row of a bank is open at a time."))
    access_bytes: Size = field(metadata=_about("Size of one burst, the least that a channel moves."))
    interleave_bytes: Size = field(metadata=_about("Contiguous bytes in one channel, before the next channel's turn."))
    hash: Literal["rotate", "xor", "none"] = field(
        metadata=_about(
            '"rotate" turns the order of the channels from one interleave period to the next; "xor" turns that of the '
            'stacks, and XORs the channel of a stack and the bank with further bits of the address; "none" does neither.'
        )
    )
    row_activate_cycles: Time = field(metadata=_about("tRCD: from opening a row to the first column command."))
    precharge_cycles: Time = field(metadata=_about("tRP: closing a row before another of its bank is opened."))
    read_cycles: Time = field(metadata=_about("CL + BL: from a column command to the end of its burst."))
    activate_gap_cycles: Time = field(
        metadata=_about("tRRD: the least time between openings of two rows of a channel.")
    )
    refresh_interval_cycles: Time = field(metadata=_about("tREFI: from one refresh to the next."))
    refresh_cycles: Time = field(metadata=_about("tRFC: what a refresh takes, while the channel moves nothing."))
    controller_cycles: Time = field(
        metadata=_about(
            "Time from where the memory is reached (`hbm.attach`) to the channel and back, less what the DRAM itself takes."
        )
    )
    bank_groups: Count = field(
        default=1, metadata=_about("Groups that the banks of a channel form (those of all its stack ids).")
    )
    bank_interleave_bytes: Size = field(
        default=Factory(lambda self: self.row_bytes, takes_self=True),
        metadata=_about("Contiguous bytes of a channel in one row, before the next bank group's turn."),
    )
    queue: Count = field(
        default=64, metadata=_about("Bursts that a channel's controller keeps for reading, and as many for writing.")
    )
    four_activates_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tFAW: from the first to the fifth of the rows that a channel opens.")
    )
    row_cycle_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tRC: the least time between openings of two rows of a bank.")
    )
    same_group_gap_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tCCD_L: the least time between column commands to one bank group.")
    )
    read_to_precharge_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tRTP: from reading a row to closing it.")
    )
    write_latency_cycles: Delay = field(
        default=Fraction(0), metadata=_about("CWL: from a write command to its data on the bus.")
    )
    write_recovery_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tWR: from the end of written data to closing its row.")
    )
    write_to_read_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tWTR: from the end of written data to a read command of the channel.")
    )
    read_to_write_cycles: Delay = field(
        default=Fraction(0), metadata=_about("tRTW: from a read command to a write command of the channel.")
    )

    attach: Literal["engines", "edges"] = field(
        default="engines",
        metadata=_about(
            'How the memory is reached. "engines": every DMA engine has a way of its own to all channels, which takes '
            '`hbm.controller`; "edges": the stacks sit at the west and the east edge by turns, their channels spread '
            "over its rows, and what goes between a channel and an engine crosses the network as well."
        ),
    )
    dram: Literal["none", DramName] = field(
        default="none",
        metadata=_about("DRAM (`kpusim hbm --list`) that gives what the file does not say; with --set, before the file."),
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
    def alignment_bytes(self) -> int:
        """Bytes after which the pattern of channels, rows and banks repeats: tensors aligned to it time alike."""
        return self.channel_count * self.row_bytes * self.banks


@frozen
class FrontEnd:
    """What starts programs."""

    launch_cycles: Time = field(metadata=_about("Time from the host's call to a program's first instruction."))
    in_flight: Count = field(
        metadata=_about("Launches that may be under way at once: the next is called while earlier ones run.")
    )
    barrier_cycles: Cycles = field(metadata=_about("Time from the last arrival at a barrier to everybody's release."))


@frozen(cache_hash=True)
class Machine:
    """One machine. Every Machine is possible: making an impossible one raises UserError."""

    name: str = field(metadata=_about("What commands and reports call it."))
    description: str = field(metadata=_about("A line for `kpusim machine list`."))
    clock_hz: Clock = field(metadata=_about("Clock of tiles, network and DMA engines; cycles are its cycles."))
    chips: Count = field(metadata=_about("Chips, all alike; more than one cannot be simulated."))
    tiles: Tiles
    matrix: MatrixEngine
    vector: VectorEngine
    sram: Sram
    dma: Dma
    noc: Noc
    shared: Shared = field(default=Shared(), kw_only=True)
    hbm: Hbm
    front_end: FrontEnd

    def __attrs_post_init__(self) -> None:
        check(self)

    @property
    def dma_engines(self) -> int:
        """Number of DMA engines."""
        return engine_count(self)

    def dma_position(self, engine: int) -> tuple[int, int]:
        """Row and column of the tile where a DMA engine attaches to the network."""
        return engine_position(self, engine)

    @property
    def alignment_bytes(self) -> int:
        """Bytes after which the patterns of HBM and of a cache's blocks repeat: tensors aligned to it time alike."""
        return lcm(self.hbm.alignment_bytes, self.shared.block_bytes if self.shared.kind == "cache" else 1)

    @property
    def buffer_address(self) -> int:
        """The first address of a shared buffer: those behind HBM's are its own, from a whole interleave block on."""
        return -(-self.hbm.total_capacity_bytes // self.hbm.interleave_bytes) * self.hbm.interleave_bytes

    def peak_macs_per_cycle(self, dtype: str) -> int | Fraction:
        """Multiply-accumulates a cycle of all tiles, exactly; 0 for a dtype that the arrays cannot multiply."""
        cells = self.tiles.count * self.matrix.rows * self.matrix.columns
        return whole(cells * self.matrix.macs_per_cell.get(dtype, 0))

    def peak_flops(self, dtype: str) -> int | Fraction:
        """Peak operations a second, two a multiply-accumulate."""
        return whole(2 * self.peak_macs_per_cycle(dtype) * self.clock_hz)

    def balance(self, dtype: str) -> Fraction:
        """The ridge of the roofline in flop/byte: peak operations over attainable HBM bytes."""
        return 2 * self.peak_macs_per_cycle(dtype) / self.hbm.attainable_bytes_per_cycle

    @cached_property
    def unit_names(self) -> tuple[str, ...]:
        """Names by unit id: matrix of tile t at t, vector at T+t, DMA engine e's queue q at 2T+e*queues+q."""
        tiles = range(self.tiles.count)
        return (
            *(f"chip0.tile{tile}.matrix" for tile in tiles),
            *(f"chip0.tile{tile}.vector" for tile in tiles),
            *(f"chip0.dma{e}.q{q}" for e in range(self.dma_engines) for q in range(self.dma.queues)),
        )
