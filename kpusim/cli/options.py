"""Options that several commands share."""

from pathlib import Path

import click

from kpusim.cli.complete import files, machine_files, machine_sets, operators

__all__ = [
    "chunk_bytes",
    "chunk_option",
    "json_option",
    "keep",
    "machine_option",
    "mapping_option",
    "operator_option",
    "plain_option",
    "set_option",
    "size_bytes",
    "symbol_option",
    "symbol_values",
    "whole_option",
]

machine_option = click.option(
    "-m",
    "--machine",
    default="kpu-datacenter",
    show_default=True,
    metavar="NAME|FILE",
    shell_complete=machine_files,
    help="The machine: a name that `kpusim machine list` shows, or a TOML file.",
)
set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=machine_sets,
    help='Change one quantity of the machine, such as hbm.stacks=8 or clock="1.2 GHz". Repeatable.',
)
operator_option = click.option(
    "--op",
    "operator",
    metavar="OPERATOR",
    shell_complete=operators,
    help='One operator, such as "gemm(m=2048, n=4096, k=4096)".',
)
mapping_option = click.option(
    "--mapping",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    shell_complete=files(".toml"),
    help="Force the mapping in a file, as `kpusim lower --save-mapping` writes it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, with the keys told above.")
whole_option = click.option(
    "--whole", is_flag=True, help="Simulate also what is equal to a part that tells its time: slower, and exact."
)
plain_option = click.option("--plain", is_flag=True, help="Make every instruction an event: slower, the same cycles.")
chunk_option = click.option(
    "--chunk",
    default="16 KiB",
    show_default=True,
    metavar="SIZE",
    help='What a DMA engine asks for at once, such as "4 KiB": finer sharing, more events.',
)
symbol_option = click.option(
    "--symbol",
    "symbols",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a symbol of the workload, such as tokens=512. Repeatable.",
)


def chunk_bytes(text: str) -> int:
    """The bytes of `--chunk`. Raises UserError."""
    return size_bytes(text, "--chunk")


def size_bytes(text: str, option: str) -> int:
    """The bytes of an option. Raises UserError."""
    from kpusim.errors import UserError
    from kpusim.machine.quantities import SIZE, parse
    from kpusim.structured import BadValue

    try:
        size = int(parse(text, SIZE, 1))
    except BadValue as error:
        raise UserError(error.problem, where=option, found=text, allowed=error.allowed) from None
    if size < 1:
        raise UserError("too small", where=option, found=text, allowed="at least 1 B")
    return size


def symbol_values(symbols: tuple[str, ...]) -> dict[str, str]:
    """Name -> value of every `--symbol`. Raises UserError for one without a value."""
    from kpusim.errors import UserError

    values = {}
    for symbol in symbols:
        name, equals, value = symbol.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise UserError("not a symbol with its value", where=f"--symbol {symbol}", allowed="such as tokens=512")
        values[name.strip()] = value.strip()
    return values


def keep(output: Path | None, *others: Path | str | None) -> None:
    """Raises a usage error where `output` is one of the other files of a command: it would be lost."""
    for other in others:
        if output is not None and other is not None and output.resolve() == Path(other).resolve():
            raise click.UsageError(f"{output} is another file of this command: give the output another name.")
