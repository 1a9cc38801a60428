"""Listen or speak: logits to the next token of a full-duplex stream (4.5). Pure numpy.

Order of the filters: a first draw from the untouched distribution may end the unit (`<|chunk_eos|>`); otherwise that
token and the forbidden ones are masked, then repetition penalty, length penalty on the end of a turn, the scale on
listening, temperature, top-k, nucleus and a second draw. Letter: V vocabulary.

Source: StreamDecoder.decode of MiniCPM-o 4.5; its quirks stand where they are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import OptionError
from .filters import Draw, keep_nucleus, keep_top_k, softmax


@dataclass(frozen=True)
class DecideConfig:
    """How a token of a unit is chosen; the defaults are the official ones."""

    greedy: bool = False
    temperature: float = 0.7
    top_k: int = 20
    """0 keeps all."""
    top_p: float = 0.8
    """0 keeps all."""
    repetition_penalty: float = 1.05
    repetition_window: int = 512
    """Tokens of the past that the penalty counts."""
    length_penalty: float = 1.1
    """Above 1, a turn ends later."""
    listen_scale: float = 1.0
    listen_top_k: int | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise OptionError(f"temperature is {self.temperature!r}; it must be above 0 (set greedy for the likeliest)")
        if self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise OptionError(f"top_k is {self.top_k!r} and top_p {self.top_p!r}; expected 0 or more, and 0 to 1")


@dataclass(frozen=True)
class DuplexTokens:
    """Ids of the tokens that steer a stream."""

    unit_start: int
    unit_end: int
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    listen: int
    speak: int
    tts_bos: int
    tts_eos: int
    chunk_eos: int
    chunk_tts_eos: int
    turn_eos: int
    im_end: int
    forbidden: tuple[int, ...] = ()
    """Never chosen: `<|tts_pad|>` and the tokenizer's bad_token_ids."""
    special: frozenset[int] = frozenset()
    """Left out of the text."""

    @property
    def ends_chunk(self) -> frozenset[int]:
        return frozenset((self.listen, self.chunk_eos, self.chunk_tts_eos))


def decide(logits: np.ndarray, history: Sequence[int], tokens: DuplexTokens, config: DecideConfig,
           draw: Draw) -> tuple[int, bool]:
    """logits (V,) of the last position; history: what was chosen before. Returns the token and whether it counts as
    history (`<|chunk_eos|>` and a forced listen do not)."""
    if _first_choice(logits, config, draw) == tokens.chunk_eos:
        return tokens.chunk_eos, False
    scores = _filtered(logits, history, tokens, config)
    if config.listen_top_k is not None and int((scores > scores[tokens.im_end]).sum()) < config.listen_top_k:
        return tokens.im_end, False  # quirk: the reference calls the end of a message its listen token here
    if config.greedy:
        return int(scores.argmax()), True
    kept = keep_nucleus(keep_top_k(scores / np.float32(config.temperature), config.top_k), config.top_p)
    return int(draw(softmax(kept))), True


def _first_choice(logits: np.ndarray, config: DecideConfig, draw: Draw) -> int:
    return int(logits.argmax()) if config.greedy else int(draw(softmax(np.asarray(logits, np.float32))))


def _filtered(logits: np.ndarray, history: Sequence[int], tokens: DuplexTokens, config: DecideConfig) -> np.ndarray:
    scores = np.array(logits, dtype=np.float32)
    scores[[*tokens.forbidden, tokens.chunk_eos]] = -np.inf
    recent = list({*history[-config.repetition_window:]}) if config.repetition_penalty != 1 else []
    if recent:
        scores[recent] /= np.float32(config.repetition_penalty)  # quirk: a negative logit becomes likelier by it
    end = scores[tokens.turn_eos]
    scores[tokens.turn_eos] = end / config.length_penalty if end > 0 else end * config.length_penalty
    if config.listen_scale != 1:
        scores[tokens.im_end] *= config.listen_scale
    return scores

