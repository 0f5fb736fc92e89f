"""The network on chip: a mesh of links with XY routing, multicast trees, and the SRAM ports at its ends.

A message moves as a worm: its head takes `hop_cycles` a link, its body follows at the rate of the slowest link on the
way. Every link is a reservation of its own, made when the head arrives: where a link is taken, the message waits in the
router before it, and what branches off earlier goes on. Routers have room for what waits in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from math import lcm

from attrs import define

from kpusim.machine import Machine

__all__ = ["Mesh", "Route"]

Position = tuple[int, int]


@define(eq=False)
class Route:
    """A path or tree. `links`: (link, place of the link before it, ticks of its head's way, ticks a byte).

    Links have places from 1 on, place 0 is the source; the first is the source's port. `ends`: the place of the last
    link of every destination. `moved`: bytes that have taken it.
    """

    links: tuple[tuple[int, int, int, int], ...]
    ends: tuple[int, ...]
    byte_ticks: int
    moved: int = 0


class Mesh:
    """Links by number with the time at which each is next free, in ticks of 1/`ticks` cycle: rates are exact."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self._columns = machine.tiles.columns
        link, port = machine.noc.bytes_per_cycle, machine.sram.ports.dma
        self.ticks = lcm(link.numerator, port.numerator)
        self._link_ticks = self.ticks * link.denominator // link.numerator
        self._port_ticks = self.ticks * port.denominator // port.numerator
        self._hop = machine.noc.hop_cycles * self.ticks
        self._sram = machine.sram.latency_cycles
        self._numbers: dict[object, int] = {}
        self._free: list[int] = []
        self._routes: list[Route] = []
        self.load_route = cache(self._load_route)
        self.store_route = cache(self._store_route)
        self.copy_route = cache(self._copy_route)

    def reserve(self, route: Route, now: int, size: int) -> tuple[int, int, list[int]]:
        """Reserves `route` for `size` bytes that are ready at cycle `now`.

        Returns the cycles at which it starts, at which its source is free, and at which it is whole at each end.
        """
        free, ready = self._free, now * self.ticks
        heads = [ready]
        for link, before, hop, byte_ticks in route.links:
            head = heads[before] + hop
            if head < free[link]:
                head = free[link]
            free[link] = head + size * byte_ticks
            heads.append(head)
        route.moved += size
        ticks, body = self.ticks, size * route.byte_ticks
        source_free = -(-(heads[1] + size * route.links[0][3]) // ticks)
        return heads[1] // ticks, source_free, [-(-(heads[end] + body) // ticks) + self._sram for end in route.ends]

    def traffic(self) -> dict[str, list[int]]:
        """Bytes moved by every link of the mesh, every SRAM port and every DMA engine (each direction by itself)."""
        moved = [0] * len(self._free)
        for route in self._routes:
            for link, *_ in route.links:
                moved[link] += route.moved
        by_kind: dict[str, list[int]] = {"link": [0], "sram": [0], "engine": [0]}
        for name, link in self._numbers.items():
            kind = name[0] if isinstance(name, tuple) and isinstance(name[0], str) else "link"
            by_kind[kind].append(moved[link])
        return by_kind

    def _load_route(self, engine: int, tiles: range) -> Route:
        """From a DMA engine to the SRAM of tiles."""
        source = self._machine.dma_position(engine)
        return self._tree(("engine", engine, "out"), self._link_ticks, source, tiles)

    def _copy_route(self, tile: int, tiles: range) -> Route:
        """From the SRAM of a tile to that of others."""
        return self._tree(("sram", tile, "read"), self._port_ticks, self._position(tile), tiles)

    def _store_route(self, tile: int, engine: int) -> Route:
        """From the SRAM of a tile to a DMA engine."""
        target = self._machine.dma_position(engine)
        tree = _Tree(("sram", tile, "read"), self._port_ticks)
        end = tree.grow(self._path(self._position(tile), target), self._hop, self._link_ticks)
        tree.add(("engine", engine, "in"), end, 0, self._link_ticks)
        return self._route(tree)

    def _tree(self, port: object, port_ticks: int, source: Position, tiles: Iterable[int]) -> Route:
        """The union of the XY paths from `source` to all tiles, each ending in the tile's SRAM write port."""
        tree = _Tree(port, port_ticks)
        for tile in tiles:
            end = tree.grow(self._path(source, self._position(tile)), self._hop, self._link_ticks)
            tree.add(("sram", tile, "write"), end, 0, self._port_ticks)
        return self._route(tree)

    def _route(self, tree: _Tree) -> Route:
        """A new route; its body moves at the rate of the slowest of links and ports."""
        links = tuple((self._number(link), *rest) for link, *rest in tree.links)
        route = Route(links, tuple(tree.ends), max(self._link_ticks, self._port_ticks))  # type: ignore[arg-type]
        self._routes.append(route)
        return route

    def _path(self, source: Position, target: Position) -> list[object]:
        """The links from `source` to `target`: along the row first, then along the column."""
        (row, column), path = source, []
        while column != target[1]:
            step = 1 if target[1] > column else -1
            path.append(((row, column), (row, column + step)))
            column += step
        while row != target[0]:
            step = 1 if target[0] > row else -1
            path.append(((row, column), (row + step, column)))
            row += step
        return list(path)

    def _position(self, tile: int) -> Position:
        return divmod(tile, self._columns)

    def _number(self, link: object) -> int:
        if link not in self._numbers:
            self._numbers[link] = len(self._free)
            self._free.append(0)
        return self._numbers[link]


class _Tree:
    """A route under construction, links by name; the first is the source's port."""

    def __init__(self, port: object, byte_ticks: int):
        self.links: list[tuple[object, int, int, int]] = [(port, 0, 0, byte_ticks)]
        self.ends: list[int] = []
        self._places: dict[object, int] = {}

    def grow(self, path: list[object], hop: int, byte_ticks: int) -> int:
        """Follows `path`, along links that are there and new ones; returns the place of its last link."""
        at = 1
        for link in path:
            if link not in self._places:
                self.links.append((link, at, hop, byte_ticks))
                self._places[link] = len(self.links)
            at = self._places[link]
        return at

    def add(self, port: object, before: int, hop: int, byte_ticks: int) -> None:
        """A destination's port behind the link at `before`."""
        self.links.append((port, before, hop, byte_ticks))
        self.ends.append(len(self.links))
