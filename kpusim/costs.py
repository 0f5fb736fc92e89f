"""The closed cycle formulas: pure functions of a machine and sizes, used by engines, lowerings and reports alike.

Every formula is exact integer arithmetic and rounds up to whole cycles. A `*_timer` binds a machine and an
instruction's constants once and returns the formula over sizes alone, for callers that time many instructions.
"""

from collections.abc import Callable
from math import ceil

from kpusim.errors import UserError
from kpusim.isa.tables import DTYPE_BITS
from kpusim.machine.spec import Machine

__all__ = [
    "compute_bound_cycles",
    "hbm_bound_cycles",
    "matmul_cycles",
    "matmul_sram_bytes",
    "matmul_timer",
    "vector_cycles",
    "vector_timer",
]

_ACCUMULATOR_BYTES = 4  # fp32, or int32 for integer factors


def matmul_timer(
    machine: Machine, dtype: str, *, accumulate: bool = False
) -> Callable[[int, int, int], tuple[int, int]]:
    """The function (m, n, k) -> (occupancy, drain), in cycles, of a matmul instruction with factors of `dtype`.

    An output-stationary array of R x C cells works through ceil(m/R) * ceil(n/C) folds, each for one tile of results.
    Folds that do not overlap take R + C + ceil(k/rate) - 2 cycles each and leave nothing to drain: the skew of the
    operands, R + C - 2, then k steps at `macs_per_cell` a cycle (SCALE-Sim, Samajdar et al., arXiv:1811.02883; its
    version 3.0.0 reports one cycle less in all, the number of the last cycle counted from 0).
    Overlapped folds occupy the array for ceil(k/rate) each, and the last result is visible R + C - 2 cycles later.

    Either way the array is occupied at least as long as its SRAM port takes for the operands (`a` once for each column
    of folds, `b` once for each row of folds), for writing the fp32 or int32 results, and for reading them before when
    `accumulate`. Sizes of 0 take no time. Raises UserError for a dtype that the array cannot multiply.
    """
    engine = machine.matrix
    if dtype not in engine.macs_per_cell:
        raise _no_matmul(machine, dtype)
    rows, columns, rate = engine.rows, engine.columns, engine.macs_per_cell[dtype]
    skew = rows + columns - 2
    fold_skew, drain = (0, skew) if engine.overlap_folds else (skew, 0)
    port, scale = machine.sram.ports.matrix.as_integer_ratio()  # port / scale bytes a cycle

    def time(m: int, n: int, k: int) -> tuple[int, int]:
        if not (m and n and k):
            return 0, 0
        high, wide = -(-m // rows), -(-n // columns)
        array = high * wide * (fold_skew + -(-k // rate))
        traffic = -(-matmul_sram_bytes(machine, m, n, k, dtype, accumulate=accumulate) * scale // port)
        return (array if array > traffic else traffic), drain

    return time


def matmul_sram_bytes(machine: Machine, m: int, n: int, k: int, dtype: str, *, accumulate: bool = False) -> int:
    """Bytes that one matmul instruction moves through its SRAM port; see `matmul_timer`."""
    high, wide = -(-m // machine.matrix.rows), -(-n // machine.matrix.columns)
    factors = -(-(m * wide + n * high) * k * DTYPE_BITS[dtype] // 8)
    return factors + m * n * _ACCUMULATOR_BYTES * (2 if accumulate else 1)


def _no_matmul(machine: Machine, dtype: str) -> UserError:
    allowed = machine.matrix.macs_per_cell
    return UserError("the matrix engine cannot multiply this dtype", found=dtype, allowed=allowed)


def matmul_cycles(
    machine: Machine, m: int, n: int, k: int, dtype: str, *, accumulate: bool = False
) -> tuple[int, int]:
    """Cycles (occupancy, drain) of one matmul instruction of m x k times k x n; see `matmul_timer`."""
    return matmul_timer(machine, dtype, accumulate=accumulate)(m, n, k)


def vector_timer(machine: Machine, operation: str) -> Callable[[int, int], int]:
    """The function (elements, bytes moved) -> cycles of a vector instruction of a class such as "add" or "exp".

    The start-up, then the longer of elements * lane-cycles over the lanes and bytes over the SRAM port. No elements
    take no time. Raises UserError for an unknown class.
    """
    engine = machine.vector
    if operation not in engine.lane_cycles:
        raise UserError("unknown class of vector operations", found=operation, allowed=engine.lane_cycles)
    startup, lanes, lane_cycles = engine.startup_cycles, engine.lanes, engine.lane_cycles[operation]
    port, scale = machine.sram.ports.vector.as_integer_ratio()

    def time(elements: int, bytes_moved: int) -> int:
        if not elements:
            return 0
        compute, traffic = -(-elements * lane_cycles // lanes), -(-bytes_moved * scale // port)
        return startup + (compute if compute > traffic else traffic)

    return time


def vector_cycles(machine: Machine, operation: str, elements: int, bytes_moved: int) -> int:
    """Cycles of one vector instruction; see `vector_timer`."""
    return vector_timer(machine, operation)(elements, bytes_moved)


def compute_bound_cycles(machine: Machine, macs: int, dtype: str) -> int:
    """Least cycles for so many multiply-accumulates on all tiles. Raises UserError as `matmul_timer`."""
    peak = machine.peak_macs_per_cycle(dtype)
    if not peak:
        raise _no_matmul(machine, dtype)
    return -(-macs // peak)


def hbm_bound_cycles(machine: Machine, transferred: int) -> int:
    """Least cycles for so many bytes between HBM and chip, at the attainable bandwidth."""
    return ceil(transferred / machine.hbm.attainable_bytes_per_cycle)
