"""Options that several commands share."""

import click

__all__ = ["json_option", "machine_option", "set_option"]

machine_option = click.option(
    "-m",
    "--machine",
    default="kpu-datacenter",
    show_default=True,
    metavar="NAME|FILE",
    help="The machine: a name that `kpusim machine list` shows, or a TOML file.",
)
set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help='Change one quantity of the machine, such as hbm.stacks=8 or clock="1.2 GHz". Repeatable.',
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys told above.")
