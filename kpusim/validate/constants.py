"""The calibration constants: quantities of a machine file that no public source gives, and measurements do."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from attrs import frozen

from kpusim.machine import machine_file
from kpusim.recipes.row import Row

__all__ = ["CONSTANTS", "Constant"]


@frozen
class Constant:
    """A quantity of the machine file that is fitted, by the key or the keys that have it.

    text: what a value is written as there. values: those simulated, ascending. public: the one that specifications
    alone give, and `why` they do. touches: families of rows that it matters to, and their dtype where it is of one;
    () for all.
    """

    keys: tuple[str, ...]
    text: str
    values: tuple[float, ...]
    public: float
    why: str
    touches: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The first, which it is called by."""
        return self.keys[0]

    def text_of(self, value: float) -> str:
        """A value as a machine file has it."""
        return self.text.format(round(value) if self.text.startswith("{:d}") else value)

    def change(self, value: float) -> list[str]:
        """As `load_machine` takes it."""
        return [f"{key}={self.text_of(value)}" for key in self.keys]

    def value_in(self, name: str) -> float:
        """What the file of a machine has, in the unit of `text`."""
        found: Any = machine_file(name).table
        for key in self.key.split("."):
            found = found[key]
        return float(Fraction(str(found).split()[0]) * (100 if self.text.endswith("/100") else 1))

    def matters(self, row: Row) -> bool:
        """Whether a row may depend on it."""
        return not self.touches or row.family in self.touches or f"{row.family} {row.dtype}" in self.touches


DATASHEET = "the peak rate of the datasheet"
FEW = "what the CUDA programming guide has for the arithmetic alone"
MULTIPLY, MEMORY, VECTOR = ("gemm bf16", "attention", "model"), ("gemm", "eltwise", "gather"), ("norm", "eltwise")
CONSTANTS = (
    Constant(("front_end.launch",), "{} us", (0, 1, 1.25, 1.5, 2), 0, "none is published"),
    Constant(("front_end.load",), "{} us", (0, 0.5, 1, 1.5), 0, "none is published"),
    Constant(("front_end.host",), "{} us", (0, 5, 10, 15), 0, "none is published", ("launch",)),
    Constant(
        ("matrix.sustained.bf16", "matrix.sustained.fp16"), "{:d}/100", (65, 75, 85, 100), 100, DATASHEET, MULTIPLY
    ),
    Constant(
        ("matrix.sustained.fp8_e4m3", "matrix.sustained.fp8_e5m2"), "{:d}/100", (55, 70, 85, 100), 100, DATASHEET,
        ("gemm fp8",),
    ),
    Constant(("matrix.sustained.int8",), "{:d}/100", (40, 60, 80, 100), 100, DATASHEET, ("gemm int8",)),
    Constant(
        ("matrix.synchronous",), "{:d}/100", (60, 70, 80, 90, 100), 100, DATASHEET, ("attention", "gemm int8", "model")
    ),
    Constant(("hbm.queue",), "{:d}", (64, 128, 256, 384, 512), 64, "what such controllers are credited with", MEMORY),
    Constant(("hbm.four_activates",), "{} ns", (15, 20, 25), 15, "JEDEC's of HBM3", ("gemm", "gather")),
    Constant(("dma.walk",), "{} us", (0, 1, 2, 3), 0, "none is published", ("gather",)),
    Constant(
        ("vector.startup",), "{:d} cycles", (29, 64, 96, 128), 29, "a trip through the memory of an SM",
        (*VECTOR, "attention"),
    ),
    Constant(
        tuple(f"vector.lane_cycles.{name}" for name in ("add", "mul", "move")), "{:d}", (1, 4, 6, 8), 1, FEW, VECTOR
    ),
    Constant(("vector.lane_cycles.exp",), "{:d}", (8, 10, 12, 16), 10, FEW, VECTOR),
    Constant(("vector.lane_cycles.reduce",), "{:d}", (2, 5, 7, 9), 2, FEW, VECTOR),
)  # fmt: skip
"""The constants, few and physical; what each means is in docs/machine.md."""
