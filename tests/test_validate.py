"""Predictions against measured rows: what is simulated, the picture, the command, and the page."""

import csv
import json
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from kpusim import processes
from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.machine import load_machine
from kpusim.operators import make_operator
from kpusim.recipes import table
from kpusim.recipes.kernel import Kernel, Recipe
from kpusim.recipes.row import Row
from kpusim.validate import page, truth, validation
from kpusim.validate import predict as predicting
from kpusim.validate.scatter import draw_scatter
from kpusim.validate.truth import read_truth
from kpusim.validate.validation import Question

PUBLIC = Path(__file__).parent / "data" / "h200_public.csv"
GRAPH, EAGER = '"{""kind"": ""graph"", ""n"": 9}"', '"{""kind"": ""eager"", ""n"": 9}"'
H200 = load_machine("h200")
LAUNCH, HOST, LOAD = (
    float(cycles / H200.clock_hz * 10**6)
    for cycles in (H200.front_end.launch_cycles, H200.front_end.host_cycles, H200.front_end.load_cycles)
)

ADD = make_operator("add(rows=4, columns=64)")
WIDER = make_operator("add(rows=8, columns=64)")


def toy(family, name, *kernels):
    """A recipe for rows of a family whose kind is its name."""
    return Recipe(
        name, family, f"{name}, a toy", "to be tested", "nowhere",
        lambda row: row.word("kind", ("add", "two", "layers")) == name, lambda row, machine: kernels,
    )  # fmt: skip


@pytest.fixture
def toys(monkeypatch):
    """Two families of toys, of which one is of decoders; and the kernels that are simulated: 100 cycles for a row."""
    recipes = (
        toy("ops", "add", Kernel(ADD)),
        toy("ops", "two", Kernel(ADD, times=3), Kernel(WIDER)),
        toy("model", "layers", Kernel(WIDER, times=10)),
    )
    seen = []

    def simulated(kernel, machine):
        seen.append(kernel)
        rows = kernel.operator.dimensions["rows"]
        return predicting.Timed(Fraction(100 * rows), {"dma memory": 0.5, "vector busy": rows / 100, "dma idle": 0.2})

    monkeypatch.setattr(table, "RECIPES", recipes)
    for module in table, truth, validation:
        monkeypatch.setattr(module, "FAMILIES", ("ops", "model"))
    monkeypatch.setattr(predicting, "simulated", simulated)
    return seen


def us(*launches):
    """Microseconds of launches of so many rows, as toys take them."""
    return sum(LAUNCH + 100 * rows / float(H200.clock_hz) * 10**6 for rows in launches)


TWO = us(4, 4, 4, 8) + 4 * LOAD  # what the row "two" of toys takes: each launch behind one of the other kernel


def toy_lines(*rows):
    return "family,params,dtype,us", *(f'{family},"{{""kind"": ""{kind}""}}",bf16,{us}' for family, kind, us in rows)


def answered(path, jobs=1):
    return Question.of(read_truth(path).rows, H200).answer(jobs)


HEAD = "family,params,dtype,us"


# --- predictions ------------------------------------------------------------------------------------------------------


def test_launches_are_those_of_the_machine(file):
    found = answered(file(f"{HEAD},overhead_us", f"launch,{GRAPH},bf16,1,", f"launch,{EAGER},bf16,,0.75"))
    assert [each.us for each in found.rows] == pytest.approx([LAUNCH, HOST + 0.75])
    assert [each.error_percent for each in found.rows] == [pytest.approx(100 * (LAUNCH - 1)), None]


def test_processes_change_nothing(file):
    path = file(HEAD, f"launch,{GRAPH},bf16,1", f"launch,{EAGER},bf16,9")
    assert answered(path, jobs=2).json() == answered(path).json()


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("max 100000", 4), (None, 4)],
)
def test_as_many_processes_as_a_container_may_keep_busy(tmp_path, monkeypatch, quota, expected):
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(processes, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: range(4), raising=False)
    assert processes.cores() == expected


