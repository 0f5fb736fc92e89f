"""Table look-ups of generated code, done once where their index is known: not again in every run of a loop's body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kpusim.isa.expr import Binary, Call, Const, Expr, Lookup, Name, bounds, names_in, walk
from kpusim.isa.program import Instruction, Loop, Node, View
from kpusim.isa.ranges import Ranges

__all__ = ["Lookups"]


class Lookups:
    """The look-ups that have a local name at one point of a section: of those that certainly stay in their table."""

    def __init__(self, tables: Mapping[str, Sequence[int]]):
        self._tables = tables
        self._names: dict[Expr, Name] = {}
        self._count = 0

    def proven(self, expr: Expr, ranges: Ranges) -> bool:
        """Whether every look-up in `expr` certainly stays in its table, with names in their closed ranges."""
        return all(self._inside(node, ranges) for node in walk(expr) if isinstance(node, Lookup))

    def _inside(self, lookup: Lookup, ranges: Ranges) -> bool:
        low, high = bounds(lookup.index, ranges, self._tables)
        return low >= 0 and high < len(self._tables[lookup.table])

    def enter(self, nodes: tuple[Node, ...], ranges: Ranges) -> Iterator[tuple[str, Expr]]:
        """(name, expression) of each look-up in `nodes` that depends on no other names than those of `ranges`."""
        for expr in _expressions(nodes):
            for lookup in reversed([node for node in walk(expr) if isinstance(node, Lookup)]):
                if lookup in self._names or not names_in(lookup) <= ranges.keys() or not self.proven(lookup, ranges):
                    continue
                local = Name(f"l{self._count}")
                self._count += 1
                yield local.id, lookup
                self._names[lookup] = local

    def known(self) -> dict[Expr, Name]:
        """Those that have a name now; `restore` brings this back at the end of a loop."""
        return dict(self._names)

    def restore(self, known: dict[Expr, Name]) -> None:
        """Forgets what has been named since."""
        self._names = known

    def replaced(self, expr: Expr) -> Expr:
        """`expr` with the names of look-ups for those that have one."""
        if expr in self._names:
            return self._names[expr]
        match expr:
            case Binary(op, left, right):
                return Binary(op, self.replaced(left), self.replaced(right))
            case Call(function, args):
                return Call(function, tuple(map(self.replaced, args)))
            case Lookup(table, index):
                return Lookup(table, self.replaced(index))
            case Const() | Name():
                return expr


def _expressions(nodes: tuple[Node, ...]) -> Iterator[Expr]:
    """Of all instructions and loops in `nodes`."""
    for node in nodes:
        if isinstance(node, Loop):
            yield from (node.low, node.high)
            yield from _expressions(node.body)
        else:
            yield from _of_instruction(node)


def _of_instruction(node: Instruction) -> Iterator[Expr]:
    yield from (value for _, value in node.options)
    for ref in (*node.waits, *(signal.target for signal in node.signals)):
        yield from (ref.instance, ref.slot)
    for operand in node.operands:
        if isinstance(operand, View):
            yield operand.slot
            for part in operand.ranges:
                yield part.start
                if part.length is not None:
                    yield part.length
