"""`kpusim lower`: write the program that an operator is lowered to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files, workloads
from kpusim.cli.options import (
    json_option,
    keep,
    machine_option,
    mapping_option,
    operator_option,
    set_option,
    symbol_option,
    symbol_values,
)

if TYPE_CHECKING:
    from kpusim.machine import Machine
    from kpusim.operators import Lowered, Operator
    from kpusim.operators.base import Layouts

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
@mapping_option
@click.option(
    "--save-mapping", "saved", type=click.Path(path_type=Path), metavar="FILE.toml", shell_complete=files(".toml"),
    help="Write the mapping that the program follows.",
)  # fmt: skip
@click.option("--folds", is_flag=True, help="One matmul for each fold of the array instead of one an SRAM tile.")
@click.option("--explain", is_flag=True, help="Say why the program looks as it does, and what else was tried.")
@json_option
def command(
    workload: str | None, operator: str | None, machine: str, sets: tuple[str, ...], symbols: tuple[str, ...],
    run: str | None, output: Path | None, mapping: Path | None, saved: Path | None, folds: bool, explain: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Lower an operator, given as text or as WORKLOAD.toml#NAME, to a program's text. Edit it, and `kpusim exec` it.

    A mapping says how the work is spread over tiles and time: write the one that was chosen, edit it, force it.

    \b
    JSON: program (its text, unless -o), output, mapping: {name: value}, choices: [{what, value, why}],
    tried: [{mapping, cycles, longest, hbm_bytes, why}], with estimated cycles, the fastest first.

    \b
    Examples:
      kpusim lower --op "gemm(m=2048, n=4096, k=4096)" --explain -o p.kasm
      kpusim lower "workloads/llama3-8b-layer.toml#qkv" --run prefill
      kpusim lower --op "gemm(m=2048, n=4096, k=4096)" -o p.kasm --save-mapping mine.toml
      kpusim lower --op "gemm(m=2048, n=4096, k=4096)" -o p.kasm --mapping mine.toml
    """
    if (workload is None) == (operator is None):
        raise click.UsageError("Give either WORKLOAD.toml#OPERATOR or --op.")
    if operator is not None and (symbols or run):
        raise click.UsageError("--symbol and --run belong to a workload file.")
    keep(output, mapping, saved)
    from kpusim.files import write_text_atomic
    from kpusim.isa import disassemble
    from kpusim.machine import load_machine
    from kpusim.operators import lower_as, mapping_toml

    loaded = load_machine(machine, sets)
    name, found, layouts = _operator(workload, operator, loaded, symbol_values(symbols), run)
    lowered = lower_as(found, loaded, layouts, mapping=mapping, fold_instructions=folds)
    text = disassemble(lowered.program)
    if output is not None:
        write_text_atomic(output, text)
    if saved is not None:
        write_text_atomic(saved, mapping_toml(lowered.mapping, " ".join([name, "on", loaded.name, *sets])))
    if as_json:
        click.echo(_json(lowered, None if output else text, output))
        return
    if output is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"{output}: {len(text.splitlines())} lines; run it with: kpusim exec {output} -m {machine}")
    if saved is not None:
        click.echo(f"{saved}: its mapping; edit it, and force it with: --mapping {saved}", err=output is None)
    if explain:
        from kpusim.report.table import print_choices, print_tried

        print_choices(lowered, name, to_stderr=output is None)
        print_tried(lowered, name, to_stderr=output is None)


def _json(lowered: Lowered, text: str | None, output: Path | None) -> str:
    from attrs import asdict

    data: dict[str, Any] = {} if text is None else {"program": text}
    data["output"] = output and str(output)
    data["mapping"] = asdict(lowered.mapping)
    data["choices"] = [dict(zip(("what", "value", "why"), choice, strict=True)) for choice in lowered.choices]
    data["tried"] = [asdict(each) for each in lowered.tried]
    return json.dumps(data, indent=2)


def _operator(
    workload: str | None, operator: str | None, machine: Machine, symbols: dict[str, str], run: str | None
) -> tuple[str, Operator, Layouts]:
    """Name, operator and layouts of its tensors, as the arguments say. Raises UserError."""
    from kpusim.errors import UserError
    from kpusim.operators import make_operator
    from kpusim.plan import load_workload, plan_workload

    if operator is not None:
        return operator, make_operator(operator), {}
    assert workload is not None
    file, _, name = workload.partition("#")
    plan = plan_workload(load_workload(file), machine, symbols, [run] if run else [])[0]
    steps = {step.label: step for step in plan.steps}
    if name not in steps:
        problem = "no such operator" if name else "which operator? (write WORKLOAD.toml#OPERATOR)"
        raise UserError(problem, where=file, found=name or None, allowed=list(steps))
    step = steps[name]
    return workload, step.operator, {port: standing.layout for port, standing in step.ports.items()}
