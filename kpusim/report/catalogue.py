"""The catalogue of operators, `docs/operators.md`: every family with its parameters, tensors and examples.

`python -m kpusim.report.catalogue > docs/operators.md` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.operators import FAMILIES
from kpusim.operators.base import Port
from kpusim.operators.describe import Description, describe

__all__ = ["catalogue", "port_text", "run_line"]

HEAD = """# Operators

Every operator is written as a call, `kpusim run --op "gemm(m=256, n=512, k=256)"`; in a workload file its sizes come
from the tensors at its ports. Each line of an example runs as it stands, on any machine (`-m kpu-edge`); with
`--verify` it is executed on data, too, and compared with float64. `kpusim explain gemm` says the same in the terminal.

| operator | computes |
|---|---|
"""


def run_line(operator: str) -> str:
    """The command that runs an operator."""
    return f"kpusim run --op '{operator}'" if '"' in operator else f'kpusim run --op "{operator}"'


def port_text(port: Port) -> str:
    """Its axes and dtype, such as "[m, k] bf16"."""
    axes = (axis or str(size) for axis, size in zip(port.axes, port.shape, strict=True))
    return f"[{', '.join(axes)}] {port.dtype}"


def catalogue() -> str:
    """The page as Markdown."""
    found = [describe(family) for family in FAMILIES]
    rows = [f"| [`{each.family}`](#{each.family}) | {_cell(each.summary)} |" for each in found]
    return HEAD + "\n".join([*rows, "", *(line for each in found for line in _section(each))]).rstrip() + "\n"


def _section(family: Description) -> Iterator[str]:
    yield from (f"## {family.family}", "", family.summary, "")
    for paragraph in family.text:
        yield from (paragraph, "")
    yield from ("| parameter | default | takes |", "|---|---|---|")
    for each in family.parameters:
        yield f"| `{each.name}` | {f'`{each.default}`' if each.default else ''} | {_cell(each.allowed)} |"
    yield from ("", "| tensor | | is |", "|---|---|---|")
    yield from (f"| `{port.name}` | {port.role} | {port_text(port)} |" for port in family.ports)
    if family.fusions:
        yield from ("", f"Behind the [boundary](model.md#a-workloads-timeline) `fused`: {', '.join(family.fusions)}.")
    yield from ("", "| example | shows |", "|---|---|")
    yield from (f"| `{run_line(each.text)}` | {_cell(each.shows)} |" for each in family.examples)
    yield ""


def _cell(text: str) -> str:
    """In a cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(catalogue(), end="")
