"""This package's models in VLMEvalKit: a class for its table `supported_VLM`.

    from minicpm_o.evaluation.vlmevalkit import MiniCPMORuntime
    supported_VLM["MiniCPM-o-nano"] = partial(MiniCPMORuntime, "nano")

The class exists only where vlmeval does, for it derives from its base; vlmeval is installed from its repository, no
package index has it. Written against vlmeval/vlm/base.py and the inference*.py of open-compass/VLMEvalKit (23757c4):
prompts are the dataset's own, pictures and words stay in their order, videos come whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from minicpm_o.api import MiniCPMO
from minicpm_o.errors import MessageError, MissingExtraError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart

Item = Mapping[str, Any]
"""{"type", "value"}, with {"role"} in some datasets of videos."""


def __getattr__(name: str) -> Any:
    """`MiniCPMORuntime`, made when it is asked for."""
    if name != "MiniCPMORuntime":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _model_class()


@cache
def _model_class() -> type:
    """Raises MissingExtraError where vlmeval is not installed."""
    try:
        from vlmeval.vlm.base import BaseModel
    except ImportError as error:
        raise MissingExtraError(f"vlmeval cannot be imported ({error}); no package index has it, install it from the "
                                "repository open-compass/VLMEvalKit") from error
    return type("MiniCPMORuntime", (Answers, BaseModel), {"__module__": __name__, "__doc__": Answers.__doc__})


def parts_of(items: Sequence[Item]) -> tuple[Part, ...]:
    """Items {"type": "text" | "image" | "video" | "audio", "value"} as they stand. Raises MessageError."""
    makers: dict[str, Any] = {"text": TextPart, "image": ImagePart, "video": VideoPart, "audio": AudioPart}
    for item in items:
        if item.get("type") not in makers or "value" not in item:
            raise MessageError(f"VLMEvalKit gave {dict(item)!r}; expected \"type\" (one of {', '.join(makers)}) and "
                               '"value"')
    return tuple(makers[item["type"]](item["value"]) for item in items)


def messages_of(items: Sequence[Item]) -> list[Message]:
    """The items of one question: a turn of the user, or turns where items name a role. Raises MessageError."""
    turns = [Message(role, parts_of(list(same)))
             for role, same in groupby(items, key=lambda item: item.get("role", "user"))]
    return _for_an_answer(turns)


def _for_an_answer(turns: list[Message]) -> list[Message]:
    if not turns or turns[-1].role != "user":
        raise MessageError(f"the last turn is of {turns[-1].role if turns else 'nobody'}; an answer follows a turn of "
                           "the user, and its beginning cannot be given")
    return turns


class Answers:
    """A model of this package, greedy with one beam unless told otherwise.

    pretrained: as of `MiniCPMO`, and so are loading's threads, device, dtype and so on; max_tokens, temperature,
    num_beams, transcript: as of `MiniCPMO.chat`.
    """

    is_api = False
    INTERLEAVE = True
    VIDEO_LLM = True
    """A video comes as its file, not as pictures."""
    allowed_types = ("text", "image", "video", "audio")

    def __init__(self, pretrained: str = "nano", *, max_tokens: int | None = None, temperature: float = 0.0,
                 num_beams: int = 1, transcript: bool = True, **loading: Any) -> None:
        super().__init__()
        self.answering: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "num_beams": num_beams,
                                          "transcript": transcript}
        self.model = MiniCPMO.from_pretrained(pretrained, **loading)

    def generate_inner(self, message: Sequence[Item], dataset: str | None = None) -> str:
        """The answer to one question; its words are the same whatever the dataset."""
        return self.model.chat(messages_of(message), **self.answering).text

    def chat_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to turns {"role", "content": items}.

        VLMEvalKit leaves out the oldest turns and tries again when this raises; the package does so itself where room
        is wanting."""
        turns = [Message(turn["role"], parts_of(turn["content"])) for turn in message]
        return self.model.chat(_for_an_answer(turns), **self.answering).text
