"""Shared SRAMs against closed forms worked out on paper, on kpu-tiny, in both modes."""

from itertools import product
from random import Random

from kpusim.isa.program import Buffer
from kpusim.isa.tables import DTYPE_BITS
from kpusim.isa.walk import ViewAt


def test_the_span_of_a_view_is_from_its_first_byte_to_its_last():
    random = Random(1)
    for _ in range(200):
        shape = tuple(random.randint(1, 6) for _ in range(random.randint(1, 3)))
        buffer = Buffer("b", random.choice(["int4", "int8", "bf16", "fp32"]), 3, shape, random.randrange(100))
        starts = tuple(random.randrange(extent) for extent in shape)
        sizes = tuple(random.randint(1, extent - start) for start, extent in zip(starts, shape, strict=True))
        number = {at: i for i, at in enumerate(product(*map(range, shape)))}  # of every element, by its coordinates
        inside = product(*(range(start, start + size) for start, size in zip(starts, sizes, strict=True)))
        each = DTYPE_BITS[buffer.dtype]
        bits = [number[at] * each + bit for at in inside for bit in (0, each - 1)]
        base = buffer.offset + 2 * buffer.slot_bytes
        assert ViewAt(buffer, 2, starts, sizes, None).span == (base + min(bits) // 8, base + max(bits) // 8 + 1)
