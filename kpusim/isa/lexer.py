"""Tokens of the assembly text, each with its line and column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

from attrs import frozen

from kpusim.errors import UserError

__all__ = ["Cursor", "Token", "tokens"]

PATTERN = re.compile(
    r"(?a)(?P<space>[ \t\r]+|\#[^\n]*)"
    r"|(?P<newline>\n)"
    r"|(?P<float>-?\d+\.\d+(?:e[+-]?\d+)?|-?\d+e[+-]?\d+|-?inf\b)"
    r"|(?P<int>0x[0-9a-fA-F]+|\d+)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)"
    r"|(?P<punct>\+:|\.\.|//|[-+*%()\[\],=:@])"
)


@frozen
class Token:
    """kind: name, int, float, punct, newline or eof."""

    kind: str
    text: str
    line: int
    column: int

    def __str__(self) -> str:
        return {"newline": "end of line", "eof": "end of file"}.get(self.kind, self.text)


def tokens(text: str, source: str) -> list[Token]:
    """The tokens of `text`, an eof last. Raises UserError at a character that starts none."""
    result: list[Token] = []
    line, start, at = 1, 0, 0
    while at < len(text):
        match = PATTERN.match(text, at)
        if match is None:
            raise UserError(
                "unexpected character",
                where=f"{source}:{line}:{at - start + 1}",
                found=text[at],
                allowed="assembly text",
            )
        kind = match.lastgroup or ""
        if kind != "space":
            result.append(Token(kind, match.group(), line, at - start + 1))
        at = match.end()
        if kind == "newline":
            line, start = line + 1, at
    result.append(Token("newline", "\n", line, at - start + 1))
    result.append(Token("eof", "", line, at - start + 1))
    return result


class Cursor:
    """A place in the tokens, with what every rule of the grammar needs: look, take, expect, complain."""

    def __init__(self, text: str, source: str):
        self.source = source
        self._tokens = tokens(text, source)
        self._at = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self._tokens[self._at]

    def peek(self, text: str, ahead: int = 0) -> bool:
        """Whether the token `ahead` of the next one has that text."""
        at = min(self._at + ahead, len(self._tokens) - 1)
        return self._tokens[at].text == text

    def take(self) -> Token:
        """The next token, consumed."""
        token = self.token
        if token.kind != "eof":
            self._at += 1
        return token

    def mark(self) -> int:
        """This place, to come back to with `reset`."""
        return self._at

    def reset(self, mark: int) -> None:
        """Back to a place that `mark` gave."""
        self._at = mark

    def accept(self, text: str) -> bool:
        """Consumes the next token if it has that text."""
        if self.peek(text):
            self.take()
            return True
        return False

    def expect(self, text: str) -> Token:
        """Consumes a token of that text. Raises UserError on any other."""
        if not self.peek(text):
            self.fail("syntax", self.token, [text])
        return self.take()

    def kind(self, kind: str, what: str) -> Token:
        """Consumes a token of that kind. Raises UserError on any other."""
        if self.token.kind != kind:
            self.fail("syntax", self.token, what)
        return self.take()

    def integer(self) -> int:
        """Consumes an integer of 64 bits, with its sign."""
        sign = -1 if self.accept("-") else 1
        token = self.kind("int", "an integer")
        digits = token.text
        if len(digits) > 20 or int(digits, 16 if digits.startswith("0x") else 10) >= 1 << 63:
            self.fail("an integer has at most 63 bits and a sign", token)
        return sign * int(digits, 16 if digits.startswith("0x") else 10)

    def skip_newlines(self) -> None:
        """Consumes line ends."""
        while self.token.kind == "newline":
            self.take()

    def end_line(self) -> None:
        """Consumes the end of a line, which must come here."""
        if self.token.kind != "newline":
            self.fail("syntax", self.token, "end of line")
        self.skip_newlines()

    def fail(self, problem: str, token: Token, allowed: Iterable[str] | str | None = None) -> NoReturn:
        """Raises UserError at `token`."""
        raise UserError(problem, where=self.where(token), found=str(token), allowed=allowed)

    def where(self, token: Token) -> str:
        """The place of `token`, for messages."""
        return f"{self.source}:{token.line}:{token.column}"
