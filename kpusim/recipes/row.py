"""A row of measurements as recipes see it: what was run, not how long it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from kpusim.errors import UserError

__all__ = ["Row"]


FP8 = "fp8_e4m3"
"""What "fp8" is, the kind of weights and activations (Micikevicius et al., FP8 Formats, arXiv:2209.05433)."""


def _dtype(name: str) -> str:
    return FP8 if name == "fp8" else name


@frozen
class Row:
    """What was run: an operator of a family with its parameters. where: its place in a file, for messages.

    dtype: as kpusim has them, or "fp8".
    """

    family: str
    params: Mapping[str, object] = field(hash=False)
    dtype: str = field(default="bf16", converter=_dtype)
    where: str = field(default="row", eq=False)

    def size(self, name: str) -> int:
        """A parameter that is a whole number above 0. Raises UserError."""
        found = self.params.get(name)
        if type(found) is not int or found < 1:
            raise self._wrong(name, found, "a whole number of at least 1")
        return found

    def flag(self, name: str) -> bool:
        """A parameter that is 0 or 1, or true or false; 0 where it is not there. Raises UserError."""
        found = self.params.get(name, 0)
        if found not in (0, 1):
            raise self._wrong(name, found, "0 or 1")
        return bool(found)

    def word(self, name: str, allowed: Sequence[str]) -> str:
        """A parameter that is one of some words. Raises UserError."""
        found = self.params.get(name)
        if not isinstance(found, str) or found not in allowed:
            raise self._wrong(name, found, allowed)
        return found

    def typed(self, allowed: Sequence[str]) -> str:
        """Its dtype, which is one of some. Raises UserError."""
        if self.dtype not in allowed:
            raise UserError("cannot be", where=f"{self.where}: dtype", found=self.dtype, allowed=allowed)
        return self.dtype

    def refused(self, error: UserError) -> UserError:
        """An error of this row, which names its place."""
        return error if (error.where or "").startswith(self.where) else UserError(str(error), where=self.where)

    def _wrong(self, name: str, found: object, allowed: Sequence[str] | str) -> UserError:
        problem = "missing" if found is None else "cannot be"
        return UserError(problem, where=f"{self.where}: params.{name}", found=found, allowed=allowed)