def test_a_kernel_is_simulated_once_however_often_it_is_launched(toys, file):
    found = answered(file(*toy_lines(("ops", "add", 1), ("ops", "two", 1), ("ops", "add", 1), ("model", "layers", 1))))
    assert toys == [Kernel(ADD), Kernel(WIDER)]
    assert [each.us for each in found.rows] == pytest.approx(
        [us(4), TWO, us(4), us(*10 * [8])]
    )  # fmt: skip
    assert [each.prediction.launches for each in found.rows] == [1, 4, 1, 10]
    assert found.rows[1].prediction.longest == Kernel(ADD, times=3)  # 3 x 4 rows are more than 8


def test_scores_by_family_and_of_all_but_decoders(toys, file):
    found = answered(
        file(
            *toy_lines(
                ("model", "layers", us(*10 * [8]) / 3),
                ("ops", "add", us(4) / 1.1),
                ("ops", "two", TWO / 0.7),
            )
        )
    )
    assert [*found.families] == ["ops", "model"]
    assert found.families["ops"] == found.all
    assert (found.all.rows, found.all.mape_percent) == (2, pytest.approx(20))
    assert (found.families["model"].rows, found.families["model"].mape_percent) == (1, pytest.approx(200))
    assert [each.measured.line for each in found.worst] == [2, 4, 3]


def test_the_machine_may_refuse_a_row(toys, file, monkeypatch):
    known = predicting.simulated

    def refusing(kernel, machine):
        if kernel.operator == WIDER:
            raise UserError("does not fit", where="add", found=8)
        return known(kernel, machine)

    monkeypatch.setattr(predicting, "simulated", refusing)
    path = file(*toy_lines(("ops", "two", 1), ("ops", "add", us(4))))
    found = answered(path)
    assert [each.measured.line for each in found.rows] == [3]
    assert {line: str(error) for line, error in found.refused.items()} == {2: f"{path}:2: add: does not fit; found 8"}
    with pytest.raises(UserError, match="truth.csv:2: add: does not fit"):
        predicting.predict([each.row for each in read_truth(path).rows], H200)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('launch,"{""kind"": ""graf""}",bf16,1', "params.kind: cannot be; found 'graf'; allowed: graph, eager; did"),
        ("launch,{},bf16,1", "params.kind: missing"),
        ('eltwise,"{""kind"": ""add"", ""rows"": 4, ""dim"": 64}",int8,1', "dtype: cannot be; found 'int8'; allowed: "),
        ('eltwise,"{""kind"": ""relu"", ""rows"": 4, ""dim"": 64}",bf16,1', "params.kind: cannot be; found 'relu'"),
        ('model,"{""model"": ""gpt3"", ""phase"": ""decode"", ""batch"": 1, ""seq"": 8}",bf16,1', "params.model: can"),
        ('model,"{""model"": ""gpt2"", ""phase"": ""decode"", ""batch"": 1, ""seq"": 8}",fp8,1', "dtype: cannot be"),
        ('attention,"{""B"": 1, ""Hq"": 3, ""Hkv"": 2, ""Sq"": 1, ""Skv"": 8, ""D"": 64, ""causal"": 0, '
         '""backend"": ""flash""}",bf16,1', "heads of queries are no multiple of those of keys"),
    ],
)  # fmt: skip
def test_a_row_that_no_recipe_knows_leaves_the_others(file, line, message):
    """Each names its place once."""
    path = file(HEAD, line, f"launch,{GRAPH},bf16,1")
    found = answered(path)
    assert [(each.measured.line, each.us) for each in found.rows] == [(3, pytest.approx(LAUNCH))]
    (refused,) = found.refused.items()
    assert refused[0] == 2 and str(refused[1]).startswith(f"{path}:2: {message}")
    with pytest.raises(UserError, match=f"^{path}:2: (?!{path})"):
        predicting.predict([each.row for each in read_truth(path).rows], H200)


