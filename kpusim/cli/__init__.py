"""The command line: a group whose commands are imported when they are called, and one place that handles errors."""

import signal
import threading
from importlib import import_module
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

from kpusim import __version__
from kpusim.cli.shells import PROGRAM
from kpusim.errors import UserError

__all__ = ["main"]

# Command -> what `kpusim --help` says about it, without importing it. `kpusim/cli/NAME.py` defines `command`.
COMMANDS = {
    "run": "Simulate a workload file or one operator on a machine.",
    "lower": "Write the program that an operator is lowered to.",
    "exec": "Simulate a program from its text.",
    "asm": "Assemble a program's text to its array form.",
    "disasm": "Print the text of an assembled program.",
    "machine": "List, draw and check machines.",
    "hbm": "Measure memory: one channel burst by burst, or a sweep of all.",
    "validate": "Hold predictions against measured rows.",
    "trace": "Look into a trace file.",
    "regress": "Compare a suite's cycle counts with its golden ones.",
    "compare": "Compare variants of machines on one workload or operator.",
    "diff": "Say where the cycles went between two runs.",
    "explain": "Say what an operator, a stall, an instruction or a machine key is.",
    "fuzz": "Check random operators on random machines, values and time.",
    "completion": "Print the script that completes words in bash, zsh or fish.",
    "bench": "Measure the simulator's own speed and the quality of lowering.",
}
INTERRUPTED = 130


def _terminated(number: int, frame: FrameType | None) -> None:
    """Ends by an exception, so that no part of a file stays behind."""
    raise SystemExit(128 + number)


class _Lazy(click.Group):
    """A group of the `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"kpusim.cli.{name}").command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        items = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return items + click.Command.shell_complete(self, ctx, incomplete)  # click's group would import every command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:  # click looks for near names among loaded commands only
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminated)
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise  # click's own: whoever read the output has gone
        except OSError as error:
            click.echo(f"Error: {error.filename or 'output'}: {error.strerror or error}", err=True)
            ctx.exit(UserError.exit_code)
        except OverflowError as error:
            click.echo(f"Error: a quantity is too large or too small to simulate: {error}", err=True)
            ctx.exit(UserError.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Lazy)
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """How many cycles an operator or a model takes on a KPU accelerator, and what everybody was waiting for.

    \b
    Examples:
      kpusim run workloads/llama3-8b-layer.toml
      kpusim run --op "gemm(m=2048, n=4096, k=4096)" --set hbm.stacks=8
      kpusim machine show kpu-datacenter

    `kpusim COMMAND --help` has more.
    """
