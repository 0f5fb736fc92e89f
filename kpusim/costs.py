"""The closed cycle formulas: pure functions of a machine and sizes, used by engines, lowerings and reports alike.

Every formula is exact integer arithmetic and rounds up to whole cycles. A `*_timer` binds a machine and an
instruction's constants once and returns the formula over sizes alone, for callers that time many instructions.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine.spec import Machine

__all__ = [
    "Timer",
    "compute_bound_cycles",
    "fold_sizes",
    "hbm_bound_cycles",
    "matmul_array_timer",
    "matmul_cycles",
    "matmul_operand_bytes",
    "matmul_sram_bytes",
    "matmul_timer",
    "vector_bound_cycles",
    "vector_cycles",
    "vector_timer",
]

_ACCUMULATOR_BYTES = 4  # fp32, or int32 for integer factors
_WHOLE = 1 << 62  # what a fold covers of the dimension that is streamed: all of it

Timer = Callable[[int, int, int], tuple[int, int]]
"""(m, n, k) -> (occupancy, drain), in cycles."""


def fold_sizes(machine: Machine, dtype: str) -> tuple[int, int, int]:
    """How much of M, N and K one fold of the array covers: of the one that is streamed more than there can be.

    An output-stationary array of R x C cells keeps results: R of M, C of N. A weight-stationary one keeps factors of
    `b`, R * depth of K and C of N, and an input-stationary one factors of `a`, R * depth of K and C of M: a cell has
    as many of them along K as it multiplies whole in a cycle (`macs_per_cell`), at least one.
    Raises UserError for a dtype that the array cannot multiply.
    """
    engine, depth = machine.matrix, _depth(machine, dtype)
    return {
        "output-stationary": (engine.rows, engine.columns, _WHOLE),
        "weight-stationary": (_WHOLE, engine.columns, engine.rows * depth),
        "input-stationary": (engine.columns, _WHOLE, engine.rows * depth),
    }[engine.dataflow]


def matmul_array_timer(machine: Machine, dtype: str) -> Timer:
    """The function (m, n, k) -> (cycles, drain) of a matmul instruction with factors of `dtype` in the array alone.

    What a fold keeps is shifted in for `load` cycles (R for factors, 0 for results), and `steps` stream the rest:
    ceil(size * depth / rate), `depth` being what a cell keeps along K (see `fold_sizes`) and `rate` its macs_per_cell
    as far as they are sustained.
    The fold's last result is visible load + R + C + steps - 2 cycles from its start, R + C - 2 of them the skew of
    the operands. Folds that do not overlap follow each other after that time, and nothing is left to drain. At a
    rate of 1 (SCALE-Sim, Samajdar et al., arXiv:1811.02883; its version 3.0.0 reports one cycle less in all, the number
    of the last cycle counted from 0):

        output-stationary  ceil(m/R) * ceil(n/C) * (R + C + k - 2)
        weight-stationary  ceil(k/R) * ceil(n/C) * (2R + C + m - 2)
        input-stationary   ceil(k/R) * ceil(m/C) * (2R + C + n - 2)

    Overlapped folds follow each other every max(steps, load) cycles, since the next factors are shifted in while this
    fold streams; the last one drains. Sizes of 0 take no time. Raises UserError as `fold_sizes`.
    """
    engine = machine.matrix
    fold_m, fold_n, fold_k = sizes = fold_sizes(machine, dtype)
    streamed, load = sizes.index(_WHOLE), 0 if engine.dataflow == "output-stationary" else engine.rows
    pace, scale = Fraction(engine.pace(dtype), _depth(machine, dtype)).as_integer_ratio()
    filled, overlap = load + engine.rows + engine.columns - 2, engine.overlap_folds

    def time(m: int, n: int, k: int) -> tuple[int, int]:
        if not (m and n and k):
            return 0, 0
        folds = -(-m // fold_m) * -(-n // fold_n) * -(-k // fold_k)
        steps = -(-(m, n, k)[streamed] * scale // pace)
        alone = filled + steps
        each = (steps if steps > load else load) if overlap else alone
        return folds * each, alone - each

    return time


def matmul_timer(machine: Machine, dtype: str, *, accumulate: bool = False) -> Timer:
    """The function (m, n, k) -> (occupancy, drain), in cycles, of a matmul instruction with factors of `dtype`.

    As `matmul_array_timer`, but occupied for at least as long as its SRAM port takes for `matmul_sram_bytes`.
    """
    array, moved = matmul_array_timer(machine, dtype), matmul_operand_bytes(machine, dtype, accumulate=accumulate)
    port, scale = machine.sram.ports.matrix.as_integer_ratio()  # port / scale bytes a cycle

    def time(m: int, n: int, k: int) -> tuple[int, int]:
        cycles, drain = array(m, n, k)
        out, a, b = moved(m, n, k)
        traffic = -(-(out + a + b) * scale // port)
        return (cycles if cycles > traffic else traffic), drain

    return time


def matmul_sram_bytes(machine: Machine, m: int, n: int, k: int, dtype: str, *, accumulate: bool = False) -> int:
    """Bytes that one matmul instruction moves through its SRAM port; see `matmul_operand_bytes`."""
    return sum(matmul_operand_bytes(machine, dtype, accumulate=accumulate)(m, n, k))


def matmul_operand_bytes(
    machine: Machine, dtype: str, *, accumulate: bool = False
) -> Callable[[int, int, int], tuple[int, int, int]]:
    """The function (m, n, k) -> bytes of (out, a, b) that one matmul instruction moves.

    Each operand passes once for each fold along the dimension that it does not have: `a` along N, `b` along M, the fp32
    or int32 results along K. Results are written every time, and read before it but for the first (then too, when
    `accumulate`). As one dimension is streamed whole, each dataflow moves just once what it keeps in its cells.
    """
    fold_m, fold_n, fold_k = fold_sizes(machine, dtype)
    bits, first = DTYPE_BITS[dtype], 0 if accumulate else 1  # the passes of the results that need not be read

    def moved(m: int, n: int, k: int) -> tuple[int, int, int]:
        if not (m and n and k):
            return 0, 0, 0
        out = m * n * _ACCUMULATOR_BYTES * (2 * -(-k // fold_k) - first)
        return out, m * -(-n // fold_n) * k * bits // 8, n * -(-m // fold_m) * k * bits // 8

    return moved


def _depth(machine: Machine, dtype: str) -> int:
    """Factors along K that a cell keeps, or 1 result. Raises UserError for a dtype that the array cannot multiply."""
    engine = machine.matrix
    if dtype not in engine.macs_per_cell:
        raise _no_matmul(machine, dtype)
    return 1 if engine.dataflow == "output-stationary" else max(1, int(engine.macs_per_cell[dtype]))


def _no_matmul(machine: Machine, dtype: str) -> UserError:
    allowed = machine.matrix.macs_per_cell
    return UserError("the matrix engine cannot multiply this dtype", where=machine.name, found=dtype, allowed=allowed)


def matmul_cycles(machine: Machine, m: int, n: int, k: int, dtype: str, *, accumulate: bool = False) -> tuple[int, int]:
    """Cycles (occupancy, drain) of one matmul instruction of m x k times k x n; see `matmul_timer`."""
    return matmul_timer(machine, dtype, accumulate=accumulate)(m, n, k)


def vector_timer(machine: Machine, operation: str) -> Callable[[int, int], int]:
    """The function (elements, bytes moved) -> cycles of a vector instruction of a class such as "add" or "exp".

    The start-up, then the longer of elements * lane-cycles over the lanes (of `vector.fill` elements at least) and
    bytes over the SRAM port. No elements take no time. Raises UserError for an unknown class.
    """
    engine = machine.vector
    startup, lanes, lane_cycles = engine.startup_cycles, engine.lanes, _lane_cycles(machine, operation)
    port, scale = machine.sram.ports.vector.as_integer_ratio()
    fill = engine.fill

    def time(elements: int, bytes_moved: int) -> int:
        if not elements:
            return 0
        worked = elements if elements > fill else fill
        compute, traffic = -(-worked * lane_cycles // lanes), -(-bytes_moved * scale // port)
        return startup + (compute if compute > traffic else traffic)

    return time


def _lane_cycles(machine: Machine, operation: str) -> int:
    """What an element of a class occupies a lane. Raises UserError for an unknown class."""
    classes = machine.vector.lane_cycles
    if operation not in classes:
        raise UserError("unknown class of vector operations", found=operation, allowed=classes)
    return classes[operation]


def vector_cycles(machine: Machine, operation: str, elements: int, bytes_moved: int) -> int:
    """Cycles of one vector instruction; see `vector_timer`."""
    return vector_timer(machine, operation)(elements, bytes_moved)


def compute_bound_cycles(machine: Machine, macs: int, dtype: str) -> int:
    """Least cycles for so many multiply-accumulates on all tiles. Raises UserError as `matmul_timer`."""
    peak = machine.peak_macs_per_cycle(dtype)
    if not peak:
        raise _no_matmul(machine, dtype)
    return -(-macs // peak)


def vector_bound_cycles(machine: Machine, work: Mapping[str, int]) -> int:
    """Least cycles for so many elements by class of vector operations, on the lanes of all tiles.

    Raises UserError for an unknown class.
    """
    total = sum(elements * _lane_cycles(machine, operation) for operation, elements in work.items())
    return -(-total // (machine.vector.lanes * machine.tiles.count))


def hbm_bound_cycles(machine: Machine, transferred: int) -> int:
    """Least cycles for so many bytes between HBM and chip, at the attainable bandwidth."""
    return ceil(transferred / machine.hbm.attainable_bytes_per_cycle)
