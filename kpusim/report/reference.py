"""The reference page of machines, `docs/machine.md`: every key of a machine file, and every stall of a unit.

`python -m kpusim.report.reference > docs/machine.md` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.engines.stalls import MEANINGS
from kpusim.machine.keys import machine_keys, machine_tables
from kpusim.report.glossary import ACCOUNTS

__all__ = ["reference"]

HEAD = """# Machines

A machine is a TOML file; `kpusim machine show kpu-datacenter --toml > my.toml` gives one to edit, and `--set
hbm.stacks=8` changes one key of it. Below are its keys, by table, and what the units of a machine wait for;
`kpusim explain WORD` says the same in the terminal.

A quantity is a number with its unit, in quotes. Sizes are in B (KiB, MiB, GiB, kB, MB, GB), times in cycles or in s
(ns, us), bandwidths in B/cycle or in B/s (GB/s, TB/s), whichever suits: what is given in seconds stays as long when the
clock changes.
"""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, *_keys(), *_stalls()]).rstrip() + "\n"


def _keys() -> Iterator[str]:
    tables = machine_tables()
    for table, about in ({"": "What stands above the tables."} | dict(tables)).items():
        rows = [key for key in machine_keys().values() if key.name.rpartition(".")[0] == table]
        yield f"## {table}" if table else "## The machine"
        yield ""
        yield about
        yield ""
        yield "| key | takes | is |"
        yield "|---|---|---|"
        yield from (f"| `{key.name}` | {key.takes} | {key.about} |" for key in rows)
        yield ""


def _stalls() -> Iterator[str]:
    yield "## Stalls"
    yield ""
    yield "For each unit busy + every stall + idle is the total of cycles."
    yield ""
    yield "| cycles | the unit |"
    yield "|---|---|"
    yield from (f"| `{cause}` | waits for {meaning} |" for cause, meaning in MEANINGS.items())
    yield from (f"| `{name}` | {meaning} |" for name, meaning in ACCOUNTS.items())


if __name__ == "__main__":
    print(reference(), end="")
