"""kpusim: a cycle-approximate simulator of KPU accelerators."""

__version__ = "0.1.0"
