"""The network on chip: its links, multicast trees, and the ports of DMA engines and SRAMs at its ends.

Which links a message takes is the topology's (`topology.ways`); here is when they are free.

A message moves as a worm: its head takes `hop_cycles` a link, its body follows at the rate of the slowest link on the
way. Every link is a reservation of its own, made when the head arrives: where a link is taken, the message waits in the
router before it, and what branches off earlier goes on. Routers have room for what waits in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from math import lcm

from attrs import define

from kpusim.engines.topology import Node, Way, ways
from kpusim.machine import Machine

__all__ = ["Network", "Route"]


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


class Network:
    """Links by number with the time at which each is next free, in ticks of 1/`ticks` cycle: rates are exact."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self._way = ways(machine)
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
        """Bytes moved by every link of the network, every SRAM port and every DMA engine (each direction by itself)."""
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
        return self._tree(("engine", engine, "out"), self._link_ticks, self._engine(engine), tiles)

    def _copy_route(self, tile: int, tiles: range) -> Route:
        """From the SRAM of a tile to that of others."""
        return self._tree(("sram", tile, "read"), self._port_ticks, self._tile(tile), tiles)

    def _store_route(self, tile: int, engine: int) -> Route:
        """From the SRAM of a tile to a DMA engine."""
        tree = _Tree(("sram", tile, "read"), self._port_ticks)
        end = tree.grow(self._way(self._tile(tile), self._engine(engine)), self._hop, self._link_ticks)
        tree.add(("engine", engine, "in"), end, 0, self._link_ticks)
        return self._route(tree)

    def _tree(self, port: object, port_ticks: int, source: Node, tiles: Iterable[int]) -> Route:
        """The union of the ways from `source` to all tiles, each ending in the tile's SRAM write port."""
        tree = _Tree(port, port_ticks)
        for tile in tiles:
            end = tree.grow(self._way(source, self._tile(tile)), self._hop, self._link_ticks)
            tree.add(("sram", tile, "write"), end, 0, self._port_ticks)
        return self._route(tree)

    def _route(self, tree: _Tree) -> Route:
        """A new route; its body moves at the rate of the slowest of links and ports."""
        links = tuple((self._number(link), *rest) for link, *rest in tree.links)
        route = Route(links, tuple(tree.ends), max(self._link_ticks, self._port_ticks))  # type: ignore[arg-type]
        self._routes.append(route)
        return route

    def _tile(self, tile: int) -> Node:
        return Node("tile", tile, divmod(tile, self._machine.tiles.columns))

    def _engine(self, engine: int) -> Node:
        return Node("engine", engine, self._machine.dma_position(engine))

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

    def grow(self, way: Way, hop: int, byte_ticks: int) -> int:
        """Follows `way`, along links that are there and new ones; returns the place of its last link."""
        at = 1
        for link, hops in way:
            if link not in self._places:
                self.links.append((link, at, hops * hop, byte_ticks))
                self._places[link] = len(self.links)
            at = self._places[link]
        return at

    def add(self, port: object, before: int, hop: int, byte_ticks: int) -> None:
        """A destination's port behind the link at `before`."""
        self.links.append((port, before, hop, byte_ticks))
        self.ends.append(len(self.links))
