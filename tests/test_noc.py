"""The network on chip against closed forms worked out on paper, mostly on kpu-tiny, in both modes.

kpu-tiny: links of 8 B/cycle, 1 cycle a hop; SRAM ports of 16 B/cycle for DMA, latency 1; DMA engines of 8 B/cycle.
"""

from collections import deque
from itertools import pairwise, product

import pytest
from gemms import execute
from hypothesis import given, settings
from hypothesis import strategies as st
from test_modes import assert_equal_modes, spans_of
from test_simulate import run, section, times

from kpusim.bench.decode import stream_program
from kpusim.engines.noc import Network
from kpusim.engines.topology import SWITCH, Node, ways
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.operators.gemm import Gemm
from kpusim.report.bound import bound_of
from kpusim.simulate.run import simulate

GRIDS = ["mesh", "torus", "ring"]
TOPOLOGIES = [*GRIDS, "crossbar"]
SIDE = st.integers(1, 6)


def grid(topology, rows, columns, *sets):
    return load_machine(
        "kpu-tiny", [f"noc.topology={topology}", f"tiles.rows={rows}", f"tiles.columns={columns}", *sets]
    )


# --- ways -------------------------------------------------------------------------------------------------------------


def neighbours(topology, rows, columns):
    """The routers next to each, from the definition of the topology."""
    linked = set()
    for row, column in product(range(rows), range(columns)):
        for down, right in ((1, 0), (0, 1)):
            to = row + down, column + right
            if topology == "torus":
                to = to[0] % rows, to[1] % columns
            if to[0] < rows and to[1] < columns:
                linked.add(((row, column), to))
    if topology == "ring":
        circle = [(row, column) for row in range(rows) for column in range(columns)[:: 1 if row % 2 == 0 else -1]]
        linked = set(pairwise([*circle, circle[0]]))
    return linked | {(end, start) for start, end in linked}


def distances(linked, source):
    """Hops to each router by breadth-first search."""
    found, queue = {source: 0}, deque([source])
    while queue:
        here = queue.popleft()
        for start, end in linked:
            if start == here and end not in found:
                found[end] = found[here] + 1
                queue.append(end)
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GRIDS), SIDE, SIDE)
def test_ways_are_connected_and_shortest_and_form_trees(topology, rows, columns):
    way, linked = ways(grid(topology, rows, columns)), neighbours(topology, rows, columns)
    routers = [Node("sram", number, divmod(number, columns)) for number in range(rows * columns)]
    for source in routers:
        hops, into = distances(linked, source.position), {}
        for target in routers:
            links = [link for link, hop in way(source, target) if hop == 1]
            assert len(links) == len(way(source, target)) == hops[target.position]
            at = source.position
            for link in links:
                assert link[0] == at
                assert link in linked
                at = link[1]
                assert into.setdefault(at, link) == link  # a router is reached by one link: a tree
            assert at == target.position
        assert source.position not in into


def test_every_port_of_a_crossbar_is_a_hop_from_every_other():
    way = ways(grid("crossbar", 2, 3))
    tile, engine = Node("sram", 0, (0, 0)), Node("engine", 0, (0, 0))
    assert way(tile, tile) == ()
    assert way(tile, engine) == (((tile, SWITCH), 0), ((SWITCH, engine), 1))


@pytest.mark.parametrize("topology", ["torus", "ring"])
def test_half_way_round_even_tiles_go_up_and_odd_ones_down(topology):
    way = ways(grid(topology, 1, 4))
    tiles = [Node("sram", number, (0, number)) for number in range(4)]
    passed = [[link[1][1] for link, _ in way(tiles[start], tiles[(start + 2) % 4])] for start in range(4)]
    assert passed == [[1, 2], [0, 3], [3, 0], [2, 1]]


@pytest.mark.parametrize(
    ("topology", "hops"),
    # 0 1 2 3 / 4 5 6 7 / 8 9 10 11; the ring is 0 1 2 3 7 6 5 4 8 9 10 11
    [
        ("mesh", {3: 3, 4: 1, 11: 5}),
        ("torus", {3: 1, 4: 1, 11: 2}),
        ("ring", {3: 3, 4: 5, 11: 1}),
        ("crossbar", {11: 1}),
    ],
)
def test_a_copy_takes_its_hops(topology, hops):
    # 64 B at 8 B/cycle and SRAM 1 behind the hops.
    network = Network(grid(topology, 3, 4))
    for tile, expected in hops.items():
        assert network.reserve(network.copy_route(0, range(tile, tile + 1)), 100 * tile, 64) == (
            100 * tile, 100 * tile + 4, [100 * tile + expected + 8 + 1]
        )  # fmt: skip


