"""Every instruction of `isa/*.toml` executes: its class has a time on a machine, and the data comes out as computed."""

import numpy as np
import pytest

from kpusim.function import Executor, random_inputs
from kpusim.function.semantics import evaluate
from kpusim.function.values import Operand, scalar
from kpusim.isa import assemble
from kpusim.isa.check import check_program
from kpusim.isa.tables import instruction_rows
from kpusim.machine import load_machine
from kpusim.machine.limits import limits_of
from kpusim.simulate.run import simulate

ROWS = instruction_rows()
COMPUTING = [name for name, row in ROWS.items() if row.unit in ("matrix", "vector")]
SHAPES = {  # of the operands that are not [4, 8]
    "matmul": {"out": (4, 4), "b": (8, 4)},
    "transpose": {"out": (8, 4)},
    "row_argmax": {"out": (4, 1)},
    "top_k": {"values": (4, 3), "indices": (4, 3)},
    **{f"row_{name}": {"out": (4, 1)} for name in ("sum", "max", "min")},
    **{f"col_{name}": {"out": (1, 8)} for name in ("sum", "max", "min")},
}
NUMBERS = {"value": 2.5}  # operands that can only be numbers
MOVING = """kasm 1
program moving
tensor X fp32 [6, 8] in
tensor LIST int32 [1, 4] in
tensor Y fp32 [6, 8] inout
tensor Z fp32 [6, 8] inout
map X_rows = X box [1, 8]
map X_box = X box [4, 8]
map LIST_row = LIST box [1, 4]
map Y_rows = Y box [1, 8]
map Z_rows = Z box [1, 8]
map Z_box = Z box [4, 8]
sram x fp32 [2][4, 8]
sram index int32 [1][4]
semaphore turn [6][1]
table rows assumed LIST = [5, 0, 3, 0]
section dma queue 0 engines 0..1
  load index[0] @ 0, LIST_row(0, 0)  signal turn[0][0]
  load x[1] @ 0, X_box(2, 0)  signal turn[1][0]
  gather x[0] @ 0, X_rows(0, 0), rows[0 +: 4], index[0] @ 0  wait turn[0][0]  signal turn[2][0]
  copy x[1] @ 0, x[0] @ 0, accumulate=1  wait turn[1][0], turn[2][0]  signal turn[3][0]
  barrier wait turn[3][0]
  for i = 0 .. 2
    scatter Y_rows(0, 0), x[1] @ 0, rows[0 +: 4]  signal turn[4][0]
    sync wait turn[4][0]
  end
  scatter_add Z_rows(0, 0), x[1] @ 0, rows[0 +: 4]  signal turn[5][0]
  store Z_box(1, 0), x[0] @ 0  wait turn[5][0]
  halt
end
section vector tiles 0..1
  barrier
end
"""
MOVED = {"load", "gather", "copy", "barrier", "scatter", "sync", "scatter_add", "store"}


class Recorder(Executor):
    """An executor that notes what it executes."""

    def __init__(self, program, machine, inputs):
        super().__init__(program, machine, inputs)
        self.executed = set()

    def issue(self, unit, place, step, time):
        self.executed.add(step.code.row.name)
        super().issue(unit, place, step, time)


def shape_of(name, operand):
    return SHAPES.get(name, {}).get(operand.name, (4, 8))


def program_of(name):
    """One tile loads the operands of an instruction, executes it, and stores what it writes."""
    lines = {kind: [] for kind in ("tensor", "map", "sram", "load", "store")}
    operands = []
    for operand in ROWS[name].operands:
        this, dtype, written = operand.name, operand.dtypes and operand.dtypes[0], "write" in operand.access
        if this in NUMBERS:
            operands.append(str(NUMBERS[this]))
            continue
        box = list(shape_of(name, operand))
        operands.append(f"s_{this}[0]")
        lines["tensor"].append(f"tensor {this} {dtype} {box} {'out' if written else 'in'}")
        lines["map"].append(f"map m_{this} = {this} box {box}")
        lines["sram"].append(f"sram s_{this} {dtype} [1]{box}")
        moves = f"store m_{this}(0, 0), s_{this}[0] @ 0" if written else f"load s_{this}[0] @ 0, m_{this}(0, 0)"
        lines[moves.split()[0]].append(moves)
    text = [
        "kasm 1", f"program {name}_alone", *lines["tensor"], *lines["map"], *lines["sram"],
        "semaphore loaded [1][1]", "semaphore ready [1][1]",
        "section dma queue 0 engines 0..1", *lines["load"], "sync signal loaded[0][0]",
        "sync wait ready[0][0]", *lines["store"], "end",
        f"section {ROWS[name].unit} tiles 0..1",
        f"{name} {', '.join(operands)} wait loaded[0][0] signal ready[0][0]", "end", "",
    ]  # fmt: skip
    return assemble("\n".join(text))


def execute(program):
    """(inputs, outputs, instructions executed, run) in plain mode; local clocks come to the same accounts."""
    machine = load_machine("kpu-tiny")
    check_program(program, limits_of(machine))
    inputs = random_inputs(program, 5)
    recorder = Recorder(program, machine, inputs)
    run = simulate(program, machine, plain=True, watcher=recorder)
    other = simulate(program, machine)
    assert (run.cycles, run.busy.tolist(), run.counters) == (other.cycles, other.busy.tolist(), other.counters)
    return inputs, recorder.outputs(), recorder.executed, run


@pytest.mark.parametrize("name", COMPUTING)
def test_an_instruction_computes(name):
    row = ROWS[name]
    inputs, outputs, executed, run = execute(program_of(name))
    assert name in executed
    written = [Operand(each.dtypes[0], outputs[each.name]) for each in row.operands if "write" in each.access]
    read = [
        Operand(each.dtypes[0], inputs[each.name]) if each.name in inputs else scalar(NUMBERS[each.name])
        for each in row.operands
        if "write" not in each.access
    ]
    for value, expected in zip(written, evaluate(name, written, read, row.options), strict=True):
        assert np.array_equal(value.data, expected, equal_nan=True)
    tile = 0 if row.unit == "matrix" else 4
    assert run.busy[tile] > 0  # its class takes time


def test_data_is_moved():
    inputs, outputs, executed, _ = execute(assemble(MOVING))
    assert executed == MOVED
    x, rows = inputs["X"], [5, 0, 3, 0]
    moved = x[2:6] + x[rows]
    y, z = inputs["Y"].copy(), inputs["Z"].copy()
    for row, values in zip(rows, moved, strict=True):
        y[row] = values
        z[row] += values
    z[1:5] = x[rows]
    assert np.array_equal(outputs["Y"], y) and np.array_equal(outputs["Z"], z)


def test_nothing_is_left_out():
    assert {*COMPUTING, *MOVED, "for", "end", "halt"} == {*ROWS}  # the last three only steer a queue
