"""The fit of calibration constants: on surfaces made up here, where the right values are known."""

import numpy as np
import pytest

from kpusim.validate.calibrate import Surface, cross_validated, fitted, sizes
from kpusim.validate.constants import CONSTANTS, Constant

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
        assert constant.values[0] <= constant.value_in("h200") <= constant.values[-1]
        assert constant.values[0] <= constant.public <= constant.values[-1]
