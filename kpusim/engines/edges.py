"""HBM at the edges of the network (`hbm.attach`): what an engine reads and writes crosses it too.

The channels of a row's end share a port to its router. A request to read takes the hops to the farthest router of its
chunk, and no bandwidth. The chunk sets out when all of it is back from its channels, from each router the accesses that
lie there, exactly; the engine sends it on when it has all of it. What is written crosses the other way in the same
parts; an addition is made where they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from kpusim.engines.footprint import bursts_of
from kpusim.engines.kernel import Kernel, Phase
from kpusim.engines.noc import Network, Route
from kpusim.engines.shared import Memory
from kpusim.engines.transfer import Chunk
from kpusim.machine import Machine
from kpusim.machine.places import channel_position

__all__ = ["Edges"]

Then = Callable[[int], None]
"""Called with the cycle of what it waits for."""


class Edges:
    """The ways between DMA engines and memory; `pattern`: the channel of each block in turn, until it repeats."""

    def __init__(self, machine: Machine, kernel: Kernel, network: Network, memory: Memory, pattern: Sequence[int]):
        self._kernel, self._network, self._memory = kernel, network, memory
        self._access = machine.hbm.access_bytes
        places = [channel_position(machine, channel) for channel in range(machine.hbm.channel_count)]
        self._places = sorted(set(places))
        self._place_of = np.array([self._places.index(place) for place in places])[np.array(pattern)]  # by block

    def read(self, engine: int, unit: int, chunk: Chunk, base: int, now: int, then: Then) -> None:
        """Asks for a chunk at cycle `now`; `then`: the engine has all of it."""
        network, parts = self._network, self._parts(chunk, base)

        def fetch(now: int) -> None:
            self._at(self._memory.access(chunk, base, now, write=False), unit, bring)

        def bring(now: int) -> None:
            self._at(self._cross([(network.read_route(place, engine), size) for place, size in parts], now), unit, then)

        way = max(network.request_cycles(engine, place) for place, _ in parts)
        self._at(now + way, unit, fetch)

    def write(self, engine: int, unit: int, chunk: Chunk, base: int, now: int, then: Then) -> None:
        """Sends a chunk at cycle `now`; `then`: all of it is where it belongs."""
        network, parts = self._network, self._parts(chunk, base)
        self._at(self._cross([(network.write_route(engine, place), size) for place, size in parts], now), unit, then)

    def _cross(self, parts: list[tuple[Route, int]], now: int) -> int:
        """Reserves a way for each part; the cycle at which all are at its end."""
        return max([self._network.reserve(route, now, size)[2][0] for route, size in parts])

    def _at(self, time: int, unit: int, call: Then) -> None:
        self._kernel.at(time, Phase.RETURN, unit, partial(call, time))

    def _parts(self, chunk: Chunk, base: int) -> list[tuple[tuple[int, int], int]]:
        """(router, bytes) of a chunk."""
        if chunk.blocks is None:
            numbers, bursts = bursts_of(chunk.runs)
            chunk.blocks = numbers, bursts * self._access
        blocks, sizes = chunk.blocks
        there = np.bincount(self._place_of[(base + blocks) % len(self._place_of)], sizes).tolist()
        return [(self._places[place], int(size)) for place, size in enumerate(there) if size]
