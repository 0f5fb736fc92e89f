"""NeXus groups and fields in HDF5."""

import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np


def group(parent: h5py.Group, name: str, nx_class: str, attributes: Mapping[str, Any] | None = None) -> h5py.Group:
    """Create a group of a NeXus class, such as NXdata."""
    made = parent.create_group(name)
    made.attrs["NX_class"] = nx_class
    for key, value in (attributes or {}).items():
        made.attrs[key] = value
    return made


def field(
    parent: h5py.Group, name: str, data: Any, units: str = "", long_name: str = "", **storage: Any
) -> h5py.Dataset:
    """Create a dataset with @units and @long_name; text becomes UTF-8, and large arrays are compressed."""
    if isinstance(data, str | tuple | list) or data.dtype.kind == "U":
        data = np.array(data, dtype=h5py.string_dtype())
    if not storage and data.ndim and data.nbytes > 4096 and data.dtype != object:
        storage = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    made = parent.create_dataset(name, data=data, **storage)
    made.attrs["units"] = units
    made.attrs["long_name"] = long_name or name
    return made


def named_fields(parent: h5py.Group, name: str, values: Mapping[str, Any]) -> h5py.Group:
    """Create an NXcollection of fields with free names, such as bytes.hbm; @key has the name, NeXus allows no dot."""
    made = group(parent, name, "NXcollection")
    for key, value in values.items():
        units = "byte" if "bytes" in key.split(".") else "cycle" if "cycles" in key.split(".") else ""
        field(made, re.sub(r"\W", "_", key), value, units, key).attrs["key"] = key
    return made


def plot(
    parent: h5py.Group, name: str, title: str, axes: str | list[str], signal: str, auxiliary: tuple[str, ...] = ()
) -> h5py.Group:
    """Create an NXdata group; its fields come after."""
    attributes: dict[str, Any] = {"signal": signal, "axes": axes}
    if auxiliary:
        attributes["auxiliary_signals"] = list(auxiliary)
    names = [axes] if isinstance(axes, str) else axes
    for position, axis in enumerate(names):
        attributes[f"{axis}_indices"] = position
    made = group(parent, name, "NXdata", attributes)
    field(made, "title", title)
    return made


def by_key(parent: h5py.Group) -> dict[str, h5py.Dataset]:
    """The fields that `named_fields` created, by their keys, in alphabetical order."""
    made = list(parent.values())
    if any(each is None for each in made):
        raise ValueError(f"{parent.name} lacks a field that it names")
    return dict(sorted((each.attrs["key"], each) for each in made))


def text(dataset: h5py.Dataset) -> str:
    """The text of a scalar dataset."""
    return str(dataset.asstr()[()])


def texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    """The texts of a 1-D dataset."""
    return tuple(dataset.asstr()[()])
