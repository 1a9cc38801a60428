"""The model that is trained, whichever it is: nano, a tiny one, 2.6 or 4.5, behind one face.

Lays conversations out as at run time, so that nothing is learned that the runtime never sees. Shapes: T fused tokens,
M mel bins, F mel frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..checkpoints.hub import kind_of, snapshot
from ..checkpoints.official import Checkpoint
from ..checkpoints.random_official import write_random_checkpoint
from ..checkpoints.storage import default_home
from ..checkpoints.torch_loader import load_official
from ..errors import ContextFullError, OptionError
from ..inputs.audio import log_mel, pad_to
from ..inputs.messages import Message
from ..inputs.official_processor import OfficialProcessor, PromptOptions
from ..inputs.official_tokenizer import OfficialTokenizer
from ..inputs.processor import AudioMedia, ImageMedia, Processor
from ..inputs.text import Tokenizer
from ..model.config import NanoConfig, OfficialConfig
from ..model.fusion.spans import Span
from ..model.omni import EncodedMedia, OmniModel, RawMedia
from ..rates import UNIT_SAMPLES
from ..runtime.torch_parts import raw_media
from .examples import Example
from .rows import NOT_LEARNED, Media, Row, SpeechTurn

Learn = Literal["answers", "all"]
"""Whether what an assistant says is learned, or every word."""
TINY = ("tiny-2.6", "tiny-4.5")
"""Models of a few hundred thousand random weights in the official layouts, made on the spot."""

Eyes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Ears = Callable[[np.ndarray], np.ndarray]


class Trainee(ABC):
    """A model with the way its samples are laid out."""

    name: str
    model: OmniModel
    tokenizer: Any

    @abstractmethod
    def lay_out(self, messages: Sequence[Message], *, opens_answer: bool = False) -> tuple[np.ndarray, Media]:
        """ids (T,) and media of a conversation; opens_answer ends it where the assistant is to speak."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer; the first is what is learned."""
        special = self.tokenizer.special
        return special.im_end, special.endoftext

    def row(self, example: Example, *, learn: Learn = "answers", max_tokens: int | None = None) -> Row:
        """The example as it is learned. Raises the media's InputError; ContextFullError when it is too long."""
        ids, media = self.lay_out(example.messages)
        if max_tokens is not None and len(ids) > max_tokens:
            raise ContextFullError(f"{example.name or 'a sample'} takes {len(ids)} tokens, more than {max_tokens}; "
                                   f"raise max_tokens, or send less")
        answers = self.answers(ids)
        learned = np.zeros(len(ids), bool)
        for span in answers if learn == "answers" else [Span(1, len(ids))]:
            learned[span.start : span.stop] = True
        for span in (*media.image_spans, *media.audio_spans):
            learned[span.start : span.stop] = False
        return Row(ids, np.where(learned, ids, NOT_LEARNED), media, (example.task,),
                   speech=_speech_turns(answers, example), name=example.name)

    def prompt(self, messages: Sequence[Message], name: str = "") -> Row:
        """A conversation up to where the assistant answers; nothing in it is learned."""
        ids, media = self.lay_out(messages, opens_answer=True)
        return Row(ids, np.full(len(ids), NOT_LEARNED), media, ("prompt",), name=name)

    def said(self, ids: Sequence[int]) -> str:
        """The words of a sampled answer, without its end."""
        return self.tokenizer.decode([token for token in ids if token not in self.end_ids]).strip()

    def answers(self, ids: np.ndarray) -> list[Span]:
        """Where an assistant speaks in ids (T,), ends included; what the template puts before its words is not."""
        special, span_of = self.tokenizer.special, []
        head = self.tokenizer.encode("assistant\n")
        starts = np.flatnonzero(ids == special.im_start)
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            first = int(start) + 1
            if ids[first : first + len(head)].tolist() != head:
                continue
            first = self._after_opening(ids, first + len(head))
            ends = np.flatnonzero(ids[first:stop] == special.im_end)
            span_of.append(Span(first, first + int(ends[0]) + 1 if len(ends) else int(stop)))
        return span_of

    def _after_opening(self, ids: np.ndarray, first: int) -> int:
        return first


class OfficialTrainee(Trainee):
    """2.6, 4.5 or a tiny one of their layout: encoders and voice are part of the network."""

    def __init__(self, name: str, folder: Path, model: OmniModel, options: PromptOptions | None = None) -> None:
        self.name, self.folder, self.model = name, folder, model
        model.fixes_padding = True
        self.tokenizer = OfficialTokenizer.from_folder(folder)
        self.config: OfficialConfig = model.config
        self.processor = OfficialProcessor(self.config, self.tokenizer)
        self.options = options or PromptOptions()

    def lay_out(self, messages: Sequence[Message], *, opens_answer: bool = False) -> tuple[np.ndarray, RawMedia]:
        inputs = self.processor.prepare(messages, options=self.options, add_generation_prompt=opens_answer)
        return inputs.ids, raw_media(inputs.media)

    def _after_opening(self, ids: np.ndarray, first: int) -> int:
        """4.5's empty thoughts belong to the prompt, as does what opens 2.6's spoken answer."""
        for opening in ("<think>\n\n</think>\n\n", "<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>", "<|tts_bos|>"):
            head = self.tokenizer.encode(opening, markup=True)
            if ids[first : first + len(head)].tolist() == head:
                first += len(head)
        return first


