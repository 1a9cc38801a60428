"""The parts of one model, each opened when first needed and then kept.

Knows the bundle's file names for what `from_bundle` does not know itself; knows no prompts and no answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..checkpoints.bundle import Bundle
from ..inputs.processor import Processor
from ..inputs.text import Tokenizer
from ..model.config import NanoConfig
from .device import DevicePlan

if TYPE_CHECKING:
    from .encoders import HearingEncoder, VisionEncoder
    from .engine import Engine
    from .speech.speaker import Speaker
    from .transcribe import Recogniser

PartT = TypeVar("PartT")


class Parts:
    """What a model is made of at run time. Safe to use from several threads; a part is opened once."""

    def __init__(self, bundle: Bundle, plan: DevicePlan) -> None:
        self.bundle = bundle
        self.plan = plan
        self.load_s = 0.0
        """Seconds spent opening parts so far."""
        self._opened: dict[str, Any] = {}
        self._lock = threading.RLock()

    @property
    def config(self) -> NanoConfig:
        return self.bundle.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self._part("tokenizer", lambda: Tokenizer.from_file(self.bundle.path("tokenizer.json")))

    @property
    def processor(self) -> Processor:
        tokenizer = self.tokenizer
        return self._part("processor", lambda: Processor(self.config, tokenizer))

    @property
    def engine(self) -> Engine:
        def open_engine() -> Engine:
            from .engine import Engine

            return Engine.from_bundle(self.bundle, self.plan)

        return self._part("engine", open_engine)

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
