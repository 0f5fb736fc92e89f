"""Operators by index for tests: run on data with every hazard checked, and again on local clocks."""

from functools import cache
from random import Random

import numpy as np

from kpusim.function import Executor, compare, random_inputs
from kpusim.isa import assemble, disassemble
from kpusim.isa.check import check_program
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.simulate.run import simulate

TINY, EDGE, DATACENTER = "kpu-tiny", "kpu-edge", "kpu-datacenter"
MACHINES = (TINY, EDGE, DATACENTER, "tpu-v4-like", "scale-sim", "kpu-many-small")
preset = cache(load_machine)
VARIANTS = (
    "",
    "tiles.rows=1 tiles.columns=1",
    "tiles.rows=3 tiles.columns=5 sram.capacity=8KiB",
    "dma.placement=tile sram.capacity=2KiB",
    "hbm.access=32B dma.coalesce=512B",
)
variant = cache(lambda changes: load_machine(TINY, changes.split()))


def drawn(family, seed):
    """A random operator of `family` that its check accepts."""
    operator = family.draw(Random(seed))
    operator.check()
    return operator


def execute(operator, machine, inputs=None, **choices):
    """(inputs, outputs, run) in plain mode; they are right, and the local clocks agree on the cycles."""
    program = operator.lower(machine, **choices).program
    check_program(program, limits_of(machine))
    assert assemble(disassemble(program)) == program
    inputs = random_inputs(program, 1) | (inputs or {})
    executor = Executor(program, machine, inputs)
    run = simulate(program, machine, plain=True, watcher=executor)
    assert simulate(program, machine).cycles == run.cycles
    outputs, reference, bound = executor.outputs(), operator.reference(inputs), operator.error_bound(inputs)
    for port in operator.ports:
        if port.role != "in":
            verdict = compare(outputs[port.name], reference[port.name], port.dtype, bound=bound[port.name])
            assert verdict.passed, (operator, port.name, verdict)
    return inputs, outputs, run


def wide(values):
    return values.astype(np.float64)