ANY = {
    "gemm": {"M": 8, "N": 8, "K": 8}, "norm": {"kind": "softmax", "rows": 8, "dim": 8}, "launch": {"kind": "graph"},
    "attention": {"B": 1, "Hq": 1, "Hkv": 1, "Sq": 8, "Skv": 8, "D": 32, "causal": 0, "backend": "unfused"},
    "eltwise": {"kind": "copy", "rows": 8, "dim": 8}, "gather": {"kind": "plain", "n": 8, "width": 8, "table_rows": 8},
    "model": {"model": "gpt2", "phase": "decode", "batch": 1, "seq": 8},
}  # fmt: skip


@pytest.mark.parametrize("family", table.FAMILIES)
def test_any_dtype_runs_or_is_refused(family):
    """As files may have them; nothing but a UserError comes of those that cannot be."""
    rows = [
        truth.Measured(line, Row(family, ANY[family], dtype), 1.0, 0.0, ()) for line, dtype in enumerate(truth.DTYPES)
    ]
    question = Question.of(rows, H200)
    refused = {
        each.row.dtype for each, launches in zip(rows, question.launches, strict=True) if launches not in question.known
    }
    assert refused < {each.row.dtype for each in rows} - {"bf16", "fp16"}


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_is_the_same_twice_and_says_what_it_shows(toys, file, tmp_path):
    found = answered(file(*toy_lines(("ops", "add", us(4) / 1.1), ("model", "layers", us(*10 * [8]) / 2))))
    for suffix in ".svg", ".png":
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        draw_scatter(found, first, suffix)
        draw_scatter(found, second, suffix)
        assert first.read_bytes() == second.read_bytes()
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = {"".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert texts >= {"h200: predicted and measured", "measured, us", "ops: 10.0 %, 1 row", "model: 100.0 %, 1 row"}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def validate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, ["validate", "--jobs", "1", *map(str, args)])


def test_the_plain_command_writes_both_files(validate, toys, file, tmp_path):
    result = validate(file(*toy_lines(("ops", "add", us(4) / 1.25), ("ops", "two", TWO), ("model", "layers", ""))))
    assert result.exit_code == 0, result.output
    rows = [*csv.DictReader((tmp_path / "kpusim-out" / "truth.h200.csv").open())]
    assert [float(row["predicted_us"]) for row in rows] == pytest.approx([us(4), TWO, us(*10 * [8])], abs=1e-4)
    assert (tmp_path / "kpusim-out" / "truth.h200.svg").read_text().startswith("<?xml")
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines if line.startswith(("  ops", " ops", " all"))] == [
        ["ops", "2", "12.5%", "12.5%", "1.000"], ["all", "2", "12.5%", "12.5%", "1.000"],
    ]  # fmt: skip
    (worst,) = (line for line in lines if "kind=add" in line)
    assert worst.split()[:2] == ["2", "ops"]
    assert "+25.0%" in worst
    assert worst.rstrip().endswith("add: dma for memory 50%, dma idle 20%, vector busy 4%")
    assert lines[-2:] == ["Rows: kpusim-out/truth.h200.csv", "Plot: kpusim-out/truth.h200.svg"]


def test_json(validate, toys, file):
    path = file(*toy_lines(("ops", "add", us(4) / 1.25), ("ops", "two", TWO), ("model", "layers", "")))
    found = json.loads(validate(path, "--json").stdout)
    assert [*found] == ["machine", "csv", "plot", "all", "families", "worst", "rows", "refused"]
    expected = {"rows": 2, "mape_percent": 12.5, "median_percent": 12.5, "spearman": 1.0}
    assert (found["machine"], found["all"], found["families"]) == ("h200", expected, {"ops": expected})
    assert found["rows"][0] == {
        "line": 2, "family": "ops", "params": {"kind": "add"}, "dtype": "bf16", "recipe": "add",
        "us": pytest.approx(us(4) / 1.25), "predicted_us": pytest.approx(us(4), abs=1e-4), "error_percent": 25.0,
        "launches": 1,
    }  # fmt: skip
    assert (found["rows"][2]["us"], found["rows"][2]["error_percent"]) == (None, None)
    assert found["worst"][0]["longest_kernel"] == "add"
    assert found["worst"][0]["breakdown"] == {"dma memory": 0.5, "dma idle": 0.2, "vector busy": 0.04}


