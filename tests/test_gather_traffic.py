"""What operators by index move, counted on paper; the machines and mappings they run on; what they refuse."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve, fields
from click.testing import CliRunner
from listings import DATACENTER, EDGE, MACHINES, TINY, execute, preset, variant

from kpusim.cli import main
from kpusim.errors import UserError
from kpusim.function import Executor, random_inputs
from kpusim.isa import assemble
from kpusim.isa.check import check_program
from kpusim.isa.layout import Layout
from kpusim.machine.limits import limits_of
from kpusim.operators import make_operator, text_of
from kpusim.operators.gather import Gather, GatherNd, Scatter, ScatterAdd
from kpusim.operators.gather.mapping import Mapping
from kpusim.operators.moe import MoeCombine, Permute, TopkRouting
from kpusim.simulate.run import simulate
from kpusim.streams.mix import mix_bandwidth
from kpusim.streams.requests import Stream

# --- traffic ----------------------------------------------------------------------------------------------------------


def accesses(start, size, access):
    """Bytes of the whole accesses that hold `size` bytes from `start` on."""
    return ((start + size - 1) // access - start // access + 1) * access


@pytest.mark.parametrize("machine", [EDGE, DATACENTER])
@pytest.mark.parametrize(("dtype", "width"), [("int8", 4), ("bf16", 24), ("fp32", 16), ("bf16", 50), ("fp32", 1024)])
def test_narrow_rows_fetch_whole_accesses(machine, dtype, width):
    """Rows that are no neighbours: each is so many accesses, whatever it needs of them."""
    count, machine = 300, preset(machine)
    rows = np.random.default_rng(3).permutation(count) * 2
    gather = Gather(entries=2 * count, width=width, count=count, dtype=dtype, indices=" ".join(map(str, rows)))
    lowered = gather.lower(machine)
    counters = simulate(lowered.program, machine).counters
    access, size = machine.hbm.access_bytes, width * {"int8": 1, "bf16": 2, "fp32": 4}[dtype]
    blocks = [(start, min(lowered.mapping.rows, count - start)) for start in range(0, count, lowered.mapping.rows)]
    indices = sum(accesses(start * 4, many * 4, access) for start, many in blocks)
    fetched = sum(accesses(int(row) * size, size, access) for row in rows)
    assert counters["hbm.read_bytes"] == fetched + indices
    assert counters["hbm.write_bytes"] == sum(accesses(start * size, many * size, access) for start, many in blocks)
    if size == 4:
        assert fetched == count * access  # 8 or 16 times what is asked for


def test_neighbours_are_fetched_together():
    machine = preset(EDGE)

    def fetched(indices):
        gather = Gather(entries=4096, width=4, count=4096, dtype="int8", indices=indices)
        return simulate(gather.lower(machine).program, machine).counters["hbm.read_bytes"]

    assert fetched("sequential") == 2 * 4096 * 4  # the table once, and the indices
    assert fetched("permutation") > 4096 * 64


@pytest.mark.parametrize(("text", "compulsory", "bound"), [
    # rows 0, 3 and 5 of 8 bytes are in accesses 0 of 64 bytes; 4 indices, 4 rows of output
    ('gather(entries=16, width=4, count=4, indices="3 0 5 5")', 3 * 8 + 4 * 4 + 4 * 8, 64 + 64 + 64),
    ('gather(entries=16, width=32, count=4, indices="3 0 5 5", index_dtype=int64)', 3 * 64 + 4 * 8 + 4 * 64, 512),
    ('gather(entries=64, width=96, count=2, indices="1 5", dtype=int8)', 2 * 96 + 8 + 192, 2 * 128 + 64 + 192),
    ('gather_nd(sizes="2 8", width=32, count=2, indices="0 3 1 5")', 2 * 64 + 16 + 128, 128 + 64 + 128),
    ('scatter(entries=16, width=32, count=4, indices="3 0 5 5")', 3 * (2 * 64 + 4), 192 + 192 + 64),
    ('scatter_add(entries=16, width=32, count=4, indices="3 0 5 5")', 4 * 64 + 3 * 4 + 6 * 64, 256 + 64 + 384),
])  # fmt: skip
def test_bytes_that_must_move(text, compulsory, bound):
    operator = make_operator(text)
    assert operator.compulsory_bytes == compulsory
    assert operator.io_bound_bytes(preset(EDGE)) == bound
    assert text_of(operator) and make_operator(text_of(operator)) == operator


def test_indices_of_8_bytes_are_8_bytes():
    """64 blocks of 64 indices each: whole accesses either way."""
    machine = preset(EDGE)
    short, long = (
        simulate(Gather(4096, 8, 4096, index_dtype=dtype).lower(machine).program, machine).counters["hbm.read_bytes"]
        for dtype in ("int32", "int64")
    )
    assert long - short == 4 * 4096


def test_only_the_last_of_duplicates_is_moved():
    machine = preset(EDGE)
    scatter = Scatter(entries=8, width=256, count=5, indices="3 3 1 3 1")
    counters = simulate(scatter.lower(machine).program, machine).counters
    assert counters["hbm.write_bytes"] == 2 * 512
    assert counters["hbm.read_bytes"] in (2 * 512 + 64, 2 * 512 + 128)  # and their indices, in one access or two


# --- machines and mappings --------------------------------------------------------------------------------------------

TEXTS = [
    'gather(entries=300, width=700, count=90, indices="zipf 1.2", dtype=fp32, index_dtype=int64)',
    'gather_nd(sizes="3 4 5", width=33, count=200, index_dtype=int64)',
    "scatter(entries=40, width=129, count=100, dtype=int8)",
    'scatter_add(entries=20, width=64, count=300, indices="zipf 2", dtype=fp16)',
]


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("text", TEXTS)
def test_every_machine_runs_it(name, text):
    execute(make_operator(text), preset(name))


@pytest.mark.parametrize("text", TEXTS)
def test_mappings_can_be_forced(text):
    operator, machine = make_operator(text), preset(TINY)
    lowered = operator.lower(machine)
    assert operator.lower(machine, mapping=lowered.mapping).program == lowered.program
    forced = evolve(lowered.mapping, lanes=1, rows=3, columns=32, slots=2)
    execute(operator, machine, mapping=forced)
    for change, message in [
        ({"lanes": 5}, "a lane is a DMA engine and a tile; found 'lanes = 5'; allowed: at most 4"),
        ({"rows": 0}, "rows is too small; found 0; allowed: at least 1"),
        ({"columns": 5000}, "no piece of a row; found 'columns = 5000'"),
        ({"rows": 100, "columns": 33}, "its buffers do not fit into a tile's SRAM"),
    ]:
        with pytest.raises(UserError, match=message):
            operator.lower(machine, mapping=evolve(lowered.mapping, **change))


def test_rows_longer_than_an_sram():
    gather = Gather(entries=5, width=32768, count=3, dtype="bf16", indices="4 0 4")  # 64 KiB, SRAM of 4 KiB
    lowered = gather.lower(preset(TINY))
    assert lowered.mapping.columns * 2 <= 4096 // lowered.mapping.slots
    assert lowered.mapping.columns % 32 == 0  # whole accesses
    execute(gather, preset(TINY))


@pytest.mark.parametrize("size", [4, 64, 4096, 65536])
def test_rows_of_all_sizes_on_a_large_machine(size):
    execute(Gather(entries=64, width=size // 4, count=100, dtype="fp32"), preset(DATACENTER))


@pytest.mark.parametrize(("text", "message"), [
    ('gather(entries=4, width=2, count=2, indices="0 4")', "an index out of range; found '4, number 1 of the list, "
     "counted from 0'; allowed: 0 to 3"),
    ('gather(entries=4, width=2, count=2, indices="-1 0")', "found '-1, number 0 of the list, "),
    ('gather(entries=4, width=2, count=2, indices="0 1 2")', "not as many as count; found '3 numbers'; allowed: 2"),
    ('gather(entries=4, width=2, count=2, indices="")', "impossible indices; found ''; allowed: \"uniform\", \"zipf"),
    ("gather(entries=4, width=2, count=2, indices=unifrom)", "impossible indices; found 'unifrom'"),
    ('gather(entries=4, width=2, count=2, indices="zipf -1")', "impossible indices"),
    ("gather(entries=4, width=3, count=2, dtype=int4)", "a row of int4 ends within a byte; found 'width=3'"),
    ("gather(entries=4, width=3, count=0)", "impossible count of gather; found 0; allowed: >= 1"),
    ("gather(entries=4, width=3, count=2, index_dtype=int8)", "impossible index_dtype of gather; found 'int8'"),
    ('gather_nd(sizes="4", width=2, count=2)', "impossible sizes; found '4'; allowed: two or three sizes"),
    ('gather_nd(sizes="4 4", width=2, count=2, indices="0 1 2")', "not all coordinates; found '3 numbers'; allowed: 4"),
    ('gather_nd(sizes="4 8", width=2, count=2, indices="3 7 3 8")', "an index out of range; found '8, coordinate 1 of "
     "row 1 of the list, both counted from 0'; allowed: 0 to 7"),
    ('gather_nd(sizes="4 8", width=2, count=1, indices="4 1")', "found '4, coordinate 0 of row 0 of"),
    ("gather_nd(width=2, count=2)", "gather_nd needs the parameter sizes"),
    ('gather_nd(sizes="² 4", width=2, count=2)', "impossible sizes; found '² 4'"),
    ('gather(entries=4, width=2, count=2, indices="zipf 1e999")', "impossible indices; found 'zipf 1e999'"),
    ("scatter_add(entries=4, width=2, count=2, dtype=int8)", "impossible dtype of scatter_add; found 'int8'"),
])  # fmt: skip
def test_impossible_lists_are_one_message(text, message):
    with pytest.raises(UserError) as caught:
        make_operator(text)
    assert message in str(caught.value)


def test_machines_that_cannot():
    with pytest.raises(UserError, match="too few queues; found 'dma.queues = 2'; allowed: at least 3"):
        Gather(8, 8, 8).lower(variant("dma.queues=2"))
    with pytest.raises(UserError, match="not an element fits into a tile's SRAM"):
        Gather(8, 8, 8, index_dtype="int64").lower(variant("sram.capacity=64B"))


def test_int64_is_an_index_and_can_be_cast():
    text = """kasm 1
