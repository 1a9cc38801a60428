"""Segments of a prompt to token ids, with the places of media noted while they are laid, never searched for afterwards.

    picture   [<image_id>0</image_id>]<image>P P ... P</image><slice>P ... P</slice><slice>...        rows part with \\n
    sound     <|audio_start|>P P ... P<|audio_end|>                                           once, or once a second

P is the placeholder, one for each token that an encoder brings. Knows lengths of media, not what is in them.
Letters: B prompts, T tokens, P patches, F mel frames, N samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ..errors import MessageError
from ..model.fusion.spans import Span
from .official_tokenizer import OfficialSpecialTokens, OfficialTokenizer
from .processor import AudioMedia, ModelInputs, Usage
from .slices import Size
from .templates import OfficialVersion, Origin, Segment, Slot, Words, prompt_text

PAD_ID = 0
"""Stands before the shorter prompts of a batch; masked, so that it may be an ordinary token."""


@dataclass(frozen=True)
class SlicedImageMedia:
    """A picture's thumbnail and slices, (P, 588) float32 each, of grid_sizes (n, 2) rows and columns; one span each."""

    pieces: tuple[np.ndarray, ...]
    grid_sizes: np.ndarray
    spans: tuple[Span, ...]

    @property
    def contents(self) -> tuple[np.ndarray, ...]:
        """What its tokens are made of."""
        return (*self.pieces, self.grid_sizes)


@dataclass(frozen=True)
class ClipMedia:
    """The sounds of one message, end to end in pieces of at most 30 s: log-mel (80, F) float32 each.

    The pieces' tokens fill the spans in order; where there are a few more of them than num_tokens, the first count.
    """

    log_mels: tuple[np.ndarray, ...]
    spans: tuple[Span, ...]
    longest: int = 0
    """Mel frames of the longest piece in the whole prompt, its own when 0: the official models fill all others up to
    it and hear some of the filling (see `runtime.listening.encode_clips`)."""

    @property
    def contents(self) -> tuple[np.ndarray, ...]:
        """What its tokens are made of."""
        return (*self.log_mels, np.array(self.longest))

    @property
    def num_tokens(self) -> int:
        return sum(span.length for span in self.spans)

    @property
    def num_frames(self) -> tuple[int, ...]:
        return tuple(log_mel.shape[1] for log_mel in self.log_mels)


OfficialMedia: TypeAlias = SlicedImageMedia | ClipMedia | AudioMedia
"""AudioMedia is a piece of a stream: its mel depends on what was heard before."""


@dataclass(frozen=True)
class OfficialInputs(ModelInputs):
    """What every model call takes, and where the prompt's own speech marks stand."""

    media: tuple[OfficialMedia, ...]  # type: ignore[assignment]
    prompt: str
    """The prompt as text, with tags where media go."""
    speaker_spans: tuple[Span, ...] = ()
    """Where 2.6 puts its speaker's vector."""
    speech_start: int | None = None
    """Position after the last <|tts_bos|>: what follows is spoken."""
    speech_stop: int | None = None
    """Position of the last <|tts_eos|>."""

    @property
    def image_bounds(self) -> list[Span]:
        return self._bounds(SlicedImageMedia)

    @property
    def audio_bounds(self) -> list[Span]:
        return self._bounds(ClipMedia, AudioMedia)

    def _bounds(self, *kinds: type) -> list[Span]:
        return sorted(span for media in self.media if isinstance(media, kinds) for span in media.spans)


@dataclass(frozen=True)
class OfficialBatch:
    """Prompts side by side, padded on the left: ids (B, T) int64, attention_mask (B, T) bool, False on the padding."""

    ids: np.ndarray
    attention_mask: np.ndarray
    rows: tuple[OfficialInputs, ...]
    """Each prompt with its places in the padded row; they may differ in what media they have."""


class OfficialDraft:
    """A prompt under construction. Words between special tokens are encoded as one text, however they came in pieces:
    a newline of the template and one of the user are a token together."""

    def __init__(self, tokenizer: OfficialTokenizer, *, drops_listen: bool = False) -> None:
        """drops_listen: 4.5 takes <|listen|> out of prompts; it is the model's to say."""
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.counts: dict[Origin, int] = dict.fromkeys(("text", "image", "audio", "video"), 0)
        self.marks: dict[int, list[int]] = defaultdict(list)
        """Special token -> where it was laid."""
        self._dropped = tokenizer.special.listen if drops_listen else None
        self._text = ""
        self._origin: Origin = "text"

    def words(self, words: Words) -> None:
        pieces = self.tokenizer.split_markup(words.text) if words.is_markup else [words.text]
        for piece in pieces:
            if isinstance(piece, int):
                self.token(piece, words.origin)
            elif piece:
                self._text, self._origin = self._text + piece, words.origin

    def token(self, token_id: int, origin: Origin) -> None:
        self._flush()
        if token_id != self._dropped:
            self.marks[token_id].append(len(self.ids))
            self._extend([token_id], origin)

    def run(self, length: int, origin: Origin) -> Span:
        """Placeholders; the span that an encoder's output will fill."""
        self._flush()
        start = len(self.ids)
        self._extend([self.tokenizer.special.placeholder] * length, origin)
        return Span(start, start + length)

    def finish(self) -> np.ndarray:
        """ids (T,) int64."""
        self._flush()
        return np.array(self.ids, dtype=np.int64)

    def usage(self) -> Usage:
        return Usage(**self.counts)

    def _flush(self) -> None:
        if self._text:
            self._extend(self.tokenizer.encode(self._text), self._origin)
            self._text = ""

    def _extend(self, ids: list[int], origin: Origin) -> None:
        self.ids.extend(ids)
        self.counts[origin] += len(ids)