def test_some_families_and_other_machines(validate, toys, file, tmp_path):
    path = file(*toy_lines(("ops", "add", 1), ("model", "layers", 1)))
    args = path, "--family", "model", "--set", "front_end.launch=0 cycles", "-o", "b.csv", "--plot", "b.png"
    found = json.loads(validate(*args, "--json").stdout)
    (row,) = found["rows"]
    assert (row["line"], found["all"]["mape_percent"], [*found["families"]]) == (3, None, ["model"])
    assert row["predicted_us"] == pytest.approx(us(*10 * [8]) - 10 * LAUNCH, abs=1e-4)
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 2
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "kpusim-out").exists()


def test_rows_that_were_not_measured_are_predicted(validate, toys, file):
    result = validate(file("family,params,dtype", 'ops,"{""kind"": ""add""}",bf16'))
    assert result.exit_code == 0
    assert "No row was measured" in result.stdout


def test_a_refused_row_is_told_and_exits_1(validate, toys, file, monkeypatch, tmp_path):
    def refusing(kernel, machine):
        raise UserError("does not fit")

    monkeypatch.setattr(predicting, "simulated", refusing)
    path = file(*toy_lines(("ops", "add", 1)))
    result = validate(path, "--json")
    assert (result.exit_code, result.stderr) == (1, f"Error: {path}:2: does not fit\n")
    assert json.loads(result.stdout)["refused"] == [{"line": 2, "error": f"{path}:2: does not fit"}]
    assert (tmp_path / "kpusim-out" / "truth.h200.csv").read_text().splitlines()[1].endswith(",1,")


