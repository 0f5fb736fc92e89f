"""Quantities: decimal text with a unit, to and from exact numbers in cycles, bytes and bytes/cycle."""

import re
from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import Annotated

from attrs import frozen
from quantiphy import InvalidNumber, Quantity

from kpusim.structured import BadValue

__all__ = [
    "Bandwidth",
    "Clock",
    "Count",
    "Cycles",
    "Delay",
    "Dimension",
    "MacRate",
    "PerCycle",
    "Room",
    "RowRate",
    "Size",
    "Time",
    "about",
    "parse",
    "text",
    "whole",
]

_FRACTION = re.compile(r"[0-9]{1,9}/0*[1-9][0-9]{0,8}")
_BINARY = re.compile(r"(\s*)([KMGT])i(?=B)")
_HUGE = 1e30  # beyond any machine; keeps exact arithmetic on strangers' exponents short


class _Quantity(Quantity):
    """Quantiphy without the prefixes that eat the start of a unit: "1 cycle" is no hundredth of an "ycle"."""


_Quantity.set_prefs(input_sf="TGMKkmunp")


@frozen
class Dimension:
    """What an attribute measures. `units` may be written in a file; `least` is the least value allowed inside."""

    name: str
    units: tuple[str, ...]
    example: str
    least: int = 0
    positive: bool = False  # must be more than 0, though less than 1 is fine
    physical: bool = False  # belongs to another clock than the core's: printed in seconds


COUNT = Dimension("count", (), "1", least=1)
SIZE = Dimension("size", ("B",), "512 KiB", least=1)
ROOM = Dimension("size", ("B",), "256 KiB")
CLOCK = Dimension("clock", ("Hz",), "1 GHz", least=1)
CYCLES = Dimension("time", ("cycles", "cycle", "s"), "64 cycles")
TIME = Dimension("time", ("s", "cycles", "cycle"), "12 ns", physical=True)
DELAY = Dimension("time", ("s", "cycles", "cycle"), "2.5 ns", physical=True)
PER_CYCLE = Dimension("bandwidth", ("B/cycle", "B/s"), "256 B/cycle", positive=True)
BANDWIDTH = Dimension("bandwidth", ("B/s", "B/cycle"), "819.2 GB/s", positive=True, physical=True)
MAC_RATE = Dimension("rate", (), "1/4", positive=True)
ROW_RATE = Dimension("rate", ("row/cycle", "rows/cycle"), "1 row/cycle", positive=True)

Count = Annotated[int, COUNT]  # at least 1
Size = Annotated[int, SIZE]  # bytes, at least 1
Room = Annotated[int, ROOM]  # bytes, of something that need not be there
Clock = Annotated[int, CLOCK]  # Hz
Cycles = Annotated[int, CYCLES]  # core-clock cycles, of logic on the core clock
Time = Annotated[int, TIME]  # core-clock cycles, of something that does not speed up with the core clock
Delay = Annotated[Fraction, DELAY]  # core-clock cycles, exactly, of something on a clock of its own
PerCycle = Annotated[Fraction, PER_CYCLE]  # bytes/cycle on the core clock
Bandwidth = Annotated[Fraction, BANDWIDTH]  # bytes/cycle, of something on a clock of its own
MacRate = Annotated[int | Fraction, MAC_RATE]  # multiply-accumulates/cycle; an int where whole
RowRate = Annotated[Fraction, ROW_RATE]  # rows/cycle


def about(text: str) -> Mapping[str, str]:
    """Metadata of a quantity: what `keys.machine_keys` says of it, the one place for it."""
    return {"about": text}


def parse(found: object, dimension: Dimension, clock_hz: int) -> int | Fraction:
    """The exact value of a quantity such as "4.8 TB/s": Hz, bytes or cycles (int), bytes or rows a cycle (Fraction).

    Seconds become cycles of `clock_hz`, rounded up but for a `Delay` (Fraction). Raises BadValue for what is no
    quantity, or of another unit.
    """
    if dimension is COUNT:
        if type(found) is not int:
            raise BadValue("not a whole number", f"a whole number such as {dimension.example}")
        return found
    if dimension is MAC_RATE:
        return _whole_or_fraction(found)
    number, unit = _number_and_unit(found, dimension)
    if dimension is DELAY:
        return number * clock_hz if unit == "s" else number
    if unit == "s":
        return ceil(number * clock_hz)
    if unit == "B/s":
        return number / clock_hz
    if "/" in unit:
        return number
    if number.denominator != 1:
        raise BadValue(f"not a whole number of {dimension.units[0]}", f'such as "{dimension.example}"')
    return int(number)


