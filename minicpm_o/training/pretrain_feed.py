"""Examples to the micro-batches of pre-training: each is laid out for every objective that is on and that it serves.

Every objective that is on gets a batch in every micro-batch, whatever the examples are: where none serves it, or none
could be used, a stand-in runs that counts for nothing. So all ranks go through the same parts in the same order, which
sharded ones must, or they would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from ..errors import ContextFullError, InputError, MessageError
from ..inputs.audio import load_audio
from ..inputs.image import load_image
from ..inputs.mel import LEAST_CLIP_SAMPLES
from ..inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ..model.config import NanoConfig
from ..rates import AUDIO_RATE_HZ
from .examples import Example
from .feeds import Draws, StageFeed
from .objectives.masked_audio import MaskedFrames, collate_frames, frames_per_token, hide_frames
from .objectives.masked_image import MaskedPatches, collate_patches, hide_patches
from .objectives.masked_language import MaskedWords, collate_words, mask_words
from .objectives.pairs import Pairs, collate_pairs, key_of
from .prepare.work import draws
from .rows import NOT_LEARNED, Batch, Row, collate, pack
from .trainee import Trainee

if TYPE_CHECKING:
    from .objectives.switch import Switch
    from .pretrain import PretrainConfig

KINDS: dict[str, type[Part]] = {"image": ImagePart, "audio": AudioPart}
LaidT = TypeVar("LaidT")


@dataclass(frozen=True)
class PretrainMicro:
    """A micro-batch, laid out for every objective that is on; the others are None or not there."""

    next_token: Batch | None = None
    masked_language: MaskedWords | None = None
    masked_image: MaskedPatches | None = None
    masked_audio: MaskedFrames | None = None
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    """By medium: "image", "audio"."""

    @property
    def batches(self) -> Iterator[Batch]:
        """Everything that goes through the language model, matching left out."""
        if self.next_token:
            yield self.next_token
        yield from (item.batch for item in (self.masked_language, self.masked_image, self.masked_audio) if item)
        for pairs in self.pairs.values():
            yield from (pairs.media, pairs.texts)

    def to(self, device: torch.device | str) -> PretrainMicro:
        singles = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "pairs"}
        return PretrainMicro(**{name: value and value.to(device) for name, value in singles.items()},
                             pairs={kind: pairs.to(device) for kind, pairs in self.pairs.items()})


class PretrainFeed(StageFeed):
    """The mixture's examples of a step, laid out for every objective that is on."""

    def __init__(self, config: PretrainConfig, trainee: Trainee, data: Draws, seed: int) -> None:
        super().__init__(trainee, data)
        self.config, self.seed = config, seed
        self._stand_in = stand_in(trainee)

    def micro(self, examples: Sequence[Example], step: int = 0, number: int = 0) -> PretrainMicro:
        """The examples laid out for every objective; masks and negatives follow from seed, step and names alone."""
        config = self.config
        usable = _Usable(self.skip, [replace(example, name=example.name or f"{number}/{place}")
                                      for place, example in enumerate(examples)])
        lay = Layout(config, self.trainee, (self.seed, step))
        documents = words = patches = frames = None
        if config.next_token:
            rows = usable.laid(config.next_token, lay.document)
            rows += self._missing_senses(rows, lay)
            documents = collate(pack(rows, max(map(len, rows))))  # short ones side by side, so that little is padded
        if config.masked_language:
            masked = usable.laid(config.masked_language, lay.words)
            blank = [_unasked(row) for row in self._missing_senses([row for row, _, _ in masked], lay)]
            words = collate_words(masked + blank)
        if config.masked_image:
            hidden = usable.laid(config.masked_image, lay.patches, "image")
            patches = self._or_blank(hidden, lay.patches, lay.patch_batch)
        if config.masked_audio:
            hidden = usable.laid(config.masked_audio, lay.frames, "audio")
            frames = self._or_blank(hidden, lay.frames, lay.frame_batch)
        return PretrainMicro(documents, words, patches, frames,
                             {kind: self._pairs(usable, lay, kind, f"{step}/{number}") for kind in config.paired})

    def _pairs(self, usable: _Usable, lay: Layout, kind: str, place: str) -> Pairs:
        def lay_pair(example: Example) -> tuple[Row, Row]:
            return lay.pair(example, kind)

        seed = key_of(f"{self.seed}/{place}")
        laid = usable.laid(self.config.pair_switch(kind), lay_pair, kind)
        return self._or_blank(laid, lay_pair, lambda pairs: collate_pairs(*zip(*pairs, strict=True), seed=seed))

    def _or_blank(self, laid: list[LaidT], lay: Callable[[Example], LaidT], to_batch: Callable[[list[LaidT]], Any]
                  ) -> Any:
        """The batch, or one of the stand-in alone."""
        return to_batch(laid) if laid else to_batch([lay(self._stand_in)]).blank()

    def _missing_senses(self, rows: Sequence[Row], lay: Layout) -> list[Row]:
        """The stand-in, unlearned, where there is no row, or where other ranks may see or hear what these do not."""
        is_whole = all(any(getattr(row.media, f"{kind}_spans") for row in rows) for kind in senses(self.trainee))
        if rows and (is_whole or not _has_other_ranks()):
            return []
        row = lay.document(self._stand_in)
        return [replace(row, labels=np.full_like(row.labels, NOT_LEARNED))]


