"""What the suites of `traces/goldens.toml` take now. As a command, it writes that file anew: see its header."""

import json
import tomllib
from pathlib import Path

from attrs import asdict, frozen

from kpusim.data import data_dir
from kpusim.files import write_text_atomic
from kpusim.isa import read_program
from kpusim.machine import load_machine
from kpusim.operators import make_operator
from kpusim.simulate.run import simulate
from kpusim.simulate.shares import top_stall

GOLDENS = Path(__file__).resolve().parent.parent / "traces" / "goldens.toml"
KASM = data_dir("workloads") / "kasm"


@frozen
class Measured:
    """cycles: launch not included. top_stall: unit and cause, empty for none."""

    cycles: int
    hbm_bytes: int
    row_hits: int
    top_stall: str


def measure(machine: str, run: str) -> Measured:
    """What `run`, an operator or a file of `workloads/kasm`, takes on a machine, on local clocks."""
    loaded = load_machine(machine)
    program = read_program(KASM / run) if run.endswith(".kasm") else make_operator(run).lower(loaded).program
    result = simulate(program, loaded)
    counters = result.counters
    unit, cause, _ = top_stall(result)
    hbm_bytes = counters["hbm.read_bytes"] + counters["hbm.write_bytes"]
    return Measured(result.cycles, hbm_bytes, counters["hbm.row_hits"], f"{unit} for {cause}" if unit else "")


def update() -> None:
    """Writes the file again: its header and cases as they are, with what they take now."""
    text = GOLDENS.read_text(encoding="utf-8")
    lines = [text[: text.index("\n[[") + 1].rstrip()]
    for suite, cases in tomllib.loads(text).items():
        for case in cases:
            measured = asdict(measure(case["machine"], case["run"]))
            values = {"machine": case["machine"], "run": case["run"]} | measured
            lines += ["", f"[[{suite}]]"]
            lines += [f"{key} = {json.dumps(each)}" for key, each in values.items()]
    write_text_atomic(GOLDENS, "\n".join(lines) + "\n")


if __name__ == "__main__":
    update()
