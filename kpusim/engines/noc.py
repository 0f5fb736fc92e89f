"""The network on chip: its links, multicast trees, and the ports of SRAMs, DMA engines and memory at its ends.

Which links a message takes is the topology's (`topology.ways`); here is when they are free.

A message moves as a worm: its head takes `hop_cycles` a link, its body follows at the rate of the slowest link on the
way. Every link is a reservation of its own, from when the head arrives: where a link is taken, the message waits in the
router before it, and what branches off earlier goes on. Routers have room for what waits in them. A message reserves
all of its links as it sets out; where it will wait on its way, the links behind are idle until then, and messages that
set out later and are there before take what they need of that time, in parts if it comes in parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cache
from math import lcm
from operator import itemgetter

from attrs import define

from kpusim.engines.topology import Link, Node, Position, Way, ways
from kpusim.machine import Machine

__all__ = ["Network", "Route"]

IN, OUT = "in", "out"  # the ports of a node

Gap = tuple[int, int]
"""(from, to), in ticks: a link is idle before what it is reserved for already."""
STOP = itemgetter(1)


@define(eq=False)
class Route:
    """A path or tree. `links`: (link, place of the link before it, ticks of its head's way, ticks a byte).

    Links have places from 1 on, place 0 is the source; the first is the source's port. `ends`: the place of the last
    link of every destination. `byte_ticks`: of its body. `latency`: cycles behind its ends until the data is there.
    `moved`: bytes that have taken it.
    """

    links: tuple[tuple[int, int, int, int], ...]
    ends: tuple[int, ...]
    byte_ticks: int
    latency: int
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
        self._numbers: dict[Link, int] = {}
        self._free: list[int] = []
        self._gaps: list[list[Gap]] = []
        self._routes: list[Route] = []
        self.load_route = cache(self._load_route)
        self.store_route = cache(self._store_route)
        self.copy_route = cache(self._copy_route)
        self.read_route = cache(self._read_route)
        self.write_route = cache(self._write_route)
        self.request_cycles = cache(self._request_cycles)

    def reserve(self, route: Route, now: int, size: int) -> tuple[int, int, list[int]]:
        """Reserves `route` for `size` bytes that are ready at cycle `now`.

        Returns the cycles at which it starts, at which its source is free, and at which it is whole at each end.
        """
        free, gaps, ready, body = self._free, self._gaps, now * self.ticks, size * route.byte_ticks
        late = ready + body  # chosen: heads that come sooner, as by hops alone, leave too little idle to keep
        heads = [ready]
        for link, before, hop, byte_ticks in route.links:
            head = heads[before] + hop
            end = free[link]
            if head >= end:
                free[link] = head + size * byte_ticks
                if head >= late and head > end:
                    self._leave(link, end, head, ready)
            elif gaps[link]:
                head = self._fill(link, head, size * byte_ticks, ready)
            else:
                head = end
                free[link] = end + size * byte_ticks
            heads.append(head)
        route.moved += size
        ticks = self.ticks
        source_free = -(-(heads[1] + size * route.links[0][3]) // ticks)
        return heads[1] // ticks, source_free, [-(-(heads[end] + body) // ticks) + route.latency for end in route.ends]

    def _leave(self, link: int, end: int, head: int, ready: int) -> None:
        """A message that waits on its way leaves a link idle from `end` to its `head`."""
        gaps = self._gaps[link]
        if gaps and gaps[-1][1] <= ready:
            gaps.clear()
        gaps.append((end, head))

    def _fill(self, link: int, head: int, length: int, ready: int) -> int:
        """Takes `length` ticks of a link from `head` on, in its gaps and then behind its last message.

        Returns the tick at which that is over, less `length`.
        """
        gaps = self._gaps[link]
        del gaps[: bisect_right(gaps, ready, key=STOP)]
        first = number = bisect_right(gaps, head, key=STOP)
        over, rest, left = head, length, []
        while rest and number < len(gaps):
            start, stop = gaps[number]
            at = max(start, head)
            over = min(at + rest, stop)
            left += [(start, at), (over, stop)]
            rest -= over - at
            number += 1
        gaps[first:number] = [gap for gap in left if gap[0] < gap[1]]
        if rest:
            over = self._free[link] = self._free[link] + rest
        return over - length

    def traffic(self) -> dict[str, list[int]]:
        """Bytes moved by every link, and by the ports of every SRAM, DMA engine and router with memory, each way."""
        moved = [0] * len(self._free)
        for route in self._routes:
            for link, *_ in route.links:
                moved[link] += route.moved
        by_kind: dict[str, list[int]] = {"link": [0], "sram": [0], "engine": [0], "memory": [0]}
        for (start, end), link in self._numbers.items():
            kind = end.kind if isinstance(end, Node) and start in (IN, OUT) else "link"
            by_kind[kind].append(moved[link])
        return by_kind

    def _load_route(self, engine: int, tiles: range) -> Route:
        """From a DMA engine to the SRAM of tiles."""
        return self._route(self._engine(engine), map(self._tile, tiles))

    def _copy_route(self, tile: int, tiles: range) -> Route:
        """From the SRAM of a tile to that of others."""
        return self._route(self._tile(tile), map(self._tile, tiles))

    def _store_route(self, tile: int, engine: int) -> Route:
        """From the SRAM of a tile to a DMA engine."""
        return self._route(self._tile(tile), [self._engine(engine)])

    def _read_route(self, place: Position, engine: int) -> Route:
        """From the memory at `place` to a DMA engine."""
        return self._route(self._memory(place), [self._engine(engine)])

    def _write_route(self, engine: int, place: Position) -> Route:
        """From a DMA engine to the memory at `place`."""
        return self._route(self._engine(engine), [self._memory(place)])

    def _request_cycles(self, engine: int, place: Position) -> int:
        """From a DMA engine to the memory at `place`, for what has no body."""
        way = self._way(self._engine(engine), self._memory(place))
        return self._machine.noc.hop_cycles * sum(hops for _, hops in way)

    def _tile(self, tile: int) -> Node:
        return Node("sram", tile, divmod(tile, self._machine.tiles.columns))

    def _engine(self, engine: int) -> Node:
        return Node("engine", engine, self._machine.dma_position(engine))

    def _memory(self, place: Position) -> Node:
        return Node("memory", place[0] * self._machine.tiles.columns + place[1], place)

    def _route(self, source: Node, targets: Iterable[Node]) -> Route:
        """The union of the ways from `source` to all targets, between their ports."""
        tree = _Tree((OUT, source), self._byte_ticks(source))
        sram = source.kind == "sram"
        for target in targets:
            sram = sram or target.kind == "sram"
            end = tree.grow(self._way(source, target), self._hop, self._link_ticks)
            tree.add((IN, target), end, self._byte_ticks(target))
        links = tuple((self._number(link), before, hop, ticks) for link, before, hop, ticks in tree.links)
        slowest = max(self._link_ticks, *(byte_ticks for *_, byte_ticks in links))
        route = Route(links, tuple(tree.ends), slowest, self._machine.sram.latency_cycles if sram else 0)
        self._routes.append(route)
        return route

    def _byte_ticks(self, node: Node) -> int:
        """Of a node's port."""
        return self._port_ticks if node.kind == "sram" else self._link_ticks

    def _number(self, link: Link) -> int:
        if link not in self._numbers:
            self._numbers[link] = len(self._free)
            self._free.append(0)
            self._gaps.append([])
        return self._numbers[link]


class _Tree:
    """A route under construction, links by name; the first is the source's port."""

    def __init__(self, port: Link, byte_ticks: int):
        self.links: list[tuple[Link, int, int, int]] = [(port, 0, 0, byte_ticks)]
        self.ends: list[int] = []
        self._places: dict[Link, int] = {}

    def grow(self, way: Way, hop: int, byte_ticks: int) -> int:
        """Follows `way`, along links that are there and new ones; returns the place of its last link."""
        at = 1
        for link, hops in way:
            if link not in self._places:
                self.links.append((link, at, hops * hop, byte_ticks))
                self._places[link] = len(self.links)
            at = self._places[link]
        return at

    def add(self, port: Link, before: int, byte_ticks: int) -> None:
        """A destination's port behind the link at `before`."""
        self.links.append((port, before, 0, byte_ticks))
        self.ends.append(len(self.links))