def _whole_or_fraction(found: object) -> int | Fraction:
    if type(found) is int:
        return found
    if not (isinstance(found, str) and _FRACTION.fullmatch(found)):
        raise BadValue("neither a whole number nor a fraction", '1, 2, ..., or a fraction in quotes such as "1/4"')
    return whole(Fraction(found))


def whole(value: int | Fraction) -> int | Fraction:
    """The same number, as an int where it is one."""
    return int(value) if value.denominator == 1 else value


def _number_and_unit(found: object, dimension: Dimension) -> tuple[Fraction, str]:
    allowed = f'a {dimension.name} such as "{dimension.example}"'
    if not isinstance(found, str):
        raise BadValue("needs a number with its unit, in quotes", allowed)
    binary = _BINARY.search(found)  # taken here: quantiphy would round "4.8 TiB" through a float
    factor = 1024 ** (1 + "KMGT".index(binary[2])) if binary else 1
    try:
        quantity = _Quantity(_BINARY.sub(r"\1", found, count=1))
    except InvalidNumber:
        raise BadValue("not a number with a unit", allowed) from None
    if not quantity.units:
        raise BadValue("has no unit", allowed)
    if quantity.units not in dimension.units:
        raise BadValue("wrong unit", f"{allowed} (in {' or '.join(dimension.units)})")
    if not abs(quantity.real) < _HUGE:
        raise BadValue("not a finite number", allowed)
    digits = quantity.fixed(prec="full", show_units=False) if quantity.real else 0
    return Fraction(digits) * factor, quantity.units


def text(value: int | Fraction, dimension: Dimension, clock_hz: int) -> str:
    """A quantity that `parse` reads back as exactly `value`, in the unit that suits the dimension best.

    Raises ValueError for a rate that is a finite decimal neither a cycle nor a second (no file can have given it).
    """
    if dimension is MAC_RATE:
        return str(value)
    if dimension.name == SIZE.name:
        power = next(power for power in (4, 3, 2, 1, 0) if value % 1024**power == 0) if value else 0
        return f"{int(value) // 1024**power} {['', 'Ki', 'Mi', 'Gi', 'Ti'][power]}B"
    if dimension is CLOCK:
        return f"{_decimal(Fraction(value, 10**9))} GHz"
    if dimension is CYCLES:
        return f"{value} cycle{'s' * (value != 1)}"
    if dimension is TIME:
        return _seconds(int(value), clock_hz)
    if dimension is DELAY:
        return _delay(Fraction(value), clock_hz)
    unit = "row/cycle" if dimension is ROW_RATE else "B/cycle"
    a_cycle, a_second = _decimal(Fraction(value)), _decimal(Fraction(value) * clock_hz / 10**9)
    if a_second is not None and unit == "B/cycle" and (dimension.physical or a_cycle is None):
        return f"{a_second} GB/s"
    if a_cycle is None:
        raise ValueError(f"{value} {unit} is not a finite decimal")
    return f"{a_cycle} {unit}"


def _decimal(value: Fraction) -> str | None:
    """The exact decimal text of a fraction, or None where it has no end."""
    for places in range(64):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(int(scaled)).rjust(places + 1, "0")
            return f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return None


def _delay(cycles: Fraction, clock_hz: int) -> str:
    """An exact time. Raises ValueError where it is a finite decimal neither in seconds nor in cycles."""
    in_ns, in_cycles = _decimal(cycles * 10**9 / clock_hz), _decimal(cycles)
    if in_ns is None and in_cycles is None:
        raise ValueError(f"{cycles} cycles are not a finite decimal")
    return f"{in_cycles} cycles" if in_ns is None else f"{in_ns} ns"


def _seconds(cycles: int, clock_hz: int) -> str:
    """The shortest time that, rounded up, is `cycles`."""
    exact = Fraction(cycles, clock_hz)
    unit, scale = ("us", 10**6) if exact * 10**6 >= 1 else ("ns", 10**9)
    places = 0
    while True:
        shown = Fraction(int(exact * scale * 10**places), 10**places)
        if ceil(shown * clock_hz / scale) == cycles:
            return f"{_decimal(shown)} {unit}"
        places += 1
