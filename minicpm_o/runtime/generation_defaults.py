"""How the official checkpoints choose their words unless they are told otherwise.

    2.6   draws, top-p 0.8, top-k 100, temperature 0.7, penalty 1.05; or 3 beams with penalty 1.2
    4.5   the same with penalty 1.02, but draws along 3 beams: `num_beams` keeps its default while sampling

Source: `chat` and `streaming_generate` of each version. Values alone; `sampling`, `beam` and `decide` do the choosing.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from ..inputs.templates import OfficialVersion

TERMINATORS = ("<|im_end|>", "<|endoftext|>")
"""Any of these ends an answer."""

REPLY_TERMINATORS: dict[OfficialVersion, tuple[str, ...]] = {
    "2.6": TERMINATORS, "4.5": ("<|tts_eos|>", "<|im_end|>", "</s>")}
"""Any of these ends a half-duplex reply. "</s>" is no token of 4.5, so there it stops nothing."""

MAX_INP_LENGTH: dict[OfficialVersion, int] = {"2.6": 32_768, "4.5": 8_192}
"""Tokens of a chat's prompt that the reference keeps; what is beyond, it cuts off."""

MAX_NEW_TOKENS: dict[OfficialVersion, int] = {"2.6": 2_048, "4.5": 4_096}
MAX_REPLY_TOKENS: dict[OfficialVersion, int] = {"2.6": 512, "4.5": 256}
"""Of a half-duplex reply."""

DRAWN_PENALTY: dict[OfficialVersion, float] = {"2.6": 1.05, "4.5": 1.02}
BEAM_PENALTY = 1.2
REPLY_WINDOW = 128
"""The penalty of a half-duplex reply of 4.5 counts this many tokens back."""

PAD_ID = 0
"""Stands before the shorter prompts of a batch and after its shorter answers."""


@dataclass(frozen=True)
class GenerationArguments:
    """How an answer is chosen. Without do_sample, temperature, top_p and top_k have no effect."""

    do_sample: bool = True
    num_beams: int = 1
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 100
    repetition_penalty: float = 1.05
    max_new_tokens: int = 2_048
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        for name, low in (("num_beams", 1), ("max_new_tokens", 1), ("min_new_tokens", 0), ("top_k", 0)):
            if getattr(self, name) < low:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be {low} or more")
        if self.min_new_tokens > self.max_new_tokens:
            raise OptionError(f"min_new_tokens is {self.min_new_tokens}, more than max_new_tokens, "
                              f"{self.max_new_tokens}")


def chat_arguments(
    version: OfficialVersion,
    *,
    do_sample: bool = True,
    num_beams: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    teacher_forcing: bool = False,
) -> GenerationArguments:
    """What a chat uses; None leaves it to the version. do_sample is 2.6's `sampling`.

    teacher_forcing: the answer is given in the prompt, to be spoken, so one token is enough. Warns of what the version
    does not heed.
    """
    beams = _num_beams(version, do_sample, num_beams)
    is_search = not do_sample and (beams > 1 or version == "2.6")
    penalty = BEAM_PENALTY if is_search else DRAWN_PENALTY[version]
    drawn = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    given: dict[str, Any] = {name: value for name, value in drawn.items() if value is not None}
    if given and not do_sample:
        warnings.warn(f"{', '.join(given)} without do_sample has no effect: nothing is drawn", stacklevel=2)
    most = MAX_NEW_TOKENS[version] if max_new_tokens is None else max_new_tokens
    return GenerationArguments(
        do_sample=do_sample, num_beams=beams, max_new_tokens=1 if teacher_forcing else most,
        repetition_penalty=penalty if repetition_penalty is None else repetition_penalty,
        min_new_tokens=min_new_tokens, **given)


def _num_beams(version: OfficialVersion, do_sample: bool, asked: int | None) -> int:
    """2.6 has beams only where nothing is drawn."""
    if version == "4.5":
        return 3 if asked is None else asked
    if not do_sample:
        return 3 if asked is None else asked
    if asked not in (None, 1):
        warnings.warn(f"num_beams={asked} has no effect: 2.6 does not draw along beams", stacklevel=3)
    return 1


def reply_arguments(version: OfficialVersion, *, max_new_tokens: int | None = None) -> GenerationArguments:
    """What a half-duplex reply uses: draws, along one line."""
    return GenerationArguments(repetition_penalty=DRAWN_PENALTY[version],
                               max_new_tokens=MAX_REPLY_TOKENS[version] if max_new_tokens is None else max_new_tokens)


def generate_kwargs(version: OfficialVersion, arguments: GenerationArguments) -> dict[str, Any]:
    """The arguments as the reference hands them to transformers' `generate`; what it leaves out is left out."""
    drawn = {"top_p": arguments.top_p, "top_k": arguments.top_k, "temperature": arguments.temperature}
    common = {"max_new_tokens": arguments.max_new_tokens, "repetition_penalty": arguments.repetition_penalty}
    if version == "4.5":
        return {**common, **drawn, "num_beams": arguments.num_beams, "do_sample": arguments.do_sample,
                "min_new_tokens": arguments.min_new_tokens}
    least = {"min_new_tokens": arguments.min_new_tokens} if arguments.min_new_tokens else {}
    chosen = {**drawn, "do_sample": True} if arguments.do_sample else {"num_beams": arguments.num_beams}
    return {**common, **chosen, **least}


def spoken_text(text: str) -> str:
    """The answer without what follows the end of speech."""
    return text.split("<|tts_eos|>")[0]
