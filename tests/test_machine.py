from fractions import Fraction
from math import ceil

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpusim.errors import UserError
from kpusim.machine import changed_toml, draw, load_machine, machine_file, machine_names, machine_toml, parse_machine
from kpusim.machine.places import channel_position
from kpusim.machine.quantities import BANDWIDTH, CLOCK, COUNT, CYCLES, PER_CYCLE, SIZE, TIME, parse, text
from kpusim.structured import BadValue

GHZ = 10**9
TINY = machine_file("kpu-tiny").text


@pytest.mark.parametrize(
    ("found", "dimension", "clock_hz", "value"),
    [
        ("512 KiB", SIZE, GHZ, 512 * 1024),
        ("1.5 KiB", SIZE, GHZ, 1536),
        ("50 MiB", SIZE, GHZ, 50 << 20),
        ("2 kB", SIZE, GHZ, 2000),
        ("1.83 GHz", CLOCK, 1, 1_830_000_000),
        ("64 cycles", CYCLES, GHZ, 64),
        ("1 cycle", TIME, GHZ, 1),
        ("12 ns", TIME, 1_830_000_000, 22),  # 21.96
        ("1 us", TIME, GHZ, 1000),
        ("0.1 ns", TIME, GHZ, 1),  # rounded up
        ("0 s", TIME, GHZ, 0),
        ("819.2 GB/s", BANDWIDTH, GHZ, Fraction(4096, 5)),
        ("819.2 GB/s", BANDWIDTH, 1_830_000_000, Fraction(81920, 183)),
        ("4.8 TiB/s", BANDWIDTH, GHZ, Fraction(48 * 1024**4, 10**10)),
        ("0.1 B/cycle", PER_CYCLE, GHZ, Fraction(1, 10)),
        (6, COUNT, GHZ, 6),
    ],
)
def test_quantities_are_exact(found, dimension, clock_hz, value):
    assert parse(found, dimension, clock_hz) == value


@pytest.mark.parametrize(
    ("found", "dimension", "problem"),
    [
        ("5 GB", BANDWIDTH, "wrong unit"),
        ("5 GB/s", SIZE, "wrong unit"),
        ("12 KiB", CYCLES, "wrong unit"),
        ("12 parsecs", TIME, "wrong unit"),
        ("512", SIZE, "has no unit"),
        (512, SIZE, "needs a number with its unit"),
        (True, COUNT, "not a whole number"),
        ("6", COUNT, "not a whole number"),
        ("many B", SIZE, "not a number with a unit"),
        ("", SIZE, "not a number with a unit"),
        ("1.5 B", SIZE, "not a whole number of B"),
        ("1.5 cycles", CYCLES, "not a whole number of cycles"),
        ("inf B", SIZE, "not a finite number"),
        ("nan s", TIME, "not a finite number"),
        ("1e999999999 s", TIME, "not a finite number"),
    ],
)
def test_what_is_no_quantity(found, dimension, problem):
    with pytest.raises(BadValue, match=problem):
        parse(found, dimension, GHZ)


def test_absurd_exponents_cost_no_time():
    assert parse("1e-999999999 s", TIME, GHZ) == 0


CLOCKS = st.integers(1, 10**10)


@given(st.integers(0, 10**12), CLOCKS)
def test_times_read_back(cycles, clock_hz):
    for dimension in (CYCLES, TIME):
        assert parse(text(cycles, dimension, clock_hz), dimension, clock_hz) == cycles


@given(st.integers(1, 10**15), CLOCKS)
def test_sizes_and_clocks_read_back(value, clock_hz):
    for dimension in (SIZE, CLOCK):
        assert parse(text(value, dimension, clock_hz), dimension, clock_hz) == value


@given(st.decimals("0.001", "100000", places=3), st.sampled_from(["GB/s", "B/cycle"]), CLOCKS)
def test_rates_read_back(number, unit, clock_hz):
    value = parse(f"{number} {unit}", BANDWIDTH, clock_hz)
    for dimension in (BANDWIDTH, PER_CYCLE):
        assert parse(text(value, dimension, clock_hz), dimension, clock_hz) == value


@pytest.mark.parametrize("name", machine_names())
def test_machines_read_back(name):
    machine = load_machine(name)
    assert machine.name == name
    assert parse_machine(machine_toml(machine)) == machine
    assert hash(parse_machine(machine_toml(machine))) == hash(machine)


