"""What a machine is: frozen values in core-clock cycles, bytes and exact bytes/cycle."""

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Literal

from attrs import evolve, field, frozen

from kpusim.machine.check import check
from kpusim.machine.hbm import Hbm
from kpusim.machine.places import engine_count, engine_position
from kpusim.machine.quantities import (
    Clock,
    Count,
    Cycles,
    MacRate,
    PerCycle,
    Room,
    RowRate,
    Size,
    Time,
    about,
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


@frozen
class Tiles:
    """The grid of tiles; tile t is at row t // columns, column t % columns."""

    rows: Count = field(metadata=about("Rows of the grid."))
    columns: Count = field(metadata=about("Columns of the grid."))

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns


@frozen
class MatrixEngine:
    """The systolic array of a tile."""

    rows: Count = field(metadata=about("Rows of cells of the array."))
    columns: Count = field(metadata=about("Columns of cells of the array."))
    dataflow: Literal["output-stationary", "weight-stationary", "input-stationary"] = field(
        metadata=about(
            "What stays in the cells while the rest streams through: results (output-stationary), factors of b "
            "(weight-stationary) or factors of a (input-stationary)."
        )
    )
    overlap_folds: bool = field(metadata=about("Whether a fold fills the array while the one before drains."))
    macs_per_cell: Mapping[str, MacRate] = field(
        hash=False,
        metadata=about(
            'Multiply-accumulates a cell and cycle, whole or a fraction ("1/4"), by dtype of the factors; a dtype '
            "that is not there cannot be multiplied."
        ),
    )
    accumulators_bytes: Room = field(
        default=0,
        metadata=about(
            "Memory beside the array (accumulators, registers) that buffers of a tile may use in addition to its SRAM, "
            "behind whose addresses it lies; none where a file does not say it."
        ),
    )
    sustained: Mapping[str, MacRate] = field(
        factory=dict,
        hash=False,
        metadata=about(
            "Share of that rate which the array keeps up over a long run, by dtype, where power or the issue of its "
            "instructions limits it; 1 for a dtype that is not there. Peaks and roofs do not know it."
        ),
    )
    synchronous: MacRate = field(
        default=1,
        metadata=about(
            "Share of what is sustained that programs reach whose matrix instructions are of an older kind, fed "
            "through registers and waited for one by one; 1 where a file does not say it. See `Machine.synchronous`."
        ),
    )

    def pace(self, dtype: str) -> int | Fraction:
        """Multiply-accumulates a cell and cycle that are kept up; of a dtype that can be multiplied."""
        return whole(Fraction(self.macs_per_cell[dtype]) * self.sustained.get(dtype, 1))


@frozen
class VectorEngine:
    """The vector engine of a tile."""

    lanes: Count = field(metadata=about("Elements that it works on at once."))
    startup_cycles: Cycles = field(metadata=about("Start-up that each instruction pays."))
    lane_cycles: Mapping[str, Count] = field(
        hash=False, metadata=about("Cycles that one element occupies one lane, by class of operation.")
    )
    fused: Mapping[str, Count] = field(
        factory=dict,
        hash=False,
        metadata=about(
            "The same inside kernels written by hand around a matrix engine, such as attention, which keep operands in "
            "registers: without loads, addresses and conversions. As `lane_cycles` for a class that is not there. See "
            "`Machine.fused`, where `fill` is 1."
        ),
    )
    fill: Count = field(
        default=1,
        metadata=about(
            "Elements that keep all lanes busy, as a lane waits for each result before it goes on: an instruction on "
            "fewer takes as long as on so many. 1 where a file does not say it."
        ),
    )


@frozen
class SramPorts:
    """The ports of a tile's SRAM, one for each user."""

    dma: PerCycle = field(metadata=about("Port of the DMA engines' transfers."))
    matrix: PerCycle = field(metadata=about("Port of the matrix engine's operands and results."))
    vector: PerCycle = field(metadata=about("Port of the vector engine's operands and results."))


@frozen
class Sram:
    """The software-managed memory of a tile."""

    capacity_bytes: Size = field(metadata=about("Capacity of a tile's SRAM."))
    banks: Count = field(metadata=about("Banks of a tile's SRAM, all alike; they count where it is shared."))
    latency_cycles: Cycles = field(metadata=about("Time from a request to its first byte."))
    ports: SramPorts
    sharing: Literal["separate", "shared"] = field(
        default="separate",
        metadata=about(
            'How DMA, matrix and vector engine of a tile come together in its SRAM. "separate", also where a file does '
            'not say it: each has its port for itself; "shared": behind their ports they contend for the banks.'
        ),
    )
    bank_bytes_per_cycle: PerCycle = field(
        default=Fraction(64),  # chosen: a word of 512 bits a cycle
        metadata=about("Bandwidth of a bank where they count, 64 B/cycle where a file does not say it."),
    )
    interleave_bytes: Size = field(
        default=64,  # chosen: a word of the default bank
        metadata=about(
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
        metadata=about(
            'Where the engines are. "row-ends": one at the west and one at the east end of each tile row (engine '
            '2*row is west, 2*row+1 east); "west": at the west ends only; "column-ends": one at the north and one at '
            'the south end of each column (2*column north); "corners": four, row by row; "tile": one in each tile.'
        )
    )
    queues: Count = field(metadata=about("Queues of an engine; each executes one section of a program, in order."))
    bytes_per_cycle: PerCycle = field(metadata=about("Bandwidth of an engine, for all of its queues."))
    setup_cycles: Cycles = field(metadata=about("Time that each transfer takes before its first chunk."))
    outstanding_bytes: Size = field(metadata=about("Bytes that an engine may have under way at once."))
    rows_per_cycle: RowRate = field(
        metadata=about("Rate at which gather and scatter issue the descriptors of their rows.")
    )
    coalesce_bytes: Size = field(
        default=1,
        metadata=about(
            "Listed rows that follow each other in the list and in memory are one descriptor where they lie in one "
            "aligned block of this size; with 1 B, and where a file does not say it, each row is one of its own."
        ),
    )
    page_bytes: Size = field(
        default=2 << 20,  # chosen: what GPUs' drivers give large buffers
        metadata=about(
            "Size of the pages whose addresses are translated as one, 2 MiB where a file does not say it; they count "
            "where there are walks."
        ),
    )
    walk_cycles: Time = field(
        default=0,
        metadata=about(
            "Time to translate the address of a page that no list of the program has reached before, while listed rows "
            "in it wait; none where a file does not say it. Addresses of boxes are taken to be translated in advance."
        ),
    )
    priorities: tuple[int, ...] = field(
        default=(),
        metadata=about(
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
        metadata=about(
            'How tiles are linked. "mesh": each with its neighbours, along the row first; "torus": a mesh whose rows '
            'and columns are circles; "ring": one circle through all tiles, eastward in even rows and westward in odd '
            'ones; both the shorter way round. "crossbar": one switch, a hop from each tile or DMA engine to each.'
        )
    )
    bytes_per_cycle: PerCycle = field(metadata=about("Bandwidth of a link, in each direction."))
    hop_cycles: Cycles = field(metadata=about("Time from a router to the next."))


@frozen
class FrontEnd:
    """What starts programs."""

    launch_cycles: Time = field(metadata=about("Time from the host's call to a program's first instruction."))
    in_flight: Count = field(
        metadata=about("Launches that may be under way at once: the next is called while earlier ones run.")
    )
    barrier_cycles: Cycles = field(metadata=about("Time from the last arrival at a barrier to everybody's release."))
    load_cycles: Time = field(
        default=0,
        metadata=about(
            "Time to load a program other than the one before, and to set the tiles up for it, once that has ended; "
            "0 where a file does not say it."
        ),
    )
    host_cycles: Time = field(
        default=0,
        metadata=about(
            "Least time between two launches that the host makes one by one, not as a graph or queue prepared before. "
            "Only measurements taken so know it (`kpusim validate`); 0 where a file does not say it."
        ),
    )


@frozen(cache_hash=True)
class Machine:
    """One machine. Every Machine is possible: making an impossible one raises UserError."""

    name: str = field(metadata=about("What commands and reports call it."))
    description: str = field(metadata=about("A line for `kpusim machine list`."))
    clock_hz: Clock = field(metadata=about("Clock of tiles, network and DMA engines; cycles are its cycles."))
    chips: Count = field(metadata=about("Chips, all alike; more than one cannot be simulated."))
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
    def tile_bytes(self) -> int:
        """Bytes that the buffers of a tile may take: its SRAM, and accumulators behind it."""
        return self.sram.capacity_bytes + self.matrix.accumulators_bytes

    @property
    def synchronous(self) -> "Machine":
        """The machine as programs see it whose matrix instructions are of the older, synchronous kind."""
        matrix = self.matrix
        rates = {
            dtype: whole(matrix.synchronous * Fraction(matrix.sustained.get(dtype, 1)))
            for dtype in matrix.macs_per_cell
        }
        return evolve(self, matrix=evolve(matrix, sustained=rates))

    @property
    def fused(self) -> "Machine":
        """The machine as programs see it that keep the operands of vector instructions in registers."""
        vector = self.vector
        if not vector.fused:
            return self
        cycles = {**vector.lane_cycles, **vector.fused}
        return evolve(self, vector=evolve(vector, lane_cycles=cycles, fill=1))

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
