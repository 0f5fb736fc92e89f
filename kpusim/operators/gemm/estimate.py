"""What a mapping costs by the closed formulas: cycles by what they are spent on, and HBM traffic."""

from __future__ import annotations

from functools import cache

from attrs import frozen

from kpusim.costs import matmul_timer, vector_timer
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import Machine
from kpusim.operators.gemm.columns import column_cycles
from kpusim.operators.gemm.epilogue import chain_cycles
from kpusim.operators.gemm.mapping import ACCUMULATOR_BYTES, Mapping
from kpusim.operators.gemm.problem import Problem
from kpusim.operators.gemm.prologue import block_cycles, row_cycles
from kpusim.operators.gemm.traffic import hbm_cycles, row_openings, traffic

__all__ = ["Cost", "cost"]


@frozen
class Cost:
    """Estimated cycles by what they are spent on: the parts overlap, and what comes before and after does not.

    `lead` is before the first multiplication of the first tile, and `fill` what HBM takes longer for its data;
    `stagger` from there to that of the last tile, which a DMA queue serves after the others; `step` one step of the
    engines, `finish` from a tile's last multiplication to its results, `out` their way to HBM, and `queue` what a DMA
    queue takes longer for those of all its tiles. `panels`: how much longer rounds are that load what
    is resident; `bursts`: how long loads wait in HBM behind the results of a round, slots used up, in all rounds.
    """

    matrix: int
    vector: int
    hbm: int
    load: int
    store: int
    noc: int
    lead: int
    first: int
    fill: int
    stagger: int
    step: int
    finish: int
    out: int
    queue: int
    panels: int
    bursts: int
    hbm_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """The parts that overlap, by name."""
        return {
            "matrix": self.matrix, "vector": self.vector, "HBM": self.hbm, "loads": self.load, "stores": self.store,
            "NoC": self.noc,
        }  # fmt: skip

    @property
    def cycles(self) -> int:
        """What mappings are ranked by: the longest of four pipelines, each with what comes before and behind it."""
        behind = self.finish + self.out + max(self.stagger, self.queue)
        engines = max(self.matrix, self.vector) + self.bursts + behind
        loads = max(self.load, self.noc) + self.step + behind
        stores = self.step + self.finish + self.store
        memory = self.hbm + self.step + self.finish - self.first
        return self.lead + self.panels + max(self.fill + max(engines, loads, stores), memory)


def cost(mapping: Mapping, problem: Problem, machine: Machine) -> Cost:
    """The cost of `mapping` in closed form (cycles, launch not included)."""
    return _Estimate(mapping, problem, machine).cost()


@cache
def _rates(machine: Machine) -> tuple[float, float, float, float]:
    """Bytes/cycle of HBM, of a DMA engine, of a NoC link and of an SRAM's DMA port."""
    exact = machine.dma.bytes_per_cycle, machine.noc.bytes_per_cycle, machine.sram.ports.dma
    return float(machine.hbm.attainable_bytes_per_cycle), *(float(rate) for rate in exact)  # type: ignore[return-value]


