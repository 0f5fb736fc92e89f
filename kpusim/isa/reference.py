"""The reference page of the instruction set, `docs/isa.md`: the guide of `isa/guide.md` and every row of `isa/*.toml`.

`python -m kpusim.isa.reference > docs/isa.md` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.data import data_dir
from kpusim.isa.legality import REFERENCES
from kpusim.isa.tables import DTYPE_BITS, DTYPE_GROUPS, FAMILIES, OperandRow, Row, instruction_rows

__all__ = ["TITLES", "operand_cells", "reference", "syntax"]

TITLES = {
    "control": "Control: any unit",
    "dma": "Data movement: DMA queues",
    "matrix": "The matrix engine",
    "vector": "The vector engine",
}
PLACES = {"": "", "tile": " `@ tile`", "tiles": " `@ tiles`"}
CONTROL_SYNTAX = {"for": "for counter = low .. high", "end": "end"}


def reference() -> str:
    """The page as Markdown."""
    guide = (data_dir("isa") / "guide.md").read_text(encoding="utf-8")
    return "\n".join([guide.rstrip(), "", *_dtypes(), *_contents(), *_instructions()]).rstrip() + "\n"


def _dtypes() -> Iterator[str]:
    yield "## Dtypes"
    yield ""
    yield "| dtype | bits | groups |"
    yield "|---|---|---|"
    for name, bits in DTYPE_BITS.items():
        groups = ", ".join(group for group, members in DTYPE_GROUPS.items() if name in members)
        yield f"| {name} | {bits} | {groups} |"
    yield ""
    yield "fp8 is OCP's (e4m3, e5m2). int4 and int2 are packed, the lowest element in the lowest bits."
    yield ""


def _contents() -> Iterator[str]:
    yield "## Instructions"
    yield ""
    for family in FAMILIES:
        names = (f"[`{row.name}`](#{row.name})" for row in instruction_rows().values() if row.family == family)
        yield f"- {TITLES[family]}: {', '.join(names)}"
    yield ""
    yield f"Every instruction may have up to {REFERENCES} waits and {REFERENCES} signals; options are expressions."
    yield ""


def _instructions() -> Iterator[str]:
    for family in FAMILIES:
        yield f"## {TITLES[family]}"
        yield ""
        for row in instruction_rows().values():
            if row.family == family:
                yield from _instruction(row)


def _instruction(row: Row) -> Iterator[str]:
    yield f"### {row.name}"
    yield ""
    yield f"    {syntax(row)}"
    yield ""
    yield f"{row.summary} Opcode {row.opcode}; class {row.timing_class}."
    yield ""
    if row.operands:
        yield "| operand | is | access | dtypes |"
        yield "|---|---|---|---|"
        yield from (f"| {' | '.join((operand.name, *operand_cells(operand)))} |" for operand in row.operands)
        yield ""
    for group in row.same:
        yield f"- {' and '.join(group)} have the same dtype."
    yield f"- Does: {row.semantics}"
    yield f"- Takes: {row.timing}"
    yield ""


def syntax(row: Row) -> str:
    """How an instruction is written."""
    if row.name in CONTROL_SYNTAX:
        return CONTROL_SYNTAX[row.name]
    parts = []
    for operand in row.operands:
        parts.append(f"[{operand.name}]" if operand.optional else operand.name)
    parts += [f"[{name}={default}]" for name, default in row.options.items()]
    return f"{row.name} {', '.join(parts)}".rstrip()


def operand_cells(operand: OperandRow) -> tuple[str, str, str]:
    """What may stand there, who reads or writes it, and its dtypes."""
    kinds = " or ".join(operand.kinds) + PLACES[operand.tiles] * ("view" in operand.kinds)
    optional = ", optional" * operand.optional
    dtypes = "any" if operand.dtypes == DTYPE_GROUPS["any"] else ", ".join(operand.dtypes)
    return f"{kinds}{optional}", operand.access, dtypes


if __name__ == "__main__":
    print(reference(), end="")
