"""The array form of a program: one numpy record an instruction, for saving beside a trace and for replay.

    declarations   bytes      the side tables as text
    names          bytes [n]  names of parameters, counters and places
    sections       SECTION    one record a section
    instructions   INSTRUCTION  one record a pc: instructions, loops and their ends
    line           u4 [pcs]   line of the source text, 0 where there is none
    code           i8         parameters, operands, options, waits and signals, in prefix notation

An expression in `code` is a tag and what follows it: CONST value, NAME number, an operator and its operands, MIN or MAX
with a count, LOOKUP table. Floats are stored as the bits of a float64.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

from kpusim.errors import UserError
from kpusim.files import atomic_path
from kpusim.isa.assembler import assemble
from kpusim.isa.pack import Arrays, pack
from kpusim.isa.printer import disassemble
from kpusim.isa.program import Program
from kpusim.isa.unpack import unpack

__all__ = ["Arrays", "from_arrays", "load_arrays", "save_arrays", "to_arrays"]


def to_arrays(program: Program) -> Arrays:
    """The array form of `program`. Raises UserError where a number needs more than 64 bits or a count overflows."""
    try:
        return pack(program)
    except OverflowError as error:
        raise UserError(f"no array form: {error}", where=f"program {program.name}") from error


def from_arrays(arrays: Arrays, source: str = "<arrays>") -> Program:
    """The program of its array form, with the lines of its source text; `source` stands for it in messages.

    Raises UserError where the arrays are broken: what they say must have a text form that says the same.
    """
    program = unpack(arrays, source)
    if assemble(disassemble(program), source) != program:
        raise UserError("the array form of a program is broken", where=source)
    return program


def save_arrays(arrays: Arrays, path: Path) -> None:
    """Writes the arrays as an `.npz` file, whole or not at all. Raises UserError where it cannot be written."""
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own options


def load_arrays(path: Path) -> Arrays:
    """The arrays of an `.npz` file. Raises UserError where it cannot be read or is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise UserError("cannot read the program", where=str(path), found=error.strerror or str(error)) from error
    except (ValueError, AttributeError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, struct.error) as error:
        raise UserError("not an assembled program (.npz)", where=str(path), hint="`kpusim asm` writes one") from error
