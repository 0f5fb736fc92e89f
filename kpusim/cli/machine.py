"""`kpusim machine`: list, draw and check machines."""

import json

import attrs
import click

from kpusim.cli.complete import files, machine_files
from kpusim.cli.options import json_option, set_option
from kpusim.machine import Machine, changed_toml, draw, load_machine, machine_file, machine_names

__all__ = ["command"]


@click.group(short_help="List, draw and check machines.")
def command() -> None:
    """List, draw and check machines.

    \b
    Examples:
      kpusim machine list
      kpusim machine show kpu-tiny
      kpusim machine show kpu-datacenter --set hbm.stacks=8 --toml > my.toml
      kpusim machine check my.toml
    """


@command.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the machines that come with kpusim.

    JSON: a list of {name, description}.

    \b
    Example:
      kpusim machine list --json
    """
    machines = [load_machine(name) for name in machine_names()]
    if as_json:
        click.echo(json.dumps([{"name": m.name, "description": m.description} for m in machines], indent=2))
        return
    width = max(len(machine.name) for machine in machines)
    for machine in machines:
        click.echo(f"{machine.name.ljust(width)}  {machine.description}")


@command.command()
@click.argument("machine", metavar="NAME|FILE", shell_complete=machine_files)
@click.option("--toml", "as_toml", is_flag=True, help="Print the machine's TOML file, changes included.")
@json_option
@set_option
def show(machine: str, as_toml: bool, as_json: bool, sets: tuple[str, ...]) -> None:
    """Draw a machine, with its rates and sizes.

    JSON: the machine's tables and keys with their units as suffixes (_hz, _bytes, _cycles, bytes_per_cycle), numbers
    converted to them; and peak_flops by dtype, a second.

    \b
    Examples:
      kpusim machine show kpu-datacenter
      kpusim machine show kpu-datacenter --toml > my.toml
      kpusim machine show my.toml --set hbm.stacks=8 --set clock="1.2 GHz"
    """
    if as_toml and as_json:
        raise click.UsageError("--toml and --json exclude each other.")
    loaded = load_machine(machine, sets)
    if as_toml:  # the file itself, with its comments, where nothing is changed
        click.echo(changed_toml(machine, sets) if sets else machine_file(machine).text, nl=False)
    elif as_json:
        click.echo(_json(loaded))
    else:
        click.echo(draw(loaded))


def _json(machine: Machine) -> str:
    peaks = {dtype: machine.peak_flops(dtype) for dtype in machine.matrix.macs_per_cell}
    return json.dumps({**attrs.asdict(machine), "peak_flops": peaks}, indent=2, default=float)


@command.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, shell_complete=files(".toml"))
def check(files: tuple[str, ...]) -> None:
    """Check machine files; exit 2 at the first that is wrong, with its line and key.

    \b
    Example:
      kpusim machine check my.toml
    """
    for file in files:
        click.echo(f"{file}: {load_machine(file).name} is a possible machine")
