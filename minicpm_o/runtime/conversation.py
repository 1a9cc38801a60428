"""Prompts into a KV cache, without computing again what is already there.

A conversation is a cache and one key per token in it: the token's id, or for a token of a picture or sound a number
made of the media's content and the token's place. A new prompt that begins with the same keys begins with the same
embeddings, so the cache is cut back to the common beginning and only the rest is encoded and prefilled.

What was prefilled is taken again as it is: on the CPU kernels, runs of two or more tokens give the same numbers however
a prompt is cut. Runs of one token round otherwise, so the answer's own tokens, decoded one by one, are read again when
they come back in the next prompt. Thus a kept cache never changes an answer. Knows neither text nor templates.
Shapes: T fused tokens, D language width.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..inputs.processor import ModelInputs
from ..model.fusion.scatter import scatter_features
from ..model.fusion.spans import Span

if TYPE_CHECKING:
    from .cache import KVCache
    from .engine import Engine, Step

MAX_IDLE = 2
"""Conversations whose caches are kept when nobody is speaking: one for the user, one for a question in between."""
MAX_IDLE_MB = 256.0
"""What the caches of idle conversations may take together; the latest is kept in any case."""
MIN_RUN_TOKENS = 2
"""Shortest run whose numbers do not depend on where the prompt was cut."""


class AnyMedia(Protocol):
    """A picture, sound or video of any model."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The runs of placeholders that it fills, in order."""
        ...

    @property
    def contents(self) -> tuple[np.ndarray, ...]:
        """All that its tokens are made of."""
        ...


class MediaEncoder(Protocol):
    """Pictures and sounds to tokens of the language model's width, all of a prompt in one call."""

    def __call__(self, media: Sequence[AnyMedia]) -> list[np.ndarray]:
        """(sum of its span lengths, D) for each medium"""
        ...


@dataclass
class Conversation:
    """A KV cache and what was prefilled into it."""

    cache: KVCache
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """(at most cache.length,) int64; tokens beyond them were decoded, and are not taken again."""

    def num_shared(self, keys: np.ndarray) -> int:
        """How many tokens at the beginning of keys (T,) lie in the cache already."""
        length = min(len(self.keys), len(keys))
        differing = np.flatnonzero(self.keys[:length] != keys[:length])
        return int(differing[0]) if differing.size else length


@dataclass
class Pool:
    """Conversations that are idle, the latest last. Not thread-safe: the caller holds a lock."""

    idle: list[Conversation] = field(default_factory=list)
    most: int = MAX_IDLE
    most_mb: float = MAX_IDLE_MB

    def take(self, keys: np.ndarray, engine: Engine) -> Conversation:
        """The idle conversation that shares most with keys, else a new one.

        All prompts of a model begin alike, so one that shares less than half of what it holds is left to its next turn;
        when there is no room to leave it, the one that loses least is taken.
        """
        best = max(self.idle, key=lambda item: item.num_shared(keys), default=None)
        if best is not None and 2 * best.num_shared(keys) < len(best.keys):
            is_full = len(self.idle) >= self.most
            best = min(self.idle, key=lambda item: len(item.keys) - item.num_shared(keys)) if is_full else None
        if best is None or not best.num_shared(keys):
            return Conversation(engine.new_cache())
        self.idle.remove(best)
        return best

    def give_back(self, conversation: Conversation) -> None:
        """Keys of tokens that are no longer in the cache, as when speaking broke off, are forgotten."""
        conversation.keys = conversation.keys[: conversation.cache.length]
        self.idle = [*self.idle, conversation][-self.most :]
        while len(self.idle) > 1 and sum(map(_idle_mb, self.idle)) > self.most_mb:
            self.idle.pop(0)


def _idle_mb(conversation: Conversation) -> float:
    """Memory of a cache, as far as it tells."""
    return getattr(conversation.cache, "nbytes", 0) / 1e6


def prompt_keys(inputs: ModelInputs) -> np.ndarray:
    """One key per token of the prompt, (T,) int64; below zero for tokens of media."""
    keys = np.array(inputs.ids, dtype=np.int64)
    for media in inputs.media:
        base = _content_number(media)
        for place in _places(media.spans):
            keys[place] = base
            base -= 1
    return keys


def prefill(conversation: Conversation, inputs: ModelInputs, keys: np.ndarray, engine: Engine, encode: MediaEncoder,
            cancel: threading.Event) -> tuple[Step | None, int]:
    """Bring the conversation's cache to the end of the prompt.

    Returns the step there, None when cancelled on the way, and the number of tokens that were in the cache already.
    """
    start = max(0, min(conversation.num_shared(keys), len(keys) - MIN_RUN_TOKENS))
    start = _before_open_media(start, inputs.media)
    conversation.cache.truncate(start)
    conversation.keys = keys[:start]
    step: Step | None = None
    for chunk in engine.prefill_chunks(embed(inputs, start, engine, encode), conversation.cache):
        conversation.keys = keys[: conversation.cache.length]
        step = None if cancel.is_set() else chunk
        if step is None:
            break
    return step, start


def embed(inputs: ModelInputs, start: int, engine: Engine, encode: MediaEncoder) -> np.ndarray:
    """Fused embeddings of the prompt from token start on, (T - start, D); media before start are not encoded."""
    embeds = engine.embed(inputs.ids[start:])
    wanted = [media for media in inputs.media if media.spans and media.spans[0].start >= start]
    encoded = encode(wanted) if wanted else []
    features = [piece for media, tokens in zip(wanted, encoded, strict=True)
                for piece in _per_span(tokens, media.spans)]
    spans = [Span(span.start - start, span.stop - start) for media in wanted for span in media.spans]
    order = sorted(range(len(spans)), key=lambda index: spans[index].start)
    return np.asarray(scatter_features(embeds, [features[i] for i in order], [spans[i] for i in order]))


def _per_span(features: np.ndarray, spans: Sequence[Span]) -> list[np.ndarray]:
    """Cut (sum, D) at the span lengths; a surplus stays on the last piece, where scatter_features reports it."""
    return np.split(features, np.cumsum([span.length for span in spans])[:-1])


def _before_open_media(start: int, media: Sequence[AnyMedia]) -> int:
    """Move start to the left until no media lie on both sides of it: a sound is encoded whole or not at all."""
    while True:
        cut = [item.spans[0].start for item in media
               if item.spans and item.spans[0].start < start < item.spans[-1].stop]
        if not cut:
            return start
        start = min(cut)


def _places(spans: Sequence[Span]) -> list[int]:
    return [place for span in spans for place in range(span.start, span.stop)]


def _content_number(media: AnyMedia) -> int:
    """A number below -2^20 made of the media's content; 62 bits, so that equal numbers mean equal media."""
    digest = content_digest(*media.contents)
    return -(int.from_bytes(digest[:8], "little") >> 2) - 2**20


def content_digest(*contents: np.ndarray) -> bytes:
    """16 bytes that name arrays by their shapes and numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(str(content.shape).encode())
        digest.update(np.ascontiguousarray(content).data)
    return digest.digest()
