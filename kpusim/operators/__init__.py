"""Operators: one file or folder a family, found by name."""

from kpusim.operators.base import Equal, Example, Family, Lowered, Operator, Part, Port, origin_of, parts_of
from kpusim.operators.mapping_file import lower_as, mapping_text, mapping_toml, parse_mapping
from kpusim.operators.registry import FAMILIES, build_operator, make_operator, text_of

__all__ = [
    "FAMILIES",
    "Equal",
    "Example",
    "Family",
    "Lowered",
    "Operator",
    "Part",
    "Port",
    "build_operator",
    "lower_as",
    "make_operator",
    "mapping_text",
    "mapping_toml",
    "origin_of",
    "parse_mapping",
    "parts_of",
    "text_of",
]
