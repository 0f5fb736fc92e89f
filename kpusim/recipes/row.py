"""A row of measurements as recipes see it: what was run, not how long it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from kpusim.errors import UserError, did_you_mean

__all__ = ["Row"]

MOST = 2**31 - 1  # of a size: what an int32 holds, as most kernels of libraries index with one

FP8 = "fp8_e4m3"
"""What "fp8" is, the kind of weights and activations (Micikevicius et al., FP8 Formats, arXiv:2209.05433)."""


def _dtype(name: str) -> str:
    return FP8 if name == "fp8" else name


@frozen
class Row:
    """What was run: an operator of a family with its parameters. where: its place in a file, for messages.

    dtype: as kpusim has them, or "fp8". asked: the parameters that were asked for.
    """

    family: str
    params: Mapping[str, object] = field(hash=False)
    dtype: str = field(default="bf16", converter=_dtype)
    where: str = field(default="row", eq=False)
    asked: set[str] = field(factory=set, init=False, eq=False, repr=False)

    def size(self, name: str) -> int:
        """A parameter that is a whole number above 0. Raises UserError."""
        found = self._param(name)
        if type(found) is not int or not 1 <= found <= MOST:
            raise self._wrong(name, found, f"a whole number from 1 to {MOST:,}")
        return found

    def flag(self, name: str) -> bool:
        """A parameter that is 0 or 1, or true or false; 0 where it is not there. Raises UserError."""
        found = self._param(name)
        if found not in (None, 0, 1):
            raise self._wrong(name, found, "0 or 1")
        return bool(found)

    def word(self, name: str, allowed: Sequence[str]) -> str:
        """A parameter that is one of some words. Raises UserError."""
        found = self._param(name)
        if not isinstance(found, str) or found not in allowed:
            raise self._wrong(name, found, allowed)
        return found

    def typed(self, allowed: Sequence[str]) -> str:
        """Its dtype, which is one of some. Raises UserError."""
        if self.dtype not in allowed:
            raise UserError("cannot be", where=f"{self.where}: dtype", found=self.dtype, allowed=allowed)
        return self.dtype

    @property
    def notes(self) -> list[str]:
        """What is to be said of parameters that nobody asked for: what they might have meant."""
        unknown = [name for name in self.params if name not in self.asked]
        hints = [did_you_mean(name, sorted(self.asked - self.params.keys())) for name in unknown]
        return [
            f"{self.where}: params.{name}: nothing here knows it, it is ignored" + (f"; {hint}" if hint else "")
            for name, hint in zip(unknown, hints, strict=True)
        ]

    def refused(self, error: UserError) -> UserError:
        """An error of this row, which names its place."""
        return error if (error.where or "").startswith(self.where) else UserError(str(error), where=self.where)

    def _param(self, name: str) -> object:
        self.asked.add(name)
        return self.params.get(name)

    def _wrong(self, name: str, found: object, allowed: Sequence[str] | str) -> UserError:
        problem = "missing" if found is None else "cannot be"
        return UserError(problem, where=f"{self.where}: params.{name}", found=found, allowed=allowed)
