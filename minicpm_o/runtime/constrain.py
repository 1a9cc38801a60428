"""Answers held to a grammar: which tokens may come next is asked of llguidance before each one is chosen.

A JSON schema for `response_format`, any JSON, or a Lark grammar (https://github.com/guidance-ai/llguidance). Needs the
extra `serve`. Letters: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ..errors import MissingExtraError, OptionError

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Constraint(Protocol):
    """What generation asks before and tells after each token."""

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """logits (V,) with what may not come next at minus infinity."""
        ...

    def accept(self, token_id: int) -> None:
        """The token that was chosen."""
        ...


class Grammar:
    """One answer's way through a grammar. Made anew for every answer."""

    def __init__(self, tokenizer_json: str, eos_id: int, grammar: str) -> None:
        """Raises OptionError for a grammar that cannot be used, MissingExtraError without llguidance."""
        guidance, tokenizer = _tokenizer(tokenizer_json, eos_id)
        self._matcher = guidance.LLMatcher(tokenizer, grammar)
        if problem := self._matcher.get_error():
            raise OptionError(f"the schema cannot be held to: {' '.join(problem.split())[:300]}")
        self._bits = guidance.numpy.allocate_token_bitmask(1, tokenizer.vocab_size)
        self._fill = guidance.numpy.fill_next_token_bitmask

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """As Constraint. At the grammar's end the end of the answer alone is left."""
        self._fill(self._matcher, self._bits, 0)
        allowed = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")[: len(logits)].astype(bool)
        return np.where(np.pad(allowed, (0, len(logits) - len(allowed))), logits, -np.inf)

    def accept(self, token_id: int) -> None:
        """As Constraint. Raises OptionError when the grammar forbids the token."""
        if not self._matcher.consume_token(token_id):
            raise OptionError(f"the grammar does not allow token {token_id}: {self._matcher.get_error()}")


def json_grammar(schema: Mapping[str, Any]) -> str:
    """A JSON schema as llguidance reads it; white space as `json.dumps` writes it."""
    guidance = _guidance()
    text: str = guidance.LLMatcher.grammar_from_json_schema(
        json.dumps({**schema, "x-guidance": {"whitespace_flexible": False, "item_separator": ", ",
                                             "key_separator": ": "}}))
    return text


def lark_grammar(text: str) -> str:
    """A Lark grammar, which may hold `%json {...}`, as llguidance reads it."""
    grammar: str = _guidance().LLMatcher.grammar_from_lark(text)
    return grammar


@lru_cache(maxsize=4)
def _tokenizer(tokenizer_json: str, eos_id: int) -> tuple[Any, Any]:
    guidance = _guidance()
    return guidance, guidance.LLTokenizer(tokenizer_json, eos_token=eos_id)


def _guidance() -> Any:
    try:
        import llguidance
        import llguidance.numpy
    except ImportError as cause:
        raise MissingExtraError("answers in a given form need llguidance; install minicpm-o[serve]") from cause
    return llguidance
