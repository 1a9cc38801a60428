"""The parts of one model, each opened when first needed and then kept; and what a conversation asks of them.

`Parts` is nano; `official_parts` has the same face for the official checkpoints. Knows the bundle's file names for what
`from_bundle` does not know itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ..checkpoints.bundle import Bundle
from ..errors import OptionError
from ..inputs.messages import Message
from ..inputs.processor import ImageMedia, ModelInputs, Processor
from ..inputs.text import Tokenizer
from ..model.config import NanoConfig
from .device import DevicePlan
from .sampling import SamplingConfig

if TYPE_CHECKING:
    from .drafter import DraftNetwork
    from .encoders import HearingEncoder, VisionEncoder
    from .engine import Engine
    from .own_ears import OwnEars
    from .speculate import Drafter
    from .speech.speaker import Speaker
    from .transcribe import Recogniser

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class AnswerDefaults:
    """How a model answers when it is not told otherwise."""

    max_tokens: int = 256
    num_beams: int = 1
    length_penalty: float = 0.6
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


class OpenedParts:
    """What has been opened so far. Safe to use from several threads; a part is opened once."""

    def __init__(self) -> None:
        self.load_s = 0.0
        """Seconds spent opening parts so far."""
        self._opened: dict[str, Any] = {}
        self._lock = threading.RLock()

    def opened(self) -> list[str]:
        """Names of the parts that are open."""
        return sorted(self._opened)

    def _part(self, name: str, make: Callable[[], PartT]) -> PartT:
        with self._lock:
            if name not in self._opened:
                started = time.perf_counter()
                self._opened[name] = make()
                self.load_s += time.perf_counter() - started
            return cast(PartT, self._opened[name])


class Parts(OpenedParts):
    """What nano is made of at run time."""

    has_recogniser = True
    """Sounds are written down beside what is heard of them."""
    answer_many = None
    """Several prompts are answered one after the other."""

    def __init__(self, bundle: Bundle, plan: DevicePlan) -> None:
        super().__init__()
        self.bundle = bundle
        self.plan = plan
        self.slots = 1
        """Conversations whose steps are one run of the language model; see `share`."""

    def share(self, slots: int) -> None:
        """From now on several threads may decode at once, so many conversations in a run; takes the language part's
        memory once more. Raises OptionError for less than one."""
        if slots < 1:
            raise OptionError(f"slots is {slots}; it must be 1 or more")
        with self._lock:
            if slots != self.slots:
                self.slots = slots
                self._opened.pop("engine", None)

    # What a conversation asks

    def defaults(self, *, drawn: bool = True, streamed: bool = False) -> AnswerDefaults:
        """Greedy, word by word; drawn and streamed change nothing."""
        return AnswerDefaults()

    @property
    def fingerprint(self) -> str:
        """Changes when any file of the model does."""
        return self.bundle.fingerprint

    @property
    def eos_ids(self) -> tuple[int, ...]:
        special = self.tokenizer.special
        return special.im_end, special.endoftext

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that an answer never holds."""
        special = self.tokenizer.special
        return special.im_start, *special.markers

    def prepare(self, messages: Sequence[Message], *, transcripts: Sequence[str | None] | None = None,
                options: Any = None) -> ModelInputs:
        """The prompt. Raises OptionError for prompt options, which nano does not have."""
        if options is not None:
            raise OptionError("options of the prompt are for the official checkpoints; leave them out with nano")
        return self.processor.prepare(messages, transcripts=transcripts)

    def encode(self, media: Sequence[Any]) -> list[np.ndarray]:
        """Tokens of the language model for each medium, (sum of span lengths, D)."""
        return [self.vision.encode(item.pixels).reshape(-1, self.config.language.width)  # (B, Q, D) -> (B * Q, D)
                if isinstance(item, ImageMedia) else self.hearing.tokens(item.waveform) for item in media]

    # The parts

    @property
    def config(self) -> NanoConfig:
        return self.bundle.nano

    @property
    def tokenizer(self) -> Tokenizer:
        return self._part("tokenizer", lambda: Tokenizer.from_file(self.bundle.path("tokenizer.json")))

    @property
    def tokenizer_json(self) -> str:
        """As the `tokenizers` library writes it."""
        return self._part("tokenizer_json", lambda: self.bundle.path("tokenizer.json").read_text(encoding="utf-8"))

    @property
    def processor(self) -> Processor:
        tokenizer = self.tokenizer
        return self._part("processor", lambda: Processor(self.config, tokenizer))

    @property
    def engine(self) -> Engine:
        def open_engine() -> Engine:
            from .engine import Engine

            if self.slots > 1:
                from .batching import SharedEngine

                return SharedEngine.from_bundle(self.bundle, self.plan, self.slots)
            return Engine.from_bundle(self.bundle, self.plan)

        return self._part("engine", open_engine)

    def drafters(self) -> list[Drafter]:
        """Who guesses how an answer goes on, anew for every answer; nobody where nano is of another width than they."""
        from .drafter import LearnedDrafter

        network = self.draft_network
        never = frozenset((*self.eos_ids, *self.banned_ids))
        return [] if network is None else [LearnedDrafter(network, never)]

    @property
    def draft_network(self) -> DraftNetwork | None:
        engine = self.engine

        def open_network() -> DraftNetwork | None:
            from .drafter import DraftNetwork, network_config, packaged_path, read_drafter

            tensors = read_drafter(packaged_path())
            fits = network_config(tensors).width == engine.config.width
            return DraftNetwork.open(tensors, engine.embed, self.plan) if fits else None

        return self._part("drafter", open_network)

    @property
    def vision(self) -> VisionEncoder:
        def open_vision() -> VisionEncoder:
            from .encoders import VisionEncoder

            return VisionEncoder.from_bundle(self.bundle, self.plan)

        return self._part("vision", open_vision)

    @property
    def hearing(self) -> HearingEncoder:
        def open_hearing() -> HearingEncoder:
            from .encoders import HearingEncoder

            return HearingEncoder.from_bundle(self.bundle, self.plan)

        return self._part("hearing", open_hearing)

    @property
    def ears(self) -> OwnEars | None:
        """None: these connectors came without ears for words."""
        def open_ears() -> OwnEars:
            from .own_ears import OwnEars

            return OwnEars.from_bundle(self.bundle, self.plan)

        return None if self.config.hearing.words is None else self._part("ears", open_ears)

    @property
    def recogniser(self) -> Recogniser:
        hearing = self.hearing  # the recogniser hears through the same encoder

        def open_recogniser() -> Recogniser:
            from .transcribe import Recogniser

            return Recogniser.from_bundle(self.bundle, self.plan, encoder=hearing.encoder)

        return self._part("recogniser", open_recogniser)

    @property
    def speaker(self) -> Speaker:
        def open_speaker() -> Speaker:
            from .speech.speaker import Speaker

            return Speaker.from_bundle(self.bundle, self.plan)

        return self._part("speaker", open_speaker)
