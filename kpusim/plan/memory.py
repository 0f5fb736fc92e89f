"""Where tensors are in the HBM, and for how long.

Every tensor starts at a multiple of the machine's `hbm.alignment_bytes`, after which the pattern of channels, rows and
banks repeats: identical operators on other tensors take the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import define, frozen

from kpusim.errors import UserError
from kpusim.machine import Machine

__all__ = ["Lifetime", "Memory", "Place", "place"]


@frozen
class Lifetime:
    """A tensor of `size` bytes that must be there from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int


@frozen
class Place:
    """Where a tensor is: `address`, and the bytes that it takes with its padding."""

    tensor: Lifetime
    address: int
    padded: int


@define
class Memory:
    """Peaks over all steps: bytes of the tensors alone, with padding, and the highest byte in use."""

    places: tuple[Place, ...]
    peak_bytes: int
    peak_padded_bytes: int
    extent_bytes: int


def place(lifetimes: Sequence[Lifetime], steps: int, machine: Machine, where: str) -> Memory:
    """An address for each lifetime, in their order, such that none overlaps another in space and time.

    Those that last longest lie lowest; each takes the lowest gap. Raises UserError, naming the tensor, where the HBM is
    too small.
    """
    period, capacity = machine.hbm.alignment_bytes, machine.hbm.total_capacity_bytes
    places: dict[int, Place] = {}
    for index in sorted(range(len(lifetimes)), key=lambda i: (lifetimes[i].first - lifetimes[i].last, i)):
        tensor = lifetimes[index]
        padded = -(-tensor.size // period) * period
        others = [other for other in places.values() if _meet(other.tensor, tensor)]
        address = _lowest_gap(others, padded)
        if address + padded > capacity:
            taken = sum(other.padded for other in others)
            raise UserError(
                f"tensor {tensor.name} does not fit into the HBM of {machine.name}: it needs {padded:,} bytes and "
                f"{capacity - taken:,} of {capacity:,} are free", where=where,
            )  # fmt: skip
        places[index] = Place(tensor, address, padded)
    found = tuple(places[index] for index in range(len(lifetimes)))
    return Memory(
        places=found,
        peak_bytes=_peak(((p.tensor, p.tensor.size) for p in found), steps),
        peak_padded_bytes=_peak(((p.tensor, p.padded) for p in found), steps),
        extent_bytes=max((p.address + p.padded for p in found), default=0),
    )


def _meet(one: Lifetime, two: Lifetime) -> bool:
    return one.first <= two.last and two.first <= one.last


def _lowest_gap(others: Iterable[Place], size: int) -> int:
    address = 0
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
