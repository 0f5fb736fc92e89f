"""How the network is linked: the shortest way from one of its nodes to another, by topology.

Pure functions. Every way is fixed by its ends, and those from one node are the branches of a tree: two that have parted
never meet again, so that a multicast is the union of its ways. Of two ways round a circle that are as short, a node of
even index takes the one up and a node of odd index the one down, which loads both directions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from attrs import frozen

from kpusim.machine import Machine

__all__ = ["SWITCH", "Link", "Node", "Position", "Way", "ways"]

Position = tuple[int, int]
Link = tuple[object, object]
"""What names a link: its two ends, from one to the other."""
Way = tuple[tuple[Link, int], ...]
"""(link, hops) in order."""

SWITCH = "switch"


@frozen
class Node:
    """What attaches to the network, such as SRAM 3 or engine 0, and the tile whose router it has on a grid."""

    kind: str
    number: int
    position: Position


def ways(machine: Machine) -> Callable[[Node, Node], Way]:
    """The function that gives the way from one node of the machine's network to another."""
    if machine.noc.topology == "crossbar":
        return _across
    rows, columns = machine.tiles.rows, machine.tiles.columns
    grids: dict[str, Callable[[Position, Position], list[Position]]] = {
        "mesh": _straight,
        "torus": partial(_round, rows, columns),
        "ring": partial(_winding, rows, columns),
    }
    routers = grids[machine.noc.topology]
    return lambda source, target: tuple((link, 1) for link in pairwise(routers(source.position, target.position)))


def _across(source: Node, target: Node) -> Way:
    """Every node has a port into the switch and one out of it; from any to any is one hop."""
    return () if source == target else (((source, SWITCH), 0), ((SWITCH, target), 1))


def _straight(source: Position, target: Position) -> list[Position]:
    """XY: along the row first, then along the column."""
    return _turning(source, target, _line(source[1], target[1]), _line(source[0], target[0]))


def _round(rows: int, columns: int, source: Position, target: Position) -> list[Position]:
    """XY on rows and columns that are circles."""
    along, down = _circle(source[1], target[1], columns), _circle(source[0], target[0], rows)
    return _turning(source, target, along, down)


def _turning(source: Position, target: Position, along: Sequence[int], down: Sequence[int]) -> list[Position]:
    return [*((source[0], column) for column in along), *((row, target[1]) for row in down[1:])]


def _winding(rows: int, columns: int, source: Position, target: Position) -> list[Position]:
    """One circle through all tiles, row after row, eastward in even rows and westward in odd ones."""

    def turned(row: int, column: int) -> Position:
        return row, column if row % 2 == 0 else columns - 1 - column

    start, stop = (row * columns + column for row, column in (turned(*source), turned(*target)))
    return [turned(*divmod(place, columns)) for place in _circle(start, stop, rows * columns)]


def _line(start: int, stop: int) -> range:
    """From `start` to `stop`, both included."""
    step = 1 if stop >= start else -1
    return range(start, stop + step, step)


def _circle(start: int, stop: int, size: int) -> list[int]:
    """From `start` to `stop`, both included, the shorter way round a circle of `size`."""
    up, down = (stop - start) % size, (start - stop) % size
    step = 1 if up < down or (up == down and start % 2 == 0) else -1
    return [(start + step * i) % size for i in range(min(up, down) + 1)]
