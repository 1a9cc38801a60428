"""What judged benchmarks share: a judge that grades answers.

A judge is a language model behind a URL (`endpoint.Endpoint`), or a list of fixed replies. It gives a text or raises
EndpointError; what the text means is each benchmark's own rule. Knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from minicpm_o.errors import EndpointError

Message = Mapping[str, str]
"""`role` and `content`, as OpenAI has them."""


class Judge(Protocol):
    """Grades an answer in words; `more` are further fields of the request, such as top_p."""

    @property
    def model(self) -> str: ...

    def __call__(self, messages: Sequence[Message], *, temperature: float, max_tokens: int, **more: Any) -> str: ...


# --- fixed replies ----------------------------------------------------------------------------------------------


class FixedJudge:
    """Gives its replies in order and remembers what it was asked; for tests and for replies recorded before."""

    model = "fixed"

    def __init__(self, replies: Iterable[str]) -> None:
        self._replies = list(replies)
        self.requests: list[dict[str, Any]] = []

    def __call__(self, messages: Sequence[Message], *, temperature: float, max_tokens: int, **more: Any) -> str:
        """The next reply. Raises EndpointError when there are no more."""
        if len(self.requests) == len(self._replies):
            raise EndpointError(f"the fixed judge has {len(self._replies)} replies and was asked once more; "
                             f"give it a reply for every question that has no review yet")
        self.requests.append({"messages": [dict(message) for message in messages], "temperature": temperature,
                              "max_tokens": max_tokens, **more})
        return self._replies[len(self.requests) - 1]
