"""Nothing takes another number of cycles than `traces/goldens.toml` says, where it is also said how that changes."""

import tomllib

from attrs import asdict
from update_goldens import GOLDENS, measure


def test_nothing_has_moved():
    moved = []
    for suite, cases in tomllib.loads(GOLDENS.read_text(encoding="utf-8")).items():
        for case in cases:
            measured = asdict(measure(case["machine"], case["run"]))
            moved += [
                f"{suite:<8} {case['machine']:<15} {case['run']:<50} {key:<10} {case[key]!s:>16} -> {value!s:>16}"
                for key, value in measured.items()
                if case[key] != value
            ]
    assert not moved, "\n".join(["", *moved, "if that is meant: python tests/update_goldens.py"])