@pytest.mark.parametrize(("topology", "links"), [("mesh", 11), ("torus", 11), ("ring", 11), ("crossbar", 1 + 12)])
def test_a_multicast_moves_each_byte_once_a_link(topology, links):
    # A tree over 12 tiles has 11 links; a crossbar a port in and, forked inside, 12 out.
    network = Network(grid(topology, 3, 4))
    network.reserve(network.load_route(0, range(12)), 0, 64)
    traffic = network.traffic()
    assert sorted(traffic["link"]) == [0] + links * [64]  # what is there without any traffic, and each link
    assert sorted(traffic["sram"]) == [0] + 12 * [64]
    assert sorted(traffic["engine"]) == [0, 64]


@given(st.sampled_from(TOPOLOGIES), SIDE, SIDE, st.data())
def test_bytes_of_a_multicast_are_bytes_times_links(topology, rows, columns, data):
    machine = grid(topology, rows, columns)
    tiles = sorted(data.draw(st.sets(st.integers(0, machine.tiles.count - 1), min_size=1, max_size=2)))
    tiles = range(tiles[0], tiles[-1] + 1, max(tiles[-1] - tiles[0], 1))
    source = data.draw(st.integers(0, machine.tiles.count - 1))
    network, way = Network(machine), ways(machine)
    network.reserve(network.copy_route(source, tiles), 0, 48)
    nodes = [Node("sram", tile, divmod(tile, columns)) for tile in range(machine.tiles.count)]
    links = {link for tile in tiles for link, _ in way(nodes[source], nodes[tile])}
    assert sum(network.traffic()["link"]) == 48 * len(links)


# --- contention -------------------------------------------------------------------------------------------------------


def arrivals(machine, *copies):
    """When copies (cycle, source, target, bytes) arrive that set out in this order."""
    network = Network(machine)
    return [network.reserve(network.copy_route(a, range(b, b + 1)), now, size)[2][0] for now, a, b, size in copies]


def test_two_flows_share_a_link_or_not():
    # 0 to 2 and 1 to 3 meet on the link from 1 to 2, which the head of the first takes at 2, for 8 cycles; that of the
    # second then at 10. On a torus 1 goes the other way round to 3.
    copies = (0, 0, 2, 64), (0, 1, 3, 64)
    assert arrivals(grid("mesh", 1, 4), *copies) == [2 + 8 + 1, 2 + 8 + 1 + 8 + 1]
    assert arrivals(grid("torus", 1, 4), *copies) == [2 + 8 + 1, 2 + 8 + 1]
    assert arrivals(grid("crossbar", 1, 4), *copies) == [1 + 8 + 1, 1 + 8 + 1]
    assert arrivals(grid("mesh", 1, 4), (0, 0, 2, 64), (0, 2, 0, 64)) == [2 + 8 + 1, 2 + 8 + 1]  # one each way


def test_a_crossbar_is_taken_at_its_ports_only():
    # To one tile: one behind the other. From one tile to two: its port into the switch is as wide as a link.
    machine = grid("crossbar", 2, 2)
    assert arrivals(machine, (0, 0, 3, 64), (0, 1, 3, 64)) == [1 + 8 + 1, 1 + 8 + 8 + 1]
    assert arrivals(machine, (0, 0, 3, 64), (0, 0, 2, 64)) == [1 + 8 + 1, 8 + 1 + 8 + 1]
    assert arrivals(machine, (0, 0, 1, 64), (0, 1, 0, 64), (0, 2, 3, 64), (0, 3, 2, 64)) == 4 * [1 + 8 + 1]


def test_a_message_that_waits_leaves_the_links_behind_to_others():
    # 2 to 3 holds its link from 1 to 101: the head of 1 to 4 is at the link from 3 to 4 at 102, for 8 cycles. The time
    # until then is for who is there before: from 1 to 9, for 6.5 cycles behind, and for 86.5 of 100 cycles, whose other
    # 13.5 are behind 110.
    copies = (0, 2, 3, 800), (0, 1, 4, 64), (0, 3, 4, 64), (2, 3, 4, 52), (2, 3, 4, 800)
    assert arrivals(grid("mesh", 1, 5), *copies) == [101 + 1, 110 + 1, 9 + 1, 16 + 1, 124 + 1]


