"""Rowwise operators for tests: machines, and a run on data that must agree with float64 and with the local clocks."""

from functools import cache

import numpy as np

from kpusim.function import Executor, compare, random_inputs
from kpusim.isa import assemble, disassemble
from kpusim.isa.check import check_program
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.simulate.run import simulate

TINY, EDGE, DATACENTER = "kpu-tiny", "kpu-edge", "kpu-datacenter"
preset = cache(load_machine)
variant = cache(lambda changes: load_machine(TINY, changes.split()))
VARIANTS = [
    "",
    "tiles.rows=1 tiles.columns=1",
    "tiles.rows=3 tiles.columns=5 sram.capacity=3KiB",
    "tiles.rows=4 tiles.columns=4 sram.capacity=16KiB dma.queues=2",
]


def verdicts(operator, inputs, results):
    """By output."""
    reference, bound = operator.reference(inputs), operator.error_bound(inputs)
    return {
        port.name: compare(results[port.name], reference[port.name], port.dtype, bound=bound[port.name])
        for port in operator.ports
        if port.role == "out"
    }


def execute(operator, machine, mapping=None, **given):
    """(inputs, outputs) of a run on data in plain mode, hazards on, which is right; the local clocks take as long.

    given: inputs in place of random ones.
    """
    operator.check()
    lowered = operator.lower(machine, mapping=mapping)
    program = lowered.program
    check_program(program, limits_of(machine))
    assert assemble(disassemble(program)) == program
    assert [tensor.name for tensor in program.tensors] == [port.name for port in operator.ports]
    inputs = random_inputs(program, 1) | given
    executor = Executor(program, machine, inputs)
    run = simulate(program, machine, plain=True, watcher=executor)
    assert simulate(program, machine).cycles == run.cycles
    results = executor.outputs()
    for name, verdict in verdicts(operator, inputs, results).items():
        assert verdict.passed, (name, verdict, lowered.mapping)
    written = sum(np.prod(port.shape) for port in operator.ports if port.role == "out")
    assert sum(result.size for result in results.values()) == written
    return inputs, results