def lay_picture(draft: OfficialDraft, grid: Size | None, *, queries: int, number: int | None,
                origin: Origin = "image") -> tuple[Span, ...]:
    """grid: columns and rows of slices; queries: tokens of a piece; number: the picture's, None shows none."""
    special = draft.tokenizer.special
    if number is not None:
        draft.token(special.image_id_start, origin)
        draft.words(Words(str(number), origin=origin))
        draft.token(special.image_id_end, origin)
    spans = [_enclosed(draft, special.image_start, queries, special.image_end, origin)]
    columns, rows = grid or (0, 0)
    for row in range(rows):
        if row:
            draft.words(Words("\n", origin=origin))
        spans += [_enclosed(draft, special.slice_start, queries, special.slice_end, origin) for _ in range(columns)]
    return tuple(spans)


def lay_sound(draft: OfficialDraft, group_lengths: Sequence[int], *, origin: Origin = "audio") -> tuple[Span, ...]:
    """One run of placeholders for each group: the whole sound, or its seconds."""
    special = draft.tokenizer.special
    return tuple(_enclosed(draft, special.audio_start, length, special.audio_end, origin) for length in group_lengths)


def _enclosed(draft: OfficialDraft, start: int, length: int, end: int, origin: Origin) -> Span:
    draft.token(start, origin)
    span = draft.run(length, origin)
    draft.token(end, origin)
    return span


def lay_out(segments: Sequence[Segment], draft: OfficialDraft, lay_slot: Callable[[Slot], None]) -> np.ndarray:
    """ids (T,) int64 of the segments; lay_slot puts a medium into the draft and notes its spans."""
    for segment in segments:
        if isinstance(segment, Words):
            draft.words(segment)
        else:
            lay_slot(segment)
    return draft.finish()


def finish_inputs(draft: OfficialDraft, segments: Sequence[Segment], media: Sequence[OfficialMedia],
                  version: OfficialVersion) -> OfficialInputs:
    """The draft as a value; media in order of their first place. Raises MessageError for speaker marks out of order."""
    special, marks = draft.tokenizer.special, draft.marks
    in_order = sorted((item for item in media if item.spans), key=lambda item: item.spans[0])
    starts, stops = marks.get(special.tts_bos), marks.get(special.tts_eos)
    return OfficialInputs(
        draft.finish(), tuple(in_order), draft.usage(), prompt_text(segments, version),
        speaker_spans=_speaker_spans(marks.get(special.spk_bos, []), marks.get(special.spk_eos, [])),
        speech_start=starts[-1] + 1 if starts else None, speech_stop=stops[-1] if stops else None)


def _speaker_spans(starts: Sequence[int], stops: Sequence[int]) -> tuple[Span, ...]:
    if len(starts) != len(stops) or any(stop < start for start, stop in zip(starts, stops, strict=True)):
        raise MessageError(f"the prompt has {len(starts)} <|spk_bos|> and {len(stops)} <|spk_eos|>, which do not make "
                           f"pairs; leave them to the template")
    return tuple(Span(start + 1, stop) for start, stop in zip(starts, stops, strict=True))


def speech_span(inputs: OfficialInputs, generated_ids: Sequence[int], special: OfficialSpecialTokens, *,
                teacher_forcing: bool = False) -> Span | None:
    """What is to be spoken of prompt and answer together: from the last <|tts_bos|> to the last <|tts_eos|> or the end.

    None where nothing is. teacher_forcing: an end that is the very last token does not count, it was only generated.
    """
    offset, total = len(inputs.ids), len(inputs.ids) + len(generated_ids)
    starts = [offset + i + 1 for i, token_id in enumerate(generated_ids) if token_id == special.tts_bos]
    start = starts[-1] if starts else inputs.speech_start
    if start is None:
        return None
    stops = [offset + i for i, token_id in enumerate(generated_ids) if token_id == special.tts_eos]
    stops = [stop for stop in (inputs.speech_stop, *stops) if stop is not None and stop >= start]
    stops = [stop for stop in stops if not (teacher_forcing and stop == total - 1)]
    return Span(start, stops[-1] if stops else total)


def batch_inputs(prompts: Sequence[OfficialInputs]) -> OfficialBatch:
    """Pad on the left to the longest. Raises MessageError when there is no prompt."""
    if not prompts:
        raise MessageError("a batch of no prompts was given; give at least one")
    longest = max(len(prompt.ids) for prompt in prompts)
    pads = [longest - len(prompt.ids) for prompt in prompts]
    ids = [np.pad(prompt.ids, (pad, 0), constant_values=PAD_ID) for prompt, pad in zip(prompts, pads, strict=True)]
    mask = np.arange(longest) >= np.array(pads)[:, None]                    # (T,), (B, 1) -> (B, T)
    rows = tuple(_shifted(prompt, row, pad) for prompt, row, pad in zip(prompts, ids, pads, strict=True))
    return OfficialBatch(np.stack(ids), mask, rows)


def _shifted(prompt: OfficialInputs, ids: np.ndarray, by: int) -> OfficialInputs:
    """The prompt with all its places moved to the right."""
    media = tuple(replace(item, spans=_moved(item.spans, by)) for item in prompt.media)
    start, stop = (None if place is None else place + by for place in (prompt.speech_start, prompt.speech_stop))
    return replace(prompt, ids=ids, media=media, speaker_spans=_moved(prompt.speaker_spans, by), speech_start=start,
                   speech_stop=stop)


def _moved(spans: Sequence[Span], by: int) -> tuple[Span, ...]:
    return tuple(Span(span.start + by, span.stop + by) for span in spans)
