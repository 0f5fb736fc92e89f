"""Random machines, as changes of those that come with kpusim."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

__all__ = ["CHOICES", "FAST", "PRESETS", "draw_machine"]

PRESETS = (*["kpu-tiny"] * 6, "kpu-edge", "kpu-datacenter", "kpu-many-small", "tpu-v4-like", "scale-sim")
"""What is changed; kpu-tiny most often, where little data takes many steps."""

CHOICES = {  # what machines differ in; nothing: as it is, rates as they suit kpu-tiny
    "tiles": ["", "tiles.rows=1 tiles.columns=3", "tiles.columns=1"],
    "folds": ["", "matrix.overlap_folds=true"],
    "vector": ["", "vector.lanes=256 sram.ports.vector=4096B/cycle", "vector.startup=3cycles"],
    "matrix": ["", "matrix.rows=1 matrix.columns=1", "matrix.rows=16 matrix.columns=16 matrix.macs_per_cell.bf16=16"],
    "placement": ["", "dma.placement=tile", "", "dma.placement=west", "dma.placement=corners",
                  "dma.placement=column-ends"],
    "topology": ["", "noc.topology=torus", "noc.topology=ring", "noc.topology=crossbar"],
    "attach": ["", "", "hbm.attach=edges", "hbm.attach=edges hbm.stacks=2 hbm.channels=3"],
    "rate": ["", "dma.bandwidth=64B/cycle noc.bandwidth=64B/cycle sram.ports.dma=64B/cycle",
             "dma.bandwidth=5.5B/cycle", "noc.bandwidth=2.7B/cycle", "sram.ports.dma=3B/cycle"],
    "setup": ["", "dma.setup=0cycles", "dma.setup=9cycles"],
    "limit": ["", "dma.outstanding=1B", "dma.outstanding=96B"],
    "rows": ["", "dma.rows=0.3rows/cycle", "dma.rows=0.3rows/cycle dma.coalesce=96B"],
    "priorities": ["", "dma.priorities=[0,1,0,1]"],
    "hop": ["", "noc.hop=0cycles sram.latency=0cycles", "noc.hop=5cycles"],
    "channels": ["", "hbm.channels=1", "hbm.channels=8 hbm.hash=rotate", "hbm.bandwidth=4096B/cycle"],
    "latency": ["", "hbm.controller=0cycles hbm.read=0cycles hbm.row_activate=0cycles hbm.precharge=0cycles "
                "hbm.activate_gap=0cycles"],
    "refresh": ["", "hbm.refresh=123cycles"],
    "barrier": ["", "front_end.barrier=0cycles"],
    "dataflow": ["", "matrix.dataflow=weight-stationary", "matrix.dataflow=input-stationary"],
    "cells": ["", "matrix.macs_per_cell.bf16=2/3"],
    "ports": ["", "sram.ports.matrix=33.3B/cycle", "sram.ports.vector=5B/cycle",
              "sram.ports.matrix=2.5B/cycle sram.ports.vector=20B/cycle"],
    "sharing": [*[""] * 6, "sram.sharing=shared", "sram.sharing=shared sram.banks=3 sram.bank_bandwidth=2.7B/cycle",
                "sram.sharing=shared sram.interleave=1KiB sram.bank_bandwidth=16B/cycle"],
    "shared": [*[""] * 4, "shared.kind=cache shared.capacity=8KiB shared.block=4KiB shared.ways=2 shared.line=32B "
               "shared.bandwidth=13.3B/cycle shared.latency=3cycles",
               "shared.kind=cache shared.capacity=64KiB shared.ways=4 shared.write=through shared.bandwidth=64B/cycle"],
}  # fmt: skip
FAST = [  # everything shared takes a cycle or none, so that much falls into one cycle
    "dma.bandwidth=64B/cycle", "noc.bandwidth=64B/cycle", "sram.ports.dma=64B/cycle", "dma.setup=0cycles",
    "noc.hop=0cycles", "sram.latency=0cycles", "hbm.bandwidth=4096B/cycle", "hbm.controller=0cycles",
    "hbm.read=0cycles", "hbm.row_activate=0cycles", "hbm.precharge=0cycles", "hbm.activate_gap=0cycles",
]  # fmt: skip

LOWERED = {  # what lowerings look at, besides
    "grid": ["tiles.rows=1 tiles.columns=1", "tiles.rows=3 tiles.columns=5", "tiles.rows=4 tiles.columns=4"],
    "capacity": ["sram.capacity=2KiB", "sram.capacity=6KiB", "sram.capacity=16KiB", "sram.capacity=64KiB"],
    "queues": ["dma.queues=2", "dma.queues=3", "dma.queues=8"],
    "hash": ["hbm.hash=none", "hbm.hash=rotate", "hbm.hash=xor"],
    "dram": ["hbm.dram=hbm3-6400", "hbm.dram=lpddr5x-8533"],
    "buffer": ["shared.kind=buffer shared.capacity=16KiB shared.bandwidth=32B/cycle"],
}

SLOW = ("dma.outstanding=1B",)  # of CHOICES: a random program does not mind, a lowered operator takes minutes
FAST_SHARE = 0.2  # chosen: of machines, those that are FAST
CHANGED_SHARE = 0.15  # chosen: of a machine's choices, those that are not as it is: few, so that a line stays readable


def draw_machine(random: Random, names: Sequence[str] = PRESETS) -> tuple[str, tuple[str, ...]]:
    """A machine's name and changes of it, as `load_machine` takes them; it may refuse them."""
    found: list[str] = []
    for options in (*CHOICES.values(), *LOWERED.values()):
        if random.random() < CHANGED_SHARE:
            found += random.choice([option for option in options if option and option not in SLOW]).split()
    fast = FAST if random.random() < FAST_SHARE else []
    changes = {change.partition("=")[0]: change for change in (*found, *fast)}  # the last of each key
    return random.choice(names), tuple(changes.values())
