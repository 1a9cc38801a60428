"""Masked audio modelling: stretches of log-mel frames are hidden before the ears, and what the language model makes of
the sound's tokens must tell them; each token tells the frames that it covers.

Nano's ears are frozen and run before the network: there the frames of the encoder are hidden, and told.
Source: Mockingjay (arXiv:1910.12638) for hiding frames and telling them again; SpecAugment (arXiv:1904.08779) for
stretches. Shapes: M mel bins, F mel frames (with nano E encoder width and encoder frames), A tokens of a sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ...model.fusion.spans import Span
from ...model.omni import OmniModel, RawMedia, per_span
from ...rates import AUDIO_POOL, ENCODER_RATE_HZ, MEL_RATE_HZ
from ..rows import Batch, Row, collate, hidden_states
from ..terms import Term
from .masked_image import normalised
from .next_token import summed
from .switch import Switch


class MaskedAudioConfig(Switch, frozen=True):
    """How much of a sound is hidden."""

    share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the frames that is hidden, about: stretches may meet."""
    span_ms: int = Field(default=200, ge=20)
    """Length of a hidden stretch."""


@dataclass(frozen=True)
class SoundGroup:
    """Sounds whose tokens, end to end, fill the spans of a row."""

    frames: tuple[Tensor, ...]
    """(F, M) of each sound, or (F, E)."""
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class MaskedFrames:
    """A batch of rows with sounds, some of whose frames are hidden."""

    batch: Batch
    is_hidden: tuple[Tensor, ...]
    """(F,) of every sound of the batch."""
    count: int
    """Hidden frames that a token covers."""

    def blank(self) -> MaskedFrames:
        """The same with nothing hidden, counting for nothing."""
        return replace(self, is_hidden=tuple(torch.zeros_like(hidden) for hidden in self.is_hidden), count=0)

    def to(self, device: torch.device | str) -> MaskedFrames:
        return MaskedFrames(self.batch.to(device), tuple(hidden.to(device) for hidden in self.is_hidden), self.count)


def frames_per_token(model: OmniModel) -> int:
    """Frames that a token covers: log-mel frames, with nano frames of its encoder."""
    return AUDIO_POOL if model.hearing is None else 2 * model.hearing.config.pool_step