COPIES = """kasm 1
program p
sram a bf16 [2][8, 64]
section dma queue 0 engines {first}..{last}
  for i = 0 .. {times}
    copy a[0] @ {target}, a[1] @ engine
  end
end
"""
OPEN = ["dma.placement=tile", "dma.outstanding=64 KiB", "dma.setup=0 cycles", "dma.bandwidth=64 B/cycle"]


def traffic_cycles(topology, rows, columns, target, times=32, first=0, last=None, **options):
    """Cycles until the engines of tiles `first` to `last` have each copied 1 KiB that often to the tile `target`."""
    machine = grid(topology, rows, columns, *OPEN)
    last = machine.tiles.count if last is None else last
    program = assemble(COPIES.format(first=first, last=last, times=times, target=target))
    return simulate(program, machine, chunk_bytes=64, **options).cycles


@pytest.mark.parametrize(
    ("rows", "columns", "target", "flows"),
    [
        # A row of 8, each to the tile half way round. The link in the middle of a mesh carries 4 flows each way; of the
        # two circles of a torus each carries 4 flows over half its 8 links: 2 on every link.
        (1, 8, "(engine + 4) % 8", {"mesh": 4, "torus": 2, "ring": 2, "crossbar": 1}),
        # Its mirror image: 4 flows through the middle of the mesh; 2 through either cut of the torus.
        (1, 8, "7 - engine", {"mesh": 4, "torus": 2, "ring": 2, "crossbar": 1}),
        # 4 x 4, half way round in both: 2 flows through the middle of each row and column, 1 on each link of a torus.
        (4, 4, "(engine // 4 + 2) % 4 * 4 + (engine + 2) % 4", {"mesh": 2, "torus": 1, "crossbar": 1}),
    ],
)
def test_traffic_to_the_opposite_takes_what_the_bisection_allows(rows, columns, target, flows):
    for topology, most in flows.items():
        cycles = traffic_cycles(topology, rows, columns, target)
        ideal = most * 32 * 1024 / 8
        assert ideal <= cycles <= 1.05 * ideal, topology


@pytest.mark.parametrize("topology", ["mesh", "ring", "crossbar"])
def test_a_hot_link_serves_all_alike(topology):
    # Tiles 0 to 3 of a row send as fast as they can to tile 4, from 1 to 4 hops away, and share its link; one that sent
    # half as much would be through when the others are half way.
    machine = grid(topology, 1, 10, *OPEN)
    program = assemble(COPIES.format(first=0, last=4, times=32, target=4))
    run, spans = spans_of(program, machine, plain=True, chunk_bytes=64)
    last = [max(done for *_, done, unit in (span[:4] for span in spans) if unit == 20 + 4 * tile) for tile in range(4)]
    ideal = 4 * 32 * 1024 / 8
    assert ideal <= run.cycles <= 1.02 * ideal
    assert min(last) >= 0.95 * max(last)
    assert run.counters["noc.busiest_link_bytes"] == 4 * 32 * 1024


# --- HBM at the edges -------------------------------------------------------------------------------------------------
# kpu-tiny has one stack, at the west edge: channel 0, with block 0 of 64 B, beside tile 0 and channel 1 beside tile 2.

EDGES = ["hbm.attach=edges"]


def loaded(*sets, **options):
    """When a load of X[0, :32], block 0, is done."""
    return done("load a[0][1, 32] @ 0, X_box(0 +: 1, 0 +: 32)", *sets, **options)


def done(instruction, *sets, engine=0, **options):
    text = section(f"dma queue 0 engines {engine}..{engine + 1}", instruction)
    result, spans = run(text, sets, **options)
    return times(spans, f"dma{engine}.q0")[0][2], result.counters


