"""Which parameters of an attention contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from kpusim.dtypes import per_byte
from kpusim.errors import UserError
from kpusim.isa.expr import ceil_div
from kpusim.isa.tables import DTYPE_GROUPS
from kpusim.operators.attention.problem import Problem
from kpusim.operators.parameters import ENTRIES

__all__ = ["contradictions", "not_unfused"]

QUERIES = 1 << 24  # chosen: what each one sees is held in arrays, 128 MiB each


def contradictions(problem: Problem) -> Iterator[UserError]:
    """What is wrong with it, the most basic first."""
    if problem.heads % problem.kv_heads:
        found = f"heads={problem.heads}, kv_heads={problem.kv_heads}"
        yield UserError("as many heads share each head of keys", found=found, allowed="heads a multiple of kv_heads")
    if problem.queries > QUERIES:
        yield UserError("too many queries", found=f"queries={problem.queries}", allowed=f"up to {QUERIES:,}")
    yield from _mask(problem)
    gathers = [f"{name}={getattr(problem, name)}" for name in ("page", "kept", "block") if getattr(problem, name)]
    if len(gathers) > 1:
        yield UserError("keys are gathered in one way", found=", ".join(gathers), allowed="one of page, kept, block")
    yield from _paged(problem)
    yield from _kept(problem)
    yield from _sparse(problem)
    yield from _quantized(problem)
    yield from _rotated(problem)
    if problem.tokens_first and (problem.unit or problem.quantized):
        found = gathers[0] if gathers else f"kv_dtype={problem.kv_dtype!r}"
        problem_ = "layout=tokens is that of keys and values as a GEMM leaves them"
        yield UserError(problem_, found=found, allowed="layout=heads, or no page, kept, block and kv_dtype")


def not_unfused(problem: Problem) -> UserError | None:
    """Why scores and probabilities of this attention cannot go through HBM; None where they can."""
    reasons = {
        "layout=tokens": problem.tokens_first,
        "page, kept or block": bool(problem.unit),
        "kv_dtype": problem.quantized,
        "absorbed=true": problem.shared,
        "window": bool(problem.window),
        "rope": problem.rope != "none",
    }
    if problem.entries > ENTRIES:
        found, allowed = f"batch * kv_heads = {problem.entries}", f"up to {ENTRIES}"
        return UserError("too many matmuls in one batch of the unfused variant", found=found, allowed=allowed)
    for name, used in reasons.items():
        if used:
            allowed = "variant=flash, or plain keys and values, with mask=none or causal"
            return UserError("the unfused variant is two matmuls and a softmax", found=name, allowed=allowed)
    return None


def _mask(problem: Problem) -> Iterator[UserError]:
    if (problem.window or problem.sinks) and not problem.causal:
        found = f"window={problem.window}, sinks={problem.sinks}"
        yield UserError("a window ends at the query's own position", found=found, allowed="mask=causal with it")
    if problem.sinks and not problem.window:
        yield UserError("sinks are seen beside a window", found=f"sinks={problem.sinks}", allowed="window >= 1 with it")
    if problem.window and (problem.kept or problem.block):
        name = "kept" if problem.kept else "block"
        yield UserError(f"{name} says itself which keys are read", found=f"window={problem.window}", allowed="window=0")


def _paged(problem: Problem) -> Iterator[UserError]:
    if problem.pages and not problem.page:
        yield UserError("pages are of `page` tokens", found=f"pages={problem.pages}", allowed="page >= 1 with it")
    needed = problem.batch * ceil_div(problem.keys, problem.page) if problem.page else 0
    if problem.pages < needed:
        found, allowed = f"pages={problem.pages}", f"pages >= {needed}, or 0: twice that"
        yield UserError("the pool is too small for all pages", found=found, allowed=allowed)


def _kept(problem: Problem) -> Iterator[UserError]:
    if problem.kept > problem.keys:
        allowed = f"up to keys = {problem.keys}"
        yield UserError("more keys are kept than there are", found=f"kept={problem.kept}", allowed=allowed)
    if problem.kept and problem.causal and problem.queries > 1:
        found = f"queries={problem.queries}, mask=causal"
        yield UserError("kept keys all precede the queries", found=found, allowed="queries=1 or mask=none")


def _sparse(problem: Problem) -> Iterator[UserError]:
    block, blocks = problem.block, problem.blocks
    if blocks and not block:
        yield UserError("blocks are of `block` keys", found=f"blocks={blocks}", allowed="block >= 1 with it")
    if not block:
        return
    if problem.keys % block or (problem.queries > 1 and problem.queries % block):
        found = f"queries={problem.queries}, keys={problem.keys}"
        allowed = f"multiples of block = {block}, or a single query"
        yield UserError("queries and keys are in whole blocks", found=found, allowed=allowed)
    elif not 1 <= blocks <= problem.keys // block:
        found, allowed = f"blocks={blocks}", f"1 to keys / block = {problem.keys // block}"
        yield UserError("each block of queries reads some of the blocks of keys", found=found, allowed=allowed)


def _quantized(problem: Problem) -> Iterator[UserError]:
    if not problem.quantized:
        return
    if problem.dtype not in DTYPE_GROUPS["real"]:
        problem_ = "keys and values are dequantised to the dtype of Q"
        yield UserError(problem_, found=problem.dtype, allowed=DTYPE_GROUPS["real"])
    packed = per_byte(problem.kv_dtype)
    for name in ("head_dim", "value_dim"):
        if getattr(problem, name) % packed:
            problem_, found = f"a row of {problem.kv_dtype} ends within a byte", f"{name}={getattr(problem, name)}"
            yield UserError(problem_, found=found, allowed=f"multiples of {packed}")
    unit, group = problem.page or problem.block, problem.scale_group
    if unit and group % unit:
        name = "page" if problem.page else "block"
        found, allowed = f"scale_group={group}", f"multiples of {name} = {unit}"
        yield UserError(f"all keys of a {name} have the same scales", found=found, allowed=allowed)


def _rotated(problem: Problem) -> Iterator[UserError]:
    if problem.rope == "none":
        return
    if problem.head_dim % 2:
        yield UserError("rope rotates halves of a head", found=f"head_dim={problem.head_dim}", allowed="even numbers")
    if problem.dtype not in DTYPE_GROUPS["real"]:
        problem_ = "rope works in dtypes of the vector engine"
        yield UserError(problem_, found=problem.dtype, allowed=DTYPE_GROUPS["real"])
    if problem.queries > problem.keys:
        found, allowed = f"queries={problem.queries}", f"up to keys = {problem.keys}"
        yield UserError("rope rotates by the position among the keys", found=found, allowed=allowed)
    if problem.kept or problem.block:
        problem_ = "keys that are gathered one by one or by block have lost their positions"
        yield UserError(problem_, found=f"rope={problem.rope!r}", allowed="rope=none with kept or block")
    if problem.rope == "qk" and (problem.quantized or problem.page):
        found = f"page={problem.page}" if problem.page else f"kv_dtype={problem.kv_dtype!r}"
        yield UserError("a cache of keys has them rotated", found=found, allowed="rope=q or rope=none")
