"""What the shell completes arguments with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from click import Context, Parameter
from click.shell_completion import CompletionItem

__all__ = [
    "address_mappers",
    "address_patterns",
    "dram_files",
    "explained_words",
    "families",
    "files",
    "machine_files",
    "machine_lists",
    "machine_sets",
    "operators",
    "recipe_families",
    "variant_sets",
    "workloads",
]

Complete = Callable[[Context, Parameter, str], list[CompletionItem[str]]]


def files(*suffixes: str) -> Complete:
    """Completes paths of files that end so, and of the directories on the way."""
    return lambda ctx, param, incomplete: [CompletionItem(path) for path in _paths(incomplete, suffixes)]


def _paths(incomplete: str, suffixes: Sequence[str]) -> list[str]:
    folder, beginning = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    found = []
    for entry in entries:
        hidden = entry.name.startswith(".") and not beginning.startswith(".")
        if entry.name.startswith(beginning) and not hidden:
            if entry.is_dir():
                found.append(os.path.join(folder, entry.name, ""))
            elif entry.name.endswith(tuple(suffixes)):
                found.append(os.path.join(folder, entry.name))
    return found


def machine_files(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of machines, and machine files."""
    from kpusim.machine import machine_names

    return [*_beginning(machine_names(), incomplete), *files(".toml")(ctx, param, incomplete)]


def dram_files(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of DRAMs, and files of them."""
    from kpusim.machine.drams import dram_names

    return [*_beginning(dram_names(), incomplete), *files(".toml")(ctx, param, incomplete)]


def address_patterns(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Patterns of addresses, and any file."""
    from kpusim.dram.patterns import PATTERNS

    return [*_beginning(PATTERNS, incomplete), *files("")(ctx, param, incomplete)]


def address_mappers(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Mappers of addresses."""
    from kpusim.dram.requests import MAPPERS

    return _beginning(MAPPERS, incomplete)


def machine_lists(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The last of several machines with commas between them."""
    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(before + comma + item.value) for item in machine_files(ctx, param, last)]


def workloads(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of workloads, and workload files."""
    from kpusim.plan import workload_names

    return [*_beginning(workload_names(), incomplete), *files(".toml")(ctx, param, incomplete)]


def families(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of families of operators."""
    from kpusim.operators import FAMILIES

    return _beginning(FAMILIES, incomplete)


def recipe_families(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of families of measured rows."""
    from kpusim.recipes.table import FAMILIES

    return _beginning(FAMILIES, incomplete)


def operators(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Families of operators, as calls."""
    from kpusim.operators import FAMILIES

    return _beginning((f"{family}(" for family in FAMILIES), incomplete)


def machine_sets(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """`KEY=`, and behind it the values where the machine's key is a choice."""
    return _sets(incomplete, "")


def variant_sets(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """As `machine_sets`, with several values, and several keys, with commas between them."""
    before, comma, _ = incomplete.rpartition(",")
    return _sets(incomplete, "" if "=" in incomplete else before + comma)


def _sets(incomplete: str, before: str) -> list[CompletionItem[str]]:
    from kpusim.machine.keys import entries_of, machine_keys

    name, equals, value = incomplete.partition("=")
    keys = machine_keys()
    if not equals:
        about = {f"{before}{each}=": key.about for key in keys.values() for each in entries_of(key) or (key.name,)}
        return [CompletionItem(each, help=text) for each, text in about.items() if each.startswith(incomplete)]
    key = keys.get(name.rpartition(",")[2])
    given, comma, _ = value.rpartition(",")
    return _beginning((f"{name}={given}{comma}{choice}" for choice in (key.choices if key else ())), incomplete)


def explained_words(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """What `kpusim explain` knows."""
    from kpusim.report.glossary import entries

    kinds: dict[str, list[str]] = {}
    for entry in entries():
        if entry.name.startswith(incomplete):
            kinds.setdefault(entry.name, []).append(entry.kind)
    return [CompletionItem(name, help="; ".join(kind)) for name, kind in kinds.items()]


def _beginning(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
