"""Where tensors are in the HBM and in a shared buffer, and for how long.

In the HBM every tensor starts at a multiple of the machine's `alignment_bytes`, after which the pattern of channels,
rows and banks repeats: identical operators on other tensors take the same time. In a buffer it starts at a multiple of
`hbm.interleave`, as chunks are cut alike from there. The buffer's addresses are behind those of the HBM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import define, frozen

from kpusim.errors import UserError
from kpusim.machine import Machine

__all__ = ["Lifetime", "Memory", "Place", "place"]


@frozen
class Lifetime:
    """A tensor of `size` bytes that must be in `memory` from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int
    memory: Literal["hbm", "shared"] = "hbm"


@frozen
class Place:
    """Where a tensor is: `address`, and the bytes that it takes with its padding."""

    tensor: Lifetime
    address: int
    padded: int


@define
class Memory:
    """Peaks over all steps, of HBM: bytes of the tensors alone, with padding, and the highest byte in use.

    peak_shared_bytes: of a shared buffer, with padding.
    """

    places: tuple[Place, ...]
    peak_bytes: int
    peak_padded_bytes: int
    extent_bytes: int
    peak_shared_bytes: int = 0

    @property
    def shared(self) -> tuple[str, ...]:
        """The tensors in a shared buffer, by name."""
        return tuple(dict.fromkeys(place.tensor.name for place in self.places if place.tensor.memory == "shared"))


@frozen
class _Room:
    """A memory: its name, its first address, its bytes, and what addresses in it are multiples of."""

    name: str
    first: int
    capacity: int
    period: int


def place(lifetimes: Sequence[Lifetime], steps: int, machine: Machine, where: str) -> Memory:
    """An address for each lifetime, in their order, such that none overlaps another in space and time.

    Those that last longest lie lowest; each takes the lowest gap. Raises UserError, naming the tensor, where its memory
    is too small.
    """
    rooms = {
        "hbm": _Room("HBM", 0, machine.hbm.total_capacity_bytes, machine.alignment_bytes),
        "shared": _Room(
            "shared buffer", machine.buffer_address, machine.shared.capacity_bytes, machine.hbm.interleave_bytes
        ),
    }
    places: dict[int, Place] = {}
    for index in sorted(range(len(lifetimes)), key=lambda i: (lifetimes[i].first - lifetimes[i].last, i)):
        tensor = lifetimes[index]
        room = rooms[tensor.memory]
        padded = -(-tensor.size // room.period) * room.period
        others = [other for other in places.values() if _meet(other.tensor, tensor)]
        address = _lowest_gap(others, padded, room.first)
        if address + padded > room.first + room.capacity:
            taken = sum(other.padded for other in others)
            raise UserError(
                f"tensor {tensor.name} does not fit into the {room.name} of {machine.name}: it needs {padded:,} bytes "
                f"and {room.capacity - taken:,} of {room.capacity:,} are free", where=where,
            )  # fmt: skip
        places[index] = Place(tensor, address, padded)
    found = tuple(places[index] for index in range(len(lifetimes)))
    hbm, shared = ([place for place in found if place.tensor.memory == memory] for memory in rooms)
    return Memory(
        places=found,
        peak_bytes=_peak(((p.tensor, p.tensor.size) for p in hbm), steps),
        peak_padded_bytes=_peak(((p.tensor, p.padded) for p in hbm), steps),
        extent_bytes=max((p.address + p.padded for p in hbm), default=0),
        peak_shared_bytes=_peak(((p.tensor, p.padded) for p in shared), steps),
    )


def _meet(one: Lifetime, two: Lifetime) -> bool:
    return one.memory == two.memory and one.first <= two.last and two.first <= one.last


def _lowest_gap(others: Iterable[Place], size: int, address: int) -> int:
    for other in sorted(others, key=lambda other: other.address):
        if address + size <= other.address:
            break
        address = max(address, other.address + other.padded)
    return address


def _peak(sizes: Iterable[tuple[Lifetime, int]], steps: int) -> int:
    changes = [0] * (steps + 1)
    for tensor, size in sizes:
        changes[tensor.first] += size
        changes[tensor.last + 1] -= size
    peak = total = 0
    for change in changes:
        total += change
        peak = max(peak, total)
    return peak
