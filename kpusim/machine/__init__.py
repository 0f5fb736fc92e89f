"""Machines: what they are (`spec`), their quantities with units, their files, and their drawing."""

from kpusim.machine.draw import draw
from kpusim.machine.load import changed_toml, load_machine, machine_file, machine_names, machine_toml, parse_machine
from kpusim.machine.spec import (
    Dma,
    FrontEnd,
    Hbm,
    Machine,
    MatrixEngine,
    Noc,
    Sram,
    SramPorts,
    Tiles,
    VectorEngine,
)

__all__ = [
    "Dma",
    "FrontEnd",
    "Hbm",
    "Machine",
    "MatrixEngine",
    "Noc",
    "Sram",
    "SramPorts",
    "Tiles",
    "VectorEngine",
    "changed_toml",
    "draw",
    "load_machine",
    "machine_file",
    "machine_names",
    "machine_toml",
    "parse_machine",
]
