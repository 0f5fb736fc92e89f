"""`kpusim completion`: the script by which a shell completes words."""

from __future__ import annotations

import click

from kpusim.cli.shells import COMPLETE, PROGRAM, SHELLS

__all__ = ["command"]


@click.command(short_help="Print the script that completes words in bash, zsh or fish.")
@click.argument("shell", type=click.Choice([*SHELLS]))
def command(shell: str) -> None:
    """Print the script by which a shell completes commands, options, machines and their keys, operators and files.

    \b
    In ~/.bashrc:                    eval "$(kpusim completion bash)"
    In ~/.zshrc, behind compinit:    eval "$(kpusim completion zsh)"
    In ~/.config/fish/config.fish:   kpusim completion fish | source

    \b
    Example:
      eval "$(kpusim completion bash)"
    """
    root = click.get_current_context().find_root().command
    click.echo(SHELLS[shell](root, {}, PROGRAM, COMPLETE).source(), nl=False)
