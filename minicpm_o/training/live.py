"""Live units to learn from (4.5): seconds of what is seen and heard, and whether the model listens or speaks in each,
laid out token for token as `runtime.duplex` lies them into its cache.

    system prompt, then per unit
    <unit> [<image> 64 </image>]* [10 audio tokens] [text]     given
    <|listen|>  or  <|speak|> words [<|turn_eos|>] <|chunk_eos|>     learned
    </unit>

What happens in a second is learned from the last place of its input, as it is decided there. The seconds are heard end
to end under the encoder's block-causal mask, each knowing those before. Shapes: T fused tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..errors import OptionError
from ..inputs.audio import load_audio
from ..inputs.image import load_image
from ..inputs.mel import clip_log_mel, merge_clips, num_audio_tokens
from ..inputs.slices import slice_picture
from ..inputs.sources import Source
from ..model.fusion.spans import Span
from ..model.omni import RawMedia, Sounds
from ..rates import UNIT_SAMPLES
from ..runtime.duplex import MAX_UNIT_TOKENS
from .rows import NOT_LEARNED, Row
from .trainee import OfficialTrainee

LISTEN, SPEAK = "listen", "speak"
"""Tasks of a live row's two kinds of unit in the log."""


@dataclass(frozen=True)
class LiveUnit:
    """One second."""

    sound: Source | np.ndarray | None = None
    """A second at 16 kHz; a little less is filled up with silence."""
    pictures: tuple[Source | Image.Image, ...] = ()
    text: str = ""
    """Words that are typed to the model meanwhile."""
    says: str | None = None
    """What the model says in it; None: it listens."""
    ends_turn: bool = False
    """The turn is over with these words."""


def live_row(trainee: OfficialTrainee, units: Sequence[LiveUnit], *, system: str = "", name: str = "",
             max_slices: int = 1) -> Row:
    """A session as one row; what is decided in each unit is learned.

    Raises OptionError for a model without live units, a unit without input or with too many words.
    """
    if trainee.config.version != "4.5":
        raise OptionError(f"{trainee.name} has no live units: its version is {trainee.config.version}, and listening "
                          f"while speaking is 4.5's")
    if not units:
        raise OptionError(f"{name or 'a session'} has no units; give at least one second")
    draft = _LiveDraft(trainee, max_slices)
    draft.text(f"<|im_start|>system\n{system}<|im_end|>\n")
    for unit in units:
        draft.unit(unit, name)
    return draft.row(name)


class _LiveDraft:
    """A session that is being laid out."""

    def __init__(self, trainee: OfficialTrainee, max_slices: int) -> None:
        self.trainee, self.max_slices = trainee, max_slices
        self.tokenizer = trainee.tokenizer
        self.ids: list[int] = []
        self.learned: list[bool] = []
        self.pieces: list[np.ndarray] = []
        self.grids: list[np.ndarray] = []
        self.image_spans: list[Span] = []
        self.seconds: list[np.ndarray] = []
        self.audio_spans: list[Span] = []

    def text(self, markup: str, *, learned: bool = False) -> None:
        self.add(self.tokenizer.encode(markup, markup=True), learned)

    def add(self, ids: Sequence[int], learned: bool = False) -> None:
        self.ids += ids
        self.learned += [learned] * len(ids)

    def unit(self, unit: LiveUnit, name: str) -> None:
        if unit.sound is None and not unit.pictures and not unit.text:
            raise OptionError(f"{name or 'a session'}: a unit is empty; give it a second of sound, a picture or words")
        self.text("<unit>")
        for picture in unit.pictures:
            self._picture(picture)
        if unit.sound is not None:
            self._sound(unit.sound)
        self.add(self.tokenizer.encode(unit.text))
        self._decision(unit, name)
        self.text("</unit>")

    def _picture(self, picture: Source | Image.Image) -> None:
        cut = slice_picture(load_image(picture), self.trainee.config.slicing, max_slices=self.max_slices)
        queries, special = self.trainee.config.resampler.queries, self.tokenizer.special
        for place, piece in enumerate(cut.pieces):
            start, end = (special.image_start, special.image_end) if place == 0 else (
                special.slice_start, special.slice_end)
            self.add([start])
            self.image_spans.append(self._run(queries))
            self.add([end])
            self.pieces.append(piece)
        self.grids.append(np.asarray(cut.grid_sizes))

    def _sound(self, sound: Source | np.ndarray) -> None:
        waveform = load_audio(sound, rate_hz=16_000 if isinstance(sound, np.ndarray) else None)
        if len(waveform) > UNIT_SAMPLES:
            raise OptionError(f"a unit holds {len(waveform)} samples of sound, more than the {UNIT_SAMPLES} of a "
                              f"second; cut the sound into units of one second")
        second = np.pad(waveform, (0, UNIT_SAMPLES - len(waveform)))
        self.audio_spans.append(self._run(num_audio_tokens(UNIT_SAMPLES, self.trainee.config.hearing.pool_step)))
        self.seconds.append(second)

    def _run(self, length: int) -> Span:
        start = len(self.ids)
        self.add([self.tokenizer.special.placeholder] * length)
        return Span(start, start + length)

    def _decision(self, unit: LiveUnit, name: str) -> None:
        """What `speak_unit` would have fed."""
        if unit.says is None:
            self.text("<|listen|>", learned=True)
            return
        said = self.tokenizer.encode(unit.says)
        marks = 2 + unit.ends_turn  # <|speak|>, <|chunk_eos|> and perhaps the end of the turn
        if len(said) + marks > MAX_UNIT_TOKENS:
            raise OptionError(f"{name or 'a session'}: {unit.says!r} takes {len(said)} tokens and a unit has room for "
                              f"{MAX_UNIT_TOKENS - marks}; spread the words over more units")
        self.text("<|speak|>", learned=True)
        self.add(said, learned=True)
        self.text("<|turn_eos|>" * unit.ends_turn + "<|chunk_eos|>", learned=True)

    def row(self, name: str) -> Row:
        ids = np.array(self.ids, np.int64)
        grids = np.concatenate(self.grids) if self.grids else None
        sounds = [Sounds(tuple(clip_log_mel(piece) for piece in merge_clips([np.concatenate(self.seconds)])),
                         tuple(self.audio_spans))] if self.seconds else []
        media = RawMedia(self.pieces, grids, tuple(self.image_spans), tuple(sounds))
        return Row(ids, np.where(self.learned, ids, NOT_LEARNED), media, ("live",), name=name)


def weigh_decisions(row: Row, trainee: OfficialTrainee) -> np.ndarray:
    """(T,) bool: where the label is the choice between listening and speaking, or the end of a turn."""
    marks = [trainee.tokenizer.id_of(text) for text in ("<|listen|>", "<|speak|>", "<|turn_eos|>", "<|chunk_eos|>")]
    return np.isin(row.labels, marks)


def without_decisions(row: Row, trainee: OfficialTrainee) -> Row:
    """The row with its words alone learned."""
    return replace(row, labels=np.where(weigh_decisions(row, trainee), NOT_LEARNED, row.labels))
