"""What a model must offer to be evaluated. The evaluation knows nothing else of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from minicpm_o.runtime.live.session import LiveConfig, SessionEvent


class EvaluatedModel(Protocol):
    """Anything that answers a chat and writes down speech, with the same answer to the same question every time."""

    def chat(
        self, messages: list[dict[str, Any]], *, max_tokens: int = ..., temperature: float = ...,
        transcript: bool = ..., num_beams: int = ...
    ) -> object:
        """Answer OpenAI-style messages; the reply is a text or has the attribute `text`.

        `temperature` is 0, the likeliest words, unless a run asks for another: also of a model that draws its answers
        unless it is told otherwise. `seed` is given too where there are draws, and only there.

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

    def losses(self, messages: list[dict[str, Any]], texts: list[str], *, transcript: bool = ...) -> Any:
        """For each text as the answer: an object with `loss` (sum over its tokens) and `num_tokens`."""
        ...


@runtime_checkable
class Speaks(Protocol):
    """A model that reads a text aloud, and writes down what it hears."""

    def speak(self, text: str) -> Any:
        """An object with `waveform` (N,) in [-1, 1] and `rate_hz`."""
        ...

    def transcribe(self, source: Any, *, own_ears: bool = ...) -> object: ...


class LiveStream(Protocol):
    """A live session: a second of what is seen and heard goes in, work comes out that whoever gets it runs."""

    def see(self, picture: Any) -> list[SessionEvent]: ...
    def hear(self, waveform: np.ndarray) -> list[SessionEvent]: ...
    def tick(self) -> list[SessionEvent]: ...


@runtime_checkable
class Attends(Protocol):
    """A model that watches and listens to a stream, and speaks up by itself. `has_live`, where it has that attribute,
    says whether it really can."""

    def live_session(self, told: str, config: LiveConfig) -> tuple[LiveStream, list[SessionEvent]]:
        """A session that was told something, and the work of answering that."""
        ...


@runtime_checkable
class CanShare(Protocol):
    """A model that several threads may ask at once."""

    def share(self, slots: int) -> object:
        """Answer so many in one run of the language part, where it can."""
        ...


class ReplyTiming(Protocol):
    """What a reply cost; None where there was nothing to time."""

    @property
    def ttft_s(self) -> float | None: ...
    @property
    def tokens_per_s(self) -> float | None: ...


@runtime_checkable
class HasTiming(Protocol):
    """A reply that tells how long its words took."""

    @property
    def timing(self) -> ReplyTiming: ...


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