PLACEMENTS = ["row-ends", "west", "column-ends", "corners", "tile"]
TOPOLOGIES = ["mesh", "torus", "ring", "crossbar"]
SETS = st.lists(
    st.one_of(
        st.integers(1, 40).map(lambda n: f"tiles.rows={n}"),
        st.integers(1, 16).map(lambda n: f"hbm.stacks={n}"),
        st.integers(1, 5000).map(lambda n: f"clock={n} MHz"),
        st.integers(1, 10**6).map(lambda n: f"hbm.bandwidth={n / 100} GB/s"),
        st.integers(1, 4096).map(lambda n: f"dma.bandwidth={n} B/cycle"),
        st.integers(0, 10**5).map(lambda n: f"front_end.launch={n / 100} ns"),
        st.integers(1, 2048).map(lambda n: f"sram.capacity={n} KiB"),
        st.sampled_from([f"dma.placement={name}" for name in PLACEMENTS]),
        st.sampled_from([f"noc.topology={name}" for name in TOPOLOGIES]),
        st.sampled_from(["hbm.attach=engines", "hbm.attach=edges"]),
        st.sampled_from(["dma.coalesce=1 B", "dma.coalesce=4 KiB"]),
        st.lists(st.integers(-9, 9), min_size=4, max_size=4).map(lambda levels: f"dma.priorities={levels}"),
        st.sampled_from(["matrix.overlap_folds=true", "matrix.overlap_folds=false"]),
        st.sampled_from(["matrix.dataflow=weight-stationary", "matrix.dataflow=input-stationary"]),
        st.fractions(Fraction(1, 99), 99, max_denominator=99).map(lambda rate: f"matrix.macs_per_cell.fp32={rate}"),
        st.integers(1, 9).map(lambda n: f"vector.lane_cycles.exp={n}"),
        st.text().map(lambda s: f"description='''{s}'''").filter(lambda s: "\\r" not in repr(s) and s.isprintable()),
    ),
    max_size=6,
)


@given(st.sampled_from(machine_names()), SETS)
def test_changed_machines_read_back(name, sets):
    machine = load_machine(name, sets)
    assert parse_machine(machine_toml(machine)) == machine


def test_the_data_centre_machine_is_what_the_design_pins():
    machine = load_machine("kpu-datacenter")
    assert machine.clock_hz == GHZ
    assert (machine.tiles.count, machine.matrix.rows, machine.matrix.columns) == (256, 32, 32)
    assert machine.peak_flops("bf16") == 524_288 * 10**9
    assert machine.peak_flops("int8") == 2 * machine.peak_flops("bf16")
    assert machine.peak_flops("fp32") == 131_072 * 10**9
    assert machine.peak_flops("int32") == 0
    assert machine.hbm.channel_count == 192
    assert machine.hbm.peak_bytes_per_cycle == Fraction("4915.2")
    assert machine.hbm.channel_bytes_per_cycle == Fraction("25.6")
    assert machine.hbm.total_capacity_bytes == 96 << 30
    assert machine.hbm.attainable_fraction == 1 - Fraction(350, 3900)
    assert (machine.hbm.row_activate_cycles, machine.hbm.precharge_cycles, machine.hbm.read_cycles) == (20, 17, 14)
    assert machine.dma_engines == 32
    assert machine.balance("bf16") == 2 * 262_144 / machine.hbm.attainable_bytes_per_cycle


@pytest.mark.parametrize(("text", "rate"), [("1/4", Fraction(1, 4)), ("6/4", Fraction(3, 2)), ("6/3", 2), ("3", 3)])
def test_rates_of_cells_are_whole_or_fractions(text, rate):
    """16 cells in each of 4 tiles; exact, and an int where it is whole."""
    change = f"matrix.macs_per_cell.fp32={text}"
    machine = load_machine("kpu-tiny", [change])
    assert machine.matrix.macs_per_cell["fp32"] == rate
    assert machine.peak_macs_per_cycle("fp32") == 64 * rate
    assert type(machine.peak_macs_per_cycle("fp32")) is int
    assert load_machine("kpu-tiny", ["matrix.macs_per_cell.fp32=1/7"]).peak_macs_per_cycle("fp32") == Fraction(64, 7)
    assert parse_machine(machine_toml(machine)) == machine
    assert parse_machine(changed_toml("kpu-tiny", [change])) == machine
    if type(rate) is int:
        assert f"fp32 = {rate}" in machine_toml(machine)


