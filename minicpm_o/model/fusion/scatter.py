"""Encoder outputs into the language model's own sequence: early fusion is this one assignment.

Works on numpy arrays and torch tensors alike, so that training and the device runtime fuse by the same lines.
Shapes: T fused tokens, D language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import FusionError
from .spans import Span


def scatter_features(embeds: Any, features: Sequence[Any], spans: Sequence[Span]) -> Any:
    """Write encoder outputs over their placeholder runs.

    embeds (T, D); features: one (span length, D) per span, in order of appearance; returns a new (T, D).
    Raises FusionError if counts or lengths disagree: going on would pair words with the wrong picture.
    """
    check_spans(spans, [len(item) for item in features], len(embeds))
    fused = embeds.clone() if hasattr(embeds, "clone") else embeds.copy()
    for span, item in zip(spans, features, strict=True):
        fused[span.start : span.stop] = item
    return fused


def check_spans(spans: Sequence[Span], lengths: Sequence[int], num_tokens: int) -> None:
    """Raise FusionError unless every span has exactly one item of its own length inside the sequence."""
    if len(spans) != len(lengths):
        raise FusionError(
            f"{len(spans)} placeholder runs in the prompt but {len(lengths)} encoded items; each item needs one run"
        )
    for index, (span, length) in enumerate(zip(spans, lengths, strict=True)):
        if span.length != length:
            raise FusionError(
                f"placeholder run {index} at {span.start}..{span.stop} holds {span.length} tokens, "
                f"but its encoder gave {length}; the processor and the encoder must count alike"
            )
        if span.stop > num_tokens:
            raise FusionError(f"placeholder run {index} ends at {span.stop}, past the {num_tokens} prompt tokens")
