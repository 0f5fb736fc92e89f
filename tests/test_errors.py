import errno
import os
from pathlib import Path

import pytest

from kpusim.data import data_dir
from kpusim.errors import UserError, did_you_mean, nearest
from kpusim.files import atomic_path, write_text_atomic
from kpusim.tomlfile import parse_toml, read_toml


def test_message_names_place_problem_found_allowed_and_hint():
    error = UserError("unknown key", where="my.toml:7: [hbm] stakcs", allowed=["a", "b"], hint="look")
    assert str(error) == "my.toml:7: [hbm] stakcs: unknown key; allowed: a, b; look"
    assert error.exit_code == 2


def test_hint_is_the_nearest_of_the_allowed_options():
    error = UserError("unknown operator", found="gem", allowed=["gemm", "norm"])
    assert str(error) == "unknown operator; found 'gem'; allowed: gemm, norm; did you mean 'gemm'?"


def test_allowed_in_words_gives_no_hint():
    error = UserError("too small", found=0, allowed="at least 1")
    assert str(error) == "too small; found 0; allowed: at least 1"


def test_nearest_ignores_letter_case_and_may_find_nothing():
    assert nearest("STAKCS", ["stacks", "rows"]) == "stacks"
    assert nearest("zzz", ["stacks", "rows"]) is None
    assert did_you_mean("zzz", ["stacks"]) is None


def test_atomic_path_replaces_on_success(tmp_path):
    path = tmp_path / "new" / "x.txt"
    write_text_atomic(path, "one")
    write_text_atomic(path, "two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_of_two_that_write_a_path_at_once_the_last_wins(tmp_path):
    path = tmp_path / "x.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second:
            second.write_text("second")
            with pytest.raises(ValueError), atomic_path(path) as third:
                raise ValueError
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert [part.name for part in (first, second, third)] == ["x.txt.part", "x.txt.1.part", "x.txt.2.part"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_atomic_path_leaves_nothing_behind(tmp_path, interruption):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(interruption), atomic_path(path) as part:
        part.write_text("half")
        raise interruption
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_refuses_directories_and_unwritable_places(tmp_path):
    with pytest.raises(UserError, match="is a directory"), atomic_path(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_path(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("name", ["isa", "workloads"])
def test_data_is_found(name):
    assert data_dir(name).is_dir()


TOML = """\
clock = "1 GHz"
[hbm]
stacks = 6
timing.burst = 3  # dotted

[[operators]]
name = "a"
[[operators]]
name = "b"
[operators.sizes]
"m n" = 1
"""


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("clock",), "x.toml:1: clock"),
        (("hbm", "stacks"), "x.toml:3: [hbm] stacks"),
        (("hbm", "missing"), "x.toml:2: [hbm] missing"),
        (("hbm", "timing", "burst"), "x.toml:4: [hbm.timing] burst"),
        (("operators", 1, "name"), "x.toml:9: [operators.1] name"),
        (("operators", 1, "sizes", "m n"), "x.toml:11: [operators.1.sizes] m n"),
        (("absent",), "x.toml: absent"),
        ((), "x.toml"),
    ],
)
def test_toml_keys_are_located(path, where):
    assert parse_toml(TOML, "x.toml").where(path) == where


def test_broken_toml_names_its_line():
    with pytest.raises(UserError, match=r"^x.toml:2: not valid TOML: "):
        parse_toml("a = 1\nb = = 2\n", "x.toml")


def test_unreadable_toml(tmp_path):
    with pytest.raises(UserError, match="no.toml: cannot be read: No such file"):
        read_toml(tmp_path / "no.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        read_toml(tmp_path / "binary.toml")


def test_a_long_find_is_shown_by_its_ends():
    message = str(UserError("wrong", found="a" * 10_000 + "z"))
    assert len(message) < 500
    assert message.startswith("wrong; found 'aaa")
    assert message.endswith("aaz'")


def test_a_path_that_is_too_long_is_one_message():
    with pytest.raises(UserError, match="cannot be written: File name too long"), atomic_path(Path("x" * 300)):
        pass


def test_devices_are_not_replaced_and_links_are_followed(tmp_path):
    fifo, target, link = tmp_path / "fifo", tmp_path / "target.txt", tmp_path / "link.txt"
    os.mkfifo(fifo)
    with pytest.raises(UserError, match="is a device, not a file"), atomic_path(fifo):
        pass
    link.symlink_to(target)
    write_text_atomic(link, "text")
    assert link.is_symlink()
    assert target.read_text() == "text"


def test_a_full_disk_is_one_message(tmp_path):
    with pytest.raises(UserError, match="cannot be written: no space left"), atomic_path(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