def test_the_tpu_like_machine_is_one_core_of_what_is_published():
    """cloud.google.com/tpu/docs/v4: 275 TFLOP/s in bf16 or int8 from the two cores of a chip, 32 GiB at 1,200 GB/s."""
    machine = load_machine("tpu-v4-like")
    assert machine.peak_flops("bf16") == machine.peak_flops("int8") == pytest.approx(275e12 / 2, rel=0.001)
    assert machine.peak_flops("fp32") * 6 == machine.peak_flops("bf16")
    assert machine.hbm.peak_bytes_per_cycle * machine.clock_hz == 1200 * 10**9
    assert machine.hbm.total_capacity_bytes == 32 << 30
    assert machine.tiles.count * machine.sram.capacity_bytes == 32 << 20
    assert (machine.matrix.dataflow, machine.tiles.count * machine.vector.lanes) == ("weight-stationary", 2048)


def test_times_follow_the_clock_and_logic_does_not():
    machine = load_machine("kpu-datacenter", ["clock=2 GHz"])
    assert machine.front_end.launch_cycles == 2000
    assert machine.front_end.barrier_cycles == 64
    assert machine.hbm.row_activate_cycles == ceil(2 * 19.375)
    assert machine.hbm.bytes_per_cycle == Fraction("409.6")
    assert machine.dma.bytes_per_cycle == 256