class _Estimate:
    """The terms of one mapping's cost. rounds, steps: of all; a_step, b_step: bytes of a block."""

    def __init__(self, mapping: Mapping, problem: Problem, machine: Machine):
        self.map, self.problem, self.machine = mapping, problem, machine
        self.rounds_m, self.rounds_n = mapping.rounds(problem)
        self.rounds = self.rounds_m * self.rounds_n
        self.depth = mapping.steps(problem)
        self.steps = self.rounds * self.depth
        self.block_m, self.block_n = min(mapping.block_m, problem.m), min(mapping.block_n, problem.n)
        self.block_k = min(mapping.block_k, ceil_div(problem.k, mapping.grid_k))
        self.a_step = problem.a_bytes(self.block_m * self.block_k)
        self.b_step = problem.b_bytes(self.block_n * self.block_k)
        noc, hbm = machine.noc, machine.hbm
        self.rate, self.dma_rate, self.noc_rate, self.port_rate = _rates(machine)
        # from a DMA engine to the far end of its row and half the rows, and into the SRAM
        self.hops = (machine.tiles.columns + machine.tiles.rows // 2) * noc.hop_cycles + machine.sram.latency_cycles
        self.latency = hbm.closed_read_cycles + self.hops

    def cost(self) -> Cost:
        """All terms together."""
        hbm, mapping = self.machine.hbm, self.map
        moved = traffic(mapping, self.problem, hbm.access_bytes)
        reads, writes = hbm_cycles(mapping, self.problem, moved, self.machine, self.rate)
        load, first = self.loads()
        each, tiles = self.store_of_a_tile(), self.stored_tiles()
        copied, joined = self.joins()
        matrix, vector, step, finish = self.engines(joined)
        ahead = min(self.steps, mapping.slots)  # steps that are loaded without waiting for a slot
        parts = {
            "matrix": matrix,
            "vector": vector,
            "load": (ahead - 1) * load + (self.steps - ahead) * self.waiting(load, step, reads),
            "store": max(self.rounds * tiles * each, writes) + self.latency,
            "noc": (self.steps - 1) * self.noc(),
        }
        whole, panels = self.panels(moved, max(parts.values()))
        activation = row_openings(mapping, self.problem, hbm.interleave_bytes) * hbm.opening_cycles
        return Cost(
            **parts,
            hbm=max(
                whole, reads + writes // self.rounds, reads // self.steps + writes, int(activation) // hbm.channel_count
            ),
            lead=self.latency + first,
            first=first,
            fill=max(reads // self.steps - load, self.flood() - load, 0),
            stagger=load - first,
            step=step,
            finish=finish,
            out=each + self.latency,
            queue=max((tiles - 1) * each, writes // self.rounds - each, (tiles - 1) * copied),
            panels=panels,
            bursts=(self.rounds - 1) * max(0, writes // self.rounds - mapping.slots * step),
            hbm_bytes=sum(moved.values()),
        )

    def waiting(self, load: int, step: int, reads: int) -> int:
        """Cycles between two loads that wait for a slot."""
        if self.problem.prologue.vectors:  # slots are held longer, and then asked for by all tiles at once
            load = max(load, reads // self.steps)
        return max(load, (step + self.latency + load) // self.map.slots)

    # Engines ------------------------------------------------------------------------------------------------------

    def engines(self, joined: int) -> tuple[int, int, int, int]:
        """Cycles of the matrix and of the vector engine of a tile, of one step, and behind the last multiplication.

        joined: cycles until the partial sums of a tile are added up.
        """
        rows, columns, deep = self.block_m, self.block_n, self.block_k
        timer = matmul_timer(self.machine, self.problem.dtype, accumulate=True)
        occupancy, drain = timer(rows, columns, deep)
        last = ceil_div(self.problem.k, self.map.grid_k) - (self.depth - 1) * deep
        strip = chain_cycles(self.problem, self.machine, min(rows, self.map.strip_rows), columns)
        strips = ceil_div(rows, self.map.strip_rows)
        factors = self.dequantize() + block_cycles(self.problem, self.map, self.machine)
        factors += column_cycles(self.problem, self.map, self.machine)
        roots = row_cycles(self.problem, self.map, self.machine)
        vector = self.rounds * (self.adds() + roots + strips * strip + self.depth * factors)
        matrix = self.rounds * ((self.depth - 1) * occupancy + timer(rows, columns, last)[0])
        if self.map.accumulators == 1 or self.map.grid_k > 1:  # partial sums have one place only
            matrix += (self.rounds - 1) * (drain + joined + roots + strips * strip)
        return matrix, vector, occupancy + factors, drain + joined + roots + strip

    def dequantize(self) -> int:
        """Cycles of the vector engine for one block of B."""
        if not self.problem.quantized:
            return 0
        scales, elements = self.map.scales(self.problem), self.map.block_k * self.map.block_n
        each = elements // scales
        size = self.problem.b_bytes(each) + self.problem.a_bytes(each)
        return scales * vector_timer(self.machine, "mul")(each, size)

    def adds(self) -> int:
        """Cycles of the vector engine to add up the partial sums of a round."""
        if self.map.grid_k == 1:
            return 0
        results = self.block_m * self.block_n
        return (self.map.grid_k - 1) * vector_timer(self.machine, "add")(results, 3 * ACCUMULATOR_BYTES * results)

    # DMA ------------------------------------------------------------------------------------------------------------

    def transfer(self, size: int) -> int:
        """Cycles of a DMA queue for one transfer."""
        return self.machine.dma.setup_cycles + int(size / self.dma_rate)

    def share(self, groups: int) -> int:
        """How many of `groups` the busiest DMA engine serves."""
        return ceil_div(groups, self.machine.dma_engines)

    def active(self) -> tuple[int, int]:
        """Grid rows and columns that have something to do in the first round."""
        rows = min(self.map.grid_m, ceil_div(self.problem.longest, self.map.block_m))
        return rows, min(self.map.grid_n, ceil_div(self.problem.n, self.map.block_n))

    def loads(self) -> tuple[int, int]:
        """Cycles a step of the busiest DMA queue or engine that loads, or SRAM port; and for its first tiles."""
        planes = self.map.grid_batch * self.map.grid_k
        groups_a, groups_b = (planes * groups for groups in self.active())
        scales = self.transfer(0) if self.problem.quantized else 0
        vectors = len(self.problem.prologue.vectors) * self.transfer(0)
        a = self.share(groups_a) * (self.transfer(self.a_step) + vectors)
        b = self.share(groups_b) * (self.transfer(self.b_step) + scales)
        both = 0
        if 2 * max(groups_a, groups_b) > self.machine.dma_engines:  # else A and B have engines of their own
            both = self.share(groups_a) * self.a_step + self.share(groups_b) * self.b_step
        port = (self.a_step + self.b_step) / self.port_rate
        load = max(a, b, int(both / self.dma_rate), int(port))
        return load, load // self.share(max(groups_a, groups_b))

    def flood(self) -> int:
        """Cycles of HBM for all that is asked for before the last block of the first step is.

        The queue of the operand with the smaller blocks runs ahead of the other, as far as its slots reach.
        """
        planes = self.map.grid_batch * self.map.grid_k
        blocks = [(planes * n, size) for n, size in zip(self.active(), (self.a_step, self.b_step), strict=True)]
        asked = [self.share(count) * self.transfer(size) for count, size in blocks]
        total = sum(
            count * size * min(self.map.slots, self.steps, ceil_div(max(asked), max(each, 1)))
            for (count, size), each in zip(blocks, asked, strict=True)
        )
        return int(total / self.rate)

    def stored_tiles(self) -> int:
        """Tiles whose results the busiest DMA queue stores."""
        rows, columns = self.active()
        whole, rest = divmod(self.share(self.map.base_tiles), self.map.grid_n)
        return min(whole * columns + min(rest, columns), rows * columns * self.map.grid_batch)

    def store_of_a_tile(self) -> int:
        """Cycles a round of a DMA queue that stores the results of one tile, and loads its residual."""
        results, strips = self.block_m * self.block_n, ceil_div(self.block_m, self.map.strip_rows)
        sizes = [results * self.problem.out_bytes]
        if self.problem.epilogue.residual:
            sizes.append(results * DTYPE_BITS[self.problem.model_dtype] // 8)
        return sum((strips - 1) * self.transfer(0) + self.transfer(size) for size in sizes)

    def joins(self) -> tuple[int, int]:
        """Cycles of a DMA queue to bring one tile the partial sums of a round, and until they are added up there."""
        parts = self.map.grid_k - 1
        if not parts:
            return 0, 0
        one = self.transfer(ACCUMULATOR_BYTES * self.block_m * self.block_n)
        one += self.transfer(0) * (self.problem.prologue.by_row + self.problem.prologue.centred)
        return parts * one, max(parts * one, self.adds()) + min(one, self.adds() // parts) + self.hops

    def noc(self) -> int:
        """Cycles a step of the busiest links: columns pass on B, and rows A from the tile that keeps it."""
        tile_rows = ceil_div(self.map.grid_n, self.machine.tiles.columns)  # of one row of the grid
        down = (tile_rows * self.b_step if self.map.grid_m > 1 else 0) + (self.a_step if tile_rows > 1 else 0)
        along = self.a_step + self.b_step if self.map.resident else self.a_step
        return int(max(down, along) / self.noc_rate)

    # What stays on chip ----------------------------------------------------------------------------------------------

    def panels(self, moved: dict[str, int], longest: int) -> tuple[int, int]:
        """(cycles of HBM in rounds that load nothing resident, how much longer those are that do, in all).

        longest: cycles of all rounds by what takes longest beside HBM.
        """
        rate, name = self.rate, self.map.resident
        if not name:
            return int(sum(moved.values()) / rate), 0
        rest = int((sum(moved.values()) - moved[name]) / rate)
        passes, kept, other = self.rounds_n, (self.map.grid_m, self.a_step), (self.map.grid_n, self.b_step)
        if name == "b":
            passes, kept, other = self.rounds_m, other, kept
        panels = self.rounds // passes
        busy = 2 * self.share(kept[0]) * kept[1] + self.share(other[0]) * other[1]  # loaded and passed on
        engine = self.depth * int(busy / self.dma_rate)
        memory = rest // self.rounds + int(moved[name] / panels / rate)
        return rest, panels * max(0, max(memory, engine) - max(longest, rest) // self.rounds)