def test_a_row_that_no_recipe_knows_is_told_and_exits_1(validate, toys, file, tmp_path):
    path = file(*toy_lines(("ops", "subtract", 1), ("ops", "add", us(4) / 1.25)))
    result = validate(path, "--json")
    told = f"{path}:2: params.kind: cannot be; found 'subtract'; allowed: add, two, layers"
    assert (result.exit_code, result.stderr) == (1, f"Error: {told}\n")
    found = json.loads(result.stdout)
    assert (found["refused"], found["all"]["mape_percent"]) == ([{"line": 2, "error": told}], 25.0)
    rows = [*csv.DictReader((tmp_path / "kpusim-out" / "truth.h200.csv").open())]
    assert [row["predicted_us"] for row in rows] == ["", f"{us(4):.4f}"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Give a file of measurements, or --recipes."),
        (["none.csv"], "Error: none.csv: cannot be read: No such file or directory"),
        (["truth.csv", "-m", "h20"], "did you mean 'h200'?"),
        (["truth.csv", "--set", "hbm.stack=1"], "did you mean"),
        (["truth.csv", "--family", "op"], "Error: --family: unknown family; found 'op'; allowed: "),
        (["truth.csv", "--family", "gemm"], "Error: truth.csv: no rows of this family; found 'gemm'"),
        (["truth.csv", "--plot", "a.gif"], "Error: --plot a.gif: not a kind of picture; found '.gif'"),
        (["truth.csv", "-o", "truth.csv"], "truth.csv is another file of this command"),
        (["truth.csv", "-o", "a.svg", "--plot", "a.svg"], "a.svg is another file of this command"),
        (["truth.csv", "-o", "."], "Error: .: is a directory, not a file"),
    ],
)  # fmt: skip
def test_mistakes(validate, file, monkeypatch, args, message):
    monkeypatch.setattr(table, "FAMILIES", ("gemm", *table.FAMILIES))
    file(HEAD, f"launch,{GRAPH},bf16,1")
    result = validate(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_recipes_are_told(validate):
    shown = validate("--recipes").stdout
    found = json.loads(validate("--recipes", "--json").stdout)
    assert {each["name"] for each in found} >= {"launch-graph", "launch-eager"}
    assert all(each.keys() == {"name", "family", "about", "reason", "source"} for each in found)
    assert all(f"{each['name']}: recipe for measured rows of {each['family']}" in shown for each in found)
    assert CliRunner().invoke(main, ["explain", "launch-graph"]).stdout.strip() in shown


# --- the page ---------------------------------------------------------------------------------------------------------


def cells(text, first):
    """The cells of the rows of the page's tables that begin with a cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] == first]


RAMULATOR = """dram,pattern,mapper,queue_depth,requests,dram_cycles
HBM2_2000,random,RoBaRaCoCh,32,1000,2883
"""


CALIBRATED = {
    "constants": [{"keys": ["a.b", "a.c"], "public": "0 us", "why": "none is", "fitted": "1 us", "file": "1.25 us"}],
    "without": {"ops": 40.0, "model": 50.0}, "with": {"ops": 4.0, "model": 5.0}, "by_size": {"below 10 us": 6.0},
    "left_out": {"family": {"ops": 7.0}, "size": {"below 10 us": 8.0}},
}  # fmt: skip


def test_the_page_has_what_was_found(toys, file, tmp_path, monkeypatch):
    (tmp_path / "ramulator2.csv").write_text(RAMULATOR)
    (tmp_path / "scale_sim.csv").write_bytes((PUBLIC.parent / "scale_sim.csv").read_bytes())
    (tmp_path / "calibration.json").write_text(json.dumps(CALIBRATED))
    monkeypatch.setattr(page, "DATA", tmp_path)
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "RECIPES", table.RECIPES)
    monkeypatch.setattr(page, "SECOND_ROWS", (Row("ops", {"kind": "add"}),))
    found = answered(
        file(*toy_lines(("ops", "add", us(4) / 1.25), ("ops", "two", 12), ("model", "layers", us(*10 * [8]) / 2)))
    )
    text, off = page.page(found, 1), 100 * (TWO / 12 - 1)
    assert cells(text, "ops")[0] == ["ops", "2", *2 * [f"{(25 + abs(off)) / 2:.1f} %"], "1.000"]
    assert cells(text, "decoders") == [["decoders", "1", "100.0 %", "100.0 %", ""]]
    assert cells(text, "`a.b`, `a.c`") == [["`a.b`, `a.c`", "0 us", "none is", "1 us", "1.25 us"]]
    assert cells(text, "ops")[1] == ["ops", "40.0 %", "4.0 %", "7.0 %"]
    assert cells(text, "model")[0] == ["model", "50.0 %", "5.0 %", ""]
    assert cells(text, "below 10 us") == [["below 10 us", "", "6.0 %", "8.0 %"]]
    assert cells(text, "ops")[2] == ["ops", "+25.0 % (1)", f"{off:+.1f} % (1)", ""]
    second = load_machine("a100-80gb")
    launch = float((second.front_end.launch_cycles + 400) / second.clock_hz * 10**6)
    assert cells(text, "add") == [["add", "kind=add", f"{launch:.1f}"]]
    assert cells(text, "HBM2_2000") == [["HBM2_2000", "random", "RoBaRaCoCh", "32", "11.10", "2,884", "2,883", "+1"]]
    assert len(cells(text, "32x32")) == 12
    assert all(row[3] == row[4] for row in cells(text, "32x32") + cells(text, "8x8"))


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert (page.DOCS / "trust.md").read_text(encoding="utf-8") == page.page(page.validated(2), 2)