def test_units_have_names_and_engines_positions():
    tiny = load_machine("kpu-tiny")
    assert tiny.unit_names[:4] == tuple(f"chip0.tile{t}.matrix" for t in range(4))
    assert tiny.unit_names[4] == "chip0.tile0.vector"
    assert tiny.unit_names[8 + 3 * 4 + 1] == "chip0.dma3.q1"
    assert len(tiny.unit_names) == 2 * 4 + 4 * 4
    assert [tiny.dma_position(e) for e in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("placement", "positions"),
    [
        ("row-ends", [(0, 0), (0, 2), (1, 0), (1, 2)]),
        ("west", [(0, 0), (1, 0)]),
        ("column-ends", [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
        ("corners", [(0, 0), (0, 2), (1, 0), (1, 2)]),
        ("tile", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
    ],
)
def test_engines_have_positions(placement, positions):
    wide = load_machine("kpu-tiny", [f"dma.placement={placement}", "tiles.columns=3"])
    assert [wide.dma_position(e) for e in range(wide.dma_engines)] == positions


@pytest.mark.parametrize(
    ("rows", "stacks", "channels", "positions"),
    [
        (2, 1, 2, [(0, 0), (1, 0)]),
        (4, 1, 2, [(1, 0), (3, 0)]),
        (4, 2, 2, [(1, 0), (3, 0), (1, 2), (3, 2)]),
        (4, 3, 2, [(0, 0), (1, 0), (1, 2), (3, 2), (2, 0), (3, 0)]),
        (1, 2, 3, 3 * [(0, 0)] + 3 * [(0, 2)]),
    ],
)
def test_stacks_take_turns_at_the_edges_and_their_channels_spread_over_the_rows(rows, stacks, channels, positions):
    sets = [f"tiles.rows={rows}", "tiles.columns=3", f"hbm.stacks={stacks}", f"hbm.channels={channels}"]
    machine = load_machine("kpu-tiny", sets)
    assert [channel_position(machine, c) for c in range(machine.hbm.channel_count)] == positions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hbm.stakcs=8", "--set hbm.stakcs: unknown key; found 'stakcs'; allowed: stacks, .*did you mean 'stacks'"),
        ("hmb.stacks=8", "--set hmb: unknown key; .*did you mean 'hbm'"),
        ("hbm=8", "--set hbm: not a table; found 8; allowed: a table with stacks, "),
        ("hbm.bandwidth=5 GB", "--set hbm.bandwidth: wrong unit; found '5 GB'; allowed: .*B/s or B/cycle"),
        ("hbm.channels=0", "--set hbm.channels: too small; found 0; allowed: at least 1"),
        ("sram.capacity=0 KiB", "--set sram.capacity: too small; found '0 KiB'; allowed: at least 1 B"),
        ("sram.capacity=-3 KiB", "--set sram.capacity: too small"),
        ("tiles.rows=0", "--set tiles.rows: too small"),
        ("clock=0 GHz", "--set clock: too small"),
        ("clock=fast", "--set clock: not a number with a unit"),
        ("noc.hop=-1 cycles", "--set noc.hop: too small; .*at least 0 cycles"),
        ("dma.bandwidth=0 B/s", "--set dma.bandwidth: must be more than 0"),
        ("dma.placement=rowends", "--set dma.placement: unknown; found 'rowends'; allowed: .*did you mean 'row-ends'"),
        (
            "matrix.dataflow=weight-stationery",
            "unknown; .*allowed: output-stationary, .*did you mean 'weight-stationary",
        ),
        ("matrix.overlap_folds=1", "--set matrix.overlap_folds: wrong type; found 1; allowed: true, false"),
        ("matrix.macs_per_cell={}", "--set matrix.macs_per_cell: no dtype can be multiplied"),
        ("matrix.macs_per_cell.bf61=1", "unknown key; found 'bf61'; .*did you mean 'bf16'"),
        ("matrix.macs_per_cell.bf16=0", "--set matrix.macs_per_cell.bf16: must be more than 0; found 0; .*1/4"),
        ("matrix.macs_per_cell.bf16=-1/4", "neither a whole number nor a fraction; found '-1/4'; .*in quotes .*1/4"),
        ("matrix.macs_per_cell.bf16=0/4", "must be more than 0; found '0/4'"),
        ("matrix.macs_per_cell.bf16=1/0", "neither a whole number nor a fraction; found '1/0'"),
        ("matrix.macs_per_cell.bf16=0.25", "neither a whole number nor a fraction; found 0.25"),
        ("matrix.macs_per_cell.bf16=true", "neither a whole number nor a fraction; found True"),
        ("matrix.macs_per_cell=1", "--set matrix.macs_per_cell: not a table; found 1"),
        ("vector.lane_cycles.exp=0", "--set vector.lane_cycles.exp: too small"),
        ("vector.lane_cycles={add = 1}", "missing"),
        ("dma.priorities=[1, 0]", "--set dma.priorities: 2 priorities for 4 queues; .*allowed: one for each queue"),
        ("dma.priorities=1", "--set dma.priorities: not an array of whole numbers; found 1; allowed: such as"),
        ("dma.priorities=[1, 0, 0, true]", "--set dma.priorities: not an array of whole numbers"),
        ("dma.coalesce=0 B", "--set dma.coalesce: too small; found '0 B'; allowed: at least 1 B"),
        ("hbm.row=100 B", r"--set hbm.row: hbm.row \(100 B\) is not a multiple of hbm.interleave \(64 B\)"),
        ("hbm.interleave=96 B", "--set hbm.interleave: hbm.row .* is not a multiple of hbm.interleave"),
        ("hbm.access=48 B", "--set hbm.access: .*not a multiple of hbm.access"),
        ("hbm.refresh=1 us", "--set hbm.refresh: no time is left between refreshes"),
        ("hbm.refresh_interval=0 s", "--set hbm.refresh_interval: no time is left between refreshes"),
        ("chips=2", "--set chips: several chips cannot be simulated; found 2; allowed: 1"),
        ("tiles.rows=100000", "--set tiles.rows: 1200000 units are too many"),
        ("name=3", "--set name: wrong type; found 3; allowed: text in quotes"),
        ("clock.x=3", "--set clock.x: 'clock' has no keys below it"),
        ("nonsense", "--set nonsense: not a change"),
        ("=3", "--set =3: not a change"),
    ],
)
def test_impossible_changes(change, message):
    with pytest.raises(UserError, match=message):
        load_machine("kpu-tiny", [change])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stacks = 1", "stakcs = 1", r"my.toml:LINE: \[hbm\] stakcs: unknown key"),
        ("stacks = 1", "", r"my.toml:ABOVE: \[hbm\] stacks: missing"),
        ("stacks = 1", "stacks = 0", r"my.toml:LINE: \[hbm\] stacks: too small"),
        ('bandwidth = "16 B/cycle"', 'bandwidth = "16 GB"', r"my.toml:LINE: \[hbm\] bandwidth: wrong unit"),
        ('dma = "16 B/cycle"', "dma = 16", r"my.toml:LINE: \[sram.ports\] dma: needs a number with its unit"),
        ('clock = "1 GHz"', "", r"my.toml: clock: missing"),
        ("[noc]", "[nok]", r"my.toml:LINE: nok: unknown key; .*did you mean 'noc'"),
        ("[noc]", "[noc", r"my.toml:LINE: not valid TOML"),
    ],
)
def test_wrong_files_are_told_with_line_and_key(old, new, message):
    line = TINY[: TINY.index(old)].count("\n") + 1
    message = message.replace("LINE", str(line)).replace("ABOVE", str(line - 1))
    with pytest.raises(UserError, match=message):
        parse_machine(TINY.replace(old, new, 1), "my.toml")


def test_unknown_machines_and_files(tmp_path):
    with pytest.raises(UserError, match="unknown machine; found 'kpu-tinny'; .*did you mean 'kpu-tiny'"):
        load_machine("kpu-tinny")
    with pytest.raises(UserError, match="none.toml: cannot be read"):
        load_machine(tmp_path / "none.toml")


