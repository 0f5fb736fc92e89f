"""Something for a unit to do: random instructions on a few tensors and buffers, with sizes from anything in scope."""

from kpusim.isa.expr import Const, Lookup, Name, maximum, minimum
from kpusim.isa.program import Box, Buffer, Instruction, Loop, Range, Rows, Table, Tensor, TensorMap, TileSet, View

__all__ = ["BUFFERS", "MAPS", "SIZES", "TABLES", "Work", "tensors"]

ROWS, SIZES = (3, 0, 7, 7, 63, -2, 70, 12, 1, 40, 41, 42), (4, 0, 16, 1, 5, 8, 3)

MAPS = (TensorMap("X_box", "X", (16, 16)), TensorMap("Y_box", "Y", (16, 16)), TensorMap("Z_box", "Z", (2, 16, 16)))
BUFFERS = (
    Buffer("a", "bf16", 2, (16, 16), 0),
    Buffer("f", "fp32", 1, (16, 16), 1024),
    Buffer("index", "int32", 1, (16, 16), 2048),
)
TABLES = Table("rows", ROWS), Table("sizes", SIZES)


def tensors(random):
    """X, Y and Z: row-major, with a row pitch or without, and blocked."""
    return (
        Tensor("X", "bf16", (64, 64), "inout", pitch=random.choice([0, 0, 65, 96, 256])),
        Tensor("Y", "bf16", (48, 40), "inout", (8, 16)),
        Tensor("Z", "bf16", (4, 16, 16), "inout", pitch=random.choice([0, 0, 20, 32])),
    )


class Work:
    """Draws from `random`; for a machine of so many tiles. `scope`: names of parameters and loop counters."""

    def __init__(self, random, tiles):
        self.random, self.tiles = random, tiles

    def burst(self, unit, scope):
        """Work without semaphores, in a loop whose trips may depend on everything around it."""
        high = self.random.choice([Const(3), Const(0), self.size(scope, 4)])
        inner = [*scope, "k"] if self.random.random() < 0.3 else scope
        nodes = [Instruction(*self.instruction(unit, inner)) for _ in range(self.random.randint(1, 2))]
        return Loop("k", Const(0), high, tuple(node for node in nodes if node.op != "sync"))

    def size(self, scope, most):
        """A number of elements up to `most`: a constant, clamped counters, or from a table."""
        random = self.random
        names = sum((Name(name) for name in scope), Const(random.randint(0, 3)))
        return random.choice([
            Const(most), Const(most), Const(random.randint(0, most)), Const(0 if random.random() < 0.3 else 1),
            minimum(names, most), maximum(minimum(most, Const(2) - names), 0),
            minimum(Lookup("sizes", names % len(SIZES)), most),
        ])  # fmt: skip

    def instruction(self, unit, scope, transfer=None):
        """(mnemonic, operands, options) of something to do; `transfer`: to these tiles."""
        if transfer is None and self.random.random() < 0.15:
            return "sync", (), ()
        if unit == "matrix":
            return self.matmul(scope)
        return self.vector(scope) if unit == "vector" else self.dma(scope, transfer)

    def matmul(self, scope):
        m, n, k = (Range(length=self.size(scope, 16)) for _ in range(3))
        accumulate = self.random.choice([Const(0), Const(1), minimum(Name(scope[-1]), 1)])
        slot = Name(scope[-1]) % 2
        operands = View("f", ranges=(m, n)), View("a", slot, (m, k)), View("a", Const(1), (k, n))
        return "matmul", operands, (("accumulate", accumulate),)

    def vector(self, scope):
        m, n, k = (Range(length=self.size(scope, 16)) for _ in range(3))
        f, column, top = (View("f", ranges=(m, part)) for part in (n, Range(length=Const(1)), k))
        operations = {
            "fill": (f, 1.0), "add": (f, f, 1.0), "fma": (f, f, f, column), "exp": (f, f), "rsqrt": (f, f),
            "row_sum": (column, f), "prefix_sum": (f, f), "top_k": (top, View("index", ranges=(m, k)), f),
            "cast": (View("a", Name(scope[-1]) % 2, (m, n)), f), "move": (f, f),
        }  # fmt: skip
        op = self.random.choice([*operations])
        return op, operations[op], ()

    def dma(self, scope, transfer):
        random = self.random
        m, n = (Range(length=self.size(scope, 16)) for _ in range(2))
        names = sum((Name(name) for name in scope), Const(0))
        source = TileSet((names + random.randrange(self.tiles)) % self.tiles)
        slot = Name(scope[-1]) % 2
        there, here = View("a", slot, (m, n), transfer or self.destinations(source)), View("a", slot, (m, n), source)
        box = self.box(names, m, n)
        rows = Rows("rows", names % 4, minimum(m.length, 8))
        few = Range(length=rows.count)
        first, column = Const(random.choice([0, 0, -3, 20])), Const(random.choice([0, 8]))
        listed = Box("X_box", (Range(first), Range(column, n.length)))
        op = random.choice(["load", "gather", "copy"] if transfer else
                           ["load", "load", "store", "gather", "scatter", "scatter_add", "copy"])  # fmt: skip
        if op == "gather":
            return op, (View("a", slot, (few, n), there.tiles), listed, rows), ()
        if op in ("scatter", "scatter_add"):
            return op, (listed, View("a", slot, (few, n), source), rows), ()
        if op == "copy":
            return op, (there, here), random.choice([(), (("accumulate", Const(1)),)])
        return op, (there, box) if op == "load" else (box, here), ()

    def box(self, names, m, n):
        """Part of a tensor, often across its edge."""
        random = self.random
        start, column = names * random.choice([0, 5, 16]) + random.randint(-20, 60), Const(random.choice([0, 0, 9, 33]))
        if random.random() < 0.2:
            return Box("Z_box", (Range(names % 4, Const(1)), Range(start, m.length), Range(column, n.length)))
        return Box(random.choice(["X_box", "Y_box"]), (Range(start, m.length), Range(column, n.length)))

    def destinations(self, single):
        if self.random.random() < 0.5:
            return single
        step = self.random.choice([1, 1, 2])
        first = self.random.randrange(self.tiles)
        count = self.random.randint(1, (self.tiles - 1 - first) // step + 1)
        return TileSet(Const(first), Const(count), step)
