"""Sizes that no machine holds: one message, before anything is drawn; and rows drawn of tables that fit."""

import tracemalloc

import numpy as np
import pytest
from listings import EDGE, preset

from kpusim import run
from kpusim.errors import UserError
from kpusim.operators import lists
from kpusim.operators.gather import Gather, GatherNd
from kpusim.operators.gather.listed import listed
from kpusim.operators.moe import Permute

LIST = "a list that is too long: it is a table of the program; found"
NUMBERED = "more rows than int32 can number; found"


@pytest.mark.parametrize(("text", "message"), [
    ("gather(entries=99999999999999999999, width=4, count=4)", "impossible entries of gather; found 9999"),
    ("gather(entries=4, width=4, count=99999999999)", f"{LIST} '99,999,999,999 numbers'; allowed: up to 16,777,216"),
    ("gather(entries=4, width=4, count=16777217, indices=duplicates)", f"{LIST} '16,777,217 numbers'"),
    ("scatter(entries=4, width=4, count=9999999999999, indices=sequential)", f"{LIST} '9,999,999,999,999 numbers'"),
    ("scatter_add(entries=4, width=4, count=99999999999, indices=sorted)", LIST),
    ("scatter_add(entries=2147483649, width=4, count=4)", f"{NUMBERED} '2,147,483,649 rows'; allowed: up to 2,147,483"),
    ('gather(entries=300000000000, width=4, count=4, indices="zipf 1.2")', f"{NUMBERED} '300,000,000,000 rows'"),
    ("gather(entries=300000000000, width=4, count=4, index_dtype=int64)", "tensor table does not fit into the HBM"),
    ("rope(rows=4, columns=128, table=99999999999999999999, positions=uniform)", "impossible table of rope; found"),
    ("rope(rows=4, columns=128, table=99999999999, positions=uniform)", f"{NUMBERED} '99,999,999,999 rows'"),
    ("rope(rows=99999999999, columns=128, table=9, positions=uniform)", LIST),
    ("permute(tokens=99999999999, width=4)", f"{LIST} '199,999,999,998 numbers'"),
    ("permute(tokens=4, width=4, k=1, experts=99999999999)", "impossible experts of permute; found 99999999999"),
    ("moe_combine(tokens=99999999999, width=4, k=2)", LIST),
    ("topk_routing(tokens=99999999999, experts=8, k=2)", "tensor scores does not fit into the HBM"),
    ('gather_nd(sizes="99999999999 99999999999", width=4, count=4)', NUMBERED),
    ('gather_nd(sizes="9 9", width=4, count=16777216)', f"{LIST} '33,554,432 numbers'"),
    ("attention(queries=1, keys=99999999999, head_dim=1, page=1)", LIST),
    ("attention(queries=1, keys=9, head_dim=1, page=1, pages=99999999999)", NUMBERED),
    ("attention(queries=1, keys=99999999999, head_dim=1, kept=16)", NUMBERED),
    ("attention(queries=1, keys=99999999, head_dim=1, kept=99999999)", LIST),
    ("attention(queries=1, keys=99999999999, head_dim=1, block=1, blocks=1)", NUMBERED),
    ("attention(queries=16777216, keys=16777216, head_dim=1, block=1, blocks=2)", LIST),
    ("attention(queries=99999999, keys=9, head_dim=1)", "too many queries; found 'queries=99999999'"),
    ("mla(queries=1, keys=99999999999, page=16)", LIST),
    ('grouped_gemm(groups=4, m=99999999999999999999, n=4, k=4, rows="zipf 1.2")', "impossible m of grouped_gemm"),
    ("gemm(m=99999999999, n=4, k=4)", "tensor a does not fit into the HBM"),
    ("softmax(rows=99999999999, columns=99999999999)", "tensor x does not fit into the HBM"),
    (f"gemm(m=4, n=4, k=4, alpha={10**400})", "impossible alpha of gemm"),
])  # fmt: skip
def test_huge_sizes_are_one_message(text, message):
    """Nothing is drawn: there is no room for it."""
    with pytest.raises(UserError) as caught:
        run(text, preset(EDGE))
    assert message in str(caught.value)


def test_huge_operators_given_as_such():
    for huge in (Gather(4, 4, 10**12), Permute(10**12, 4), GatherNd(4, 4, sizes="99999999999 99999999999")):
        with pytest.raises(UserError, match="a list that is too long|more rows than int32"):
            run(huge, preset(EDGE))


@pytest.mark.parametrize("indices", ["zipf 1.2", "zipf 1", "permutation", "uniform", "sorted"])
def test_a_few_rows_of_a_huge_table(indices):
    """Of 2^31 rows an array would be 16 GiB."""
    tracemalloc.start()
    rows = listed(indices, 1000, 2**31, 0)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert len(rows) == 1000 and max(rows) < 2**31 and min(rows) >= 0
    assert indices != "permutation" or len(set(rows)) == 1000


@pytest.mark.parametrize("exponent", [0, 0.5, 1, 1.2, 3])
@pytest.mark.parametrize("head", [16, 64])
def test_the_tail_of_a_zipf_law_is_drawn_by_its_integral(monkeypatch, exponent, head):
    """Against each row's probability: Pearson's chi-squared over bins, of mean n and variance 2 n."""
    monkeypatch.setattr(lists, "HEAD", head)
    count, rows = 200_000, 1000
    drawn = lists.drawn_zipf(np.random.default_rng(5), exponent, rows, count)
    weights = np.arange(1, rows + 1) ** -float(exponent)
    edges = np.array([0, 1, 2, 4, 8, head - 1, head, head + 1, head + 8, 200, 400, 800])
    expected = np.add.reduceat(weights / weights.sum() * count, edges)
    found = np.add.reduceat(np.bincount(drawn, minlength=rows), edges)
    assert (drawn.min(), len(found)) == (0, len(edges))
    usable = expected > 5
    chi = ((found - expected) ** 2 / expected)[usable].sum()
    assert chi < usable.sum() + 3 * (2 * usable.sum()) ** 0.5