def test_machines_made_in_python_are_checked_too():
    tiny = load_machine("kpu-tiny")
    with pytest.raises(UserError, match=r"\[hbm\] stacks: too small"):
        attrs.evolve(tiny, hbm=attrs.evolve(tiny.hbm, stacks=0))


def test_small_machines_are_drawn_whole():
    drawing = draw(load_machine("kpu-tiny"))
    assert "dma 2 == [tile 2]--[tile 3] == dma 3" in drawing
    assert "128 GFLOP/s" in drawing


@pytest.mark.parametrize(
    ("topology", "grid", "told"),
    [
        (
            "mesh",
            ["dma 0 == [tile 0]--[tile 1]--[tile 2] == dma 1", "            |         |         |"],
            "mesh, 8 B/cycle (8 GB/s) a link; 4 hops at most between tiles; 24 B/cycle (24 GB/s) between its halves",
        ),
        (
            "torus",
            ["             ~         ~         ~", "dma 0 == ~[tile 0]--[tile 1]--[tile 2]~ == dma 1"],
            "torus (~: a link to the other end), 8 B/cycle (8 GB/s) a link; 2 hops at most between tiles; "
            "48 B/cycle (48 GB/s) between its halves",
        ),
        (
            "ring",
            ["                                |", "dma 2 == [tile 3]--[tile 4]--[tile 5] == dma 3", "            |"],
            "ring (tile 8 is linked to tile 0), 8 B/cycle (8 GB/s) a link; 4 hops at most between tiles; "
            "16 B/cycle (16 GB/s) between its halves",
        ),
        (
            "crossbar",
            ["dma 0 == [tile 0]  [tile 1]  [tile 2] == dma 1", ""],
            "crossbar, 8 B/cycle (8 GB/s) a link; 1 hop at most between tiles; 32 B/cycle (32 GB/s) between its halves",
        ),
    ],
)
def test_networks_are_drawn_and_told(topology, grid, told):
    drawing = draw(load_machine("kpu-tiny", [f"noc.topology={topology}", "tiles.rows=3", "tiles.columns=3"]))
    assert "\n" + "\n".join(grid) + "\n" in drawing
    assert told in drawing.replace("\n          ", "; ")


def test_engines_and_memory_are_drawn_where_they_attach():
    sets = ["tiles.rows=3", "dma.placement=column-ends", "hbm.attach=edges", "hbm.stacks=2"]
    lines = draw(load_machine("kpu-tiny", sets)).splitlines()
    assert "HBM 2 x 2 channels at the west and east edges" in lines[2]
    assert lines[3].split() == ["dma", "0", "dma", "2"]
    assert lines[9].split() == ["dma", "1", "dma", "3"]
    corners = draw(load_machine("kpu-tiny", ["tiles.rows=3", "dma.placement=corners"])).splitlines()
    assert [line.strip() for line in corners[3:8:2]] == [
        "dma 0 == [tile 0]--[tile 1] == dma 1", "[tile 2]--[tile 3]", "dma 2 == [tile 4]--[tile 5] == dma 3"
    ]  # fmt: skip


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(PLACEMENTS), st.sampled_from(TOPOLOGIES))
def test_any_grid_is_drawn_in_a_few_lines(rows, columns, placement, topology):
    sets = [f"tiles.rows={rows}", f"tiles.columns={columns}", f"dma.placement={placement}"]
    sets.append(f"noc.topology={topology}")
    drawing = draw(load_machine("kpu-tiny", sets))
    lines = drawing.splitlines()
    assert all(len(line) <= 110 and line == line.rstrip() for line in lines)
    assert len(lines) < 30
    assert f"tile {rows * columns - 1}" in drawing


def test_toml_nested_too_deeply():
    with pytest.raises(UserError, match="m.toml: not valid TOML: too deeply nested"):
        parse_machine("x = " + 5000 * "[" + 5000 * "]", "m.toml")


def test_a_changed_file_keeps_every_other_quantity_as_written():
    """Written from cycles, 19.375 ns would have become 20 ns, and time differently at another clock."""
    written = changed_toml("kpu-datacenter", ["hbm.stacks=8"])
    assert 'row_activate = "19.375 ns"' in written
    for clock in ("1 GHz", "1.2 GHz"):
        whole = load_machine("kpu-datacenter", ["hbm.stacks=8", f"clock={clock}"])
        assert parse_machine(written, "my.toml", [f"clock={clock}"]) == whole
