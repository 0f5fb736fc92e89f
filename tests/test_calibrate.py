"""The fit of calibration constants: on surfaces made up here, where the right values are known."""

import numpy as np
import pytest

from kpusim.machine import load_machine
from kpusim.recipes.row import Row
from kpusim.validate import calibrate
from kpusim.validate.calibrate import Simulations, Surface, cross_validated, fitted, sizes, surface_of
from kpusim.validate.constants import CONSTANTS, Constant, traits
from kpusim.validate.predict import launches_of, predict, simulated

LAUNCH = Constant(("front_end.launch",), "{} us", (0.0, 1.0, 2.0), 0.0, "")
SHARE = Constant(("matrix.sustained.bf16", "matrix.sustained.fp16"), "{:d}/100", (50.0, 75.0, 100.0), 100.0, "")
WORK = np.array([1.0, 10.0, 100.0, 1.0, 10.0, 100.0])  # us at full rate; the last three rows do not multiply
FAMILIES = np.array(["gemm"] * 3 + ["copy"] * 3)
SHARES = np.array([[share] * 3 + [100.0] * 3 for share in SHARE.values])


def surface(base_launch: float) -> Surface:
    """Rows take their launch, and work at their share of the rate."""
    launch = np.array([[each] * 6 for each in LAUNCH.values])
    tables = launch + WORK * 100 / 100, base_launch + WORK * 100 / SHARES
    return Surface((LAUNCH, SHARE), {LAUNCH.key: base_launch, SHARE.key: 100.0}, tables)


def test_the_fit_finds_what_the_measurements_were_made_with():
    made = surface(1.0)
    measured = made.us({LAUNCH.key: 1.2, SHARE.key: 80.0})
    found = fitted(made, measured, FAMILIES, np.ones(6, bool))
    assert found[LAUNCH.key] == pytest.approx(1.2, abs=0.051)
    assert found[SHARE.key] == pytest.approx(80.0, abs=1.3)


def test_rows_left_out_of_the_fit_do_not_teach_it():
    """Without the rows that multiply the array is taken at its peak, and they are off by the share they lose."""
    made = surface(1.0)
    measured = made.us({LAUNCH.key: 1.0, SHARE.key: 50.0})
    off = cross_validated(made, measured, FAMILIES, FAMILIES)
    assert off["copy"] < 3
    alone = made.us({LAUNCH.key: 1.0, SHARE.key: 100.0})[:3] / measured[:3] - 1
    assert off["gemm"] == pytest.approx(100 * np.abs(alone).mean(), abs=3)


def test_sizes_are_told_by_measured_time():
    assert sizes(np.array([3.0, 10.0, 49.0, 1000.0])).tolist() == ["below 10 us", *["10 to 50 us"] * 2, "above 50 us"]


def test_constants_are_written_as_machine_files_have_them():
    assert LAUNCH.change(1.25) == ["front_end.launch=1.25 us"]
    assert SHARE.change(75.0) == ["matrix.sustained.bf16=75/100", "matrix.sustained.fp16=75/100"]
    for constant in CONSTANTS:
        values = [*constant.values, constant.value_in("h200")]
        assert min(constant.values) <= constant.public <= max(constant.values)
        assert len(set(values)) <= 3  # each is a pass over the rows
    assert {each.key: each.value_in("h200") for each in CONSTANTS}["matrix.synchronous"] == 0.8 * 40


# --- on the machine ---------------------------------------------------------------------------------------------------

H200 = load_machine("h200")
ATTENTION = {"B": 1, "Hq": 4, "Hkv": 4, "Sq": 256, "Skv": 256, "D": 64, "causal": 0}
ROWS = [
    Row("gemm", {"M": 256, "N": 256, "K": 512}),
    Row("gemm", {"M": 256, "N": 256, "K": 512}, "int8"),
    Row("gemm", {"M": 256, "N": 256, "K": 512}, "fp8"),
    Row("attention", {**ATTENTION, "backend": "flash"}),
    Row("attention", {**ATTENTION, "backend": "cudnn"}),
    Row("norm", {"kind": "softmax", "rows": 1024, "dim": 512}),
    Row("gather", {"kind": "plain", "n": 4096, "width": 64, "table_rows": 10000}),
    Row("launch", {"kind": "eager", "n": 9}),
]
KERNELS = [run for row in ROWS for kernel in launches_of(row, H200).kernels for run in kernel.runs]


@pytest.fixture(scope="module")
def known():
    """What each of the kernels takes."""
    return {run: simulated(run, H200) for run in KERNELS}


@pytest.mark.parametrize("constant", [each for each in CONSTANTS if each.touches], ids=lambda constant: constant.key)
def test_what_a_constant_is_not_said_to_matter_to_does_not_move(constant, known):
    changed = load_machine("h200", constant.change(constant.public))
    others = [run for run in KERNELS if not constant.matters(run, known[run])]
    assert 0 < len(others) < len(KERNELS)
    assert [simulated(run, changed).cycles for run in others] == [known[run].cycles for run in others]


def test_traits_of_a_run(known):
    gemm, *_, softmax, gather = KERNELS
    assert traits(gemm, known[gemm]) == {"matrix", "vector", "dma", "gemm", "bf16"}
    assert traits(softmax, known[softmax]) == {"vector", "dma", "softmax", "rowwise", "bf16"}
    assert traits(gather, known[gather]) == {"dma", "gather", "bf16"}


def test_the_surface_is_what_rows_take_with_each_value(monkeypatch, known):
    """And what is told beside the simulation, or does not matter to a run, is not simulated again."""
    rows, kernels, tasks = [ROWS[0], *ROWS[-2:]], [KERNELS[0], KERNELS[-1]], []
    monkeypatch.setattr(calibrate, "simulated", lambda *task: tasks.append(task) or simulated(*task))
    constants = [each for each in CONSTANTS if each.key in ("front_end.load", "vector.startup", "dma.walk")]
    surface = surface_of(Simulations(rows, H200, 1), constants, "h200")
    for constant, table in zip(surface.constants, surface.tables, strict=True):
        assert constant.public in constant.values and surface.base[constant.key] in constant.values
        for value, times in zip(constant.values, table, strict=True):
            machine = load_machine("h200", constant.change(value))
            assert times.tolist() == pytest.approx([each.us for each in predict(rows, machine)])
    assert [run for run, _ in tasks] == [*kernels, *[kernels[1]] * 2, *[kernels[0]] * 2]  # two values beside the file's
