"""`kpusim asm`: a program's text, checked and written in array form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpusim.cli.complete import files
from kpusim.cli.options import json_option, machine_option, set_option

if TYPE_CHECKING:
    from kpusim.isa import Program

__all__ = ["command"]

SUMMARY = """\
{program}: {sections} sections, {instructions} instructions in {loops} loops, {tensors} tensors,
{semaphores} semaphores, {sram_bytes:,} bytes of each SRAM; fits {machine}; written to {output}"""


@click.command(short_help="Assemble a program's text to its array form.")
@click.argument("file", metavar="FILE.kasm", type=click.Path(path_type=Path), shell_complete=files(".kasm"))
@click.option("-o", "--output", metavar="FILE.npz", type=click.Path(path_type=Path), help="Default: FILE.npz.")
@machine_option
@set_option
@json_option
def command(file: Path, output: Path | None, machine: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Assemble FILE.kasm, check it against a machine, and write its array form (numpy's .npz).

    JSON: program, machine, output; tensors, sections, instructions, loops, semaphores (numbers); sram_bytes (a tile's).

    \b
    Examples:
      kpusim asm workloads/kasm/rmsnorm.kasm -m kpu-tiny -o rmsnorm.npz
      kpusim asm my.kasm --set "sram.capacity=1 MiB"
    """
    from kpusim.isa import read_program
    from kpusim.isa.arrays import save_arrays, to_arrays
    from kpusim.isa.check import check_program
    from kpusim.machine import load_machine
    from kpusim.machine.limits import limits_of

    loaded = load_machine(machine, sets)
    program = read_program(file)
    check_program(program, limits_of(loaded), source=str(file))
    path = output or file.with_suffix(".npz")
    save_arrays(to_arrays(program), path)
    summary = _summary(program) | {"machine": loaded.name, "output": str(path)}
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    click.echo(SUMMARY.format(**summary))


def _summary(program: Program) -> dict[str, Any]:
    from kpusim.isa.program import Instruction, Loop

    nodes = [node for _, node, _ in program.instructions()]
    return {
        "program": program.name,
        "tensors": len(program.tensors),
        "sections": len(program.sections),
        "instructions": sum(isinstance(node, Instruction) for node in nodes),
        "loops": sum(isinstance(node, Loop) for node in nodes),
        "semaphores": sum(sem.instances * sem.slots for sem in program.semaphores),
        "sram_bytes": program.sram_bytes,
    }