program wide
tensor I int64 [5] in
tensor O int32 [5] out
map I_all = I box [5]
map O_all = O box [5]
sram i int64 [1][5]
sram o int32 [1][5]
semaphore full [1][1]
semaphore narrow [1][1]
table t assumed I = [3, -2, 5000000000, 7, -5000000000]
section dma queue 0 engines 0..1
  load i[0] @ 0, I_all(0)  signal full[0][0]
  store O_all(0), o[0] @ 0  wait narrow[0][0]
end
section vector tiles 0..1
  cast o[0], i[0]  wait full[0][0]  signal narrow[0][0]
end
"""
    program, machine = assemble(text), preset(TINY)
    check_program(program, limits_of(machine))
    executor = Executor(program, machine, random_inputs(program, 1))
    run = simulate(program, machine, plain=True, watcher=executor)
    assert executor.outputs()["O"].tolist() == [3, -2, 2**31 - 1, 7, -(2**31)]  # saturated
    assert run.counters["hbm.read_bytes"] == 40


# --- the page ---------------------------------------------------------------------------------------------------------

PAGES = {name: (Path(__file__).parents[1] / "docs" / f"{name}.md").read_text("utf-8") for name in ("gather", "moe")}
EXAMPLES = [text for page in PAGES.values() for text in page.split("```")[1].strip().splitlines()]


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_run(text):
    machine = preset(EDGE)
    run = simulate(make_operator(text).lower(machine).program, machine)
    assert run.counters["hbm.write_bytes"] > 0


def test_every_parameter_and_key_is_told():
    for name, kinds in (
        ("gather", (Gather, GatherNd, Scatter, ScatterAdd, Mapping)),
        ("moe", (TopkRouting, Permute, MoeCombine)),
    ):
        told = set(re.findall(r"`(\w+)`", PAGES[name]))
        assert {field.name for kind in kinds for field in fields(kind)} <= told
        assert {kind.family for kind in kinds if kind is not Mapping} <= told


# --- bandwidth --------------------------------------------------------------------------------------------------------


def test_a_mix_of_reads_alone_is_nearly_all_that_is_attainable():
    machine = preset(EDGE)
    reads = Stream("sequential", 16384, 16384, 16384, 1 << 26)
    writes = evolve(reads, writes=Fraction(1))
    attainable = float(machine.hbm.attainable_bytes_per_cycle)
    alone, mixed = mix_bandwidth(machine, [reads]), mix_bandwidth(machine, [reads, writes])
    assert 0.97 * attainable < alone <= 1.001 * float(machine.hbm.peak_bytes_per_cycle)
    assert mixed < 0.95 * alone  # the bus turns around


@pytest.mark.slow
@pytest.mark.parametrize("machine", [EDGE, DATACENTER])
def test_wide_rows_reach_what_their_reads_and_writes_can(machine):
    """64 MiB of random rows of 4 KiB."""
    machine, rows = preset(machine), 1 << 14
    run = simulate(Gather(2 * rows, 2048, rows).lower(machine).program, machine)
    moved = run.counters["hbm.read_bytes"] + run.counters["hbm.write_bytes"]
    reads = Stream("random", 16384, 4096, 4096, 2 * rows * 4096)
    writes = Stream("sequential", 16384, 16384, 16384, rows * 4096, Fraction(1))
    assert moved / run.cycles >= 0.95 * mix_bandwidth(machine, (reads, writes))


# --- in a workload ----------------------------------------------------------------------------------------------------

WORKLOAD = """
name = "cache"
[symbols]
tokens = 12
[tensors]
ids = { role = "input", shape = ["tokens"], dtype = "int64" }
words = { role = "weight", shape = [90, 32] }
x = { role = "activation", shape = ["tokens", 32] }
slots = { role = "input", shape = ["tokens"], dtype = "int32" }
cache = { role = "input", shape = [40, 32] }
[[operators]]
name = "embed"
family = "gather"
ports = { table = "words", indices = "ids", out = "x" }
options = { indices = "zipf 1.1", index_dtype = "int64" }
[[operators]]
name = "keep"
family = "scatter"
ports = { rows = "x", indices = "slots", table = "cache" }
options = { indices = "permutation" }
"""


def run_workload(text, tmp_path):
    (tmp_path / "cache.toml").write_text(text)
    words = ["run", str(tmp_path / "cache.toml"), "-m", TINY, "--verify", "--no-trace"]
    return CliRunner().invoke(main, words)


def test_a_cache_is_written_in_place(tmp_path):
    result = run_workload(WORKLOAD, tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("agrees with its float64 reference") == 2


@pytest.mark.parametrize(("options", "code", "message"), [
    ("", 2, "gather_nd needs the parameter sizes; found 'width, count'"), ('options = { sizes = "4 8" }', 0, ""),
])  # fmt: skip
def test_the_sizes_of_a_tensor_are_an_option(tmp_path, options, code, message):
    path = tmp_path / "w.toml"
    path.write_text(f"""
