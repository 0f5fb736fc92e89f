"""Which lines a cache holds: the model line by line against lists, the one by blocks against that.

They agree in every line that hits and every line that is written back, over streams as kernels make them, with blocks
of 4 to 64 KiB.
"""

from random import Random

import pytest

from kpusim.engines.shared_lines import Blocks, SingleLines

LINE = 128
BLOCKS = (4096, 16384, 65536)
CAPACITY = 1 << 18  # a block of 64 KiB has as many lines as it has sets: one region
WAYS = 4
SETS = CAPACITY // LINE // WAYS

Access = tuple[int, int, bool]
"""(address, bytes, whether it is written)."""


def parts(address: int, length: int, block: int) -> list[tuple[int, int]]:
    """(block, lines) of an access."""
    masks: dict[int, int] = {}
    for line in range(address // LINE, (address + length - 1) // LINE + 1):
        number, place = divmod(line, block // LINE)
        masks[number] = masks.get(number, 0) | 1 << place
    return list(masks.items())


def play(model, stream: list[Access], block: int, fill: int = -1) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """(lines that hit, access by access; lines written back, access by access and at the end).

    fill: which lines of a block are brought in by writing.
    """
    hits, written_back = [], []
    for address, length, written in stream:
        count = 0
        for number, lines in parts(address, length, block):
            filled, dirty = (lines & fill, lines) if written else (lines, 0)
            count += (lines & ~model.touch(model.block(number), lines, filled, dirty)).bit_count()
        hits.append(count)
        written_back.append(model.victims())
    return hits, [*written_back, model.clean()]


def rate(stream: list[Access], block: int = 16384) -> float:
    """Percent of lines that hit."""
    hits, _ = play(Blocks(SETS, WAYS, block // LINE), stream, block)
    return 100 * sum(hits) / sum((at % LINE + length + LINE - 1) // LINE for at, length, _ in stream)


# --- line by line, against lists ------------------------------------------------------------------------------------


SMALL = 8  # lines of a block, and sets of one way or more, in the tests of the model line by line


def conflict(one: int, two: int) -> bool:
    """Whether two lines lie in one set: of a cache with one way, the second throws out the first."""
    model = SingleLines(SMALL, 1, SMALL)
    missing = []
    for line in (one, two, one):
        number, place = divmod(line, SMALL)
        missing.append(model.touch(model.block(number), 1 << place, 1 << place, 0))
    return missing[-1] != 0


@pytest.mark.parametrize("seed", range(10))
def test_a_set_is_a_list_of_lines_in_order_of_use(seed):
    """Lines that are not filled go past; dirty ones that are thrown out are told, and at the end those that stay."""
    random, ways = Random(seed), random_ways(seed)
    rivals = {line: [other for other in range(6 * SMALL) if conflict(line, other)] for line in range(6 * SMALL)}
    model, held, dirty = SingleLines(SMALL, ways, SMALL), [], set()  # the line used last is the last held
    for _ in range(200):
        number, lines = random.randrange(6), random.randrange(1, 1 << SMALL)
        fill, written = random.choice([lines, lines & 0x55, 0]), random.choice([0, lines])
        missing, thrown = 0, []
        for place in range(SMALL):
            line, bit = number * SMALL + place, 1 << place
            if not lines & bit:
                continue
            if line in held:
                held.remove(line)
            else:
                missing |= bit
                if not fill & bit:
                    continue
                same = [other for other in held if other in rivals[line]]
                if len(same) == ways:
                    held.remove(same[0])
                    thrown += {same[0]} & dirty
                    dirty.discard(same[0])
            held.append(line)
            dirty |= {line} if written else set()
        assert model.touch(model.block(number), lines, fill, written) == missing
        assert lines_of(model.victims()) == sorted(thrown)
    assert lines_of(model.clean()) == sorted(dirty)
    assert model.clean() == []


def random_ways(seed: int) -> int:
    return 1 + seed % 5


def lines_of(found: list[tuple[int, int]]) -> list[int]:
    return [SMALL * number + place for number, mask in found for place in range(SMALL) if mask >> place & 1]


@pytest.mark.parametrize("regions", [1, 5, 8])
def test_a_run_of_blocks_as_large_as_a_way_falls_into_all_sets(regions):
    """So that a contiguous tensor of the cache's size fits: no line of it throws out another."""
    everything = (1 << SMALL) - 1
    for run in range(30):
        model = SingleLines(regions * SMALL, 1, SMALL)
        for _ in range(2):
            numbers = range(run * regions, (run + 1) * regions)
            missing = [model.touch(model.block(number), everything, everything, 0) for number in numbers]
        assert not any(missing)


@pytest.mark.parametrize("pitch", [1, 2, 7, 32, 64, 100, 129, 512, 1000, 4096])
def test_lines_of_any_pitch_spread_over_the_sets(pitch):
    """Half as many lines as the cache holds, `pitch` lines apart: at least four in five stay."""
    stream = [(line * pitch * LINE, LINE, False) for line in range(SETS * WAYS // 2)] * 2
    assert rate(stream) > 40


# --- streams --------------------------------------------------------------------------------------------------------


def sequential(size: float, chunk: int = 16384, times: int = 1, written: bool = False) -> list[Access]:
    """`size` of the capacity, in order."""
    return [(at, chunk, written) for at in range(0, int(size * CAPACITY) // chunk * chunk, chunk)] * times


def strided(pitch: int, length: int, size: float, times: int = 4) -> list[Access]:
    """Pieces of `length` bytes, in all `size` of the capacity."""
    return [(at * pitch, length, False) for at in range(int(size * CAPACITY / length))] * times


def gemm(m: int, n: int, k: int, tile: tuple[int, int, int]) -> list[Access]:
    """A blocked matrix product of bf16, row by row of its tiles, the result written."""
    (high, wide, deep), b = tile, 2 * m * k
    out = b + 2 * k * n
    stream: list[Access] = []
    for i in range(0, m, high):
        for j in range(0, n, wide):
            for step in range(0, k, deep):
                stream += [(2 * ((i + row) * k + step), 2 * deep, False) for row in range(high)]
                stream += [(b + 2 * ((step + row) * n + j), 2 * wide, False) for row in range(deep)]
            stream += [(out + 2 * ((i + row) * n + j), 2 * wide, True) for row in range(high)]
    return stream


def random_rows(row: int, size: float, writes: float = 0.0, skew: float = 0.0) -> list[Access]:
    """Rows out of `size` of the capacity, uniformly or by Zipf's law of exponent `skew` in a random order."""
    random, rows = Random(f"{row} {size} {writes} {skew}"), int(size * CAPACITY) // row
    places = random.sample(range(rows), rows)
    weights = [(place + 1) ** -skew for place in range(rows)]
    chosen = random.choices(places, weights, k=2500)
    return [(place * row, row, random.random() < writes) for place in chosen]


STREAMS = {
    "sequential": sequential(4),
    "repeated, half": sequential(0.5, times=4),
    "repeated, nearly all": sequential(0.9, times=4),
    "repeated, equal": sequential(1, times=4),
    "repeated, equal, small chunks": sequential(1, 512, times=4),
    "repeated, larger": sequential(1.125, times=4),
    "repeated, twice": sequential(2, times=3),
    "written and read": sequential(0.75, written=True) + sequential(0.75, times=2),
    "written, larger": sequential(1.5, times=2, written=True),
    "forth and back": sequential(1.5) + sequential(1.5)[::-1],
    "strided 4 KiB": strided(4096, 128, 0.5),
    "strided 4160": strided(4160, 256, 0.5),
    "strided 64 KiB": strided(65536, 256, 0.5),
    "strided 28 KiB": strided(28672, 1024, 0.5),
    "strided 8 KiB, twice": strided(8192, 512, 2),
    "strided 12 KiB, twice": strided(12288, 1024, 2),
    "gemm, all fits": gemm(256, 128, 128, (64, 64, 64)),
    "gemm, a panel fits": gemm(256, 512, 256, (64, 128, 64)),
    "gemm, nothing fits": gemm(256, 1024, 512, (128, 256, 64)),
    "gemm, odd": gemm(150, 500, 350, (50, 100, 70)),
    **{f"random {row}": random_rows(row, 2) for row in (64, 256, 1024, 4096)},
    **{f"random {row}, some written": random_rows(row, 1.25, 0.3) for row in (64, 1024)},
    **{f"zipf {skew} {row}": random_rows(row, 4, skew=skew) for skew in (0.6, 0.8, 1.0, 1.2) for row in (64, 256)},
    **{f"zipf 1 {row}, some written": random_rows(row, 8, 0.3, 1.0) for row in (256, 2048)},
}


@pytest.mark.parametrize("name", STREAMS)
def test_by_blocks_each_access_hits_and_throws_out_the_same_lines(name):
    for block, ways in zip(BLOCKS, (WAYS, 3, 1) if name.startswith("zipf") else (WAYS, WAYS, WAYS), strict=True):
        for fill in (-1, 0x3333) if "written" in name else (-1,):
            models = [model(SETS, ways, block // LINE) for model in (Blocks, SingleLines)]
            assert play(models[0], STREAMS[name], block, fill) == play(models[1], STREAMS[name], block, fill)


def test_the_streams_are_of_all_kinds():
    """Some hit always but the first time, some never, others sometimes: a constant would not do."""
    rates = {name: rate(stream) for name, stream in STREAMS.items()}
    assert rates["sequential"] == rates["repeated, twice"] == 0
    assert rates["repeated, equal"] == rates["repeated, half"] == 75
    assert len({round(each / 10) for each in rates.values()}) >= 8


@pytest.mark.parametrize("extra", [0, 1, 2, 4, 8])
def test_the_cliff_of_lru_is_as_wide_as_a_way(extra):
    """A cyclic stream of the capacity and `extra` blocks: regions with a block too many lose all of theirs."""
    block = 4096
    blocks = CAPACITY // block + extra
    stream = [(number * block, block, False) for number in range(blocks)] * 4
    kept = blocks - extra * (WAYS + 1)
    assert rate(stream, block) == pytest.approx(75 * kept / blocks)
