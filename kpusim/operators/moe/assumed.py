"""The routing that a program assumes: which experts each token goes to, and where its rows stand."""

from __future__ import annotations

from functools import cache

import numpy as np
from attrs import frozen

from kpusim.errors import UserError
from kpusim.operators.gemm.groups import group_rows
from kpusim.operators.lists import check_list

__all__ = ["Routing", "check_chosen", "routing"]


@frozen
class Routing:
    """order: the token of each row, rows sorted by expert. places: the rows of each token, one after the other."""

    order: tuple[int, ...]
    places: tuple[int, ...]


def check_chosen(k: int, experts: int) -> None:
    """Raises UserError for more experts of a token than there are."""
    if k > experts:
        found, allowed = f"k={k}", f"at most experts = {experts}"
        raise UserError("more are chosen than there are", found=found, allowed=allowed)


@cache
def routing(tokens: int, experts: int, k: int, load: str, seed: int) -> Routing:
    """A routing of each token to `k` experts, drawn for a load as `rows` of `grouped_gemm` says it.

    Experts take their rows from the tokens in a random order, one expert after the other, round and round: so each
    token has k experts, all of them others. Raises UserError for a load that is none, an expert with more rows than
    there are tokens, too many rows (`check_list`), and as `check_chosen`.
    """
    check_chosen(k, experts)
    check_list(tokens * k, tokens * k)
    rows = group_rows(load, experts, tokens * k)
    if max(rows) > tokens:
        found = f"{max(rows)} rows for expert {rows.index(max(rows))}"
        problem = "an expert gets a token twice"
        raise UserError(problem, where="load", found=found, allowed=f"at most {tokens}, one for each token")
    shuffled = np.random.default_rng(seed).permutation(tokens)
    dealt = np.resize(shuffled, tokens * k)
    expert = np.repeat(np.arange(experts), rows)
    by_row = np.lexsort((dealt, expert))  # by expert, then by token
    order = dealt[by_row]
    places = np.argsort(order, kind="stable")  # rows of token 0, of token 1, ...
    return Routing(tuple(order.tolist()), tuple(places.tolist()))