class NanoTrainee(Trainee):
    """Nano: its encoders stay frozen and run before the network, in onnxruntime and torch."""

    name = "nano"

    def __init__(self, model: OmniModel, tokenizer: Tokenizer, open_eyes: Callable[[], Eyes],
                 open_ears: Callable[[], Ears]) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config: NanoConfig = model.config
        self.processor = Processor(self.config, tokenizer)
        self._open_eyes, self._open_ears = open_eyes, open_ears
        self._eyes: Eyes | None = None
        self._ears: Ears | None = None

    def lay_out(self, messages: Sequence[Message], *, opens_answer: bool = False) -> tuple[np.ndarray, EncodedMedia]:
        inputs = self.processor.prepare(messages, add_generation_prompt=opens_answer)
        images = [item for item in inputs.media if isinstance(item, ImageMedia)]
        sounds = [item for item in inputs.media if isinstance(item, AudioMedia)]
        features, class_logits = self.see(np.concatenate([item.pixels for item in images])) if images else (
            torch.empty(0), torch.empty(0))
        return inputs.ids, EncodedMedia(
            features, class_logits, tuple(span for item in images for span in item.spans),
            [self.hear(sound) for item in sounds for sound in _by_span(item)],
            tuple(span for item in sounds for span in item.spans))

    def see(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """pixels (I, 3, S, S) -> features (I, P, E), class_logits (I, 1000)."""
        self._eyes = self._eyes or self._open_eyes()
        features, class_logits = self._eyes(pixels)
        return torch.from_numpy(features), torch.from_numpy(class_logits)

    def hear(self, waveform: np.ndarray) -> torch.Tensor:
        """waveform (N,) -> encoder frames (F/2, E), whole seconds."""
        return self.hear_mel(log_mel(pad_to(waveform, -(-len(waveform) // UNIT_SAMPLES) * UNIT_SAMPLES)))

    def hear_mel(self, mel: np.ndarray) -> torch.Tensor:
        """log_mel (M, F), whole seconds -> encoder frames (F/2, E)."""
        self._ears = self._ears or self._open_ears()
        return torch.from_numpy(self._ears(mel[None])[0])


def open_trainee(name: str, *, dtype: torch.dtype | None = torch.float32, home: Path | None = None,
                 connectors: Path | None = None) -> Trainee:
    """"nano", "tiny-2.6", "tiny-4.5", an official name or a checkpoint's folder, on the CPU, nothing frozen.

    connectors: for nano, the trained tensors to begin with; None: those of the package. Raises CheckpointError and its
    kinds, OptionError for a bundle, which holds no trainable weights.
    """
    home = home or default_home()
    if name in TINY:
        folder = tiny_checkpoint(name.removeprefix("tiny-"), home)
        return OfficialTrainee(name, folder, load_official(Checkpoint.open(folder), dtype=dtype).train())
    kind = kind_of(name)
    if kind == "nano":
        return _open_nano(home, connectors)
    if kind == "bundle":
        raise OptionError(f"{name} is a bundle for the runtime, whose weights are rounded; train the checkpoint that "
                          f"it was exported from")
    folder = snapshot(name)
    return OfficialTrainee(name, folder, load_official(Checkpoint.open(folder), dtype=dtype).train())


def tiny_checkpoint(version: str, home: Path) -> Path:
    """The folder of the tiny checkpoint of that version, written where it is not there yet."""
    folder = home / "tiny" / version
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(folder, version=version, size="tiny", progress=False)
    return folder


def _open_nano(home: Path, connectors: Path | None) -> NanoTrainee:
    from ..checkpoints.nano import Recipe
    from .export import import_connectors
    from .lora import add_lora
    from .nano import build_model
    from .prepare.chat import prepare_language
    from .prepare.hearing import open_ears
    from .prepare.images import open_eyes

    weights, path = prepare_language(home / "training")
    tokenizer = Tokenizer.from_file(path)
    model = build_model(tokenizer, weights)
    add_lora(model, 16, 0.0)
    import_connectors(model, Recipe(connectors=connectors).connectors_path())
    config: NanoConfig = model.config
    return NanoTrainee(model, tokenizer, lambda: open_eyes(config.vision, torch.get_num_threads()),
                       lambda: open_ears(config.hearing))


def _by_span(sound: AudioMedia) -> list[np.ndarray]:
    """A sound whose tokens fill several runs, as a video's does: cut at whole seconds."""
    from ..rates import UNIT_AUDIO_TOKENS

    if len(sound.spans) == 1:
        return [sound.waveform]
    seconds = np.cumsum([span.length // UNIT_AUDIO_TOKENS for span in sound.spans])
    return np.split(sound.waveform, seconds[:-1] * UNIT_SAMPLES)


def _speech_turns(answers: Sequence[Span], example: Example) -> tuple[SpeechTurn, ...]:
    if not example.speech_codes:
        return ()
    if len(example.speech_codes) != len(answers):
        raise OptionError(f"{example.name or 'a sample'} has {len(example.speech_codes)} lists of speech codes and "
                          f"{len(answers)} answers; give one for each, None where it is not spoken")
    return tuple(SpeechTurn(Span(span.start, span.stop - 1), codes)  # its end is not spoken
                 for span, codes in zip(answers, example.speech_codes, strict=True) if codes is not None)
