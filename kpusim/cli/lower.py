"""`kpusim lower`: write the program that an operator is lowered to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files, workloads
from kpusim.cli.options import (
    json_option,
    machine_option,
    operator_option,
    set_option,
    symbol_option,
    symbol_values,
)

if TYPE_CHECKING:
    from kpusim.machine import Machine
    from kpusim.operators import Lowered

__all__ = ["command"]


@click.command(short_help="Write the program that an operator is lowered to.")
@click.argument("workload", metavar="[WORKLOAD.toml#OPERATOR]", required=False, shell_complete=workloads)
@operator_option
@machine_option
@set_option
@symbol_option
@click.option("--run", "run", metavar="NAME", help="The run of the workload that gives the sizes; default: the first.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.kasm", help="Default: print it.",
    shell_complete=files(".kasm"),
)  # fmt: skip
@click.option("--explain", is_flag=True, help="Say why the program looks as it does.")
@json_option
def command(
    workload: str | None, operator: str | None, machine: str, sets: tuple[str, ...], symbols: tuple[str, ...],
    run: str | None, output: Path | None, explain: bool, as_json: bool,
) -> None:  # fmt: skip
    """Lower an operator, given as text or as WORKLOAD.toml#NAME, to a program's text. Edit it, and `kpusim exec` it.

    JSON: program (its text, unless -o), output, choices: [{what, value, why}].

    \b
    Examples:
      kpusim lower --op "gemm(m=2048, n=4096, k=4096)" --explain -o p.kasm
      kpusim lower "workloads/llama3-8b-layer.toml#qkv" --run prefill
    """
    if (workload is None) == (operator is None):
        raise click.UsageError("Give either WORKLOAD.toml#OPERATOR or --op.")
    from kpusim.files import write_text_atomic
    from kpusim.isa import disassemble
    from kpusim.machine import load_machine

    loaded = load_machine(machine, sets)
    name, lowered = _lowered(workload, operator, loaded, symbol_values(symbols), run)
    text = disassemble(lowered.program)
    if output is not None:
        write_text_atomic(output, text)
    if as_json:
        choices = [dict(zip(("what", "value", "why"), choice, strict=True)) for choice in lowered.choices]
        data: dict[str, Any] = {} if output else {"program": text}
        click.echo(json.dumps(data | {"output": output and str(output), "choices": choices}, indent=2))
        return
    if output is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"{output}: {len(text.splitlines())} lines; run it with: kpusim exec {output} -m {machine}")
    if explain:
        from kpusim.report.table import print_choices

        print_choices(lowered, name, to_stderr=output is None)


def _lowered(
    workload: str | None, operator: str | None, machine: Machine, symbols: dict[str, str], run: str | None
) -> tuple[str, Lowered]:
    """The name and the program of the operator that the arguments name. Raises UserError."""
    from kpusim.errors import UserError
    from kpusim.operators import make_operator
    from kpusim.plan import load_workload, plan_workload
    from kpusim.simulate.workload import lowered_for

    if operator is not None:
        return operator, make_operator(operator).lower(machine)
    assert workload is not None
    file, _, name = workload.partition("#")
    plan = plan_workload(load_workload(file), machine, symbols, [run] if run else [])[0]
    steps = {step.label: step for step in plan.steps}
    if name not in steps:
        problem = "no such operator" if name else "which operator? (write WORKLOAD.toml#OPERATOR)"
        raise UserError(problem, where=file, found=name or None, allowed=list(steps))
    return name, lowered_for(steps[name], plan)
