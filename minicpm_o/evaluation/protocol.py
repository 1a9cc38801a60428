"""What a model must offer to be evaluated. The evaluation knows nothing else of it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


class EvaluatedModel(Protocol):
    """Anything that answers a chat and writes down speech, with the same answer to the same question every time."""

    def chat(
        self, messages: list[dict[str, Any]], *, max_tokens: int = ..., temperature: float = ...,
        transcript: bool = ..., num_beams: int = ...
    ) -> object:
        """Answer OpenAI-style messages; the reply is a text or has the attribute `text`.

        `temperature` is 0, the likeliest words: also of a model that draws its answers unless it is told otherwise.

        `transcript=False`: no recogniser; the model hears with its own ears.
        `num_beams`: try so many answers side by side and give the best; a model that cannot may ignore it."""
        ...

    def transcribe(self, source: Any, *, own_ears: bool = ...) -> object:
        """Words of a sound (a path, or the bytes of a wav file); a text or an object with the attribute `text`.

        `own_ears`: without the recogniser; a model that has none may ignore it."""
        ...


@runtime_checkable
class Ranks(Protocol):
    """A model that can say how likely an answer is."""

    def losses(self, messages: list[dict[str, Any]], texts: list[str]) -> Any:
        """For each text as the answer: an object with `loss` (sum over its tokens) and `num_tokens`."""
        ...


@runtime_checkable
class HasText(Protocol):
    """A reply or a transcript."""

    @property
    def text(self) -> str: ...


@runtime_checkable
class HasName(Protocol):
    """A model that knows its own name."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class HasFingerprint(Protocol):
    """A model that can say which weights it holds (any text that changes when they do)."""

    @property
    def fingerprint(self) -> str: ...


def text_of(reply: object) -> str:
    """The words of a reply or transcript."""
    if isinstance(reply, str):
        return reply
    if isinstance(reply, HasText):
        return reply.text
    raise TypeError(f"the model answered with {type(reply).__name__}; expected a text or an object with `text`")
