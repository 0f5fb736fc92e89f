"""What attention computes, written out element by element, and how far its arithmetic may be off."""

from math import exp, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpusim.dtypes import convert, integer_range, is_integer, numpy_dtype
from kpusim.errors import UserError
from kpusim.function import compare
from kpusim.operators.attention.lists import gathered
from kpusim.operators.attention.operator import Attention, Mla

LISTS = ("page_table", "positions", "chosen")


def inputs_of(attention, seed=0):
    """Normal numbers in the ports' dtypes, integers of all sizes, and the lists that the seed draws."""
    rng, found = np.random.default_rng(seed), {}
    for port in attention.ports[:-1]:
        if port.name in LISTS:
            found[port.name] = gathered(attention.problem).astype(np.int32)
        elif is_integer(port.dtype):
            low, high = integer_range(port.dtype)
            found[port.name] = rng.integers(low, high, port.shape, np.int8, endpoint=True)
        else:
            found[port.name] = rng.standard_normal(port.shape).astype(numpy_dtype(port.dtype))
    return found


# --- element by element: no arrays, no tiles, no blocks --------------------------------------------------------------


def sees(a, query, key, chosen):
    """Whether a query sees a key."""
    if chosen is not None and key // a.block not in chosen[query // a.block]:
        return False
    if a.mask == "none":
        return True
    position = (getattr(a, "kept", 0) or a.keys) - a.queries + query
    window, sinks = getattr(a, "window", 0), getattr(a, "sinks", 0)
    return key <= position and (not window or key > position - window or key < sinks)


