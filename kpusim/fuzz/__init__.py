"""Random operators on random machines: does each compute the right numbers, and do the two modes agree on its time?"""

from kpusim.fuzz.case import Case, draw_case
from kpusim.fuzz.checks import Outcome, examine
from kpusim.fuzz.machines import PRESETS
from kpusim.fuzz.search import Result, Summary, drawn, numbers

__all__ = ["PRESETS", "Case", "Outcome", "Result", "Summary", "draw_case", "drawn", "examine", "numbers"]
