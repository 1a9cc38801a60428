"""How the heads of a short run are laid below each other, for the graphs of `steady`; and which runs are short.

Letters: T tokens of a run, H heads, H' heads of keys and values, G = H / H' heads that share a key, R = T * G rows, at
least 2. Row r is of token r mod T. Keys and values of the first T rows are the tokens' own; what stands in the others
falls on the places of tokens to come, is seen by nobody and is written anew when those are read. R rows are counted in
the lengths that a graph is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model.config import LanguageConfig
from .cache import KVCache

BY_ROWS = "attention_by_rows"
"""() bool: whether the run is short. The other inputs mean nothing where it is not."""
TAKEN = "attention_taken"
"""(1, R, 3 H') int64: for every row, which of all the tokens' heads are its queries, keys and values."""
GIVEN = "attention_given"
"""(1, T, H) int64: for every token, where its heads come out."""
PLACES = "attention_places"
"""(1, R) int64: each row's place in the conversation; it sees no later one."""
LOGIT_ROWS = "logit_rows"
"""(L,) int64: the tokens whose logits are wanted, so that `logits` is (1, L, V)."""
MOST_BY_ROWS = 8
"""Tokens of a short run. In longer ones the places that nobody sees cost more than what is saved."""
FAR_TOKENS = 768
"""With fewer tokens before them, runs of several tokens are quicker as the graph was built; they round the same."""


@dataclass(frozen=True)
class Rows:
    """A run of so many tokens as rows."""

    taken: np.ndarray
    given: np.ndarray
    tokens: np.ndarray
    """(R,) int64: the token of every row."""

    @classmethod
    def of(cls, num_tokens: int, config: LanguageConfig) -> Rows:
        """num_tokens >= 1; heads of keys and values divide the heads."""
        heads, kv_heads = config.heads, config.kv_heads
        sharing, width = heads // kv_heads, heads + 2 * kv_heads
        row, kv_head = np.arange(num_rows(num_tokens, config)), np.arange(kv_heads)
        tokens, member = row % num_tokens, row // num_tokens % sharing
        queries = (tokens * width + member)[:, None] + kv_head * sharing  # (R, H')
        keys = (tokens * width + heads)[:, None] + kv_head
        head, token = np.arange(heads), np.arange(num_tokens)[:, None]
        given = (head % sharing * num_tokens + token) * kv_heads + head // sharing  # (T, H)
        return cls(np.concatenate([queries, keys, keys + kv_heads], axis=1)[None], given[None], tokens)


def num_rows(num_tokens: int, config: LanguageConfig) -> int:
    """R: places in a cache that a short run writes to."""
    return max(2, num_tokens * (config.heads // config.kv_heads))


def num_fitting(places: int, config: LanguageConfig) -> int:
    """How many tokens' rows so many places hold, at least one token's."""
    return max(1, places // (config.heads // config.kv_heads))


def is_short(num_tokens: int, cache: KVCache, least_before: int) -> bool:
    """Whether so few tokens are a short run: one always, several behind so many tokens at least."""
    return num_tokens == 1 or (num_tokens <= MOST_BY_ROWS and cache.length >= least_before)


def goes_by_rows(num_tokens: int, cache: KVCache, config: LanguageConfig) -> bool:
    """Whether a run is a short one: always of a single token, else its numbers hang on how tokens are cut into runs.

    Only the last tokens of the window have no room for it: they round otherwise, whoever reads them, and must be read
    alone. The first token of all sees nothing but itself, however it is read.
    """
    return is_short(num_tokens, cache, FAR_TOKENS) and 0 < cache.length <= cache.limit - num_rows(num_tokens, config)
