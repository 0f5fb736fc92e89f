"""Benchmarks: the simulator's own speed and memory, and the quality of what is lowered.

Speed is counted in timeouts: wall time over that of one bare SimPy timeout in a run of 288 processes that do nothing
else, measured in the same process. Each group of measurements is a function that yields (key, value) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attrs import frozen

from kpusim.bench.attention import attention16k, attention_decode, attention_scale
from kpusim.bench.decode import decode1, decode32
from kpusim.bench.gathers import gather_bandwidth
from kpusim.bench.gemms import gemm_dataflows, gemm_dtypes, gemm_forms, gemm_machines
from kpusim.bench.measure import Pairs
from kpusim.bench.memory import memory_bound
from kpusim.bench.simulator import array128, gemm4096, gemm4096_edge, gemm4096_folds, memory, trace, unit

__all__ = ["GROUPS", "TARGETS", "Target", "target_of"]


@frozen
class Target:
    """What a measurement should be: at most (or `at_least`) `limit`."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether `value` is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "gemm4096.local.wall_in_timeouts": Target(250_000),
        "gemm4096.lower.wall_in_timeouts": Target(50_000),
        "gemm4096.memory_overhead": Target(0.25),
        "decode1.wall_in_timeouts": Target(400_000),
        "gemm4096_folds.local.wall_in_timeouts": Target(400_000),
        "trace.timeouts_per_span": Target(1.0),
        "trace.bytes_per_span": Target(12.0),
        "gemm4096.peak_memory_megabytes": Target(300),
        "array128.wall_seconds": Target(1.0),
        "gemm4096.matrix_utilisation": Target(0.94, at_least=True),
        "gemm4096.traffic_over_bound": Target(1.25),
        "decode1.bandwidth_over_ideal": Target(0.95, at_least=True),
        "decode32.bandwidth_over_ideal": Target(0.95, at_least=True),
        "attention16k.kpu-datacenter.full_pipelined.matrix_utilisation": Target(0.95, at_least=True),
        "attention16k.kpu-datacenter.causal_pipelined.matrix_utilisation": Target(0.85, at_least=True),
        **{
            f"attention16k.{machine}.{mask}_{variant}.traffic_over_bound": Target(1.25)
            for machine in ("kpu-datacenter", "kpu-edge")
            for mask in ("full", "causal")
            for variant in ("flash", "pipelined")
        },
        "attention_scale.16k.wall_in_timeouts": Target(2_500_000),
        "attention_scale.128k.wall_in_timeouts": Target(110_000_000),
        "attention_scale.128k.peak_memory_megabytes": Target(500),
        "*.bandwidth_over_mix": Target(0.95, at_least=True),
        "*.traffic_over_bound": Target(1.5),
        "*.roofline_over_cycles": Target(0.85, at_least=True),
        "*.plain_equals_local": Target(1, at_least=True),
    }
)
"""Key -> target; "*.word" is for all keys that end with the word and have no target of their own."""


def target_of(key: str) -> Target | None:
    """What the measurement `key` should be, if anything."""
    return TARGETS.get(key) or TARGETS.get(f"*.{key.rpartition('.')[2]}")


GROUPS: Mapping[str, Callable[[], Pairs]] = MappingProxyType(
    {
        group.__name__: group
        for group in (
            unit, gemm4096, gemm4096_folds, gemm4096_edge, trace, memory, array128, decode1, decode32, gemm_dtypes,
            gemm_dataflows, gemm_machines, gemm_forms, gather_bandwidth, memory_bound, attention16k,
            attention_decode, attention_scale,
        )
    }
)  # fmt: skip
