"""Counters against sums over the instructions that a program executes, and determinism."""

import os
import subprocess
import sys
from collections import Counter
from itertools import product
from math import prod
from pathlib import Path

import pytest
from random_programs import random_case
from test_modes import GEMMS, spans_of

from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import ViewAt, section_codes
from kpusim.machine import load_machine
from kpusim.operators.gemm.operator import Gemm
from kpusim.simulate.run import default_addresses, simulate


def executed(program):
    """Every step of every queue but `halt`."""
    for code in section_codes(program):
        for place in code.section.places:
            yield from (step for step in code.steps(place) if step.code.row.name != "halt")


def operations(program):
    """Instructions, multiply-accumulates and vector elements, one instruction after the other."""
    counts = Counter()
    for step in executed(program):
        row, views = step.code.row, [view for view in step.operands() if isinstance(view, ViewAt)]
        counts["instructions"] += 1
        if row.unit == "matrix":
            counts["macs.bf16"] += prod(views[0].sizes) * views[1].sizes[-1]
        elif row.unit == "vector":
            passes = views[0].sizes[-1] if row.name == "top_k" else row.passes
            counts[f"vector.{row.timing_class}"] += passes * max(prod(view.sizes) for view in views)
    return counts


def hbm_bytes(program, machine):
    """Bytes read and written in whole accesses, element by element; for row-major tensors."""
    access, addresses, total = machine.hbm.access_bytes, default_addresses(program, machine), Counter()
    for step in executed(program):
        if step.code.row.name in ("load", "store"):
            box = step.operands()[step.code.row.name == "load"]
            starts, sizes = box.clamped
            size = DTYPE_BITS[box.dtype] // 8
            places = product(*(range(start, start + count) for start, count in zip(starts, sizes, strict=True)))
            at = [addresses[box.number] + (i * box.tensor.shape[1] + j) * size for i, j in places]
            total[step.code.row.name] += access * len({address // access for address in at})
    return total


@pytest.mark.parametrize("seed", range(40))
def test_operations_of_random_programs(seed):
    program, machine, chunk_bytes = random_case(seed)
    counters = simulate(program, machine, chunk_bytes=chunk_bytes).counters
    counted = {name: count for name, count in operations(program).items() if count}
    assert counted == {name: counters[name] for name in counted}
    kinds = ("macs.", "vector.", "instructions")
    assert {name for name, count in counters.items() if count and name.startswith(kinds)} == {*counted}


@pytest.mark.parametrize(("name", "m", "n", "k"), [gemm for gemm in GEMMS if gemm[0] != "kpu-datacenter"])
def test_counters_of_gemms(name, m, n, k):
    machine = load_machine(name)
    program = Gemm(m=m, n=n, k=k).lower(machine).program
    counters = simulate(program, machine).counters
    assert counters["macs.bf16"] == m * n * k
    assert operations(program).items() <= counters.items()


@pytest.mark.parametrize(("name", "m", "n", "k"), [("kpu-tiny", 24, 40, 56), ("kpu-edge", 130, 192, 320)])
def test_hbm_bytes_of_gemms(name, m, n, k):
    machine = load_machine(name)
    program = Gemm(m=m, n=n, k=k).lower(machine).program
    counters, expected = simulate(program, machine).counters, hbm_bytes(program, machine)
    assert counters["hbm.read_bytes"] == expected["load"] >= 2 * (m * k + k * n)
    assert counters["hbm.write_bytes"] == expected["store"] == 2 * m * n
    accesses = (counters["hbm.read_bytes"] + counters["hbm.write_bytes"]) // machine.hbm.access_bytes
    assert counters["hbm.row_hits"] + counters["hbm.row_misses"] == accesses


# --- determinism ------------------------------------------------------------------------------------------------------


def fingerprint():
    """Everything about a few runs, as text."""
    tiny = load_machine("kpu-tiny")
    cases = [random_case(seed) for seed in range(5)] + [(Gemm(m=33, n=50, k=70).lower(tiny).program, tiny, 64)]
    results = []
    for program, machine, chunk_bytes in cases:
        run, spans = spans_of(program, machine, chunk_bytes=chunk_bytes)
        results.append((run.cycles, run.busy.tolist(), run.stalls.tolist(), run.counters, spans))
    return repr(results)


def test_the_same_input_takes_the_same_cycles():
    assert fingerprint() == fingerprint()


@pytest.mark.parametrize("hash_seed", ["1", "4711"])
def test_and_so_it_does_in_another_process(hash_seed):
    here = Path(__file__).parent
    code = "from test_counters import fingerprint; print(fingerprint())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == fingerprint()
