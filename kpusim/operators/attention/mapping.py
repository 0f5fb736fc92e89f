"""Attention mappings: how queries and keys are spread over tiles and time.

Tiles that share one stream of keys and values are a *stream*: each tile keeps `tokens` queries of `heads` heads in its
SRAM, and every block of `block_keys` keys and values goes to all of them at once. A *team* is `splits` streams that
work on the same queries, each on its part of the keys; the first adds the parts up. Teams take work items, each a band
of queries of one head of keys, one after the other until all are done.
"""

from __future__ import annotations

from attrs import frozen

from kpusim.isa.expr import ceil_div
from kpusim.operators.attention.problem import Problem
from kpusim.operators.declare import Wanted, sram_bytes

__all__ = ["ORDERS", "Mapping", "wanted"]

ORDERS = ("longest", "numbered", "launched")
READY_SLOTS = 2  # of keys and values as they are multiplied, where they are not stored so


@frozen
class Mapping:
    """One way to run an attention; see the module.

    variant: "flash" multiplies, exponentiates and multiplies one block after the other; "pipelined" multiplies queries
    by the next block of keys meanwhile (as FuseMax, arXiv:2406.10491, keeps its matrix engine busy). slots: buffers for
    keys and for values. order: "longest": teams take the longest items first; "numbered": in the order of queries and
    sequences, each to the team that is done first, which as before loads it while it ends the one before; "launched":
    so, but it begins when the results of the one before have left, as thread blocks of a GPU do, each in a single tile.
    """

    variant: str
    tokens: int
    heads: int
    token_tiles: int
    block_keys: int
    splits: int = 1
    slots: int = 2
    order: str = ORDERS[0]

    @property
    def numbered(self) -> bool:
        """Whether items are dealt in the order of queries and sequences, whatever their length."""
        return self.order != "longest"

    @property
    def launched(self) -> bool:
        """Whether an item begins when the one before has ended."""
        return self.order == "launched"

    @property
    def query_slots(self) -> int:
        """Buffers for queries; the next item's come, where GPUs' kernels have one, when all scores are there."""
        return 1 if self.numbered else 2

    @property
    def ahead(self) -> int:
        """Blocks by which the scores are ahead of the values."""
        return 1 if self.variant == "pipelined" else 0

    @property
    def rows(self) -> int:
        """Rows of queries in a tile."""
        return self.tokens * self.heads

    @property
    def band(self) -> int:
        """Queries of one head in a work item."""
        return self.tokens * self.token_tiles

    def stream_tiles(self, problem: Problem) -> int:
        """Tiles of a stream."""
        return self.token_tiles * ceil_div(problem.group, self.heads)

    def teams(self, problem: Problem, tiles: int) -> int:
        """Teams that `tiles` tiles make up, no more than there are work items."""
        items = problem.entries * ceil_div(problem.queries, self.band)
        return min(tiles // (self.stream_tiles(problem) * self.splits), items)

    def shape(self, problem: Problem, columns: int) -> tuple[int, int, int]:
        """Of a buffer with so many columns for each row of queries, in the order in which Q lies in HBM."""
        return (self.tokens, self.heads, columns) if self.tokens_first(problem) else (self.heads, self.tokens, columns)

    def tokens_first(self, problem: Problem) -> bool:
        """Whether the rows of a tile are ordered by query and then by head."""
        return self.tokens > 1 and (problem.tokens_first or self.heads == 1)

    def each_query(self, problem: Problem) -> tuple[int, int, int]:
        """The shape of a buffer with one element for each query, whatever its head."""
        return (self.tokens, 1, 1) if self.tokens_first(problem) else (1, self.tokens, 1)

    def sram_bytes(self, problem: Problem) -> int:
        """SRAM of a tile."""
        return sram_bytes(wanted(problem, self))


def wanted(problem: Problem, mapping: Mapping) -> Wanted:
    """(dtype, slots, shape) of each buffer of a tile, by name."""
    head, value, keys = problem.head_dim, problem.value_dim, mapping.block_keys
    turns = 1 + mapping.ahead
    found = {
        "q_tile": (problem.dtype, mapping.query_slots, mapping.shape(problem, head)),
        **_stored(problem, mapping, "k", head),
        **({} if problem.shared else _stored(problem, mapping, "v", value)),
        "s": ("fp32", turns, mapping.shape(problem, keys)),
        "p": (problem.dtype, turns, mapping.shape(problem, keys)),
        "o": ("fp32", 1, mapping.shape(problem, value)),
        "least": ("fp32", 2, mapping.shape(problem, 1)),
        "alpha": ("fp32", 1, mapping.shape(problem, 1)),
        "total": ("fp32", 1, mapping.shape(problem, 1)),
        "reduced": ("fp32", 1, mapping.shape(problem, 1)),
        "result": (problem.out_dtype, 1, mapping.shape(problem, value)),
    }
    if problem.causal:
        *each, _ = mapping.each_query(problem)
        found |= dict.fromkeys(("query", "limit"), ("int32", 1, (*each, 1)))
        found["hidden"] = "uint8", 1, (*each, keys)
    if problem.causal or problem.bounded:
        found["column"] = "int32", 1, (1, 1, keys)
    if problem.bounded:
        found["sink"] = "uint8", 1, (1, 1, keys)
    if problem.rope != "none":
        found |= _rotation(problem, mapping)
    if mapping.splits > 1:
        rows, others = mapping.rows, mapping.splits - 1
        found |= {
            "weighted": ("fp32", 1, mapping.shape(problem, value)),
            "sums": ("fp32", 1, mapping.shape(problem, 2)),
            "part_o": ("fp32", 1, (rows, others, value)),
            "part_sums": ("fp32", 1, (rows, others, 2)),
        }
    return found


def _stored(problem: Problem, mapping: Mapping, name: str, columns: int) -> Wanted:
    """Keys or values as they come, and as they are multiplied where that is another thing."""
    keys, grain = mapping.block_keys, problem.grain
    whole = (keys // grain, grain, columns) if problem.grained else (keys, columns)
    found: dict[str, tuple[str, int, tuple[int, ...]]] = {}
    if problem.quantized:
        each = (1, columns) if name == "k" else (grain, 1)
        scale = (keys // grain, *each) if problem.grained else (keys, 1)
        found[f"{name}_scale_tile"] = problem.dtype, mapping.slots, scale
    if problem.prepared(name):
        found[f"{name}_stored"] = problem.kv_dtype, mapping.slots, whole
        found[f"{name}_tile"] = problem.dtype, READY_SLOTS, whole
    else:
        found[f"{name}_tile"] = problem.dtype, mapping.slots, whole
    return found


def _rotation(problem: Problem, mapping: Mapping) -> Wanted:
    """What turns queries, and keys, by their position."""
    half = problem.head_dim // 2
    found: dict[str, tuple[str, int, tuple[int, ...]]] = {}
    found["q_stored"] = problem.dtype, mapping.query_slots, mapping.shape(problem, 2 * half)
    angles = (*mapping.each_query(problem)[:2], half)
    found |= dict.fromkeys(("q_cos", "q_sin"), ("fp32", mapping.query_slots, angles))
    found["turned"] = "fp32", 1, mapping.shape(problem, half)
    if problem.rope == "qk":
        found |= dict.fromkeys(("k_cos", "k_sin"), ("fp32", mapping.slots, (mapping.block_keys, half)))
        found["k_turned"] = "fp32", 1, (mapping.block_keys, half)
    return found
