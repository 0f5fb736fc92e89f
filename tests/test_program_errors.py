"""Programs that cannot run right: one clear message each, the same in both modes where both can see it."""

import pytest

from kpusim.engines.semaphore import ProgramError
from kpusim.errors import UserError
from kpusim.isa import assemble
from kpusim.machine import load_machine
from kpusim.simulate.run import simulate

TINY = load_machine("kpu-tiny")
HEAD = """kasm 1
program p
tensor X bf16 [64, 64] in
map X_box = X box [8, 64]
sram a bf16 [2][8, 64]
sram f fp32 [1][16, 16] at 2048
semaphore s [4][1]
semaphore r [4][1]
semaphore both [1][1] join 2
table t = [1, 2, 3]
"""  # 10 lines: the first section is line 11
MATMUL = "matmul f[0][8, 8], a[0][8, 16], a[1][0 +: 8, 0 +: 16], transpose_b=1"  # 88 cycles
MATRIX, VECTOR = "chip0.tile0.matrix", "chip0.tile0.vector"
TAKES_ALL = ["vector tiles 0..1", *[f"sync wait s[{i}][0]" for i in range(4)]]
GIVES_ALL = ["vector tiles 0..1", *[f"sync signal s[{i}][0]" for i in range(4)]]


def program(*sections):
    return assemble(HEAD + "".join("\n  ".join([f"section {first}", *lines]) + "\nend\n" for first, *lines in sections))


def message(kind, *sections, modes=(True, False)):
    """What `modes` (plain or not) say about a program of some sections."""
    messages = set()
    for plain in modes:
        with pytest.raises(kind) as error:
            simulate(program(*sections), TINY, plain=plain)
        assert type(error.value) is kind
        messages.add(str(error.value))
    assert len(messages) == 1
    return messages.pop()


# --- deadlocks --------------------------------------------------------------------------------------------------------


def test_two_that_wait_for_each_other():
    text = message(
        ProgramError,
        ("matrix tiles 0..1", MATMUL, "sync wait s[0][0] signal r[0][0]"),
        ("vector tiles 0..1", "sync wait r[0][0] signal s[0][0]"),
    )
    assert text.splitlines() == [
        "p: deadlock at cycle 88: nobody can go on",
        f"  {MATRIX} waits at pc 1 (sync, line 13) for semaphore s[0][0], which {VECTOR} would signal",
        f"  {VECTOR} waits at pc 2 (sync, line 16) for semaphore r[0][0], which {MATRIX} would signal",
    ]


def test_one_at_the_barrier_that_another_would_have_to_leave():
    text = message(
        ProgramError,
        ("matrix tiles 0..1", MATMUL, "sync wait s[0][0]", "barrier"),
        ("vector tiles 0..1", "barrier", "sync signal s[0][0]"),
        ("dma queue 0 engines 0..1", "load a[0][1, 32] @ 0, X_box(0 +: 1, 0 +: 32)", "barrier"),
    )
    assert text.splitlines() == [
        "p: deadlock at cycle 88: nobody can go on",
        f"  {MATRIX} waits at pc 1 (sync, line 13) for semaphore s[0][0], which {VECTOR} would signal",
        "  chip0.tile0.vector waits at pc 3 (barrier, line 17) for the others",
        "  chip0.dma0.q0 waits at pc 6 (barrier, line 22) for the others",
    ]


def test_a_barrier_that_somebody_has_missed():
    text = message(ProgramError, ("matrix tiles 0..2", "barrier"), ("vector tiles 0..1", "fill f[0], 1"))
    assert "chip0.tile1.matrix waits at pc 0 (barrier, line 12) for the others" in text


def test_a_transfer_that_waits_for_itself():
    text = message(ProgramError, ("dma queue 1 engines 2..3", "sync wait s[2][0] signal s[2][0]"))
    assert "chip0.dma2.q1 waits at pc 0 (sync, line 12) for semaphore s[2][0]" in text


def test_a_producer_that_has_come_to_its_end():
    text = message(
        ProgramError,
        ("matrix tiles 0..1", f"{MATMUL} signal s[0][0]"),
        ("vector tiles 0..1", "sync wait s[0][0]", "sync wait s[0][0]"),
    )
    assert "chip0.tile0.vector waits at pc 2 (sync, line 16) for semaphore s[0][0], which nobody that still" in text


def test_of_many_only_some_are_named():
    text = message(
        ProgramError,
        *[(f"{unit} tiles 0..4", "sync wait s[tile][0]") for unit in ("matrix", "vector")],
        ("dma queue 0 engines 0..4", "sync wait r[engine][0]"),
    )
    assert len(text.splitlines()) == 1 + 8 + 1
    assert text.splitlines()[-1] == "  and 4 more"


# --- semaphores that do not add up ------------------------------------------------------------------------------------


def test_not_back_at_its_initial_count():
    sections = ("matrix tiles 0..1", *[f"{MATMUL} signal s[0][0]"] * 2), ("vector tiles 0..1", "sync wait s[0][0]")
    expected = "semaphore s[0][0] is not back at its initial count at the end; found 1; allowed: 0"
    assert message(ProgramError, *sections) == expected


