"""Which lines of HBM a cache holds: the default, by blocks and without sets, and the exact one, line by line.

Both answer one question: which of the lines that are touched are not there? The lines of a block are the bits of an
int, the lowest address in bit 0, so that a request costs one look-up a block however many lines it touches.

`BlockLru` is fully associative and counts its capacity in lines. It throws out the line that was touched longest ago,
exactly so but for the order of touches of one block within a window of 1/WINDOWS of the capacity. `LineLru` has sets
of `ways` lines with true LRU in each. Its sets are hashed: each aligned run of as many lines as there are sets falls
into all of them, and lines of any pitch spread over them (as with the placement functions of Gonzalez et al.,
"Eliminating cache conflict misses through XOR-based placement functions", ICS 1997, but for any number of sets).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from attrs import define, field

__all__ = ["Block", "BlockLru", "LineLru", "Lines", "Residency"]

GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: multiplicative hashing, Knuth, TAOCP volume 3, section 6.4
WINDOWS = 64  # chosen: see tests/test_shared_lines.py for what it costs in hit rate

Lines = int
"""A set of lines of one block: bit i is its i-th line."""


@define(eq=False)
class Touch:
    """Lines of a block that were last touched in one window; emptied as they are touched again."""

    block: Block
    lines: Lines


@define(eq=False)
class Block:
    """A block of which lines may be there. ready: the cycle at which what was last fetched of it is back."""

    number: int
    valid: Lines = 0
    dirty: Lines = 0
    ready: int = 0
    window: int = -1  # of its latest touch
    touches: list[Touch] = field(factory=list)  # the latest last


class Residency(Protocol):
    """What a cache holds."""

    def block(self, number: int) -> Block:
        """The block of that number."""

    def touch(self, block: Block, lines: Lines, fill: Lines, dirty: Lines) -> Lines:
        """Touches `lines`, brings those of `fill` in where they are absent, marks `dirty` ones; what was absent."""

    def evict(self) -> list[tuple[int, Lines]]:
        """Makes sure that all fits, at the end of a request: (block, dirty lines) thrown out since the last time."""

    def clean(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) of all that is dirty, by block; it stays, clean."""


class BlockLru:
    """The default level: fully associative, LRU by touches of blocks, `capacity` in lines."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._window_lines = max(1, capacity // WINDOWS)
        self._blocks: dict[int, Block] = {}
        self._order: deque[Touch] = deque()  # the oldest first; some are empty by now
        self._kept = 0  # touches in order when it was last tidied up
        self._used = self._window = self._touched = 0

    def block(self, number: int) -> Block:
        """The block of that number."""
        found = self._blocks.get(number)
        return Block(number) if found is None else found

    def touch(self, block: Block, lines: Lines, fill: Lines, dirty: Lines) -> Lines:
        """Touches `lines`, brings those of `fill` in where they are absent, marks `dirty` ones; what was absent."""
        absent = lines & ~block.valid
        lines &= block.valid | fill
        if not lines:
            return absent
        if not block.valid:
            self._blocks[block.number] = block
        added = lines & ~block.valid
        block.valid |= lines
        block.dirty |= dirty & lines
        self._renew(block, lines, lines ^ added)
        if added:
            self._used += added.bit_count()
        return absent

    def clean(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) of all that is dirty, by block; it stays, clean."""
        found = sorted((block.number, block.dirty) for block in self._blocks.values() if block.dirty)
        for number, _ in found:
            self._blocks[number].dirty = 0
        return found

    def _renew(self, block: Block, lines: Lines, old: Lines) -> None:
        """Makes `lines` the latest touched; the `old` ones among them have been touched before."""
        touches = block.touches
        if block.window == self._window and touches:
            latest = touches[-1]
            old &= ~latest.lines
            new = lines & ~latest.lines
            latest.lines |= lines
        else:
            latest, new = Touch(block, lines), lines
            block.window = self._window
            self._order.append(latest)
            touches.append(latest)
        if old:
            for touch in touches:
                if touch is not latest:
                    touch.lines &= ~old
            block.touches = [touch for touch in touches if touch.lines]
        self._touched += new.bit_count()
        if self._touched >= self._window_lines:
            self._touched = 0
            self._window += 1
            if len(self._order) > 2 * self._kept + WINDOWS:
                self._order = deque(touch for touch in self._order if touch.lines)
                self._kept = len(self._order)

    def evict(self) -> list[tuple[int, Lines]]:
        """Throws out the lines that were touched longest ago, until the others fit: (block, lines) that were dirty."""
        order, victims = self._order, []
        while self._used > self._capacity:
            touch = order[0]
            lines, block = touch.lines, touch.block
            excess, count = self._used - self._capacity, lines.bit_count()
            if count > excess:
                lines, count = _lowest(lines, excess), excess
            touch.lines ^= lines
            if not touch.lines:
                order.popleft()
                if lines:
                    block.touches.remove(touch)
            if thrown := block.dirty & lines:
                victims.append((block.number, thrown))
                block.dirty ^= thrown
            block.valid ^= lines
            if lines and not block.valid:
                del self._blocks[block.number]
            self._used -= count
        return victims


