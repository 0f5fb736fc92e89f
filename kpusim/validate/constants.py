"""The calibration constants: quantities of a machine file that no public source gives, and measurements do."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from attrs import frozen

from kpusim.machine import machine_file
from kpusim.operators.rowwise import Rowwise
from kpusim.recipes.kernel import Kernel
from kpusim.validate.predict import Timed

__all__ = ["CONSTANTS", "Constant", "traits"]


@frozen
class Constant:
    """A quantity of the machine file that is fitted, by the key or the keys that have it.

    text: what a value is written as there. values: those simulated beside the file's own, ascending. public: the one
    that specifications alone give, and `why` they do. touches: traits of the runs that it matters to (`traits`); () for
    all.
    """

    keys: tuple[str, ...]
    text: str
    values: tuple[float, ...]
    public: float
    why: str
    touches: tuple[str, ...] = ()

    @property
    def parts(self) -> int:
        """Of the unit of a machine file, that values count: 40 of fortieths."""
        return int(self.text.rpartition("/")[2]) if "/" in self.text else 1

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
        return float(Fraction(str(found).split()[0]) * self.parts)

    def matters(self, run: Kernel, timed: Timed) -> bool:
        """Whether a run may depend on it that took what it took."""
        return traits(run, timed).issuperset(self.touches)


def traits(run: Kernel, timed: Timed) -> set[str]:
    """The kinds of units that a run used, the family of its operator, whether that works on rows, and its dtype."""
    units, operator = {what.partition(" ")[0] for what in timed.breakdown}, run.operator
    found = {*units, operator.family, getattr(operator, "dtype", "")} if operator else units
    return found | {"rowwise"} if isinstance(operator, Rowwise) else found


DATASHEET = "the peak rate of the datasheet"
FEW = "what the CUDA programming guide has for the arithmetic alone"
NONE = "none is published"
CONSTANTS = (
    Constant(("front_end.launch",), "{:.3g} us", (0, 2), 0, NONE),
    Constant(("front_end.load",), "{:.3g} us", (0, 1.5), 0, NONE),
    Constant(("front_end.host",), "{:.3g} us", (0, 15), 0, NONE),
    Constant(("matrix.sustained.bf16", "matrix.sustained.fp16"), "{:d}/40", (26, 40), 40, DATASHEET, ("matrix",)),
    Constant(
        ("matrix.sustained.fp8_e4m3", "matrix.sustained.fp8_e5m2"), "{:d}/40", (22, 40), 40, DATASHEET,
        ("matrix", "fp8_e4m3"),
    ),
    Constant(("matrix.sustained.int8",), "{:d}/40", (16, 40), 40, DATASHEET, ("matrix", "int8")),
    Constant(("matrix.synchronous",), "{:d}/40", (24, 40), 40, DATASHEET, ("matrix",)),
    Constant(("hbm.queue",), "{:d}", (64, 512), 64, "writes that gem5's controllers keep (src/mem/MemInterface.py)"),
    Constant(("hbm.four_activates",), "{:.3g} ns", (15, 25), 15, "Ramulator 2's of HBM3 (HBM3_16Gb_8hi)"),
    Constant(("dma.outstanding",), "{:d} KiB", (32, 128), 32, "2048 threads with the widest access, 16 B, each"),
    Constant(("dma.walk",), "{:.3g} us", (0, 3), 0, NONE, ("gather",)),
    Constant(("vector.startup",), "{:d} cycles", (29, 128), 29, "a trip through the memory of an SM", ("vector",)),
    Constant(
        ("vector.fill",), "{:d}", (512, 6144), 512,
        "128 lanes, each 4 cycles behind its result (Jia et al., arXiv:1804.06826)", ("vector",),
    ),
    Constant(
        tuple(f"vector.lane_cycles.{name}" for name in ("add", "mul", "move")), "{:d}", (1, 8), 1, FEW, ("vector",)
    ),
    Constant(("vector.lane_cycles.reduce",), "{:d}", (2, 9), 2, FEW, ("rowwise",)),
)  # fmt: skip
"""The constants, few and physical; what each means is in docs/machine.md."""
