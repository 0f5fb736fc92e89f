"""The kernel of rowwise operators: cycles on paper, mappings, pieces of long rows, traffic, and clear refusals."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rowwise import DATACENTER, EDGE, TINY, VARIANTS, execute, preset, variant

from kpusim.bench.memory import attainable
from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine import load_machine
from kpusim.operators import lower_as, mapping_toml
from kpusim.operators.elementwise import Add, Dequantize, Relu, Rope
from kpusim.operators.norm import BatchNorm, LayerNorm, RmsNorm, Softmax
from kpusim.operators.rowwise.choose import mappings
from kpusim.operators.rowwise.estimate import traffic
from kpusim.operators.rowwise.mapping import Mapping
from kpusim.simulate.run import simulate


def run(operator, machine, mapping=None):
    return simulate(operator.lower(machine, mapping=mapping).program, machine)


def moved(result):
    return result.counters["hbm.read_bytes"], result.counters["hbm.write_bytes"]


# --- on paper, kpu-tiny ----------------------------------------------------------------------------------------------

# 64 B from HBM: set-up 2, a row opened 4 + 4, 8 bursts, 5 - 1 behind the last, controller 10, 8 over the NoC, SRAM 1.
# 64 B to HBM: set-up 2, 8 over the NoC, SRAM 1, controller 10. 32 elements on 4 lanes: 8.
LOAD, STORE, EACH = 2 + 8 + 8 + 4 + 10 + 8 + 1, 2 + 8 + 1 + 10, 8


def test_a_block_in_and_out():
    assert run(Relu(1, 32), preset(TINY), Mapping(1, 1, 1, 32)).cycles == LOAD + EACH + STORE == 70


def test_loads_overlap():
    # The second load is issued when the engine is through with the first (2 + 8); it goes to the other channel.
    assert run(Relu(2, 32), preset(TINY), Mapping(1, 1, 1, 32)).cycles == 10 + LOAD + EACH + STORE == 80


def test_one_slot_overlaps_nothing():
    # The second load waits until the first block has been worked on; then the store of that is ready, too, and it is
    # its turn: the engine has not served that queue yet. It takes its 64 B in 8 cycles.
    once = LOAD + EACH
    assert run(Relu(2, 32), preset(TINY), Mapping(1, 1, 1, 32, 1, 1)).cycles == 2 * once + 8 + STORE == 127


def test_the_steps_of_rmsnorm_on_a_block():
    # Squares, their sum, and scaled: 8 each; fma on one number 1; rsqrt takes 4 lane-cycles, of 4 lanes 1.
    plain = run(RmsNorm(1, 32, weight=False), preset(TINY), Mapping(1, 1, 1, 32)).cycles
    assert plain == LOAD + 8 + 8 + 1 + 1 + 8 + STORE == 88
    # The weight lies in x's bank: its row is opened when x's bursts are over, and all waits for it. One step more.
    weight = (2 + 8 + 8) + 8 + 8 + 4 + 10 + 8 + 1
    weighted = run(RmsNorm(1, 32), preset(TINY), Mapping(1, 1, 1, 32)).cycles
    assert weighted == weight + (plain - LOAD) + 8 == 112


# --- mappings --------------------------------------------------------------------------------------------------------

FORMS = [
    Add(7, 50), Rope(5, 36, head_dim=6), BatchNorm(9, 50), LayerNorm(5, 60, residual=True),
    LayerNorm(6, 45, passes="one"), Softmax(5, 40, batch=2, mask="causal"), Softmax(4, 70, passes="one"),
    Dequantize(9, 64, dtype="int4", group=8),
]  # fmt: skip


@settings(max_examples=20)
@given(st.sampled_from(FORMS), st.sampled_from(VARIANTS), st.data())
def test_every_mapping_is_right(operator, changes, data):
    machine = variant(changes)
    mapping = data.draw(st.sampled_from([*mappings(operator.work, machine)]))
    execute(operator, machine, mapping)
    bytes_moved = sum(moved(run(operator, machine, mapping)))
    assert traffic(operator.work, mapping) <= bytes_moved  # the ends of rows in whole accesses


@pytest.mark.parametrize("operator", FORMS, ids=lambda form: form.family)
def test_a_mapping_is_read_back(operator, tmp_path):
    machine, path = preset(TINY), tmp_path / "m.toml"
    lowered = operator.lower(machine)
    path.write_text(mapping_toml(lowered.mapping, "a mapping"))
    again = lower_as(operator, machine, mapping=path)
    assert again.mapping == lowered.mapping
    assert again.program == lowered.program
    assert [each.why for each in again.tried] == ["forced"]
    assert next(each for each in lowered.tried if each.why == "chosen").cycles <= min(
        each.cycles * 1.01 + 1 for each in lowered.tried
    )


@pytest.mark.parametrize(("change", "message"), [
    ({"row_tiles": 0}, "row_tiles: a mapping counts from 1; found 0; allowed: 1 or more"),
    ({"row_tiles": 5, "block_rows": 1}, "more tiles than the machine has; found 5; allowed: up to 4"),
    ({"row_tiles": 4}, "row_tiles: more than there are; found 4; allowed: 3, the blocks of rows"),
    ({"block_rows": 6}, "block_rows: more than there are; found 6; allowed: 5, the rows"),
    ({"block_columns": 8}, "block_columns: a piece ends within a unit; found 8; allowed: multiples of 6"),
    ({"column_tiles": 2, "row_tiles": 1}, "column_tiles: more than there are; found 2; allowed: 1, the pieces"),
    ({"column_slots": 2}, "column_slots: more than there are; found 2; allowed: 1, the pieces of a tile"),
    ({"slots": 90}, "the mapping does not fit into the SRAM of a tile; found "),
])  # fmt: skip
def test_impossible_mappings(change, message):
    mapping = attrs.evolve(Mapping(2, 1, 2, 36), **change)
    with pytest.raises(UserError) as caught:
        Rope(5, 36, head_dim=6).lower(preset(TINY), mapping=mapping)
    assert message in str(caught.value)


def test_an_online_softmax_stays_in_one_tile():
    with pytest.raises(UserError, match=r"column_tiles: .* allowed: 1, the pieces of a row that tiles can share"):
        Softmax(2, 64, passes="one").lower(preset(TINY), mapping=Mapping(1, 2, 1, 32))


def test_tiles_that_share_rows_have_as_many_pieces_each():
    with pytest.raises(UserError, match="column_tiles: not as many pieces each; found 2; allowed: divisors of 3"):
        RmsNorm(2, 60).lower(preset(TINY), mapping=Mapping(1, 2, 1, 20))


@pytest.mark.parametrize(("operator", "changes", "message"), [
    (Rope(2, 4096, head_dim=4096), "", "the smallest blocks of a rope do not fit into the SRAM of a tile; found "),
    (Add(2, 2), "dma.queues=1", "loads and stores need a DMA queue each; found 1; allowed: 2 queues or more"),
])  # fmt: skip
def test_what_cannot_be_lowered(operator, changes, message):
    with pytest.raises(UserError) as caught:
        operator.lower(variant(changes))
    assert message in str(caught.value)


# --- long rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operator", "sweeps"), [
    (RmsNorm(4, 2500, weight=False), 2), (LayerNorm(4, 2500, weight=False, bias=False), 3),
    (LayerNorm(4, 2500, weight=False, bias=False, passes="one"), 2), (Softmax(4, 2500), 3),
    (Softmax(4, 2500, passes="one"), 2), (Add(4, 9000), 1),
])  # fmt: skip
def test_rows_longer_than_an_sram(operator, sweeps):
    machine = preset(TINY)
    assert operator.columns * 2 > machine.sram.capacity_bytes
    execute(operator, machine)
    reads = sum(port.shape[-1] * 4 * DTYPE_BITS[port.dtype] // 8 for port in operator.ports if port.role == "in")
    assert reads * sweeps <= moved(run(operator, machine))[0] <= 1.1 * reads * sweeps  # ends of pieces, in whole bursts


@pytest.mark.parametrize("slots", [5, 4, 10])
def test_pieces_that_all_fit_are_loaded_once(slots):
    machine, operator = variant("sram.capacity=16KiB"), Softmax(6, 512)
    mapping = Mapping(2, 1, 1, 128, slots, 4)
    execute(operator, machine, mapping)
    assert moved(run(operator, machine, mapping)) == (6 * 512 * 2, 6 * 512 * 2)
    assert moved(run(operator, machine, attrs.evolve(mapping, slots=3)))[0] == 3 * 6 * 512 * 2
    assert traffic(operator.work, attrs.evolve(mapping, slots=3)) == 4 * 6 * 512 * 2


@pytest.mark.parametrize(("operator", "mapping"), [
    (RmsNorm(3, 40, bias=True), Mapping(1, 4, 2, 10)),
    (LayerNorm(5, 80, residual=True), Mapping(2, 2, 2, 10, 2, 2, 4)),
    (LayerNorm(5, 77, passes="one"), Mapping(2, 2, 1, 20)),
    (Softmax(5, 77, batch=2, mask="causal"), Mapping(2, 2, 1, 20, 3)),
])  # fmt: skip
def test_tiles_that_share_rows_exchange_totals(operator, mapping):
    execute(operator, preset(TINY), mapping)


def test_few_long_rows_are_shared_by_all_tiles():
    machine, operator = preset(EDGE), Softmax(4, 10000)
    mapping = operator.lower(machine).mapping
    assert mapping.tiles == machine.tiles.count
    execute(operator, machine)
    alone = run(operator, machine, Mapping(4, 1, 1, 10000)).cycles
    shared = run(operator, machine).cycles
    assert 2 * shared < alone  # 4 of 64 vector engines worked on it
    for tiles in (2, 16):  # several tiles of an engine in one exchange, and in several
        execute(Softmax(4, 64), machine, Mapping(4, tiles, 1, 4, column_slots=1))


def test_vectors_of_columns_are_read_once_or_come_again():
    machine, operator = preset(TINY), BatchNorm(40, 64)
    x, vectors = 40 * 64 * 2, 4 * 64 * 4
    for slots, times in ((2, 1), (1, 10)):
        mapping = Mapping(2, 1, 4, 32, 2, 2, slots)
        execute(operator, machine, mapping)
        assert moved(run(operator, machine, mapping))[0] == x + times * vectors
        assert traffic(operator.work, mapping) == 2 * x + times * vectors


# --- what it takes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", [
    Add(64, 64), RmsNorm(64, 64, residual=True, activation="gelu"), LayerNorm(64, 64), Softmax(64, 64, scale=0.5),
], ids=lambda operator: operator.family)  # fmt: skip
def test_the_vector_engine_does_the_work_that_is_told(operator):
    result = run(operator, variant("sram.capacity=16KiB"), Mapping(4, 1, 4, 64))
    assert operator.vector_work == {
        name.removeprefix("vector."): count for name, count in result.counters.items() if name.startswith("vector.")
    }


def test_bytes():
    norm = LayerNorm(10, 20, residual=True, out_dtype="fp8_e4m3")
    assert norm.compulsory_bytes == 10 * 20 * (2 + 2 + 2 + 1) + 2 * 20 * 2
    assert norm.io_bound_bytes(preset(EDGE)) == norm.compulsory_bytes
    assert (norm.macs, norm.flops) == (0, 0)


@pytest.mark.parametrize("operator", [Add(1024, 4096), RmsNorm(2048, 4096), Softmax(512, 8192)],
                         ids=lambda operator: operator.family)  # fmt: skip
def test_it_is_as_fast_as_the_memory(operator):
    machine = preset(EDGE)
    rate = operator.compulsory_bytes / run(operator, machine).cycles
    assert 0.95 * attainable(operator, machine) < rate


def test_tiles_take_turns_so_that_rows_stay_open():
    # Whole rows of 16 KiB: all engines are in one stretch of 512 KiB, 8 of 64 KiB would be open at once in each tensor.
    machine, operator = preset(DATACENTER), Add(1024, 8192)
    result = run(operator, machine)
    rows = operator.compulsory_bytes / machine.hbm.row_bytes
    assert result.counters["hbm.row_misses"] < rows  # others would close them before all of it is moved


def test_a_vector_engine_that_is_too_slow_is_the_bound():
    slow = load_machine(EDGE, ["vector.lanes=1"])
    operator = Softmax(1024, 512)
    result = run(operator, slow)
    elements = sum(count * slow.vector.lane_cycles[name] for name, count in operator.vector_work.items())
    assert result.cycles < 1.05 * elements / slow.tiles.count
