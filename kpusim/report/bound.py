"""What bounds a run: the resource that is in use most, and the numbers that say so."""

from __future__ import annotations

from attrs import frozen

from kpusim.simulate.run import Run
from kpusim.simulate.shares import Share, shares, used_units

__all__ = ["Bound", "Use", "bound_of", "uses"]

SATURATED = 0.6  # of a resource; below that, waiting times are what bounds a run
HALF = 0.5  # of the arrays: with less, a report says that they are not filled
LATENCY, LAUNCH = "latency", "launch"


@frozen
class Use:
    """How much of a resource a run uses (0 to 1), and that in words."""

    resource: str
    part: float
    text: str


@frozen
class Bound:
    """`by`: matrix compute, vector engine, HBM bandwidth, shared level, NoC, DMA engine, SRAM port, latency, launch."""

    by: str
    because: str


def bound_of(run: Run, gap: int) -> Bound:
    """What bounds a run whose boundary cost `gap` cycles before it began."""
    if not run.cycles:
        return Bound(LAUNCH, "nothing is executed")
    if gap > run.cycles:
        return Bound(LAUNCH, f"the launch takes {gap:,} cycles before {run.cycles:,} of execution")
    found = uses(run)
    top = max(found, key=lambda use: use.part)
    if top.part >= SATURATED:
        return Bound(top.resource, top.text + _waiting(run, top))
    first = _first_byte(run)
    return Bound(
        LATENCY,
        f"nothing is in use for more than {top.part:.0%} ({top.resource}); the first load takes about {first:,} of "
        f"{run.cycles:,} cycles{_waiting(run, top)}{_queues(run)}",
    )


def uses(run: Run) -> list[Use]:
    """Every resource that the run uses: of engines the busiest one, of HBM the bytes over what is attainable."""
    machine, counters, cycles = run.machine, run.counters, run.cycles
    engines = [kind for kind in ("matrix", "vector") if kind in used_units(run.program, machine)]
    found = [_engine_use(run, kind) for kind in engines]
    moved = counters["hbm.read_bytes"] + counters["hbm.write_bytes"]
    attainable = machine.hbm.attainable_bytes_per_cycle
    tera = machine.clock_hz / 1e12
    text = f"HBM delivers {moved / cycles * tera:.3g} of {float(attainable) * tera:.3g} TB/s attainable"
    found.append(Use("HBM bandwidth", float(moved / cycles / attainable), text))
    resources = [
        ("NoC", "noc.busiest_link_bytes", machine.noc.bytes_per_cycle, "link of the network"),
        ("DMA engine", "dma.busiest_engine_bytes", machine.dma.bytes_per_cycle, "DMA engine"),
        ("SRAM port", "sram.busiest_port_bytes", machine.sram.ports.dma, "DMA port of an SRAM"),
    ]
    if machine.sram.sharing == "shared":
        rate, name = machine.sram.bank_bytes_per_cycle, "bank of the shared SRAMs"
        resources.append(("SRAM port", "sram.busiest_bank_bytes", rate, name))
    for resource, counter, rate, name in resources:
        part = float(counters[counter] / cycles / rate)
        found.append(Use(resource, part, f"the busiest {name} moves data in {part:.0%} of the cycles"))
    return found + _shared_use(run) + [_port_use(run, kind) for kind in engines]


def _shared_use(run: Run) -> list[Use]:
    """The bandwidth of the shared level, if the machine has one."""
    machine = run.machine
    if machine.shared.kind == "none":
        return []
    moved, rate = run.counters["shared.read_bytes"] + run.counters["shared.write_bytes"], machine.shared.bytes_per_cycle
    tera = machine.clock_hz / 1e12
    text = f"the shared {machine.shared.kind} moves {moved / run.cycles * tera:.3g} of {float(rate) * tera:.3g} TB/s"
    return [Use("shared level", float(moved / run.cycles / rate), text)]


def _port_use(run: Run, kind: str) -> Use:
    """The SRAM ports of matrix or vector engines, on average."""
    units, rate = used_units(run.program, run.machine)[kind], getattr(run.machine.sram.ports, kind)
    part = float(run.counters.get(f"sram.{kind}_bytes", 0) / len(units) / run.cycles / rate)
    return Use("SRAM port", part, f"the SRAM ports of the {kind} engines move data in {part:.0%} of the cycles")


def _engine_use(run: Run, kind: str) -> Use:
    units = used_units(run.program, run.machine)[kind]
    busy = run.busy[units] / run.cycles
    most, mean = float(busy.max()), float(busy.mean())
    alone = "" if most - mean < 0.05 else f"; the busiest {most:.0%}"
    if kind == "vector":
        return Use("vector engine", most, f"the vector engines are busy {mean:.0%} of the cycles{alone}")
    filled = _filled(run)
    partly = "" if filled > HALF else f", and fill {filled:.0%} of their arrays then: operands are smaller than these"
    return Use("matrix compute", most, f"the matrix engines are busy {mean:.0%} of the cycles{alone}{partly}")


def _filled(run: Run) -> float:
    """Multiply-accumulates over what the arrays could have done while they were busy."""
    cells, rates = run.machine.matrix.rows * run.machine.matrix.columns, run.machine.matrix.macs_per_cell
    worked = sum(run.counters.get(f"macs.{dtype}", 0) / cells / rate for dtype, rate in rates.items())
    return float(worked / max(int(run.busy[: run.machine.tiles.count].sum()), 1))


def _waiting(run: Run, top: Use) -> str:
    """What the matrix engines (else the vector engines) wait for, where they are not themselves the bound."""
    if top.part >= SATURATED and top.resource in ("matrix compute", "vector engine"):
        return ""
    share: Share | None = next(iter(shares(run).values()), None)
    if share is None or share.kind == "dma":
        return ""
    waits = share.part(share.stalls["dma"])
    return f"; the {share.kind} engines wait for loads in {waits:.0%} of the cycles"


def _queues(run: Run) -> str:
    """What the DMA queues wait for most."""
    share = shares(run).get("dma")
    if share is None:
        return ""
    cause = max(share.stalls, key=lambda cause: share.stalls[cause])
    return f", the DMA queues for {cause} in {share.part(share.stalls[cause]):.0%}"


def _first_byte(run: Run) -> int:
    """Cycles from the first instruction to the first data in an SRAM, without any contention."""
    hbm, machine = run.machine.hbm, run.machine
    cache = machine.shared.latency_cycles if machine.shared.kind == "cache" else 0
    return machine.dma.setup_cycles + cache + hbm.closed_read_cycles + machine.sram.latency_cycles
