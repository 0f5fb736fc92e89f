"""The same program on data: numpy semantics, the hazards that real hardware would fall for, and the verdict."""

from kpusim.function.executor import Executor
from kpusim.function.hazards import HazardError
from kpusim.function.verify import Verdict, compare, random_inputs, sum_bound

__all__ = ["Executor", "HazardError", "Verdict", "compare", "random_inputs", "sum_bound"]
