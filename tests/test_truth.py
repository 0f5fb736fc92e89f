"""Files of measured rows: what is read, refused and written; and the scores of predictions."""

import csv
import io
import math
from pathlib import Path

import pytest

from kpusim.errors import UserError
from kpusim.recipes.row import Row
from kpusim.validate.score import score, spearman
from kpusim.validate.truth import read_truth, write_predictions

PUBLIC = Path(__file__).parent / "data" / "h200_public.csv"
GRAPH, EAGER = '"{""kind"": ""graph"", ""n"": 9}"', '"{""kind"": ""eager"", ""n"": 9}"'


# --- scores -----------------------------------------------------------------------------------------------------------


def test_rank_correlation_of_ties_by_hand():
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 4, 3: deviations from 2.5 give 3 / sqrt(4.5 * 5)."""
    assert spearman([1, 2, 2, 4], [10, 20, 30, 25]) == pytest.approx(3 / math.sqrt(22.5))


def test_rank_correlation_knows_order_only():
    assert spearman([1, 2, 3], [1, 10, 1e9]) == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 8, -7]) == pytest.approx(-1)


@pytest.mark.parametrize("values", [([], []), ([1], [2]), ([1, 1], [1, 2]), ([1, 2], [3, 3])])
def test_rank_correlation_is_not_always_defined(values):
    assert spearman(*values) is None


def test_scores_by_hand():
    found = score([10, 10, 20, 100], [9, 13, 20, 150])  # errors of 10, 30, 0 and 50 %
    assert (found.rows, found.mape_percent, found.median_percent) == (4, pytest.approx(22.5), pytest.approx(20))
    assert score([], []).mape_percent is None


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_public_file_is_read():
    truth = read_truth(PUBLIC)
    assert len(truth.rows) == 148
    first = truth.rows[0]
    assert (first.line, first.row.family, first.row.params, first.row.dtype) == (
        2,
        "gemm",
        {"M": 256, "N": 256, "K": 256},
        "bf16",
    )
    assert (first.us, first.overhead_us) == (2.8127, 0)
    assert truth.rows[-1].line == 149


def test_other_columns_orders_and_endings(file):
    text = (
        "\ufeffdtype,note,us,family,params,overhead_us\r\n"
        f'bf16,"two\r\nlines",3.5,launch,{GRAPH},\r\n'
        "\r\n"
        f'fp8,"a ""b""",,launch,{EAGER},2.5\r\n'
        f" bf16 ,,1,launch,{EAGER}\r\n"
    )
    truth = read_truth(file(text=text))
    assert [(each.line, each.row.dtype, each.us, each.overhead_us) for each in truth.rows] == [
        (2, "bf16", 3.5, 0), (5, "fp8_e4m3", None, 2.5), (6, "bf16", 1, 0),
    ]  # fmt: skip
    written = io.StringIO()
    write_predictions(truth, [1.25, 12.34567, None], written)
    columns, *rows = csv.reader(io.StringIO(written.getvalue()))
    assert columns == ["dtype", "note", "us", "family", "params", "overhead_us", "predicted_us"]
    assert rows[0] == ["bf16", "two\r\nlines", "3.5", "launch", '{"kind": "graph", "n": 9}', "", "1.2500"]
    assert [row[-1] for row in rows] == ["1.2500", "12.3457", ""]
    assert rows[1][1] == 'a "b"'


def test_what_was_written_is_read_again(file, tmp_path):
    again = tmp_path / "again.csv"
    truth = read_truth(file("family,params,dtype,predicted_us,us", f"launch,{GRAPH},bf16,77,1"))
    with again.open("w") as out:
        write_predictions(truth, [1.5], out)
    assert again.read_text() == f"family,params,dtype,us,predicted_us\nlaunch,{GRAPH},bf16,1,1.5000\n"


