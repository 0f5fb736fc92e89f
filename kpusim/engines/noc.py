"""The network on chip: a mesh of links with XY routing, multicast trees, and the SRAM ports at its ends.

A message moves as a worm: its head takes `hop_cycles` a link, its body follows at the rate of the slowest link on the
way. A route reserves all its links at once, each shifted by its distance from the source, and starts when the last of
them is free.
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
    """A path or tree. `links`: (link, head's delay from the source, time a byte), in ticks.

    `arrivals`: (destination tile or -1, head's delay); `source` is the time a byte at the source's own port. `moved`:
    bytes that have taken it.
    """

    links: tuple[tuple[int, int, int], ...]
    arrivals: tuple[tuple[int, int], ...]
    byte_ticks: int
    source_byte_ticks: int
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

    def reserve(self, route: Route, now: int, size: int) -> tuple[int, int]:
        """Reserves `route` for `size` bytes ready at cycle `now`: (start in ticks, cycle the source is free)."""
        free = self._free
        start = now * self.ticks
        for link, delay, _ in route.links:
            ready = free[link] - delay
            if ready > start:
                start = ready
        for link, delay, byte_ticks in route.links:
            free[link] = start + delay + size * byte_ticks
        route.moved += size
        return start, -(-(start + size * route.source_byte_ticks) // self.ticks)

    def arrivals(self, route: Route, start: int, size: int) -> list[int]:
        """The cycles at which all of `size` bytes are in each destination of `route`, in its order of destinations."""
        end = start + size * route.byte_ticks
        return [-(-(end + delay) // self.ticks) + self._sram for _, delay in route.arrivals]

    @property
    def bytes_moved(self) -> int:
        """Bytes times the links (and ports) that they took."""
        return sum(route.moved * len(route.links) for route in self._routes)

    def busiest(self) -> dict[str, int]:
        """The most bytes that one link of the mesh, one SRAM port and one DMA engine have moved (in one direction)."""
        moved = [0] * len(self._free)
        for route in self._routes:
            for link, _, _ in route.links:
                moved[link] += route.moved
        most = {"link": 0, "sram": 0, "engine": 0}
        for name, link in self._numbers.items():
            kind = name[0] if isinstance(name, tuple) and isinstance(name[0], str) else "link"
            most[kind] = max(most[kind], moved[link])
        return most

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
        links = [(self._number(("sram", tile, "read")), 0, self._port_ticks)]
        delay = 0
        for link in self._path(self._position(tile), target):
            links.append((self._number(link), delay, self._link_ticks))
            delay += self._hop
        links.append((self._number(("engine", engine, "in")), delay, self._link_ticks))
        return self._route(tuple(links), ((-1, delay),), self._port_ticks)

    def _tree(self, port: object, port_ticks: int, source: Position, tiles: Iterable[int]) -> Route:
        """The union of the XY paths from `source` to all tiles, each ending in the tile's SRAM write port."""
        links = {port: (0, port_ticks)}
        arrivals = []
        for tile in tiles:
            delay = 0
            for link in self._path(source, self._position(tile)):
                links[link] = (delay, self._link_ticks)
                delay += self._hop
            links["sram", tile, "write"] = (delay, self._port_ticks)
            arrivals.append((tile, delay))
        reserved = tuple((self._number(link), delay, ticks) for link, (delay, ticks) in links.items())
        return self._route(reserved, tuple(arrivals), port_ticks)

    def _route(
        self, links: tuple[tuple[int, int, int], ...], arrivals: tuple[tuple[int, int], ...], source_byte_ticks: int
    ) -> Route:
        """A new route; its body moves at the rate of the slowest of links and ports."""
        route = Route(links, arrivals, max(self._link_ticks, self._port_ticks), source_byte_ticks)
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
