"""Which lines of HBM a cache holds: by blocks, and the same line by line.

The cache has sets of `ways` lines; in each the line that was used longest ago goes first. As many sets as a block has
lines are a region. A block's lines lie in one region, each in another set: which region, and which set of it comes
first, is hashed, so that lines of any pitch spread over all sets (as with the placement functions of Gonzalez et al.,
"Eliminating cache conflict misses through XOR-based placement functions", ICS 1997), while each aligned run of as many
blocks as there are regions falls into all of them.

`Blocks` answers with one look-up a block however many of its lines are touched: a block's lines are the bits of an int,
the lowest address in bit 0, and what is done to the sets of a region is done to all at once. `SingleLines` takes line
by line: the plain model, for small streams, to which the tests hold the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from attrs import define, field

__all__ = ["Block", "Blocks", "Lines", "Residency", "SingleLines"]

GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: multiplicative hashing, Knuth, TAOCP volume 3, section 6.4
EMPTIES = 64  # touches without lines that a region may keep besides as many as others; chosen: a few per way

Lines = int
"""A set of lines of one block: bit i is its i-th line, or, where it is called turned, the one in the i-th set."""


@define(eq=False)
class Touch:
    """Turned lines of a block that were touched together and not since; emptied as they are."""

    block: Block
    lines: Lines


@define(eq=False)
class Region:
    """As many sets as a block has lines. count: how many of their ways are taken, bit by bit, the lowest first.

    order: touches, the oldest first. full: sets without a free way.
    """

    count: list[Lines]
    full: Lines
    order: deque[Touch] = field(factory=deque)
    kept: int = 0  # touches in order when it was last tidied up


@define(eq=False)
class Block:
    """A block of which lines may be there, turned by `turn`. ready: when what was last fetched of it is back."""

    number: int
    region: int
    turn: int
    valid: Lines = 0
    dirty: Lines = 0
    ready: int = 0
    touches: list[Touch] = field(factory=list)  # the latest last


class Residency(Protocol):
    """What a cache holds."""

    def block(self, number: int) -> Block:
        """The block of that number."""

    def touch(self, block: Block, lines: Lines, fill: Lines, dirty: Lines) -> Lines:
        """Touches `lines`, brings those of `fill` in where they are absent, marks `dirty` ones; what was absent."""

    def victims(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) that have been thrown out since the last time, by block."""

    def clean(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) of all that is dirty, by block; it stays, clean."""


class _Cache:
    """What both models have: blocks with lines by number, and victims."""

    def __init__(self, sets: int, block_lines: int):
        self._lines = block_lines
        self._regions = sets // block_lines
        self._blocks: dict[int, Block] = {}
        self._victims: list[tuple[int, Lines]] = []

    def block(self, number: int) -> Block:
        """The block of that number."""
        found = self._blocks.get(number)
        if found is None:
            run, place = divmod(number, self._regions)
            region = (place + _scattered(run, self._regions)) % self._regions
            found = Block(number, region, _scattered(number, self._lines))
        return found

    def victims(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) that have been thrown out since the last time, by block."""
        found: dict[int, Lines] = {}
        for number, lines in self._victims:
            found[number] = found.get(number, 0) | lines
        self._victims = []
        return sorted(found.items())

    def clean(self) -> list[tuple[int, Lines]]:
        """(block, dirty lines) of all that is dirty, by block; it stays, clean."""
        dirty = sorted((block.number, block) for block in self._blocks.values() if block.dirty)
        found = [(number, self._turned(block.dirty, -block.turn)) for number, block in dirty]
        for _, block in dirty:
            block.dirty = 0
        return found

    def _turned(self, lines: Lines, by: int) -> Lines:
        """Lines moved on by so many places in their region (-block_lines < by < block_lines)."""
        up = by % self._lines
        return (lines << up | lines >> self._lines - up) & (1 << self._lines) - 1 if up else lines


