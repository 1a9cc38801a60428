"""A small model that sees, hears and answers, offline, on two CPU cores.

The data's way:

    picture ── slices ──── vision encoder ──── resampler ──┐
    sound ──── log-mel ─── hearing encoder ─── projector ──┤
                               ├── own ears ── words ───┐  │
                               └── recogniser ── words ─┤  │
    text ───────────────── tokenizer ───────────────────┴──┴─ fused tokens ── language model ── text ── voice ── wav
    inputs/                model/encoders/                    model/fusion/   model/language/           runtime/speech/

    from minicpm_o import MiniCPMO
    print(MiniCPMO.from_pretrained("nano").describe_image("photo.jpg"))

Public names are imported when first used, so that `import minicpm_o` and `minicpm-o --help` are quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import MiniCPM_o_Model, MiniCPMO, Reply, ReplyUsage
    from .errors import MiniCPMOError
    from .inputs.messages import AudioPart, ImagePart, Message, TextPart, VideoPart
    from .runtime.events import TextDelta
    from .runtime.timing import Timing

__version__ = "0.1.0"

__all__ = [
    "AudioPart",
    "ImagePart",
    "Message",
    "MiniCPMO",
    "MiniCPMOError",
    "MiniCPM_o_Model",
    "Reply",
    "ReplyUsage",
    "TextDelta",
    "TextPart",
    "Timing",
    "VideoPart",
    "__version__",
]

_HOME = {
    "AudioPart": "inputs.messages",
    "ImagePart": "inputs.messages",
    "Message": "inputs.messages",
    "MiniCPMO": "api",
    "MiniCPMOError": "errors",
    "MiniCPM_o_Model": "api",
    "Reply": "api",
    "ReplyUsage": "api",
    "TextDelta": "runtime.events",
    "TextPart": "inputs.messages",
    "Timing": "runtime.timing",
    "VideoPart": "inputs.messages",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
