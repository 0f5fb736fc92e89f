"""The hand-written programs of `workloads/kasm`: results against float64, no hazards, both modes alike."""

import numpy as np
import pytest

from kpusim.data import data_dir
from kpusim.dtypes import gamma
from kpusim.function import Executor, compare, random_inputs
from kpusim.function.verify import sum_bound
from kpusim.isa import read_program
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

UNIT = 2.0**-24  # of fp32
BF16 = 2.0**-8  # of p, between the two products


def flash_attention(q, k, v):
    """Scores and their maxima are off by gamma(64) of sum |q||k| / 8 each; exponentials by as much relatively, by the
    updates of eight blocks, and by bf16. All of it counts twice, in o and in l."""
    scores, sums = q @ k.T / 8, np.abs(q) @ np.abs(k).T / 8
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    shift = 4 * gamma(64, "fp32") * sums.max() + 64 * UNIT
    return "O", p @ v, 2 * (shift + BF16 + gamma(256, "fp32")) * (p @ np.abs(v))


def rmsnorm(x, w):
    """A sum of 64 squares under a root, and five roundings."""
    y = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) * w
    return "Y", y, gamma(64 + 5, "fp32") * np.abs(y)


def paged_gather(q, pool, pages):
    keys = pool[pages.astype(int)].reshape(4, 32, 16).transpose(0, 2, 1)
    return "SCORES", q @ keys / 4, sum_bound(16, np.abs(q) @ np.abs(keys) / 4)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("reference", "machine"),
    [
        (flash_attention, "kpu-edge"),
        (flash_attention, "kpu-datacenter"),
        (rmsnorm, "kpu-tiny"),
        (rmsnorm, "kpu-datacenter"),
        (paged_gather, "kpu-tiny"),
        (paged_gather, "kpu-datacenter"),
    ],
)
def test_a_program_computes_what_it_says(reference, machine, seed):
    program = read_program(data_dir("workloads") / "kasm" / f"{reference.__name__}.kasm")
    loaded = load_machine(machine)
    inputs = random_inputs(program, seed)
    executor = Executor(program, loaded, inputs)
    plain = simulate(program, loaded, plain=True, watcher=executor)
    name, expected, bound = reference(*(values.astype(np.float64) for values in inputs.values()))
    dtype = next(tensor.dtype for tensor in program.tensors if tensor.name == name)
    verdict = compare(executor.outputs()[name], expected, dtype, bound=bound)
    assert verdict.passed, verdict
    assert simulate(program, loaded).cycles == plain.cycles


def test_the_engines_of_flash_attention_overlap():
    program = read_program(data_dir("workloads") / "kasm" / "flash_attention.kasm")
    machine = load_machine("kpu-edge")
    run = simulate(program, machine)
    assert run.cycles < 0.8 * (run.busy[0] + run.busy[machine.tiles.count])  # matrix and vector engine of tile 0
