"""Address translation of listed rows: a walk for each page that no list has reached before, all at once.

On kpu-tiny with a quick memory (see `test_gather`): rows of 64 B, each a chunk, 16 of them in a page of 1 KiB. The
engine takes a row in 2 cycles and links move it in 1, so that what a walk has held up is made up for soon.
"""

import pytest
from test_dma import QUICK
from test_gather import OPS, listed

SETS = [*QUICK, "dma.bandwidth=64 B/cycle", "noc.bandwidth=64 B/cycle", "sram.ports.dma=64 B/cycle",
        "dma.rows=0.5 rows/cycle", "dma.page=1 KiB"]  # fmt: skip
WALK = 10
PAGE = [5, 3, 7, 6, 15, 0, 1, 9, 8, 2, 14, 12, 13, 4, 10, 11]


def later(rows, *sets, walk=WALK, **options):
    """Cycles by which a list ends later because of walks."""
    options = {"chunk_bytes": 64, "count": 2048} | options
    ends = [listed(rows, [*SETS, *sets, f"dma.walk={each} cycles"], **options)[1] for each in (0, walk)]
    return ends[1] - ends[0]


@pytest.mark.parametrize("op", ["gather", "scatter", "scatter_add"])
def test_a_page_is_walked_to_once(op):
    assert later([5], op=op) == WALK
    assert later(PAGE, op=op) == 0  # the last comes long after the walk for the first
    assert later([*PAGE, 16], op=op) == WALK  # the last is in the next page


def test_who_wants_a_page_that_is_walked_to_waits_for_the_same_walk():
    assert later([5, 3], walk=1000) == 1000 - 2 + 1  # asks 2 cycles later, and is behind the first on the link
    assert later([5, 3, 9], walk=1000) == 1000 - 4 + 2


def test_walks_are_under_way_at_once():
    rows = [16 * page for page in range(8)]
    quick = "dma.rows=8 rows/cycle", "dma.bandwidth=512 B/cycle"
    assert later(rows, *quick, chunk_bytes=512) == WALK  # eight pages of one chunk
    assert later(rows, walk=1000) == 1000


def test_larger_pages_take_fewer_walks():
    assert later([*PAGE, 16], "dma.page=2 KiB") == 0


def test_boxes_do_not_wait(monkeypatch):
    monkeypatch.setitem(OPS, "load", "load a[0][{listed}, {width}] @ 0, X_box(0, 0 +: {width})")
    assert later([0, 1, 2, 3], op="load", count=4) == 0
    assert later([0, 1, 2, 3], count=4) > 0
