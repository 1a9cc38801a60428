"""The voices that callers name to those that the model has. OpenAI's names stand for voices that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..inputs.sources import Source
from .errors import ApiError

if TYPE_CHECKING:
    from ..api import MiniCPMO

OPENAI_VOICES: Mapping[str, str] = {
    "alloy": "af_alloy", "ash": "am_michael", "ballad": "bm_fable", "cedar": "am_puck", "coral": "af_bella",
    "echo": "am_echo", "fable": "bm_fable", "marin": "af_heart", "nova": "af_nova", "onyx": "am_onyx",
    "sage": "af_sarah", "shimmer": "af_sky", "verse": "am_fenrir",
}
"""OpenAI's name -> the voice of Kokoro meant; where that is not installed, the model's usual voice speaks."""


def choose(model: MiniCPMO, asked: str | Mapping[str, Any] | None) -> Source | None:
    """The voice to speak with; None is the model's usual one. Raises ApiError for a name that nobody has."""
    name = asked.get("id") if isinstance(asked, Mapping) else asked
    if name is None or name == "default":
        return None
    known = {voice.name for voice in model.voices()}
    if name in known:
        return str(name)
    if name in OPENAI_VOICES:
        return OPENAI_VOICES[name] if OPENAI_VOICES[name] in known else None
    if not known:
        raise ApiError(f"{model.name} has no voices by name, it speaks in that of a clip; leave the voice out",
                       param="voice", code="voice_not_found")
    raise ApiError(f"there is no voice {name!r}; this server has {', '.join(sorted(known))}, and understands OpenAI's "
                   f"names", param="voice", code="voice_not_found")
