"""The instruction set: tables, programs, their text and array forms, checks, and the walk through a program."""

from kpusim.isa.assembler import assemble, read_program
from kpusim.isa.printer import disassemble
from kpusim.isa.program import Program

__all__ = ["Program", "assemble", "disassemble", "read_program"]