class _Usable:
    """The examples of a micro-batch whose media could be loaded; each is complained of once."""

    def __init__(self, skip: Callable[[Example, InputError], None], examples: Sequence[Example]) -> None:
        self._skip, self._complained = skip, set[str]()
        self._examples = [found for example in examples if (found := self._try(loaded, example)) is not None]

    def laid(self, switch: Switch, lay: Callable[[Example], LaidT], kind: str | None = None) -> list[LaidT]:
        """Those that the objective takes, and that have a medium of the kind, laid out."""
        takes = [example for example in self._examples if switch.takes(example.task)
                 and (kind is None or parts_of(example, kind))]
        return [found for example in takes if (found := self._try(lay, example)) is not None]

    def _try(self, make: Callable[[Example], LaidT], example: Example) -> LaidT | None:
        try:
            return make(example)
        except InputError as error:
            if example.name not in self._complained:
                self._complained.add(example.name)
                self._skip(example, error)
            return None


@dataclass
class Layout:
    """How an example is laid out for each objective. Every draw belongs to the key, the objective and its name."""

    config: PretrainConfig
    trainee: Trainee
    key: tuple[int, int]
    """Seed and step."""
    _prompts: dict[tuple[str, str], Row] = field(default_factory=dict)

    def document(self, example: Example) -> Row:
        learn = self.config.next_token.learn if self.config.next_token else "all"
        return self.trainee.row(example, learn=learn, max_tokens=self.config.max_tokens)

    def words(self, example: Example) -> tuple[Row, np.ndarray, np.ndarray]:
        """What an assistant says, or a document, with words hidden."""
        row = self.trainee.row(example, learn="answers", max_tokens=self.config.max_tokens)
        tokenizer = self.trainee.tokenizer
        return mask_words(row, self.config.masked_language, self._rng("masked_language", example),
                          special=tokenizer.added_ids, vocab_size=tokenizer.vocab_size)

    def patches(self, example: Example) -> tuple[Row, list[np.ndarray]]:
        row = self.prompt(example, "image")
        return row, hide_patches(row, self.config.masked_image, self._rng("masked_image", example),
                                 image_start=self.trainee.tokenizer.special.image_start)

    def patch_batch(self, laid: Sequence[tuple[Row, list[np.ndarray]]]) -> MaskedPatches:
        return collate_patches([row for row, _ in laid], [hidden for _, hidden in laid])

    def frames(self, example: Example) -> tuple[Row, list[np.ndarray]]:
        row = self.prompt(example, "audio")
        return row, hide_frames(row, self.config.masked_audio, self._rng("masked_audio", example),
                                per_token=frames_per_token(self.trainee.model))

    def frame_batch(self, laid: Sequence[tuple[Row, list[np.ndarray]]]) -> MaskedFrames:
        return collate_frames([row for row, _ in laid], [hidden for _, hidden in laid],
                              per_token=frames_per_token(self.trainee.model))

    def pair(self, example: Example, kind: str) -> tuple[Row, Row]:
        """The media alone and the words alone."""
        said = Message("assistant", (TextPart(words_about(example)),))
        words = self.trainee.row(Example((said,), example.task, example.name), learn="answers",
                                 max_tokens=self.config.max_tokens)
        return self.prompt(example, kind), words

    def prompt(self, example: Example, kind: str) -> Row:
        """The example's media of one kind as a user sends them, up to where the assistant is to speak."""
        if (example.name, kind) not in self._prompts:
            row = self.trainee.prompt([Message("user", parts_of(example, kind))], example.name)
            if len(row) > self.config.max_tokens:
                raise ContextFullError(f"the media of {example.name} take {len(row)} tokens, more than "
                                       f"{self.config.max_tokens}; raise max_tokens, or send less")
            self._prompts[example.name, kind] = replace(row, tasks=(example.task,))
        return self._prompts[example.name, kind]

    def _rng(self, objective: str, example: Example) -> np.random.Generator:
        return draws(self.key[0], self.key[1], objective, example.name)