def vector_of(a, inputs, name, sequence, head, key):
    """A key or a value of a head, as it is multiplied."""
    tensor, kept = inputs[name], getattr(a, "kept", 0)
    kv_heads, group_size = a.problem.kv_heads, getattr(a, "scale_group", 0) or 32
    entry = sequence * kv_heads + head
    if getattr(a, "layout", "") == "tokens":
        size = tensor.shape[1] // kv_heads
        return [float(x) for x in tensor[sequence * a.keys + key, head * size : (head + 1) * size]]
    if kept:
        place, group = (entry * a.keys + int(inputs["positions"][entry, key]),), 0
    elif a.page:
        row = head * (len(tensor) // kv_heads) + int(inputs["page_table"][sequence, key // a.page])
        place, group = (row, key % a.page), (key % a.page) // group_size
    elif getattr(a, "block", 0):
        place, group = (entry * (a.keys // a.block) + key // a.block, key % a.block), (key % a.block) // group_size
    else:
        place, group = (entry, key), key // group_size
    found = tensor[place]
    if f"{name}_scale" not in inputs:
        return [float(x) for x in found]
    scale = inputs[f"{name}_scale"]
    each = scale[place] if name == "v" or kept else scale[place[0], group]
    scaled = np.float32(found.astype(np.float32)) * np.asarray(each, np.float32)
    return [float(x) for x in convert(scaled, a.dtype)]


def turned(x, position, inputs):
    half = len(x) // 2
    cos, sin = ([float(c) for c in inputs[name][position]] for name in ("cos", "sin"))
    return [x[i] * cos[i] - x[i + half] * sin[i] for i in range(half)] + [
        x[i + half] * cos[i] + x[i] * sin[i] for i in range(half)
    ]


def expected(a, inputs):
    """out[sequence, head, query] as nested lists, and the greatest |v| that was averaged."""
    problem, found = a.problem, {}
    chosen = [[set(row.tolist()) for row in each] for each in inputs["chosen"]] if "chosen" in inputs else None
    for sequence in range(a.batch):
        for head in range(a.heads):
            shared = head // (a.heads // problem.kv_heads)
            entry = sequence * problem.kv_heads + shared
            count = getattr(a, "kept", 0) or a.keys
            keys = [vector_of(a, inputs, "k", sequence, shared, key) for key in range(count)]
            values = (
                [key[: problem.value_dim] for key in keys]
                if "v" not in inputs
                else [vector_of(a, inputs, "v", sequence, shared, key) for key in range(count)]
            )
            if getattr(a, "rope", "") == "qk":
                keys = [turned(key, position, inputs) for position, key in enumerate(keys)]
            for query in range(a.queries):
                if getattr(a, "layout", "") == "tokens":
                    row = inputs["q"][sequence * a.queries + query].reshape(a.heads, -1)[head]
                else:
                    row = inputs["q"][sequence * a.heads + head, query]
                q = [float(x) for x in row]
                if getattr(a, "rope", "none") != "none":
                    q = turned(q, a.keys - a.queries + query, inputs)
                seen = [key for key in range(count) if sees(a, query, key, chosen and chosen[entry])]
                scores = [problem.factor * sum(x * y for x, y in zip(q, keys[key], strict=True)) for key in seen]
                weights = [exp(score - max(scores)) for score in scores]
                found[sequence, head, query] = [
                    sum(w * values[key][i] for w, key in zip(weights, seen, strict=True)) / (sum(weights) or 1)
                    for i in range(problem.value_dim)
                ]
    return found


def agrees(attention, seed=0):
    attention.check()
    inputs = inputs_of(attention, seed)
    result = attention.reference(inputs)["out"]
    assert [result.shape] == [port.shape for port in attention.ports if port.name == "out"]
    if getattr(attention, "layout", "") == "tokens":
        result = result.reshape(attention.batch, attention.queries, attention.heads, -1).swapaxes(1, 2)
    result = result.reshape(attention.batch, attention.heads, attention.queries, -1)
    for at, values in expected(attention, inputs).items():
        assert result[at] == pytest.approx(values, rel=1e-9, abs=1e-9)
    return inputs, result


FORMS = [
    {},
    {"mask": "causal", "queries": 5},
    {"mask": "causal", "queries": 9},  # more queries than keys: the first see nothing
    {"heads": 6, "kv_heads": 2, "batch": 2, "value_dim": 3, "scale": 0.7},
    {"mask": "causal", "window": 3, "queries": 6},
    {"mask": "causal", "window": 2, "sinks": 2, "queries": 6, "heads": 2},
    {"mask": "causal", "window": 90, "queries": 4},
    {"page": 4, "batch": 2, "heads": 4, "kv_heads": 2, "seed": 3},
    {"page": 3, "pages": 5, "mask": "causal", "queries": 4, "heads": 2},
    {"kept": 4, "heads": 4, "kv_heads": 2, "batch": 2},
    {"kept": 3, "queries": 1, "mask": "causal"},
    {"keys": 12, "queries": 8, "block": 4, "blocks": 2, "mask": "causal", "heads": 2},
    {"keys": 12, "queries": 8, "block": 4, "blocks": 1, "batch": 2},
    {"keys": 12, "queries": 1, "block": 3, "blocks": 2, "mask": "causal"},
    {"keys": 4, "queries": 8, "block": 4, "blocks": 1, "mask": "causal"},
    {"layout": "tokens", "batch": 2, "heads": 4, "kv_heads": 2, "value_dim": 3},
    {"layout": "tokens", "rope": "qk", "queries": 4, "heads": 2, "mask": "causal"},
    {"rope": "q", "queries": 5, "page": 3},
    {"rope": "qk", "dtype": "fp16", "queries": 3},
]
STORED = [
    {"kv_dtype": "int8", "scale_group": 3},
    {"kv_dtype": "int4", "batch": 2, "heads": 4, "kv_heads": 2},
    {"kv_dtype": "int2", "dtype": "fp16", "scale_group": 2, "value_dim": 8},
    {"kv_dtype": "fp8_e4m3", "dtype": "fp32", "page": 4, "scale_group": 4},
    {"kv_dtype": "fp8_e5m2", "page": 2, "scale_group": 4, "heads": 2},
    {"kv_dtype": "int4", "kept": 5, "heads": 2},
    {"kv_dtype": "int8", "keys": 8, "queries": 4, "block": 4, "blocks": 1, "mask": "causal", "scale_group": 4},
    {"dtype": "fp8_e4m3", "mask": "causal", "queries": 4},
]
SIZES = {"queries": 2, "keys": 7, "head_dim": 4}


@pytest.mark.parametrize("form", [*FORMS, *STORED], ids=str)
def test_every_form(form):
    agrees(Attention(**SIZES | form))


@pytest.mark.parametrize("form", [{}, {"mask": "causal"}, {"page": 2, "batch": 2}, {"absorbed": False}], ids=str)
def test_latent_attention(form):
    mla = Mla(3, 5, heads=3, latent=6, rope_dim=2, nope_dim=4, value_dim=5, **form)
    agrees(mla)
    assert mla.problem.factor == pytest.approx(1 / sqrt(4 + 2))
    assert mla.problem.value_dim == (5 if "absorbed" in form else 6)
    assert [port.name for port in mla.ports][1:3] == (["k", "v"] if "absorbed" in form else ["k", mla.ports[2].name])


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.booleans())
def test_random_ones(random, latent):
    attention = (Mla if latent else Attention).draw(random)
    try:
        attention.check()
    except UserError:
        return
    small = attention.queries * attention.keys * attention.heads * attention.batch < 2000
    if small:
        agrees(attention)
    else:
        bound = attention.error_bound(inputs_of(attention))["out"]
        assert np.isfinite(bound).all()


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_pairs_and_keys_that_are_seen_are_counted(random):
    attention = Attention.draw(random)
    try:
        attention.check()
    except UserError:
        return
    problem, chosen = attention.problem, None
    if problem.block:
        read = zip(gathered(problem)[0].tolist(), problem.chosen_counts, strict=True)
        chosen = [set(row[:count]) for row, count in read]
    seen = [[key for key in range(problem.length) if sees(attention, query, key, chosen)]
            for query in range(problem.queries)]  # fmt: skip
    assert problem.pairs == sum(map(len, seen))
    different = len(set().union(*seen))
    assert problem.keys_read >= different if problem.block else problem.keys_read == different


def test_most_random_ones_are_possible():
    def possible(attention):
        try:
            attention.check()
        except UserError:
            return False
        return True

    random = Random(0)
    drawn = [Attention.draw(random) for _ in range(400)] + [Mla.draw(random) for _ in range(100)]
    fine = [each for each in drawn if possible(each)]
    assert len(fine) > 0.85 * len(drawn)
    attentions = [each for each in fine if isinstance(each, Attention)]
    for name in ("page", "kept", "block", "window", "sinks", "kv_dtype"):
        assert sum(1 for each in attentions if getattr(each, name)) > 10, name
    assert sum(1 for each in attentions if each.layout == "tokens") > 10
    assert sum(1 for each in attentions if each.rope != "none") > 10
    assert sum(1 for each in attentions if each.parts) > 10


# --- how far a kernel may be off ------------------------------------------------------------------------------------


def rounded(x, dtype):
    return convert(np.asarray(x, np.float32), dtype).astype(np.float32)


def online(attention, inputs, block, parts):
    """One head, as a kernel would: fp32, block by block with a running maximum, weights rounded, `parts` joined."""
    q, k, v = (np.asarray(inputs[name][0], np.float32) for name in ("q", "k", "v"))
    scale, dtype, length = np.float32(attention.problem.factor), attention.dtype, attention.keys
    joined = []
    for part in np.array_split(np.arange(0, length, block), parts):
        top = np.full((len(q), 1), -1e30, np.float32)
        total, acc = np.zeros((len(q), 1), np.float32), np.zeros((len(q), v.shape[1]), np.float32)
        for first in part:
            keys = np.arange(first, min(first + block, length))
            seen = np.array([[sees(attention, row, int(key), None) for key in keys] for row in range(len(q))])
            scores = np.where(seen, q @ k[keys].T * scale, np.float32(-1e30))
            new = np.maximum(top, scores.max(axis=1, keepdims=True))
            weights = np.where(seen, rounded(np.exp(scores - new), dtype), np.float32(0))
            alpha, top = np.exp(top - new), new
            total = total * alpha + weights.sum(axis=1, keepdims=True)
            acc = acc * alpha + weights @ v[keys]
        joined.append((top, total, acc))
    best = np.max([top for top, _, _ in joined], axis=0)
    total, acc = (sum(each[i] * np.exp(each[0] - best) for each in joined) for i in (1, 2))
    return acc * (np.float32(1) / np.where(total == 0, np.float32(1), total))


KERNELS = st.builds(
    Attention, st.integers(1, 20), st.integers(1, 70), st.sampled_from([1, 8, 64]),
    mask=st.sampled_from(["none", "causal"]), dtype=st.sampled_from(["bf16", "fp16", "fp32", "fp8_e4m3"]),
    window=st.sampled_from([0, 0, 5]), scale=st.sampled_from([0.0, 1.0, 0.001]), out_dtype=st.just("fp32"),
).filter(lambda attention: attention.mask == "causal" or not attention.window)  # fmt: skip


@settings(max_examples=150)
@given(KERNELS, st.integers(1, 16), st.integers(1, 3), st.sampled_from([0.01, 1.0, 30.0]), st.integers(0, 99))
def test_the_bound_holds_for_a_kernel_in_fp32(attention, block, parts, magnitude, seed):
    inputs = inputs_of(attention, seed)
    inputs["q"] = (inputs["q"].astype(np.float32) * magnitude).astype(inputs["q"].dtype)
    inputs["k"] = (inputs["k"].astype(np.float32) * min(magnitude, 3)).astype(inputs["k"].dtype)
    result = online(attention, inputs, block, parts)
    reference, bound = attention.reference(inputs)["out"][0], attention.error_bound(inputs)["out"][0]
    assert np.isfinite(bound).all()
    assert compare(result, reference, "fp32", bound=bound).passed


@settings(max_examples=60)
@given(st.integers(1, 8), st.sampled_from(["bf16", "fp16", "fp32"]), st.sampled_from(["q", "qk"]), st.integers(0, 99))
def test_the_bound_holds_for_rotated_queries_and_keys(queries, dtype, rope, seed):
    attention = Attention(queries, 20, 16, dtype=dtype, rope=rope, out_dtype="fp32")
    inputs = inputs_of(attention, seed)

    def rotated(x, first):
        low, high = np.split(np.asarray(x, np.float32), 2, axis=-1)
        cos, sin = (inputs[name][first : first + x.shape[-2]] for name in ("cos", "sin"))
        return rounded(np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1), dtype)

    ready = {"q": rotated(inputs["q"], 20 - queries), "v": inputs["v"]}
    ready["k"] = rotated(inputs["k"], 0) if rope == "qk" else inputs["k"]
    result = online(attention, ready, 6, 2)
    reference, bound = attention.reference(inputs)["out"][0], attention.error_bound(inputs)["out"][0]
    assert compare(result, reference, "fp32", bound=bound).passed


@pytest.mark.parametrize(("dtype", "share"), [("bf16", 0.01), ("fp16", 0.002), ("fp32", 1e-4), ("fp8_e4m3", 0.2)])
def test_the_bound_is_a_small_share_of_the_values(dtype, share):
    attention = Attention(64, 200, 64, dtype=dtype, mask="causal")
    inputs = inputs_of(attention)
    mean = np.abs(inputs["v"].astype(float)).mean()
    assert attention.error_bound(inputs)["out"].mean() < share * mean


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("wrong", [{"scale": 0.11}, {"mask": "none"}, {"window": 30}, {"keys": -1}], ids=str)
def test_what_is_wrong_is_more_than_the_tolerance(dtype, wrong):
    attention = Attention(40, 48, 64, dtype=dtype, mask="causal")
    inputs = inputs_of(attention)
    reference, bound = attention.reference(inputs)["out"], attention.error_bound(inputs)["out"]
    other = dict(inputs, v=np.roll(inputs["v"], 1, axis=1)) if "keys" in wrong else inputs
    change = {} if "keys" in wrong else wrong
    options = {"dtype": dtype, "mask": "causal"} | change
    result = Attention(40, 48, 64, **options).reference(other)["out"]
    assert not compare(result, reference, "bf16", bound=bound).passed


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_large_scores_and_rows_without_keys_are_no_nan(dtype, size):
    attention = Attention(9, 6, 4, dtype=dtype, mask="causal", scale=1.0)  # the first three queries see nothing
    inputs = inputs_of(attention)
    inputs["q"][:] = size / 100
    inputs["k"][:] = np.arange(100, 106)[:, None] / 4
    reference, bound = attention.reference(inputs)["out"], attention.error_bound(inputs)["out"]
    assert np.isfinite(reference).all()
    assert np.isfinite(bound).all()
    assert not reference[:, :3].any()
    assert not bound[:, :3].any()
    best = inputs["v"][0, -1 if size > 0 else 0].astype(float)  # scores are 25 apart: one key has all the weight
    assert reference[0, 8] == pytest.approx(best, abs=1e-9)


def test_many_rows_come_in_chunks():
    attention = Attention(1500, 1500, 64, mask="causal")  # several chunks of rows
    inputs = inputs_of(attention)
    whole, bound = attention.reference(inputs)["out"], attention.error_bound(inputs)["out"]
    q, k, v = (inputs[name][0].astype(float) for name in ("q", "k", "v"))
    for row in (0, 700, 1499):
        weights = np.exp(k[: row + 1] @ q[row] / 8)
        assert whole[0, row] == pytest.approx(weights @ v[: row + 1] / weights.sum(), abs=1e-9)
    assert bound.shape == whole.shape


# --- what contradicts itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"heads": 4, "kv_heads": 3}, "as many heads share each head of keys; found 'heads=4, kv_heads=3'; allowed: heads"),
    ({"window": 4}, "a window ends at the query's own position; found 'window=4, sinks=0'; allowed: mask=causal"),
    ({"sinks": 4}, "found 'window=0, sinks=4'; allowed: mask=causal with it"),
    ({"sinks": 4, "mask": "causal"}, "sinks are seen beside a window; found 'sinks=4'; allowed: window >= 1 with it"),
    ({"mask": "causal", "window": 4, "kept": 4, "queries": 1}, "kept says itself which keys are read"),
    ({"mask": "causal", "window": 4, "block": 4, "blocks": 1}, "block says itself which keys are read"),
    ({"page": 4, "kept": 4}, "keys are gathered in one way; found 'page=4, kept=4'; allowed: one of page, kept, block"),
    ({"pages": 4}, "pages are of `page` tokens; found 'pages=4'; allowed: page >= 1 with it"),
    ({"page": 4, "pages": 7, "batch": 2}, "the pool is too small for all pages; found 'pages=7'; allowed: pages >= 8"),
    ({"kept": 17}, "more keys are kept than there are; found 'kept=17'; allowed: up to keys = 16"),
    ({"kept": 4, "mask": "causal"}, "kept keys all precede the queries; found 'queries=8, mask=causal'; allowed: quer"),
    ({"blocks": 4}, "blocks are of `block` keys; found 'blocks=4'; allowed: block >= 1 with it"),
    ({"block": 3, "blocks": 1}, "queries and keys are in whole blocks; found 'queries=8, keys=16'; allowed: multiples"),
    ({"block": 16, "blocks": 1}, "queries and keys are in whole blocks; found 'queries=8, keys=16'"),
    ({"block": 4}, "some of the blocks of keys; found 'blocks=0'; allowed: 1 to keys / block = 4"),
    ({"block": 4, "blocks": 5}, "some of the blocks of keys; found 'blocks=5'; allowed: 1 to keys / block = 4"),
    ({"kv_dtype": "int4", "dtype": "fp8_e4m3"}, "dequantised to the dtype of Q; found 'fp8_e4m3'; allowed: fp32, "),
    ({"kv_dtype": "int2", "head_dim": 6}, "a row of int2 ends within a byte; found 'head_dim=6'; allowed: mult"),
    ({"kv_dtype": "int4", "value_dim": 3}, "a row of int4 ends within a byte; found 'value_dim=3'; allowed: multiples"),
    ({"scale_group": 8}, "scale_group belongs to a kv_dtype that is not dtype; found"),
    ({"kv_dtype": "int8", "page": 8, "scale_group": 4}, "all keys of a page have the same scales; found 'scale_gro"),
    ({"kv_dtype": "int8", "block": 8, "blocks": 1, "scale_group": 12}, "same scales; found 'scale_group=12'"),
    ({"rope": "q", "head_dim": 5}, "rope rotates halves of a head; found 'head_dim=5'; allowed: even numbers"),
    ({"rope": "q", "dtype": "fp8_e4m3"}, "rope works in dtypes of the vector engine; found 'fp8_e4m3'; allowed: fp32"),
    ({"rope": "q", "queries": 17}, "rope rotates by the position among the keys; found 'queries=17'; allowed: up to"),
    ({"rope": "q", "kept": 4}, "have lost their positions; found \"rope='q'\""),
    ({"rope": "qk", "kv_dtype": "int8"}, "a cache of keys has them rotated; found \"kv_dtype='int8'\""),
    ({"rope": "qk", "page": 4}, "a cache of keys has them rotated; found 'page=4'; allowed: rope=q or rope=none"),
    ({"layout": "tokens", "page": 4}, "as a GEMM leaves them; found 'page=4'; allowed: layout=heads, or no page"),
    ({"layout": "tokens", "kv_dtype": "int8"}, "as a GEMM leaves them; found \"kv_dtype='int8'\"; allowed"),
    ({"variant": "unfused", "page": 4}, "two matmuls and a softmax; found 'page, kept or block'; allowed: variant="),
    ({"variant": "unfused", "kv_dtype": "int8"}, "two matmuls and a softmax; found 'kv_dtype'"),
    ({"variant": "unfused", "mask": "causal", "window": 4}, "two matmuls and a softmax; found 'window'"),
    ({"variant": "unfused", "rope": "q"}, "two matmuls and a softmax; found 'rope'"),
    ({"variant": "unfused", "layout": "tokens"}, "two matmuls and a softmax; found 'layout=tokens'"),
])  # fmt: skip
def test_contradictions_are_one_message(options, message):
    with pytest.raises(UserError) as caught:
        Attention(**{"queries": 8, "keys": 16, "head_dim": 8} | options).check()
    assert message in str(caught.value)


def test_absorbed_keys_are_shared_and_not_unfused():
    with pytest.raises(UserError, match="two matmuls and a softmax; found 'absorbed=true'"):
        Mla(4, 4, variant="unfused").check()
    Mla(4, 4, variant="unfused", absorbed=False).check()