HEAD = "family,params,dtype,us"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truth.csv: is empty; allowed: a header with family, params, dtype, us"),
        ("\n \n", "truth.csv: is empty"),
        (HEAD, "truth.csv: has a header, but no rows"),
        ("family,parms,dtype,us\n", "truth.csv:1: no column 'params'; found 'family, parms, dtype, us'; is 'parms'"),
        ("family;params;dtype\n", "the first line names the columns, with commas between"),
        ("family,params,dtype,us,us\n", "truth.csv:1: there are two columns of one name; found 'us'"),
        (f"{HEAD}\ngemm,{{M: 2}},bf16,1", "truth.csv:2: params: not JSON (Expecting property name"),
        (f"{HEAD}\ngemm,[1],bf16,1", "truth.csv:2: params: not JSON's object; found '[1]'"),
        (f'{HEAD}\ngemm,"{{""M"": NaN}}",bf16,1', "truth.csv:2: params: not a parameter; found 'NaN'"),
        (f"{HEAD}\ngemm,{'[' * 10000},bf16,1", "truth.csv:2: params: not JSON"),
        (f"{HEAD}\ngemm,{{}},bf17,1", "truth.csv:2: dtype: unknown dtype; found 'bf17'; allowed: fp8, "),
        (f"{HEAD}\ngemm,{{}},,1", "truth.csv:2: dtype: empty"),
        (f"{HEAD}\nlunch,{GRAPH},bf16,1", "truth.csv:2: family: unknown family; found 'lunch'; allowed: "),
        (f"{HEAD}\nlaunch,{GRAPH},bf16,-1", "truth.csv:2: us: not a time; found '-1'; allowed: microseconds"),
        (f"{HEAD}\nlaunch,{GRAPH},bf16,1\n\nlaunch,{GRAPH},bf16,nan", "truth.csv:4: us: not a time; found 'nan'"),
        (f"{HEAD}\nlaunch,{GRAPH},bf16,0", "truth.csv:2: us: cannot be; found '0'; allowed: more than 0"),
        (f"{HEAD},overhead_us\nlaunch,{GRAPH},bf16,1,much", "truth.csv:2: overhead_us: not a time; found 'much'"),
        (f"{HEAD}\nlaunch,{GRAPH},bf16,1,2", "truth.csv:2: more cells than columns; found 5; allowed: at most 4"),
        (f'{HEAD}\nlaunch,"{GRAPH}', "truth.csv:2: is no CSV: "),
    ],
)  # fmt: skip
def test_mistakes_in_files(file, text, message):
    with pytest.raises(UserError) as caught:
        read_truth(file(text=text))
    assert message in str(caught.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00f")
    for path, message in (
        (tmp_path / "none.csv", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "a.csv", "is no text in UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            read_truth(path)


# --- what is ignored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("US", "us"),
        ("us_", "us"),
        ("overhead", "overhead_us"),
        ("overheads_us", "overhead_us"),
        ("us_min", None),
        ("note", None),
    ],
)
def test_columns_spelt_like_those_that_are_read(file, column, meant):
    notes = read_truth(file(f"family,params,dtype,{column}", f"launch,{GRAPH},bf16,1")).notes
    assert [f"did you mean {meant!r}?" in note for note in notes] == ([True] if meant else [])


def test_columns_that_are_there_are_not_meant_by_others(file):
    assert read_truth(file("family,params,dtype,us,US,overhead_us,overhead", f"launch,{GRAPH},bf16,1,,2,")).notes == []


def test_a_parameter_stands_there_once(file):
    with pytest.raises(UserError, match="'M' stands there twice"):
        read_truth(file("family,params,dtype", '"gemm","{""M"": 1, ""M"": 2}",bf16'))


def test_parameters_that_nobody_asks_for_are_told():
    row = Row("attention", {"casual": 1, "Sq": 8, "scale": 2}, where="a.csv:2")
    assert not row.flag("causal") and row.size("Sq") == 8
    assert row.notes == [
        "a.csv:2: params.casual: nothing here knows it, it is ignored; did you mean 'causal'?",
        "a.csv:2: params.scale: nothing here knows it, it is ignored",
    ]


@pytest.mark.parametrize("size", [0, -1, 2**31, 10**26, 1.5, True, None])
def test_sizes_that_cannot_be(size):
    with pytest.raises(UserError, match="params.M: (cannot be|missing)"):
        Row("gemm", {"M": size}).size("M")
