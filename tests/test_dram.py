"""The DRAM reference, held to Ramulator 2's rows and to a controller written straight from its rules."""

from __future__ import annotations

import csv
import random
import tomllib
from pathlib import Path

import attrs
import pytest
from dram_reference import Reference, Request, as_fast_as_taken, at_arrivals, figures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpusim.dram import serve
from kpusim.dram.measure import measure
from kpusim.dram.requests import MAPPERS, Requests, decode
from kpusim.machine.dram import DramTiming
from kpusim.machine.drams import load_dram

DATA = Path(__file__).parent / "data"
PARAMS = tomllib.loads((DATA / "ramulator2_params.toml").read_text(encoding="utf-8"))
GIVEN = {"hbm2-2000": "HBM2_2000", "hbm2-2400": "HBM2_2400", "hbm3-6400": "HBM3_6400"}
ROWS = list(csv.DictReader((DATA / "ramulator2.csv").open(newline="")))
REQUESTS = 100_000


@pytest.mark.parametrize("name", GIVEN)
def test_gaps_follow_from_the_raw_timings(name):
    given, dram = PARAMS[GIVEN[name]], load_dram(name)
    gap = dict(given["gap"])
    assert {key: value for key, value in attrs.asdict(dram.timing).items() if value is not None} == {
        key.lower(): value for key, value in given["raw"].items()
    }
    assert {"rd_rd_othersid": gap["rd_rd"], **attrs.asdict(dram.gaps)} == gap
    assert (dram.read_ticks, dram.refresh_ticks, dram.tick_ps) == (given["rd_latency"], given["refi"], given["tick_ps"])


def addresses(pattern):
    if pattern == "stream":
        return [32 * i for i in range(REQUESTS)]
    draw = random.Random(1)
    return [32 * draw.randrange(2**25) for _ in range(REQUESTS)]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(list(row.values())[:4]))
def test_ramulators_rows(row):
    dram = load_dram(row["dram"].lower().replace("_", "-"))
    asked = addresses(row["pattern"])
    requests = Requests(*decode(dram.organisation, row["mapper"], asked), [False] * REQUESTS, asked)
    found = measure(dram, int(row["queue_depth"]), requests)
    for key in ("dram_cycles", "row_hits", "row_misses", "row_conflicts"):
        assert getattr(found, key) == int(row[key]), key
    assert round(found.gb_per_s, 3) == float(row["gb_per_s"])
    assert round(found.avg_read_latency_ns, 2) == float(row["avg_read_latency_ns"])
    assert found.peak_gb_per_s == float(row["peak_gb_per_s"])


@st.composite
def drams(draw):
    """A preset; or one with other timings, refreshed so often that short traces see it; or with other counts, too."""
    dram = load_dram(draw(st.sampled_from(sorted(GIVEN))))
    kind = draw(st.sampled_from(["preset", "refresh", "timings"]))
    timing = attrs.asdict(dram.timing)
    if kind == "timings":
        least = 1 if dram.both_edges else 0
        timing = {key: draw(st.integers(least, 2 * value)) for key, value in timing.items() if value is not None}
        timing["bl"] = max(1, timing["bl"])
        levels = ("pseudochannels", "stack_ids", "bank_groups", "banks")
        counts = {key: draw(st.sampled_from([1, 2, 4])) for key in levels}
        dram = attrs.evolve(dram, organisation=attrs.evolve(dram.organisation, **counts))
    if kind != "preset":
        timing["rfc"] = draw(st.integers(1, 40))
        timing["refi"] = 4 * (timing["rfc"] + timing["rc"] + timing["rp"]) + draw(st.integers(100, 300))
    return attrs.evolve(dram, timing=DramTiming(**timing))


@st.composite
def traces(draw):
    """(DRAM, queue, bursts as (place, row, column, write)), crowded into few banks and rows so that they meet."""
    dram = draw(drams())
    o = dram.organisation
    spread = draw(st.sampled_from([1, 2, 4]))
    counts = (o.pseudochannels, o.stack_ids, o.bank_groups, o.banks)
    place = st.tuples(*(st.integers(0, min(count, spread) - 1) for count in counts))
    burst = st.tuples(place, st.integers(0, 2), st.integers(0, 3), st.integers(0, 5))
    writes = draw(st.integers(0, 6))  # of six
    bursts = draw(st.lists(burst, min_size=1, max_size=80))
    return dram, draw(st.integers(1, 12)), [(*burst, draw_of_six < writes) for *burst, draw_of_six in bursts]


def reference(dram, queue, bursts, merges=True):
    channel = Reference(
        gap=gaps_of(dram),
        refi=dram.refresh_ticks,
        latency=dram.read_ticks,
        edges=dram.protocol == "hbm3",
        pseudochannels=dram.organisation.pseudochannels,
        stack_ids=dram.organisation.stack_ids,
        size=queue,
        merges=merges,
    )
    requests = [
        Request(number, place, row, write, hash((place, row, column)))
        for number, (place, row, column, write) in enumerate(bursts)
    ]
    return channel, requests


