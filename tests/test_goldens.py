"""Nothing takes another number of cycles than the suites in `traces/` say: `kpusim regress` as tests."""

from pathlib import Path

import pytest

from kpusim.golden import changes, load_suite, measure
from kpusim.operators import FAMILIES

SUITES = [load_suite(path) for path in sorted((Path(__file__).parents[1] / "traces").glob("*.toml"))]
CASES = [pytest.param(case, id=f"{suite.path.stem}/{case.name}") for suite in SUITES for case in suite.cases]


@pytest.mark.parametrize("case", CASES)
def test_nothing_has_moved(case):
    moved = changes(case.golden, measure(case))
    assert not moved, "\n".join(["", *(f"{change.short}  {change.because}" for change in moved), "kpusim regress"])


def test_the_cases_are_there():
    assert {suite.path.stem for suite in SUITES} >= {
        "prefill", "decode", "kasm", "workloads", "gemm", "attention", "norm", "elementwise", "gather", "moe"
    }  # fmt: skip
    assert len(CASES) >= 110
    told = "".join(case.operator for suite in SUITES for case in suite.cases)
    assert [family for family in FAMILIES if f"{family}(" not in told] == []
