"""`kpusim disasm`: the text of a program in array form, or of one that a trace holds."""

from __future__ import annotations

from pathlib import Path

import click

from kpusim.cli.complete import files
from kpusim.errors import UserError

__all__ = ["command"]

ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF"


@click.command(short_help="Print the text of an assembled program.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path), shell_complete=files(".npz", ".h5"))
@click.option("--op", metavar="NAME", help="Of a trace: the operator whose program is wanted. Default: the only one.")
@click.option("-o", "--output", metavar="FILE.kasm", type=click.Path(path_type=Path), help="Default: standard output.")
def command(file: Path, op: str | None, output: Path | None) -> None:
    """Print the text of the program in FILE: what `kpusim asm` wrote (.npz), or a trace (.h5).

    \b
    Examples:
      kpusim disasm rmsnorm.npz
      kpusim disasm run.h5 --op layer0.q_proj -o q_proj.kasm
    """
    from kpusim.files import write_text_atomic

    start = _start(file)
    if start == ZIP:
        text = _assembled(file)
    elif start == HDF5:
        text = _traced(file, op)
    else:
        allowed = "what `kpusim asm` writes (.npz), or a trace (.h5)"
        raise UserError("holds no program", where=str(file), allowed=allowed)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text_atomic(output, text)


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(4)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from error


def _assembled(file: Path) -> str:
    from kpusim.isa import disassemble
    from kpusim.isa.arrays import from_arrays, load_arrays

    return disassemble(from_arrays(load_arrays(file), str(file)))


def _traced(file: Path, op: str | None) -> str:
    from kpusim.trace.reader import open_trace

    with open_trace(file) as trace:
        blocks = {run.name: run.block for run in trace.ops if op in (None, run.name)}
        if len(set(blocks.values())) != 1:
            names = list(dict.fromkeys(run.name for run in trace.ops))
            problem = "ran several programs; choose one with --op" if op is None else "has no such operator"
            raise UserError(problem, where=str(file), found=op, allowed=names)
        return trace.program_text(next(iter(blocks.values())))
