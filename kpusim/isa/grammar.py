"""The rules that every part of the assembly grammar shares: expressions, names, shapes, lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kpusim.isa.expr import FUNCTIONS, HEIGHT, Binary, Call, Const, Expr, Lookup, Name, illegal
from kpusim.isa.lexer import Cursor, Token
from kpusim.isa.program import Buffer, Semaphore, Table, Tensor, TensorMap
from kpusim.isa.tables import DTYPE_BITS

__all__ = ["Grammar"]

T = TypeVar("T")
WORDS = ("wait", "signal", "read", "done", "end", "for", "let", "section", "step", "dst", "tile", "engine")
RESERVED = {*WORDS, *FUNCTIONS}


class Grammar:
    """A cursor, what has been declared so far, and the names in scope."""

    def __init__(self, cursor: Cursor):
        self.c = cursor
        self.tensors: dict[str, Tensor] = {}
        self.maps: dict[str, TensorMap] = {}
        self.buffers: dict[str, Buffer] = {}
        self.semaphores: dict[str, Semaphore] = {}
        self.tables: dict[str, Table] = {}
        self.scope: list[str] = []
        self.loops = 0
        self._nesting = 0

    # --- names, numbers, lists ------------------------------------------------------------------------------------

    def new_name(self, local: bool = False) -> str:
        """A name nobody has yet; a local one may reuse a name of another scope."""
        token = self.c.kind("name", "a name")
        declared = (self.tensors, self.maps, self.buffers, self.semaphores, self.tables)
        if token.text in RESERVED:
            self.c.fail("a reserved word cannot be a name", token)
        if (local and token.text in self.scope) or any(token.text in table for table in declared):
            self.c.fail("this name is taken", token)
        return token.text

    def declared(self, table: Mapping[str, T], what: str) -> T:
        """The declared thing of that name."""
        token = self.c.kind("name", f"a {what}")
        if token.text not in table:
            self.c.fail(f"unknown {what}", token, [*table])
        return table[token.text]

    def one_of(self, words: Sequence[str]) -> str:
        """One of these words."""
        token = self.c.kind("name", " or ".join(words))
        if token.text not in words:
            self.c.fail("unexpected word", token, words)
        return token.text

    def dtype(self) -> str:
        """A dtype of `isa/dtypes.toml`."""
        return self.one_of([*DTYPE_BITS])

    def at_least(self, least: int, what: str) -> int:
        """An integer of at least `least`."""
        token = self.c.token
        value = self.c.integer()
        if value < least:
            self.c.fail(f"{what} must be at least {least}", token)
        return value

    def bracketed(self) -> int:
        """`[n]` with n at least 1."""
        self.c.expect("[")
        value = self.at_least(1, "a count")
        self.c.expect("]")
        return value

    def shape(self, least: int, most: int) -> tuple[int, ...]:
        """`[a, b, ...]` of positive sizes."""
        at = self.c.expect("[")
        sizes = self.listed(lambda: self.at_least(1, "a size"))
        self.c.expect("]")
        if not least <= len(sizes) <= most:
            self.c.fail(f"{len(sizes)} dimensions", at, f"{least} to {most}" if least < most else str(least))
        return sizes

    def listed(self, rule: Callable[[], T]) -> tuple[T, ...]:
        """One or more of `rule`, with commas between."""
        items = [rule()]
        while self.c.accept(","):
            items.append(rule())
        return tuple(items)

    # --- expressions ----------------------------------------------------------------------------------------------

    def expression(self) -> Expr:
        """Sums of terms."""
        self._nesting += 1
        if self._nesting > HEIGHT:
            self.c.fail(f"more than {HEIGHT} brackets within each other", self.c.token)
        left = self.term()
        while self.c.token.text in ("+", "-"):
            op = self.c.take()
            left = self._legal(Binary(op.text, left, self.term()), op)
        self._nesting -= 1
        return left

    def term(self) -> Expr:
        """Products, quotients and remainders of atoms."""
        left = self.atom()
        while self.c.token.text in ("*", "//", "%"):
            op = self.c.take()
            left = self._legal(Binary(op.text, left, self.atom()), op)
        return left

    def _legal(self, expr: Expr, at: Token) -> Expr:
        problem = illegal(expr)
        if problem is not None:
            self.c.fail(problem, at)
        return expr

    def atom(self) -> Expr:
        """A number, a name, a look-up, a call or an expression in brackets."""
        c = self.c
        token = c.token
        if token.text == "-" or token.kind == "int":
            return Const(c.integer())
        c.take()
        if token.text == "(":
            inner = self.expression()
            c.expect(")")
            return inner
        if token.text in FUNCTIONS and c.peek("("):
            return self._call(token)
        if token.text in self.tables:
            c.expect("[")
            index = self.expression()
            c.expect("]")
            return Lookup(token.text, index)
        if token.kind != "name":
            c.fail("syntax", token, "an expression")
        if token.text not in self.scope:
            c.fail("unknown name", token, [*self.scope, *self.tables, *self.buffers, *self.maps])
        return Name(token.text)

    def _call(self, function: Token) -> Expr:
        self.c.expect("(")
        args = self.listed(self.expression)
        self.c.expect(")")
        return self._legal(Call(function.text, args), function)