def test_not_back_at_its_initial_count_at_a_barrier():
    text = message(
        ProgramError,
        ("matrix tiles 0..1", f"{MATMUL} signal s[0][0]", "barrier"),
        ("vector tiles 0..1", "barrier", "sync wait s[0][0]"),
    )
    assert text.startswith("semaphore s[0][0] is not back at its initial count at the barrier of cycle 92; found 1")


def test_a_round_half_signalled():
    text = message(ProgramError, ("matrix tiles 0..1", "sync signal both[0][0]"))
    assert "both[0][0] is not back at its initial count at the end, and not all of its producers have signalled" in text


def test_a_producer_a_round_ahead():
    sections = [
        ("matrix tiles 0..1", *[f"{MATMUL} signal both[0][0]"] * 2),
        ("matrix tiles 1..2", *[MATMUL] * 3, *[f"{MATMUL} signal both[0][0]"] * 2),
        ("vector tiles 0..1", *["sync wait both[0][0]"] * 2),
    ]
    assert message(ProgramError, *sections, modes=[True]) == (
        "pc 1 (matmul, line 13) on chip0.tile0.matrix at cycle 176: "
        "signals both[0][0] twice before the other producers have signalled once"
    )
    assert simulate(program(*sections), TINY).cycles == 5 * 88  # local clocks join by rounds all the same


def test_a_producer_too_many():
    text = message(
        ProgramError,
        ("matrix tiles 0..3", "sync signal both[0][0]"),
        ("vector tiles 0..1", "sync wait both[0][0]"),
    )
    assert text == "more queues signal both[0][0] than it joins; found 3; allowed: 2"


# --- what leaves what it indexes, where only running the program can tell ---------------------------------------------


def loop(*lines):
    return ["for i = 0 .. 20", *lines, "end"]


SLOT = MATMUL.replace("a[0]", "a[i]")
RANGE = "fill f[0][i +: 3, :], 1"
SIZE = MATMUL.replace("8, 16]", "t[i], 16]").replace("f[0][8, 8]", "f[0][t[i], 8]")


@pytest.mark.parametrize(
    ("section", "other", "expected"),
    [
        (["matrix tiles 2..3", *loop(SLOT)], [], "pc 1 (matmul, line 13): a is [2][8, 64]; there is no a[2]; found {"),
        (["vector tiles 2..3", *loop(RANGE)], [], "pc 1 (fill, line 13): f is [1][16, 16]; 14 +: 3 leaves it; found {"),
        (["matrix tiles 2..3", *loop(SIZE)], [], "pc 1 (matmul, line 13): table t has 3 entries; index 3 is outside"),
        (
            ["matrix tiles 2..3", *loop("for j = 0 .. t[i]", MATMUL, "end")],
            [],
            "pc 1 (for, line 13): table t has 3 entries; index 3 is outside; found {'tile': 2, 'i': 3}",
        ),
        (
            ["matrix tiles 0..4", "let x = t[tile]", MATMUL],
            [],
            "line 11: let x: table t has 3 entries; index 3 is outside; found {'tile': 3}",
        ),
        (
            ["matrix tiles 2..3", *loop(f"{MATMUL}, accumulate=t[i]")],
            [],
            "pc 1 (matmul, line 13): table t has 3 entries; index 3 is outside",
        ),
        (["matrix tiles 2..3", *loop("sync wait s[i][0]")], GIVES_ALL, "pc 1 (sync, line 13): s is [4][1]; there"),
        (
            ["matrix tiles 2..3", *loop("sync signal s[3 - i][0]")],
            TAKES_ALL,
            "pc 1 (sync, line 13): s is [4][1]; there is no s[-1][0]; found {'tile': 2, 'i': 4}",
        ),
        (["dma queue 0 engines 0..1", *loop("load a[i] @ 0, X_box(0, 0)")], [], "pc 1 (load, line 13): a is [2][8"),
        (
            ["dma queue 0 engines 0..1", *loop("load a[0] @ i, X_box(0, 0)")],
            [],
            "pc 1 (load, line 13): tiles 4..5 are not all among the machine's 0..4; found {'engine': 0, 'i': 4}",
        ),
        (
            ["dma queue 0 engines 0..1", *loop("copy a[0] @ 0, a[1] @ 3 - i")],
            [],
            "pc 1 (copy, line 13): tiles -1..0 are not all among the machine's 0..4",
        ),
        (
            ["dma queue 0 engines 0..1", *loop("gather a[0][2, 64] @ 0, X_box(0, 0), t[i +: 2]")],
            [],
            "pc 1 (gather, line 13): table t has 3 entries; 2 +: 2 leaves it; found {'engine': 0, 'i': 2}",
        ),
        (
            ["dma queue 0 engines 0..1", *loop("load a[0] @ 0, X_box(0, 0) signal s[i][0]")],
            TAKES_ALL,
            "pc 1 (load, line 13): s is [4][1]; there is no s[4][0]",
        ),
        (
            ["dma queue 0 engines 0..1", *loop("load a[0] @ 0, X_box(0, 0) wait s[i][0]")],
            GIVES_ALL,
            "pc 1 (load, line 13): s is [4][1]; there is no s[4][0]",
        ),
    ],
)
def test_an_index_that_is_outside(section, other, expected):
    assert message(UserError, section, *[other] * bool(other)).startswith(expected)