# Examples


def loaded(example: Example) -> Example:
    """The example with its pictures and sounds opened, once for all objectives. Raises their InputError."""
    return replace(example, messages=tuple(
        replace(message, parts=tuple(_loaded(part) for part in message.parts)) for message in example.messages))


def _loaded(part: Part) -> Part:
    if isinstance(part, ImagePart):
        return ImagePart(load_image(part.source))
    if isinstance(part, AudioPart):
        return AudioPart(load_audio(part.source, rate_hz=part.rate_hz), AUDIO_RATE_HZ)
    return part


def parts_of(example: Example, kind: str) -> tuple[Part, ...]:
    """Its pictures ("image") or sounds ("audio"); a video is neither."""
    return tuple(part for message in example.messages for part in message.parts if isinstance(part, KINDS[kind]))


def words_about(example: Example) -> str:
    """The words that go with an example's media: what is said last. Raises MessageError where there are none."""
    for message in reversed(example.messages):
        words = " ".join(part.text for part in message.parts if isinstance(part, TextPart)).strip()
        if words:
            return words
    raise MessageError(f"{example.name} has no words to go with its media; give it a text, or leave its task out of "
                       f"the pairs' `tasks`")


def senses(trainee: Trainee) -> tuple[str, ...]:
    """Media that the model takes."""
    config = trainee.config
    if isinstance(config, NanoConfig):
        return tuple(KINDS)
    return tuple(kind for kind, part in zip(KINDS, (config.vision, config.hearing), strict=True) if part is not None)


def stand_in(trainee: Trainee) -> Example:
    """A small grey picture and a moment's silence, as far as the model can see and hear, and a word.

    No sound is shorter: the official ears hear some of what fills a shorter one up to the batch's longest.
    """
    media = {"image": ImagePart(Image.new("RGB", (64, 64), (128, 128, 128))),
             "audio": AudioPart(np.zeros(LEAST_CLIP_SAMPLES, np.float32), AUDIO_RATE_HZ)}
    parts = (*(media[kind] for kind in senses(trainee)), TextPart("nothing"))
    return Example((Message("user", parts), Message("assistant", (TextPart("nothing"),))), "stand-in", "the stand-in")


def _unasked(row: Row) -> tuple[Row, np.ndarray, np.ndarray]:
    return row, np.zeros(len(row), bool), np.full(len(row), NOT_LEARNED)


def _has_other_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