name = "w"
[tensors]
t = {{ shape = [32, 8], role = "weight", dtype = "bf16" }}
i = {{ shape = [4, 2], role = "input", dtype = "int32" }}
o = {{ shape = [4, 8], role = "output", dtype = "bf16" }}
[[operators]]
name = "g"
family = "gather_nd"
ports = {{ table = "t", indices = "i", out = "o" }}
{options}
""")
    result = CliRunner().invoke(main, ["run", str(path), "-m", EDGE, "--no-trace"])
    assert (result.exit_code, message in result.stderr) == (code, True), result.output


def test_a_table_is_not_its_own_rows(tmp_path):
    result = run_workload(WORKLOAD.replace('rows = "x"', 'rows = "cache"').replace("[40, 32]", "[12, 32]"), tmp_path)
    assert result.exit_code == 2
    assert "keep reads and writes cache at once" in result.output


@pytest.mark.parametrize("layout", [Layout((), 80), Layout((4, 16))])
def test_tables_lie_as_they_like(layout):
    for operator in (Gather(50, 72, 30), Scatter(50, 72, 30), ScatterAdd(50, 72, 30, indices="duplicates")):
        layouts = {port.name: layout for port in operator.ports if len(port.shape) == 2}
        execute(operator, preset(TINY), layouts=layouts)
