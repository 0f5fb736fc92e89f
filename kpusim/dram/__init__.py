"""A DRAM's channel, burst by burst: the reference of the simulator's own model of HBM, on the DRAM's own clock."""

from kpusim.dram.serve import Served, serve

__all__ = ["Served", "serve"]
