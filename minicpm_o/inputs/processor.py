"""Messages to ModelInputs: the chat template with runs of placeholders where pictures and sounds go.

    <|im_start|>system\\n...<|im_end|>\\n                      only when the messages bring one
    <|im_start|>user\\n
      <image>P P ... P</image><slice>P ... P</slice>\\n      a picture, and its slices when it is tall or wide
      <|audio_start|>P ... P<|audio_end|>\\n                 a sound, 10 tokens a second
      Heard: "..."\\n                                        the words in it, by the recogniser or by own ears
      question<|im_end|>\\n
    <|im_start|>assistant\\n

Knows the shapes of the encoders' outputs (config), not the encoders. Shapes: T fused tokens, B pictures and slices,
S picture side, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MessageError
from ..model.config import NanoConfig
from ..model.fusion.spans import Span
from ..rates import UNIT_AUDIO_TOKENS, UNIT_SAMPLES
from .audio import load_audio
from .image import load_image, slice_image, to_pixels
from .messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart
from .text import Tokenizer
from .video import Video, load_video

if TYPE_CHECKING:
    from PIL.Image import Image

HEARD = 'Heard: "{}"'
HEARD_NOTHING = "Heard: no speech."


@dataclass(frozen=True)
class ImageMedia:
    """pixels (B, 3, S, S) of a picture and its slices (or of video frames); one span each."""

    pixels: np.ndarray
    spans: tuple[Span, ...]

    @property
    def contents(self) -> tuple[np.ndarray, ...]:
        """What its tokens are made of."""
        return (self.pixels,)


@dataclass(frozen=True)
class AudioMedia:
    """waveform (N,) at 16 kHz whose audio tokens fill the spans in order."""

    waveform: np.ndarray
    spans: tuple[Span, ...]

    @property
    def contents(self) -> tuple[np.ndarray, ...]:
        """What its tokens are made of."""
        return (self.waveform,)

    @property
    def num_tokens(self) -> int:
        return sum(span.length for span in self.spans)


Media = ImageMedia | AudioMedia


@dataclass(frozen=True)
class Usage:
    """Prompt tokens by what they came from; markers count with their medium."""

    text: int = 0
    image: int = 0
    audio: int = 0
    video: int = 0

    @property
    def total(self) -> int:
        return self.text + self.image + self.audio + self.video


@dataclass(frozen=True)
class ModelInputs:
    """What every model call takes: ids (T,) int64, with media to scatter over their spans."""

    ids: np.ndarray
    media: tuple[Media, ...]
    usage: Usage


@dataclass
class Draft:
    """A prompt under construction: ids, media and counts grow together. Training lays out its samples with it too."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("text", "image", "audio", "video"), 0))

    def text(self, text: str) -> None:
        self._extend(self.tokenizer.encode(text), "text")

    def token(self, token_id: int, kind: str) -> None:
        self._extend([token_id], kind)

    def run(self, length: int, kind: str) -> Span:
        """A run of placeholders; the span that its encoder's output will fill."""
        start = len(self.ids)
        self._extend([self.tokenizer.special.placeholder] * length, kind)
        return Span(start, start + length)

    def _extend(self, ids: list[int], kind: str) -> None:
        self.ids.extend(ids)
        self.counts[kind] += len(ids)