def gaps_of(dram):
    """The given table for a given preset, else what follows from its timings."""
    given = PARAMS[GIVEN[dram.name]]
    if dram.timing == load_dram(dram.name).timing:
        return {"rd_rd_othersid": given["gap"]["rd_rd"], **given["gap"]}
    return attrs.asdict(dram.gaps)


def flat(dram, place):
    o = dram.organisation
    pc, sid, bg, bank = place
    return ((pc * o.stack_ids + sid) * o.bank_groups + bg) * o.banks + bank


many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(traces())
def test_full_load_is_that_of_the_rules(trace):
    dram, queue, bursts = trace
    channel, requests = reference(dram, queue, bursts)
    as_fast_as_taken(channel, requests)
    expected = figures(channel, requests)
    found = measure(
        dram,
        queue,
        Requests(
            [flat(dram, place) for place, *_ in bursts],
            [row for _, row, *_ in bursts],
            [write for *_, write in bursts],
            [request.address for request in requests],
        ),
    )
    assert found.read_ticks == expected.pop("latency")
    assert {key: getattr(found, key) for key in expected} == expected


@many
@given(traces(), st.data())
def test_arrivals_are_served_by_the_rules(trace, data):
    dram, queue, bursts = trace
    some = st.sampled_from([0, 0, 1, 2, 7, 40, 300])
    pauses = data.draw(st.lists(some, min_size=len(bursts), max_size=len(bursts)))
    start = data.draw(st.sampled_from([0, 0, dram.refresh_ticks - 50]))
    arrivals = [start + sum(pauses[: i + 1]) for i in range(len(bursts))]
    channel, requests = reference(dram, queue, bursts, merges=False)
    at_arrivals(channel, requests, arrivals)
    asked = [(at, *place, row, write) for at, (place, row, _, write) in zip(arrivals, bursts, strict=True)]
    found = serve(dram, queue, asked)
    assert found.accepted == [request.arrival for request in requests]
    assert found.issued == [request.issued for request in requests]
    assert found.departed == [r.arrival if r.write else r.departure for r in requests]
    expected = figures(channel, requests)
    assert (found.row_hits, found.row_misses, found.row_conflicts) == tuple(
        expected[key] for key in ("row_hits", "row_misses", "row_conflicts")
    )


@pytest.mark.slow
@pytest.mark.parametrize("mapper", MAPPERS)
@pytest.mark.parametrize("pattern", ["stream", "random"])
@pytest.mark.parametrize("name", GIVEN)
def test_mixes_as_users_ask_for_them(name, pattern, mapper):
    """Longer traces of the command's patterns, through several refreshes: every third request writes."""
    dram, count, queue = load_dram(name), 2000, 32
    asked = addresses(pattern)[:count]
    writes = [i % 3 == 2 for i in range(count)]
    banks, rows = decode(dram.organisation, mapper, asked)
    channel, _ = reference(dram, queue, [])
    requests = [
        Request(i, place_of(dram, bank), row, write, address)
        for i, (bank, row, write, address) in enumerate(zip(banks, rows, writes, asked, strict=True))
    ]
    as_fast_as_taken(channel, requests)
    expected = figures(channel, requests)
    found = measure(dram, queue, Requests(banks, rows, writes, asked))
    assert found.read_ticks == expected.pop("latency")
    assert {key: getattr(found, key) for key in expected} == expected


def place_of(dram, flat_bank):
    """(pseudo-channel, stack id, bank group, bank) of a bank's number."""
    o = dram.organisation
    place = []
    for count in (o.banks, o.bank_groups, o.stack_ids):
        flat_bank, each = divmod(flat_bank, count)
        place.insert(0, each)
    return (flat_bank, *place)


def test_addresses_are_mapped_bit_by_bit():
    """Against the bits of the rules: fields from the least significant, widths by the organisation."""
    mapping = PARAMS["mapping"]
    for name, theirs in GIVEN.items():
        dram, counts = load_dram(name), PARAMS[theirs]["organisation"]
        widths = {key: counts[plural].bit_length() - 1 for key, plural in FIELDS.items()}
        widths |= {"column": 5, "column_low2": 2, "column_rest": 3}
        asked = [*addresses("random")[:500], 0, dram.organisation.capacity_bytes - 32]
        for mapper in MAPPERS:
            banks, rows = decode(dram.organisation, mapper, asked)
            for address, bank, row in zip(asked, banks, rows, strict=True):
                rest, fields = address >> mapping["offset_bits"], {}
                for field in mapping[mapper]:
                    fields[field] = rest & ((1 << widths[field]) - 1)
                    rest >>= widths[field]
                if mapper == "MOP4CLXOR":
                    column = fields["column_low2"] | fields["column_rest"] << 2
                    for field in mapping["MOP4CLXOR_xor_order"]:
                        fields[field] ^= column & ((1 << widths[field]) - 1)
                        column >>= widths[field]
                place = tuple(fields[key] for key in ("pseudochannel", "stack_id", "bankgroup", "bank"))
                assert (place_of(dram, bank), row) == (place, fields["row"])


FIELDS = {"pseudochannel": "pseudochannels", "stack_id": "stack_ids", "bankgroup": "bankgroups", "bank": "banks",
          "row": "rows"}  # fmt: skip
