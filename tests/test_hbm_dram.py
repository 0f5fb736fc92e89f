"""`hbm.dram`: a machine's memory by the name of a DRAM."""

from fractions import Fraction

import attrs
import pytest

from kpusim.errors import UserError
from kpusim.machine import changed_toml, load_machine, machine_toml, parse_machine
from kpusim.machine.drams import dram_names, dram_of, load_dram

GIVEN = ("channels", "banks", "capacity", "bandwidth", "row ", "access", "row_activate", "precharge", "read ",
         "activate_gap", "refresh_interval", "refresh ")  # fmt: skip


@pytest.fixture
def tiny():
    """kpu-tiny's file without what a DRAM gives."""
    lines = changed_toml("kpu-tiny", ()).splitlines()
    start = lines.index("[hbm]")
    return "\n".join(line for i, line in enumerate(lines) if i < start or not line.startswith(GIVEN)) + "\n"


def with_dram(toml, dram):
    return toml.replace("[hbm]\n", f'[hbm]\ndram = "{dram}"\n')


def test_names_are_those_of_the_files():
    assert [load_dram(name).name for name in dram_names()] == [*dram_names()]


def test_a_dram_gives_what_the_file_does_not_say(tiny):
    hbm = parse_machine(with_dram(tiny, "hbm3-6400")).hbm
    assert (hbm.channels, hbm.banks, hbm.bank_groups, hbm.row_bytes, hbm.access_bytes) == (32, 32, 8, 1024, 32)
    assert hbm.capacity_bytes == 16 << 30
    assert hbm.bytes_per_cycle == Fraction("819.2")  # at 1 GHz
    assert (hbm.row_activate_cycles, hbm.precharge_cycles, hbm.read_cycles) == (20, 17, 14)  # 19.375, 16.25, 13.75 ns
    assert (hbm.four_activates_cycles, hbm.row_cycle_cycles) == (15, 45)
    assert (hbm.same_group_gap_cycles, hbm.read_to_write_cycles) == (Fraction("2.5"), Fraction("12.5"))
    assert (hbm.refresh_interval_cycles, hbm.refresh_cycles) == (3900, 350)
    assert hbm.queue == load_machine("kpu-tiny").hbm.queue


def test_the_file_goes_first(tiny):
    own = with_dram(tiny, "hbm3-6400").replace("[hbm]\n", '[hbm]\nrow_cycle = "50 ns"\nchannels = 16\n')
    hbm = parse_machine(own).hbm
    assert (hbm.row_cycle_cycles, hbm.channels, hbm.banks) == (50, 16, 32)


def test_what_is_set_goes_before_the_file():
    machine = load_machine("kpu-datacenter", ["hbm.dram=hbm3e-9200", "hbm.row_cycle=50 ns"])
    hbm = machine.hbm
    assert hbm.bytes_per_cycle == Fraction("1177.6")
    assert hbm.capacity_bytes == 24 << 30
    assert (hbm.stacks, hbm.row_cycle_cycles) == (6, 50)
    assert parse_machine(machine_toml(machine)) == machine
    assert parse_machine(changed_toml("kpu-datacenter", ["hbm.dram=hbm3e-9200", "hbm.row_cycle=50 ns"])) == machine


def test_the_default_machine_has_the_memory_that_its_file_names():
    """Its timings are written out there, one by one: by hand, from the same preset."""
    assert attrs.evolve(load_machine("kpu-datacenter", ["hbm.dram=hbm3-6400"]).hbm, dram="none") == attrs.evolve(
        load_machine("kpu-datacenter").hbm, dram="none"
    )


@pytest.mark.parametrize("name", dram_names())
def test_a_machines_channel_is_the_dram_again(tiny, name):
    """But for what [hbm] does not tell apart, and times that its whole cycles round up."""
    machine, dram = parse_machine(with_dram(tiny, name)), load_dram(name)
    again = dram_of(machine)
    scale = Fraction(dram.timing.bl, 2)
    assert float(again.ck_ps / dram.ck_ps / scale) == pytest.approx(1, rel=1e-3)
    assert again.organisation.pseudochannels == 1
    assert again.organisation.burst_bytes == dram.organisation.burst_bytes
    assert again.organisation.capacity_bytes * machine.hbm.channels == dram.organisation.capacity_bytes * dram.channels
    for key in ("faw", "rc", "ccdl", "rtp", "cwl", "wr", "wtrs"):
        assert getattr(again.timing, key) - getattr(dram.timing, key) / scale in (0, Fraction(1, 2), 1), key


@pytest.mark.parametrize("name", ["hbm3-640", "my.toml"])
def test_an_unknown_dram_is_told(tiny, name):
    with pytest.raises(UserError, match=r"m\.toml:\d+: \[hbm\] dram: unknown DRAM"):
        parse_machine(with_dram(tiny, name), "m.toml")
    with pytest.raises(UserError, match="--set hbm.dram: unknown DRAM"):
        load_machine("kpu-tiny", [f"hbm.dram={name}"])
