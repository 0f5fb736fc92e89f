"""What is asked of a channel: bursts, and how its addresses are mapped to banks and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from kpusim.errors import UserError
from kpusim.machine.dram import Organisation

__all__ = ["MAPPERS", "Requests", "decode", "flat_bank"]


@frozen
class Requests:
    """Bursts in order of arrival, as columns of equal length; `banks` count as `flat_bank` does.

    addresses: where known, a read of a buffered write's address is answered by the buffer, and writes merge.
    """

    banks: Sequence[int]
    rows: Sequence[int]
    writes: Sequence[bool]
    addresses: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.banks)


def flat_bank(organisation: Organisation, pseudochannel: Any, stack_id: Any, bank_group: Any, bank: Any) -> Any:
    """A bank's number in its channel (ints or arrays): banks count through pseudo-channels, stack ids, bank groups."""
    rank = pseudochannel * organisation.stack_ids + stack_id
    return (rank * organisation.bank_groups + bank_group) * organisation.banks + bank


_FIELDS = ("pseudochannel", "stack_id", "bank_group", "bank", "row")
MAPPERS: Mapping[str, tuple[str, ...]] = {
    "RoBaRaCoCh": ("column", *_FIELDS),
    "ChRaBaRoCo": ("column", "row", "bank", "bank_group", "stack_id", "pseudochannel"),
    "MOP4CLXOR": ("column_low", *_FIELDS[:-1], "column_high", "row"),
}
"""Fields of an address above the burst's offset, from the least significant; the names are Ramulator's."""

MOP_BURSTS = 4
"""Bursts in a row of one bank with MOP4CLXOR."""


def decode(organisation: Organisation, mapper: str, addresses: Sequence[int]) -> tuple[list[int], list[int]]:
    """Bank and row of each address of bytes below the channel's capacity.

    MOP4CLXOR XORs the column's bits into the other fields, from the lowest up. Raises UserError for an unknown mapper,
    or one that does not suit the channel.
    """
    if mapper not in MAPPERS:
        raise UserError("unknown mapper", found=mapper, allowed=MAPPERS)
    low = min(MOP_BURSTS, organisation.bursts)
    sizes = {
        "column": organisation.bursts,
        "column_low": low,
        "column_high": organisation.bursts // low,
        "pseudochannel": organisation.pseudochannels,
        "stack_id": organisation.stack_ids,
        "bank_group": organisation.bank_groups,
        "bank": organisation.banks,
        "row": organisation.rows,
    }
    rest = np.array(addresses, dtype=np.int64) // organisation.burst_bytes
    fields = {}
    for name in MAPPERS[mapper]:
        rest, fields[name] = np.divmod(rest, sizes[name])
    if mapper == "MOP4CLXOR":
        if any(sizes[name] & (sizes[name] - 1) for name in _FIELDS[:-1]):
            raise UserError("its XOR needs numbers of banks that are powers of two", where=mapper)
        column = fields["column_low"] + low * fields["column_high"]
        for name in _FIELDS:
            column, bits = np.divmod(column, sizes[name])
            fields[name] ^= bits
    *place, row = (fields[name] for name in _FIELDS)
    return flat_bank(organisation, *place).tolist(), row.tolist()
