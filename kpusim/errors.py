"""Bad input, told in one message: what is wrong, where, what was found, what is allowed."""

from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean", "nearest"]

LONGEST = 400  # characters of what was found that a message shows


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option spelt most like `word` (letter case aside), or None when none is close."""
    from difflib import get_close_matches  # slow to import, needed only when something is wrong

    if len(word) > LONGEST:
        return None
    by_lower = {option.lower(): option for option in options}
    matches = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, options: Iterable[str]) -> str | None:
    """The hint "did you mean 'stacks'?", or None when no option is close to `word`."""
    option = nearest(word, options)
    return None if option is None else f"did you mean {option!r}?"


def _short(text: str) -> str:
    """`text`, its middle left out where it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"


class UserError(Exception):
    """Input that cannot be used. The command line prints `str(error)` and exits with `exit_code`.

    problem: what is wrong, in a few words. where: the place, such as "my.toml:7: [hbm] stakcs", kept as an attribute.
    found: what stands there. allowed: what may stand there, as options or in words.
    hint: what to do; by default the option nearest to `found`, where there is one.
    """

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        found: object = None,
        allowed: Iterable[str] | str | None = None,
        hint: str | None = None,
    ) -> None:
        parts = [problem]
        if found is not None:
            parts.append(f"found {_short(repr(found))}")
        if isinstance(allowed, str):
            parts.append(f"allowed: {allowed}")
        elif allowed is not None:
            options = list(allowed)
            parts.append(f"allowed: {', '.join(options)}")
            hint = hint or (did_you_mean(found, options) if isinstance(found, str) else None)
        if hint is not None:
            parts.append(hint)
        message = "; ".join(parts)
        self.where = where
        super().__init__(message if where is None else f"{_short(where)}: {message}")