class LineLru:
    """The exact level, for small streams: `sets` sets of `ways` lines, true LRU; blocks have `block_lines` lines."""

    def __init__(self, sets: int, ways: int, block_lines: int):
        self._ways, self._block_lines = ways, block_lines
        self._victims: list[tuple[int, Lines]] = []
        self._sets: list[dict[int, None]] = [{} for _ in range(sets)]  # lines, the one touched longest ago first
        self._blocks: dict[int, Block] = {}

    def block(self, number: int) -> Block:
        """The block of that number."""
        return self._blocks.setdefault(number, Block(number))

    def touch(self, block: Block, lines: Lines, fill: Lines, dirty: Lines) -> Lines:
        """Touches `lines` in order of addresses, as `BlockLru.touch`."""
        absent = 0
        for bit in _bits(lines):
            line = block.number * self._block_lines + bit.bit_length() - 1
            ways = self._set_of(line)
            if line in ways:
                del ways[line]
            else:
                absent |= bit
                if not fill & bit:
                    continue
                if len(ways) == self._ways:
                    self._throw_out(next(iter(ways)))
                block.valid |= bit
            ways[line] = None
            block.dirty |= dirty & bit
        return absent

    def evict(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) thrown out since the last time; all fits at all times."""
        found, self._victims = self._victims, []
        return found

    def clean(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) of all that is dirty, by block; it stays, clean."""
        found = sorted((block.number, block.dirty) for block in self._blocks.values() if block.dirty)
        for number, _ in found:
            self._blocks[number].dirty = 0
        return found

    def _set_of(self, line: int) -> dict[int, None]:
        """The set of a line: in each aligned run of as many lines as there are sets another one comes first."""
        sets = len(self._sets)
        run, place = divmod(line, sets)
        first = (run * GOLDEN & 0xFFFFFFFF) * sets >> 32
        return self._sets[(place + first) % sets]

    def _throw_out(self, line: int) -> None:
        number, place = divmod(line, self._block_lines)
        block, bit = self._blocks[number], 1 << place
        del self._set_of(line)[line]
        block.valid ^= bit
        if block.dirty & bit:
            block.dirty ^= bit
            self._victims.append((number, bit))


def _bits(lines: Lines) -> Iterator[Lines]:
    """Each line by itself, the lowest first."""
    while lines:
        bit = lines & -lines
        yield bit
        lines ^= bit


def _lowest(lines: Lines, count: int) -> Lines:
    """The `count` lowest of more than `count` lines."""
    low, high = 0, lines.bit_length()
    while high - low > 1:  # the lines below `low` are at most `count`, those below `high` are more
        middle = (low + high) // 2
        if (lines & ((1 << middle) - 1)).bit_count() > count:
            high = middle
        else:
            low = middle
    return lines & ((1 << low) - 1)