def hide_frames(row: Row, config: MaskedAudioConfig, rng: np.random.Generator, *, per_token: int) -> list[np.ndarray]:
    """For each of the row's sounds which frames (F,) are hidden, none beyond its last token; at least one stretch."""
    rate_hz = MEL_RATE_HZ if isinstance(row.media, RawMedia) else ENCODER_RATE_HZ
    length = max(1, config.span_ms * rate_hz // 1000)
    hidden = []
    for group in sound_groups(row):
        for frames in group.frames:
            covered = min(len(frames), _num_tokens(len(frames), per_token) * per_token)
            is_hidden = np.zeros(len(frames), bool)
            num_spans = max(1, round(config.share * covered / length))
            for start in rng.integers(0, max(covered - length, 0) + 1, num_spans):
                is_hidden[start : min(start + length, covered)] = True
            hidden.append(is_hidden)
    return hidden


def collate_frames(rows: Sequence[Row], hidden: Sequence[Sequence[np.ndarray]], *, per_token: int) -> MaskedFrames:
    """Rows and what `hide_frames` gave for each, to a batch."""
    flat = iter([torch.from_numpy(sound) for sounds in hidden for sound in sounds])
    all_hidden, count = [], 0
    for row in rows:
        for group in sound_groups(row):
            own = [next(flat) for _ in group.frames]
            all_hidden += own
            count += int(_told(own, group.spans, per_token).sum())
    return MaskedFrames(collate(rows), tuple(all_hidden), count)


def sound_groups(row: Row) -> list[SoundGroup]:
    """The row's sounds."""
    media = row.media
    if isinstance(media, RawMedia):
        return [SoundGroup(tuple(torch.from_numpy(log_mel).T for log_mel in sounds.log_mels), sounds.spans)
                for sounds in media.sounds]
    return [SoundGroup((frames,), (span,)) for frames, span in zip(media.frames, media.audio_spans, strict=True)]


def masked_audio(model: OmniModel, frames: MaskedFrames, mask: Tensor, head: nn.Module) -> Term:
    """mask (M,): the learned frame; head: states (A, D) -> (A, per_token, M). The mean squared error of a hidden
    frame, summed over them."""
    predicted, wanted, names = predict_frames(model, frames, mask, head)
    errors = frame_errors(predicted, wanted)
    return Term(errors.sum(), len(errors), summed(names, errors.detach().tolist()))


def frame_errors(predicted: Tensor, wanted: Tensor) -> Tensor:
    """(N, M) both -> (N,) float32."""
    return (predicted.float() - wanted.float()).square().mean(-1)


def predict_frames(model: OmniModel, frames: MaskedFrames, mask: Tensor, head: nn.Module
                   ) -> tuple[Tensor, Tensor, list[str]]:
    """Every hidden frame (N, M) as the head tells it from its token's state, as it was, and its row's task."""
    batch, per_token = frames.batch, frames_per_token(model)
    fused = model.fuse(batch.ids, [row.media for row in batch.rows], audio_tokens=_hear_hidden(model, frames, mask))
    states = hidden_states(model, batch, embeds=nn.utils.rnn.pad_sequence(fused, batch_first=True))
    flat, predicted, wanted, names = iter(frames.is_hidden), [], [], list[str]()
    for line, row in enumerate(batch.rows):
        for group in sound_groups(row):
            heard = torch.cat([states[line, span.start : span.stop] for span in group.spans])  # (A, D)
            is_told = _told([next(flat) for _ in group.frames], group.spans, per_token)
            told = head(heard).flatten(0, 1)  # (A, per_token, M) -> (A * per_token, M)
            was = _told([item.to(told.device) for item in group.frames], group.spans, per_token)
            predicted.append(told[is_told])
            wanted.append((was if isinstance(row.media, RawMedia) else normalised(was))[is_told])
            names += [row.tasks[0]] * int(is_told.sum())
    return torch.cat(predicted), torch.cat(wanted), names


def _told(sounds: Sequence[Tensor], spans: Sequence[Span], per_token: int) -> Tensor:
    """Of sounds (F, ...) the frames that the tokens in the spans cover, end to end."""
    told = [_fitted(sound, _num_tokens(len(sound), per_token) * per_token) for sound in sounds]
    return torch.cat(told)[: sum(span.length for span in spans) * per_token]


def _num_tokens(num_frames: int, per_token: int) -> int:
    """Tokens of so many frames: the ears take a last odd log-mel frame for a pair; nano's frames come in whole tokens.
    """
    return (num_frames + 1) // per_token


def _fitted(frames: Tensor, length: int) -> Tensor:
    """(F, ...) cut to that length, or, for the last odd frame, filled up with a frame of zeros."""
    missing = length - len(frames)
    return torch.cat([frames, torch.zeros_like(frames[:missing])]) if missing > 0 else frames[:length]


def _hear_hidden(model: OmniModel, frames: MaskedFrames, mask: Tensor) -> list[Tensor]:
    """Tokens of every span, of sounds whose hidden frames are the learned one."""
    rows = frames.batch.rows
    groups = [group for row in rows for group in sound_groups(row)]
    if isinstance(rows[0].media, RawMedia):
        padded = nn.utils.rnn.pad_sequence(list(frames.is_hidden), batch_first=True)  # (B, F)

        def hide(log_mel: Tensor) -> Tensor:  # (B, M, F)
            return torch.where(padded[:, None], mask.to(log_mel.dtype)[:, None], log_mel)

        log_mels = [log_mel for row in rows for sounds in row.media.sounds for log_mel in sounds.log_mels]
        heard = iter(model.hear(log_mels, hide=hide))
        return [piece for group in groups for piece in per_span([next(heard) for _ in group.frames], group.spans)]
    sounds = [torch.where(is_hidden[:, None], mask, group.frames[0].to(mask))
              for group, is_hidden in zip(groups, frames.is_hidden, strict=True)]
    tokens = model.connectors.projector(nn.utils.rnn.pad_sequence(sounds, batch_first=True))
    return [row[: group.spans[0].length] for row, group in zip(tokens, groups, strict=True)]
