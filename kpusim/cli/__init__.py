"""The command line."""

import click


@click.group()
def main() -> None:
    """Cycle-approximate simulator of KPU accelerators."""
