"""Random attentions for tests."""

from __future__ import annotations

from random import Random
from typing import Any

from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_GROUPS

__all__ = ["draw_attention", "draw_mla"]

MOST = 80  # queries and keys: several blocks on kpu-tiny, several folds on all
DTYPES = ("bf16", "bf16", "fp16", "fp32", "fp8_e4m3")


def draw_attention(random: Random) -> dict[str, Any]:
    """Parameters of an `Attention`: keys at one place or another, masked or not, stored narrow or not."""
    kv_heads = random.choice((1, 1, 2, 3))
    queries, keys = _rows(random)
    found: dict[str, Any] = {
        "queries": queries, "keys": keys, "head_dim": 4 * random.randint(1, 12), "batch": random.choice((1, 1, 2)),
        "heads": kv_heads * random.choice((1, 1, 2, 4)), "kv_heads": kv_heads,
        "mask": random.choice(("none", "causal")), "dtype": random.choice(DTYPES),
        "out_dtype": random.choice(DTYPE_GROUPS["real"]), "variant": random.choice(("auto", "flash", "pipelined")),
        "seed": random.randint(0, 9),
    }  # fmt: skip
    if random.random() < 0.3:
        found["value_dim"] = 4 * random.randint(1, 12)
    if random.random() < 0.2:
        found["scale"] = random.choice((0.01, 1.0))
    source = random.choice(("plain", "plain", "window", "page", "kept", "block", "tokens"))
    found |= _source(source, found, random)
    if source != "tokens" and found["dtype"] != "fp8_e4m3" and random.random() < 0.3:
        found["kv_dtype"] = random.choice(DTYPE_GROUPS["quantized"])
        found["scale_group"] = 32 if found.get("page") or found.get("block") else random.choice((4, 8, 32))
    if random.random() < 0.2:
        found["rope"] = "q" if found.get("page") or found.get("kv_dtype") else random.choice(("q", "qk"))
    elif source == "plain" and "kv_dtype" not in found and random.random() < 0.3:
        found["variant"] = "unfused"
    return found


def draw_mla(random: Random) -> dict[str, Any]:
    """Parameters of an `Mla`, far smaller than any model's."""
    queries, keys = _rows(random)
    return {
        "queries": queries, "keys": keys, "heads": random.randint(1, 6), "latent": 8 * random.randint(1, 5),
        "rope_dim": random.choice((0, 4, 8)), "nope_dim": random.randint(1, 24), "value_dim": random.randint(1, 24),
        "absorbed": random.random() < 0.7, "batch": random.choice((1, 1, 2)), "mask": random.choice(("none", "causal")),
        "dtype": random.choice(DTYPES), "out_dtype": random.choice(DTYPE_GROUPS["real"]),
        "page": random.choice((0, 0, 8)), "variant": random.choice(("auto", "flash", "pipelined")),
    }  # fmt: skip


def _rows(random: Random) -> tuple[int, int]:
    """Queries and keys: one query, as many as keys, or anything."""
    keys = random.choice((1, random.randint(1, MOST), random.randint(1, MOST)))
    return random.choice((1, keys, random.randint(1, keys), random.randint(1, MOST))), keys


def _source(source: str, found: dict[str, Any], random: Random) -> dict[str, Any]:
    """Parameters that say where keys and values are and which of them are seen."""
    keys = found["keys"]
    if source == "tokens":
        return {"layout": "tokens"}
    if source == "window":
        return {"mask": "causal", "window": random.randint(1, keys + 4), "sinks": random.choice((0, 1, 5))}
    if source == "page":
        return {"page": random.choice((1, 4, 8, 16))}
    if source == "kept":
        mask = found["mask"] if found["queries"] == 1 else "none"
        return {"kept": random.randint(1, keys), "mask": mask}
    if source == "block":
        block = random.choice((4, 8, 16))
        most = ceil_div(keys, block)
        queries = 1 if found["queries"] == 1 else block * ceil_div(found["queries"], block)
        return {"keys": most * block, "queries": queries, "block": block, "blocks": random.randint(1, most)}
    return {}