@pytest.mark.parametrize(("engine", "hops"), [(0, 0), (1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("hop", [1, 5])
def test_a_load_crosses_to_the_engine(engine, hops, hop):
    # The request takes the hops; the data takes them back, and 8 cycles.
    sets = [f"noc.hop={hop} cycles"]
    near, far = (loaded(*sets, *more, engine=engine) for more in ([], EDGES))
    assert far[0] - near[0] == hops * hop + hops * hop + 8
    assert far[1]["noc.link_bytes"] - near[1]["noc.link_bytes"] == hops * 64


@pytest.mark.parametrize(("engine", "hops"), [(0, 0), (1, 1), (2, 1), (3, 2)])
def test_a_store_crosses_to_the_memory(engine, hops):
    # Its data takes the hops and 8 cycles; an addition is made where it arrives, and costs nothing more.
    store = "store Y_box(0 +: 1, 0 +: 32), a[0][1, 32] @ 0"
    near, far = done(store, engine=engine), done(store, *EDGES, engine=engine)
    assert far[0] - near[0] == hops + 8
    assert far[1]["noc.link_bytes"] - near[1]["noc.link_bytes"] == hops * 64


def test_the_parts_of_a_chunk_come_from_their_routers():
    # 128 B from both channels: the farther request takes 1 hop; 64 B from either router, together through the engine's
    # port; the engine then sends 128 B on in 16 cycles, as it does where the memory is at the engines.
    load = "load a[0][1, 64] @ 0, X_box(0 +: 1, 0 +: 64)"
    near, far = done(load), done(load, *EDGES)
    assert far[0] - near[0] == 1 + 8 + 8
    assert far[1]["noc.link_bytes"] == 64
    # As two chunks of a block each: there and back for the second, while the first goes on to the tile.
    near, far = done(load, chunk_bytes=64), done(load, *EDGES, chunk_bytes=64)
    assert far[0] - near[0] == 1 + 1 + 8
    assert far[1]["noc.link_bytes"] == 64


def test_a_crossing_shares_links_with_everything_else():
    # Block 0 for engine 1 crosses from router 0 to 1, and goes on to tile 3. From 3 on, behind set-up and a hop, their
    # link is for a copy of 1 KiB, for 128 cycles; then it takes 8 cycles, and a hop, 8 cycles and 1 of the SRAM.
    copy = section("dma queue 1 engines 2..3", "copy a[1][8, 64] @ 1, a[1][8, 64] @ 0")
    load = section("dma queue 0 engines 1..2", "load a[0][1, 32] @ 3, X_box(0 +: 1, 0 +: 32)")
    ends = [times(run(text, EDGES)[1], "dma1.q0")[0][2] for text in (load, load + copy)]
    assert ends[0] < ends[1] == 3 + 128 + 8 + 1 + 8 + 1
    ends = [times(run(text)[1], "dma1.q0")[0][2] for text in (load, load + copy)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_the_hbm_reads_and_writes_crosses(topology, monkeypatch):
    moved, traffic = [], Network.traffic
    monkeypatch.setattr(Network, "traffic", lambda network: moved.append(traffic(network)) or moved[-1])
    machine = grid(topology, 3, 2, "hbm.attach=edges", "hbm.stacks=3", "hbm.hash=rotate")
    counters = simulate(Gemm(m=40, n=24, k=72).lower(machine).program, machine, chunk_bytes=100).counters
    assert sum(moved[0]["memory"]) == counters["hbm.read_bytes"] + counters["hbm.write_bytes"]


def test_a_router_with_all_the_memory_is_the_bound():
    # One row: both channels, 16 B/cycle together, are behind one port of 8 B/cycle, and each engine has one as wide.
    machine = grid("mesh", 1, 2, *EDGES, "sram.capacity=64 KiB")
    program = stream_program(machine, 1 << 16, 1024)
    run = simulate(program, machine)
    assert run.counters["noc.busiest_link_bytes"] == 1 << 16
    assert (1 << 16) / 8 <= run.cycles <= 1.05 * (1 << 16) / 8
    assert bound_of(run, 0).by == "NoC"


# --- programs ---------------------------------------------------------------------------------------------------------


PLACEMENTS = ["row-ends", "west", "column-ends", "corners", "tile"]


@pytest.mark.parametrize(
    ("topology", "placement", "attach"),
    [*product(TOPOLOGIES, ["row-ends"], ["engines", "edges"]), *product(["torus"], PLACEMENTS[1:], ["edges"])],
)
def test_gemms_run_on_every_network(topology, placement, attach):
    machine = grid(topology, 2, 3, f"dma.placement={placement}", f"hbm.attach={attach}", "hbm.stacks=3")
    gemm = Gemm(m=40, n=24, k=72)
    execute(gemm, machine)
    assert_equal_modes(gemm.lower(machine).program, machine, chunk_bytes=256)


def test_a_wider_network_is_quicker_where_it_is_the_bound():
    cycles = {}
    for topology in TOPOLOGIES:
        machine = load_machine("kpu-edge", [f"noc.topology={topology}", "noc.bandwidth=16 B/cycle", *EDGES])
        cycles[topology] = simulate(Gemm(m=256, n=256, k=256).lower(machine).program, machine).cycles
    assert max(cycles["crossbar"], cycles["torus"]) < 0.9 * cycles["mesh"]
    assert cycles["mesh"] < 0.8 * cycles["ring"]