class Blocks(_Cache):
    """The cache by blocks."""

    def __init__(self, sets: int, ways: int, block_lines: int):
        super().__init__(sets, block_lines)
        every, bits = (1 << block_lines) - 1, (ways - 1).bit_length()
        start = (1 << bits) - ways  # so that the count runs over where a set is full
        count = [every if start >> bit & 1 else 0 for bit in range(bits)]
        self._sets = [Region(count[:], 0) for _ in range(self._regions)]

    def touch(self, block: Block, lines: Lines, fill: Lines, dirty: Lines) -> Lines:
        """Touches `lines`, brings those of `fill` in where they are absent, marks `dirty` ones; what was absent."""
        turned, there = self._turned(lines, block.turn), block.valid
        touched = turned if fill == lines else turned & (there | self._turned(fill, block.turn))
        if touched:
            self._blocks[block.number] = block
            region, old = self._sets[block.region], touched & there
            self._renew(block, region, touched, old)
            block.valid |= touched
            if dirty:
                block.dirty |= touched & self._turned(dirty, block.turn)
            if added := touched ^ old:
                self._take(region, added)
        absent = turned & ~there
        return self._turned(absent, -block.turn) if absent else 0

    def _renew(self, block: Block, region: Region, touched: Lines, old: Lines) -> None:
        """Makes `touched` lines the latest of their sets; the `old` ones among them are in earlier touches."""
        order = region.order
        if order and order[-1].block is block:
            order[-1].lines |= touched
        else:
            order.append(Touch(block, touched))
            block.touches.append(order[-1])
        if old and len(block.touches) > 1:
            *earlier, latest = block.touches
            for touch in earlier:
                touch.lines &= ~old
            block.touches = [*(touch for touch in earlier if touch.lines), latest]
        if len(order) > 2 * region.kept + EMPTIES:
            region.order = deque(touch for touch in order if touch.lines)
            region.kept = len(region.order)

    def _take(self, region: Region, added: Lines) -> None:
        """A way of each set of `added`: a free one, or that of its oldest line."""
        crowded = added & region.full
        carry = added ^ crowded
        for bit, plane in enumerate(region.count):
            if not carry:
                break
            region.count[bit] = plane ^ carry
            carry &= plane
        region.full |= carry
        for touch in region.order:
            if not crowded:
                break
            if gone := touch.lines & crowded:
                crowded ^= gone
                self._throw_out(touch, gone)
        while region.order and not region.order[0].lines:
            region.order.popleft()

    def _throw_out(self, touch: Touch, gone: Lines) -> None:
        block = touch.block
        touch.lines ^= gone
        if not touch.lines:
            block.touches.remove(touch)
        if dirty := block.dirty & gone:
            self._victims.append((block.number, self._turned(dirty, -block.turn)))
            block.dirty ^= dirty
        block.valid ^= gone
        if not block.valid:
            del self._blocks[block.number]


class SingleLines(_Cache):
    """The same cache line by line."""

    def __init__(self, sets: int, ways: int, block_lines: int):
        super().__init__(sets, block_lines)
        self._ways = ways
        self._sets: list[dict[tuple[Block, Lines], None]] = [{} for _ in range(sets)]  # the oldest line first

    def touch(self, block: Block, lines: Lines, fill: Lines, dirty: Lines) -> Lines:
        """As `Blocks.touch`, in order of addresses."""
        absent = 0
        for line in _single(lines):
            turned = self._turned(line, block.turn)
            ways = self._sets[block.region * self._lines + turned.bit_length() - 1]
            if (block, turned) in ways:
                del ways[block, turned]
            else:
                absent |= line
                if not fill & line:
                    continue
                if len(ways) == self._ways:
                    self._throw_out(ways)
            ways[block, turned] = None
            self._blocks[block.number] = block
            if dirty & line:
                block.dirty |= turned
        return absent

    def _throw_out(self, ways: dict[tuple[Block, Lines], None]) -> None:
        """The oldest line of a set."""
        block, turned = next(iter(ways))
        del ways[block, turned]
        if block.dirty & turned:
            block.dirty ^= turned
            self._victims.append((block.number, self._turned(turned, -block.turn)))


def _scattered(number: int, count: int) -> int:
    """A place below `count` for a number; those of numbers at any one distance are spread evenly."""
    return (number * GOLDEN & 0xFFFFFFFF) * count >> 32


def _single(lines: Lines) -> Iterator[Lines]:
    """Each line by itself, the lowest first."""
    while lines:
        line = lines & -lines
        yield line
        lines ^= line
