"""Table look-ups of generated code: which are certainly inside, and which are done once where their index is known."""

import pytest

from kpusim.isa.expr import Const, Lookup, Name
from kpusim.isa.program import Instruction, Loop, SemaphoreRef
from kpusim.simulate.lookups import Lookups

TABLES = {"small": (2, 0, 1), "large": (5, 6, 7, 8, 9)}
AT, J = Name("i"), Name("j")


@pytest.mark.parametrize(("lookup", "last", "inside"), [
    (Lookup("small", AT), 2, True), (Lookup("small", AT), 3, False), (Lookup("small", AT - 1), 2, False),
    (Lookup("small", AT % 3), 100, True), (Lookup("large", Lookup("small", AT) + 2), 2, True),
    (Lookup("large", Lookup("small", AT) + 3), 2, False),
])  # fmt: skip
def test_what_certainly_stays_in_its_table(lookup, last, inside):
    assert Lookups(TABLES).proven(lookup, {"i": (0, last)}) == inside


def test_a_lookup_in_a_lookup_that_may_be_outside():
    outer = Lookup("large", Lookup("small", AT))  # small has numbers that large has, wherever i is
    assert Lookups(TABLES).proven(outer, {"i": (0, 2)})
    assert not Lookups(TABLES).proven(outer, {"i": (0, 3)})


def waiting(index):
    """A loop over j that waits for the semaphore of an index."""
    return (Loop("j", Const(0), Const(5), (Instruction("sync", waits=(SemaphoreRef("s", index, Const(0)),)),)),)


def test_each_is_done_once_the_inner_ones_first():
    lookups, inner = Lookups(TABLES), Lookup("small", AT)
    outer = Lookup("large", inner)
    assert list(lookups.enter(waiting(outer + inner), {"i": (0, 2)})) == [("l0", inner), ("l1", outer)]
    assert list(lookups.enter(waiting(outer), {"i": (0, 2)})) == []  # it has its name
    assert lookups.replaced(outer + inner + J) == Name("l1") + Name("l0") + J


def test_one_that_depends_on_a_loop_within_or_may_be_outside_is_left_to_the_loop():
    lookups = Lookups(TABLES)
    assert list(lookups.enter(waiting(Lookup("large", J)), {"i": (0, 2)})) == []
    assert list(lookups.enter(waiting(Lookup("small", AT)), {"i": (0, 3)})) == []
    assert lookups.replaced(Lookup("large", J)) == Lookup("large", J)


def test_names_end_with_their_loop():
    lookups, ranges = Lookups(TABLES), {"i": (0, 2)}
    known = lookups.known()
    assert [name for name, _ in lookups.enter(waiting(Lookup("small", AT)), ranges)] == ["l0"]
    lookups.restore(known)
    assert lookups.replaced(Lookup("small", AT)) == Lookup("small", AT)
    assert [name for name, _ in lookups.enter(waiting(Lookup("small", AT)), ranges)] == ["l1"]  # never the same twice
