"""`kpusim exec`: simulate a program from its text."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files, operators
from kpusim.cli.options import chunk_bytes, chunk_option, json_option, keep, machine_option, plain_option, set_option
from kpusim.cli.progress import progress

if TYPE_CHECKING:
    from kpusim.machine import Machine
    from kpusim.operators.given import Given

__all__ = ["command"]


@click.command(short_help="Simulate a program from its text.")
@click.argument(
    "file", metavar="FILE.kasm|FILE.npz", type=click.Path(path_type=Path), shell_complete=files(".kasm", ".npz")
)
@machine_option
@set_option
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Write a trace (HDF5).",
    shell_complete=files(".h5"),
)  # fmt: skip
@plain_option
@chunk_option
@click.option("--data", is_flag=True, help="Execute it on random data too, and check every hazard.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random data.")
@click.option(
    "--reference", metavar="OPERATOR", help="What it should compute; compare with that.", shell_complete=operators
)
@json_option
def command(
    file: Path, machine: str, sets: tuple[str, ...], trace: Path | None, plain: bool, chunk: str, data: bool,
    seed: int, reference: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Check a program and simulate it; with --data, execute it on random data as well.

    Data tells what hardware would get wrong: memory that is read before it is written, or overwritten in use.

    \b
    JSON keys: as of `kpusim run`; with --data also outputs: {tensor: {shape, dtype, mean, std, crc32}} and, with
    --reference, verification (as of `kpusim run`).

    \b
    Examples:
      kpusim lower --op "gemm(m=256, n=256, k=256)" -o p.kasm && kpusim exec p.kasm
      kpusim exec p.kasm --data --reference "gemm(m=256, n=256, k=256)" --trace p.h5
    """
    if reference is not None and not data:
        raise click.UsageError("--reference needs --data.")
    keep(trace, file)
    from kpusim.api import Result, simulate_plans
    from kpusim.isa import disassemble
    from kpusim.machine import load_machine
    from kpusim.operators import make_operator
    from kpusim.plan import operator_plan
    from kpusim.simulate.workload import Options

    options, loaded = Options(plain, chunk_bytes(chunk)), load_machine(machine, sets)
    expected = None if reference is None else make_operator(reference, "--reference")
    given = _given(file)
    plan = operator_plan(given, loaded, given.program.name)
    found = _execute(given, loaded, seed, expected) if data else {}
    with (
        progress("simulating", 1) as begins,
        closing(simulate_plans((plan,), file.name, disassemble(given.program), options, trace, begins, sets)) as runs,  # type: ignore[type-var]
    ):
        result = Result(tuple(runs), trace)
    if as_json:
        click.echo(json.dumps(result.json() | found, indent=2))
    else:
        _print(result, found)
    if any(not each["verdict"]["passed"] for each in found.get("verification", ())):
        raise click.exceptions.Exit(1)


def _given(file: Path) -> Given:
    from kpusim.isa import read_program
    from kpusim.isa.arrays import from_arrays, load_arrays
    from kpusim.operators.given import Given

    program = from_arrays(load_arrays(file), str(file)) if file.suffix == ".npz" else read_program(file)
    return Given(program, str(file))


def _execute(given: Given, machine: Machine, seed: int, expected: Any) -> dict[str, Any]:
    """What an execution on data tells, for JSON."""
    from zlib import crc32

    import numpy as np
    from attrs import asdict

    from kpusim.report.execute import execute, judge

    program = given.program
    with progress("executing", 1) as begins:
        begins(program.name)
        inputs, outputs = execute(program, machine, {tensor.name: seed for tensor in program.tensors})
    found: dict[str, Any] = {"outputs": {}}
    for name, values in outputs.items():
        wide = values.astype(np.float64)
        found["outputs"][name] = {
            "shape": list(values.shape), "dtype": str(values.dtype), "mean": float(wide.mean()),
            "std": float(wide.std()), "crc32": crc32(np.ascontiguousarray(values).view(np.uint8).tobytes()),
        }  # fmt: skip
    if expected is not None:
        found["verification"] = [asdict(each) for each in judge(program, program.name, expected, inputs, outputs)]
    return found


def _print(result: Any, found: dict[str, Any]) -> None:
    from kpusim.report.table import verdict_text

    result.table()
    if found:
        click.echo("Executed on random data: no hazards.")
    for name, output in found.get("outputs", {}).items():
        shape = " x ".join(map(str, output["shape"]))
        numbers = f"mean {output['mean']:.4g}, standard deviation {output['std']:.4g}, crc32 {output['crc32']:08x}"
        click.echo(f"{name}: {shape} {output['dtype']}, {numbers}")
    for each in found.get("verification", ()):
        click.echo(verdict_text(each))
    if result.trace is not None:
        click.echo(f"Trace: {result.trace}\n  kpusim trace top {result.trace}")