class Processor:
    """Turns messages into ModelInputs for one model configuration."""

    def __init__(self, config: NanoConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer

    def prepare(
        self,
        messages: Sequence[Message],
        *,
        transcripts: Sequence[str | None] | None = None,
        add_generation_prompt: bool = True,
        allow_urls: bool = False,
        max_frames: int = 32,
    ) -> ModelInputs:
        """Load all media and lay out the prompt.

        transcripts: one entry per sound in order of appearance (a video with sound counts as one): the recogniser's
        text to write beside it, "" to write that no speech was heard, None to leave the model to its own ears.
        Raises the media's own InputError, or MessageError when transcripts and sounds disagree in number.
        """
        draft = Draft(self.tokenizer)
        heard = _Transcripts(transcripts)
        for message in messages:
            self._message(draft, message, heard, allow_urls, max_frames)
        if add_generation_prompt:
            draft.token(self.tokenizer.special.im_start, "text")
            draft.text("assistant\n")
        heard.check_all_used()
        return ModelInputs(np.array(draft.ids, dtype=np.int64), tuple(draft.media), Usage(**draft.counts))

    def _message(
        self, draft: Draft, message: Message, heard: _Transcripts, allow_urls: bool, max_frames: int
    ) -> None:
        draft.token(self.tokenizer.special.im_start, "text")
        draft.text(f"{message.role}\n")
        for index, part in enumerate(message.parts):
            self._part(draft, part, heard, allow_urls, max_frames)
            is_text_joint = isinstance(part, TextPart) and index + 1 < len(message.parts)
            if is_text_joint:
                draft.text("\n")
        draft.token(self.tokenizer.special.im_end, "text")
        draft.text("\n")

    def _part(self, draft: Draft, part: Part, heard: _Transcripts, allow_urls: bool, max_frames: int) -> None:
        if isinstance(part, TextPart):
            draft.text(part.text)
        elif isinstance(part, ImagePart):
            self.lay_image(draft, to_pixels(self._pieces(part, allow_urls), self.config.vision))
        elif isinstance(part, AudioPart):
            waveform = load_audio(part.source, rate_hz=part.rate_hz, allow_urls=allow_urls)
            self.lay_audio(draft, waveform, heard.next())
        elif isinstance(part, VideoPart):
            video = load_video(part.source, max_frames=max_frames, allow_urls=allow_urls)
            self.lay_video(draft, video, heard.next() if video.waveform is not None else None)
        else:
            raise MessageError(f"a message part of type {type(part).__name__} is not text, image, audio or video")

    def _pieces(self, part: ImagePart, allow_urls: bool) -> list[Image]:
        return slice_image(load_image(part.source, allow_urls=allow_urls), self.config.vision)

    def lay_image(self, draft: Draft, pixels: np.ndarray) -> None:
        """pixels (B, 3, S, S): the whole picture first, then its slices."""
        special = self.tokenizer.special
        spans = []
        for index in range(len(pixels)):
            start, end = (
                (special.image_start, special.image_end) if index == 0 else (special.slice_start, special.slice_end)
            )
            draft.token(start, "image")
            spans.append(draft.run(self.config.resampler.num_tokens, "image"))
            draft.token(end, "image")
        draft.text("\n")
        draft.media.append(ImageMedia(pixels, tuple(spans)))

    def lay_audio(self, draft: Draft, waveform: np.ndarray, transcript: str | None) -> None:
        """waveform (N,): one run of 10 tokens for every second begun."""
        num_units = math.ceil(len(waveform) / UNIT_SAMPLES)
        span = self._audio_run(draft, num_units * UNIT_AUDIO_TOKENS, "audio")
        draft.media.append(AudioMedia(waveform, (span,)))
        self._write_heard(draft, transcript)

    def _audio_run(self, draft: Draft, num_tokens: int, kind: str) -> Span:
        draft.token(self.tokenizer.special.audio_start, kind)
        span = draft.run(num_tokens, kind)
        draft.token(self.tokenizer.special.audio_end, kind)
        draft.text("\n")
        return span

    def _write_heard(self, draft: Draft, transcript: str | None) -> None:
        if transcript is not None:
            draft.text(heard_line(transcript))

    def lay_video(self, draft: Draft, video: Video, transcript: str | None) -> None:
        """Frames and sound on one time axis: each frame, then the sound until the next frame."""
        special, num_tokens = self.tokenizer.special, self.config.resampler.num_tokens
        units = 0 if video.waveform is None else math.ceil(len(video.waveform) / UNIT_SAMPLES)
        stops = [min(units, math.floor(frame.time_s)) for frame in video.frames[1:]] + [units]
        image_spans, audio_spans, done = [], [], 0
        for stop in stops:
            draft.token(special.image_start, "video")
            image_spans.append(draft.run(num_tokens, "video"))
            draft.token(special.image_end, "video")
            draft.text("\n")
            if stop > done:
                audio_spans.append(self._audio_run(draft, (stop - done) * UNIT_AUDIO_TOKENS, "video"))
                done = stop
        pixels = np.concatenate([to_pixels([frame.image], self.config.vision) for frame in video.frames])
        draft.media.append(ImageMedia(pixels, tuple(image_spans)))
        if video.waveform is not None:
            draft.media.append(AudioMedia(video.waveform, tuple(audio_spans)))
            self._write_heard(draft, transcript)


class _Transcripts:
    """Hands out one transcript per sound and notices when the numbers disagree."""

    def __init__(self, transcripts: Sequence[str | None] | None) -> None:
        self._given = transcripts
        self._used = 0

    def next(self) -> str | None:
        self._used += 1
        if self._given is None:
            return None
        if self._used > len(self._given):
            raise MessageError(f"{len(self._given)} transcripts were given, but the messages hold more sounds")
        return self._given[self._used - 1]

    def check_all_used(self) -> None:
        if self._given is not None and self._used != len(self._given):
            raise MessageError(f"{len(self._given)} transcripts were given, but the messages hold {self._used} sounds")


def heard_line(transcript: str) -> str:
    """What is written beside a sound: the words that were heard, or that nobody spoke."""
    return (HEARD.format(transcript) if transcript.strip() else HEARD_NOTHING) + "\n"
