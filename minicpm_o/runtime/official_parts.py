"""The official checkpoints behind the face of `parts`: what a conversation with 2.6 or 4.5 asks, whatever runs them.

The raw networks come from `Networks`: graphs of an exported bundle (`BundleNetworks`), or torch modules
(`torch_parts.TorchNetworks`). Each is opened when first needed. Letters: T tokens, D language width, Q tokens of a
picture's piece, A tokens of a sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..checkpoints.bundle import Bundle
from ..errors import MessageError, OptionError
from ..inputs.messages import AudioPart, Message
from ..inputs.official_layout import ClipMedia, OfficialInputs, SlicedImageMedia, speech_span
from ..inputs.official_processor import OfficialProcessor, PromptOptions
from ..inputs.official_tokenizer import OfficialTokenizer
from ..model.config import OfficialConfig
from ..rates import SPEECH_RATE_HZ
from .beam import BeamConfig
from .device import DevicePlan
from .events import GenerationEnd
from .generation_defaults import chat_arguments
from .listening import HearingNetwork, encode_clips
from .navit import VisionNetwork
from .parts import AnswerDefaults, OpenedParts
from .sampling import SamplingConfig
from .speech.speaker import Speech

if TYPE_CHECKING:
    from ..inputs.sources import Source
    from .official_voice import Voice
    from .speculate import Drafter


class Networks(Protocol):
    """Where the raw networks come from; each call opens one."""

    config: OfficialConfig
    plan: DevicePlan

    @property
    def fingerprint(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def open_engine(self) -> Any: ...

    def open_vision(self) -> VisionNetwork: ...

    def open_hearing(self) -> HearingNetwork: ...

    def open_voice(self, tokenizer: OfficialTokenizer) -> Voice: ...


class AnswerMany(Protocol):
    """Several prompts answered side by side."""

    def __call__(self, prompts: Sequence[OfficialInputs], sampling: SamplingConfig, beams: BeamConfig,
                 max_tokens: int) -> list[GenerationEnd]: ...


class BundleNetworks:
    """The graphs of an exported bundle; no torch."""

    def __init__(self, bundle: Bundle, plan: DevicePlan) -> None:
        if not isinstance(bundle.config, OfficialConfig):
            raise OptionError(f"the bundle in {bundle.folder} is {bundle.config.name}, not an official checkpoint")
        self.bundle = bundle
        self.plan = plan
        self.config = bundle.config

    @property
    def folder(self) -> Path:
        return self.bundle.folder

    @property
    def fingerprint(self) -> str:
        return self.bundle.fingerprint

    def open_engine(self) -> Any:
        from .engine import Engine

        return Engine.from_bundle(self.bundle, self.plan)

    def open_vision(self) -> VisionNetwork:
        from .navit import VisionSession

        return VisionSession.from_bundle(self.bundle, self.plan)

    def open_hearing(self) -> HearingNetwork:
        from .listening import HearingSession

        return HearingSession.from_bundle(self.bundle, self.plan)

    def open_voice(self, tokenizer: OfficialTokenizer) -> Voice:
        from .official_voice import bundle_voice

        return bundle_voice(self.bundle, self.plan, tokenizer)


class OfficialParts(OpenedParts):
    """What 2.6 or 4.5 is made of at run time."""

    has_recogniser = False
    """The language model hears by itself."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks
        self.config = networks.config
        self.plan = networks.plan

    @property
    def fingerprint(self) -> str:
        """Changes when a file of the model does: by hash of a bundle's, by size and time of a checkpoint's."""
        return self.networks.fingerprint

    @property
    def tokenizer(self) -> OfficialTokenizer:
        return self._part("tokenizer", lambda: OfficialTokenizer.from_folder(self.networks.folder))

    @property
    def tokenizer_json(self) -> str:
        """As the `tokenizers` library writes it."""
        tokenizer = self.tokenizer
        return self._part("tokenizer_json", tokenizer.to_json)

    @property
    def processor(self) -> OfficialProcessor:
        tokenizer = self.tokenizer
        return self._part("processor", lambda: OfficialProcessor(self.config, tokenizer))

    @property
    def engine(self) -> Any:
        return self._part("engine", self.networks.open_engine)

    def drafters(self) -> list[Drafter]:
        """Nobody: none is trained for these models, the text so far is looked into all the same."""
        return []

    @property
    def vision(self) -> VisionNetwork:
        return self._part("vision", self.networks.open_vision)

    @property
    def hearing(self) -> HearingNetwork:
        return self._part("hearing", self.networks.open_hearing)

    @property
    def voice(self) -> Voice:
        tokenizer = self.tokenizer
        return self._part("voice", lambda: self.networks.open_voice(tokenizer))

    # What a conversation asks

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Also the end of speech: the official code cuts off what is written after it."""
        special = self.tokenizer.special
        return special.im_end, special.endoftext, special.tts_eos

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """None: the official code forbids nothing."""
        return ()

    def defaults(self, *, drawn: bool = True, streamed: bool = False) -> AnswerDefaults:
        """The version's own: sampled, 4.5 along three beams. Beams give their text at once, so a stream has one, and
        neither has what is to be the likeliest."""
        version = self.processor.version
        arguments = chat_arguments(version, do_sample=drawn, num_beams=1 if streamed or not drawn else None)
        sampling = SamplingConfig(arguments.temperature, arguments.top_k, arguments.top_p, 0.0,
                                  arguments.repetition_penalty)
        if not drawn:
            sampling = SamplingConfig(repetition_penalty=arguments.repetition_penalty)
        return AnswerDefaults(arguments.max_new_tokens, arguments.num_beams, 1.0, sampling)

    def prepare(self, messages: Sequence[Message], *, transcripts: Sequence[str | None] | None = None,
                options: PromptOptions | None = None) -> OfficialInputs:
        """The prompt of the version. transcripts have no place in it: nobody writes down sounds beside the model."""
        return self.processor.prepare(messages, options=options)

    def encode(self, media: Sequence[Any]) -> list[np.ndarray]:
        """Tokens of the language model for each medium, (sum of span lengths, D).

        The sounds of a prompt are heard as the official code hears a batch; see `encode_clips`.
        """
        return [self._look(item) if isinstance(item, SlicedImageMedia) else self._hear(item) for item in media]

    def _hear(self, sounds: ClipMedia) -> np.ndarray:
        heard = encode_clips(self.hearing, sounds.log_mels, longest=sounds.longest)
        return np.concatenate(heard)[: sounds.num_tokens]

    def _look(self, picture: SlicedImageMedia) -> np.ndarray:
        tokens = self.vision.encode(picture.pieces, picture.grid_sizes)  # (n, Q, D)
        return tokens.reshape(-1, tokens.shape[-1])

    @property
    def answer_many(self) -> AnswerMany | None:
        """Answers several prompts side by side; None where they are answered one after the other."""
        batch = getattr(self.networks, "answer_many", None)
        return None if batch is None else partial(batch, tokenizer=self.tokenizer, eos_ids=self.eos_ids)

    # Speaking

    def check_voice(self, ref_audio: Source | None) -> None:
        """Raises what would keep an answer from being spoken, before it is computed."""
        self.voice.check(ref_audio)

    def say(self, inputs: OfficialInputs, ids: Sequence[int], cache: Any, *, ref_audio: Source | None = None,
            seed: int | None = None) -> Speech:
        """An answer (ids) that was just given to `inputs` as sound; the cache holds prompt and answer.

        What the language model thought of each word is read once more, all words at once. No words are no sound.
        Raises MessageError when the prompt asks for no speech, OptionError when the cache is of another prompt.
        """
        span = speech_span(inputs, ids, self.tokenizer.special)
        every = [*inputs.ids.tolist(), *ids]
        if span is None:
            raise MessageError("there is nothing to speak: the prompt has no <|tts_bos|>; ask for generate_audio")
        if not span.length:
            return Speech(np.zeros(0, np.float32), "", SPEECH_RATE_HZ)
        stop = min(span.stop, self.engine.context_tokens)  # the last word of a full window was never read
        start = inputs.speaker_spans[-1].start if inputs.speaker_spans else span.start
        start = min(start, len(inputs.ids))  # beams leave the cache at the prompt's end
        cache.truncate(min(start, cache.length))
        if cache.length != start:
            raise OptionError(f"the cache holds {cache.length} tokens, the answer's speech begins after {start}")
        hidden = self.engine.prefill(self.engine.embed(every[start:stop]), cache).hidden  # (T, D)
        return self.voice.speak(every[span.start : stop], hidden[span.start - start :],
                                speaker_hidden=hidden[0], ref_audio=ref_audio, seed=seed)


def first_voice(messages: Sequence[Message]) -> AudioPart | None:
    """The first sound of a conversation: what 4.5 takes the voice from when it is not given another."""
    return next((part for message in messages for part in message.parts if isinstance(part, AudioPart)), None)
