"""What a machine is: frozen values in core-clock cycles, bytes and exact bytes/cycle."""

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import Literal

from attrs import field, frozen

from kpusim.machine.check import check
from kpusim.machine.quantities import Bandwidth, Clock, Count, Cycles, PerCycle, RowRate, Size, Time

__all__ = [
    "Dma",
    "FrontEnd",
    "Hbm",
    "Machine",
    "MatrixEngine",
    "Noc",
    "Sram",
    "SramPorts",
    "Tiles",
    "VectorEngine",
]


@frozen
class Tiles:
    """The grid of tiles; tile t is at row t // columns, column t % columns."""

    rows: Count
    columns: Count

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns


@frozen
class MatrixEngine:
    """The systolic array of a tile.

    macs_per_cell: multiply-accumulates a cell and cycle, by dtype of the factors; a dtype not there is not supported.
    overlap_folds: a fold fills the array while the one before drains.
    """

    rows: Count
    columns: Count
    dataflow: Literal["output-stationary"]
    overlap_folds: bool
    macs_per_cell: Mapping[str, Count] = field(hash=False)


@frozen
class VectorEngine:
    """The vector engine of a tile.

    startup_cycles: paid by each instruction. lane_cycles: cycles that one element occupies one lane, by class of
    operation: add, mul, exp, rsqrt, reduce, move.
    """

    lanes: Count
    startup_cycles: Cycles
    lane_cycles: Mapping[str, Count] = field(hash=False)


@frozen
class SramPorts:
    """Bytes/cycle of each user's own port."""

    dma: PerCycle
    matrix: PerCycle
    vector: PerCycle


@frozen
class Sram:
    """The software-managed memory of a tile. latency_cycles: from a request to its first byte."""

    capacity_bytes: Size
    banks: Count
    latency_cycles: Cycles
    ports: SramPorts


@frozen
class Dma:
    """The DMA engines.

    placement: "row-ends" (one at the west and one at the east end of each tile row: engine 2*row is west, 2*row+1
    east) or "tile" (one in each tile). queues: an engine. outstanding_bytes: in flight, an engine.
    rows_per_cycle: rate at which gather and scatter issue their rows.
    """

    placement: Literal["row-ends", "tile"]
    queues: Count
    bytes_per_cycle: PerCycle
    setup_cycles: Cycles
    outstanding_bytes: Size
    rows_per_cycle: RowRate


@frozen
class Noc:
    """The network between tiles and DMA engines: bytes/cycle of a link, cycles of a hop."""

    topology: Literal["mesh"]
    bytes_per_cycle: PerCycle
    hop_cycles: Cycles


@frozen
class Hbm:
    """The memory behind the DMA engines, one clock of its own; a channel is a pseudo-channel in HBM's own words.

    channels: a stack. banks: a channel. capacity_bytes, bytes_per_cycle: of a stack, the latter at its peak.
    hash: "rotate" turns the order of the channels from one interleave period to the next; "none" does not.
    row_activate_cycles: tRCD. precharge_cycles: tRP. read_cycles: column command to end of its burst (CL + BL).
    activate_gap_cycles: tRRD. refresh_interval_cycles: tREFI. refresh_cycles: tRFC. controller_cycles: all the way
    from the DMA engine to the channel and back, less what the DRAM itself takes.
    """

    stacks: Count
    channels: Count
    banks: Count
    capacity_bytes: Size
    bytes_per_cycle: Bandwidth
    row_bytes: Size
    access_bytes: Size
    interleave_bytes: Size
    hash: Literal["rotate", "none"]
    row_activate_cycles: Time
    precharge_cycles: Time
    read_cycles: Time
    activate_gap_cycles: Time
    refresh_interval_cycles: Time
    refresh_cycles: Time
    controller_cycles: Time

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
    """What starts programs. launch_cycles: from the host's call to the first instruction. in_flight: launches.

    barrier_cycles: from the last arrival at a barrier to everybody's release.
    """

    launch_cycles: Time
    in_flight: Count
    barrier_cycles: Cycles


@frozen(cache_hash=True)
class Machine:
    """One machine. Every Machine is possible: making an impossible one raises UserError."""

    name: str
    description: str
    clock_hz: Clock
    chips: Count
    tiles: Tiles
    matrix: MatrixEngine
    vector: VectorEngine
    sram: Sram
    dma: Dma
    noc: Noc
    hbm: Hbm
    front_end: FrontEnd

    def __attrs_post_init__(self) -> None:
        check(self)

    @property
    def dma_engines(self) -> int:
        """Number of DMA engines."""
        return 2 * self.tiles.rows if self.dma.placement == "row-ends" else self.tiles.count

    def dma_position(self, engine: int) -> tuple[int, int]:
        """Row and column of the tile where a DMA engine attaches to the network."""
        if self.dma.placement == "row-ends":
            return engine // 2, (self.tiles.columns - 1) * (engine % 2)
        return divmod(engine, self.tiles.columns)

    def peak_macs_per_cycle(self, dtype: str) -> int:
        """Multiply-accumulates a cycle of all tiles; 0 for a dtype that the arrays cannot multiply."""
        return self.tiles.count * self.matrix.rows * self.matrix.columns * self.matrix.macs_per_cell.get(dtype, 0)

    def peak_flops(self, dtype: str) -> int:
        """Peak operations a second, two a multiply-accumulate."""
        return 2 * self.peak_macs_per_cycle(dtype) * self.clock_hz

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
