"""What has moved and what explains it, on accounts made by hand and on runs whose change is known."""

import pytest
from attrs import evolve

from kpusim.golden import Case, Measured, changes, measure

# 2 matrix engines, 1 vector engine and 2 DMA queues for 100 cycles.
UNITS = {
    "matrix": {"units": 2, "busy": 120, "dma": 60},
    "vector": {"units": 1, "busy": 10, "matrix": 90},
    "dma": {"units": 2, "busy": 80, "matrix": 40, "memory": 20},
}
BEFORE = Measured(cycles=100, hbm_bytes=4096, row_hits=10, top_stall="matrix for dma", units=UNITS)
WAITS = "matrix waits for dma"


def moved(cycles, **units):
    """BEFORE with other cycles and other accounts of some kinds of unit."""
    changed = {kind: {**UNITS[kind], **account} for kind, account in units.items()}
    return evolve(BEFORE, cycles=cycles, units={**UNITS, **changed})


def because(golden, now):
    return next(change.because for change in changes(golden, now) if change.what == "cycles")


def test_equal_numbers_have_not_moved_and_accounts_alone_move_nothing():
    assert changes(BEFORE, BEFORE) == ()
    assert changes(BEFORE, moved(100, matrix={"busy": 110, "dma": 70})) == ()


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (moved(150, matrix={"busy": 220}), "matrix busy +50 (of +50)"),
        (moved(90, matrix={"busy": 104}), "matrix busy -8 (of -10)"),
        (moved(150, matrix={"dma": 150}, dma={"memory": 100}), f"{WAITS} +45 (of +50); dma waits for memory +40"),
        (moved(150, matrix={"dma": 160}, dma={"matrix": 120}), f"{WAITS} +50 (of +50); dma waits for matrix +40"),
        (moved(130, vector={"busy": 40}), "matrix idle +30 (of +30); vector busy +30"),  # the engines had finished
        (moved(107), "matrix idle +7 (of +7)"),
    ],
)  # fmt: skip
def test_the_leading_unit_explains_and_then_who_it_waited_for(now, text):
    assert because(BEFORE, now) == text


def test_more_units_of_a_kind_are_compared_by_unit():
    assert because(BEFORE, moved(110, matrix={"units": 4, "busy": 280, "dma": 120})) == "matrix busy +10 (of +10)"


def test_numbers_without_accounts_have_no_explanation():
    assert because(evolve(BEFORE, units={}), moved(150, matrix={"busy": 220})) == ""


def test_every_number_is_compared():
    now = evolve(BEFORE, hbm_bytes=8192, row_hits=9, top_stall="matrix for vector")
    assert [change.cells for change in changes(BEFORE, now)] == [
        ("hbm_bytes", "4,096", "8,192", "+100.00%", ""),
        ("row_hits", "10", "9", "-10.00%", ""),
        ("top_stall", "matrix for dma", "matrix for vector", "", ""),
    ]


def test_what_was_never_recorded_is_new():
    (change,) = changes(None, BEFORE)
    assert change.cells == ("cycles", "none", "100", "", "new")


def workload(cycles, **operators):
    each = [evolve(BEFORE, name=name, count=count, cycles=taken) for name, (count, taken) in operators.items()]
    return Measured(cycles=cycles, hbm_bytes=1, row_hits=1, operators=each)


def test_a_workload_is_explained_by_operators_and_launches():
    before = workload(460, up=(3, 100), down=(1, 50))
    assert because(before, workload(490, up=(3, 110), down=(1, 50))) == "up +30 (of +30)"
    assert because(before, workload(560, up=(3, 100), down=(1, 50))) == "launches and barriers +100 (of +100)"
    assert [(c.operator, c.what) for c in changes(before, workload(490, up=(3, 110), down=(1, 50)))] == [
        ("", "cycles"),
        ("up", "cycles"),
    ]
    gone = changes(before, workload(460, up=(3, 100), other=(1, 50)))
    assert [change.cells[:3] for change in gone] == [("down cycles", "50", "none"), ("other cycles", "none", "50")]
    twice = changes(before, workload(460, up=(2, 100), down=(1, 50)))
    assert [change.cells[:3] for change in twice] == [("up count", "3", "2")]


def test_runs_whose_change_is_known():
    mlp = Case(name="mlp", machine="kpu-tiny", workload="tiny-mlp")
    golden, slow = measure(mlp), measure(evolve(mlp, set=("front_end.launch=300 ns",)))
    assert slow.cycles > golden.cycles
    assert because(golden, slow).startswith("launches and barriers")
    assert all(change.operator == "" for change in changes(golden, slow))
    assert [(each.name, each.count) for each in golden.operators] == [("up", 3), ("down", 3)]
    gemm = Case(name="gemm", machine="kpu-tiny", operator="gemm(m=64, n=64, k=64)")
    golden, slow = measure(gemm), measure(evolve(gemm, set=("matrix.macs_per_cell.bf16=1/2",)))
    assert because(golden, slow).startswith("matrix busy +")


def test_accounts_are_those_of_the_report():
    from kpusim.api import run

    (row,) = run("gemm(m=12, n=20, k=24)", "kpu-tiny").rows
    measured = measure(Case(name="g", machine="kpu-tiny", operator="gemm(m=12, n=20, k=24)"))
    assert (measured.cycles, measured.hbm_bytes) == (row.cycles, row.hbm_bytes)
    assert measured.row_hits == row.counters["hbm.row_hits"]
    for kind, share in row.units.items():
        account = measured.units[kind]
        assert account["units"] == share.units
        assert sum(account.values()) - account["units"] == share.units * row.cycles - share.idle


def test_runs_of_a_workload_are_one_case_or_one_each(tmp_path):
    (tmp_path / "two.toml").write_text(TWO_RUNS)
    case = Case(name="c", machine="kpu-tiny", workload="two.toml", folder=tmp_path)
    both, one = measure(case), measure(evolve(case, run="few"))
    assert [each.name for each in both.operators] == ["many: g", "few: g"]
    assert [each.name for each in one.operators] == ["g"]
    assert both.cycles == one.cycles + measure(evolve(case, run="many")).cycles
    assert measure(evolve(case, symbols={"tokens": 8})).cycles == one.cycles


TWO_RUNS = """
name = "two"
[symbols]
tokens = 16
[runs]
many = { tokens = 16 }
few = { tokens = 8 }
[tensors]
x = { role = "input", shape = ["tokens", 16] }
w = { role = "weight", shape = [16, 16] }
y = { role = "output", shape = ["tokens", 16] }
[[operators]]
name = "g"
family = "gemm"
ports = { a = "x", b = "w", out = "y" }
"""
