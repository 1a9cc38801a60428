"""The class for VLMEvalKit over a stand-in for its base: vlmeval is on no package index, so it is not run here.

The stand-in does what vlmeval/vlm/base.py (open-compass/VLMEvalKit, 23757c4) asks of a model: it checks the types of a
message against `allowed_types`, hands it to `generate_inner` or `chat_inner` and keeps `dump_image_func`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from minicpm_o import ImagePart, Message, MiniCPMO, TextPart, VideoPart
from minicpm_o.errors import MessageError, MissingExtraError
from minicpm_o.evaluation import vlmevalkit as adapter


class BaseModel:
    """The interface of vlmeval's."""

    INTERLEAVE = False
    allowed_types: Any = ("text", "image", "video")

    def __init__(self) -> None:
        self.dump_image_func: Any = None

    def use_custom_prompt(self, dataset: str) -> bool:
        return False

    def set_dump_image(self, dump_image_func: Any) -> None:
        self.dump_image_func = dump_image_func

    def generate(self, message: Any, dataset: str | None = None) -> str:
        items = [{"type": "text", "value": message}] if isinstance(message, str) else message
        assert all(item["type"] in self.allowed_types for item in items)
        return self.generate_inner(items, dataset)  # type: ignore[attr-defined]

    def chat(self, messages: list[dict[str, Any]], dataset: str | None = None) -> str:
        return self.chat_inner(messages, dataset=dataset)  # type: ignore[attr-defined]


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of the names that the adapter imports."""
    for name in ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vlmeval.vlm.base"].BaseModel = BaseModel  # type: ignore[attr-defined]
    adapter._model_class.cache_clear()
    yield
    adapter._model_class.cache_clear()


def test_the_class_answers_as_chat(kit: None, model: MiniCPMO, nano: Path, samples: Path) -> None:
    from minicpm_o.evaluation.vlmevalkit import MiniCPMORuntime

    supported_vlm: dict[str, Any] = {"MiniCPM-o-nano": partial(MiniCPMORuntime, str(nano), max_tokens=8)}
    made = supported_vlm["MiniCPM-o-nano"]()
    assert isinstance(made, BaseModel) and made.INTERLEAVE and made.VIDEO_LLM and not made.is_api
    made.set_dump_image(print)
    assert made.dump_image_func is print and not made.use_custom_prompt("MME")

    photo = str(samples / "photo.jpg")
    question = [{"type": "text", "value": "Look:"}, {"type": "image", "value": photo},
                {"type": "text", "value": "What is it?"}]
    turn = Message("user", (TextPart("Look:"), ImagePart(photo), TextPart("What is it?")))
    expected = model.chat([turn], max_tokens=8)
    assert made.generate(question, dataset="MME") == expected.text
    assert made.generate("Say hello.") == model.chat("Say hello.", max_tokens=8).text

    turns = [{"role": "user", "content": question},
             {"role": "assistant", "content": [{"type": "text", "value": expected.text}]},
             {"role": "user", "content": [{"type": "text", "value": "What colour?"}]}]
    more = [turn, Message("assistant", (TextPart(expected.text),)), Message("user", (TextPart("What colour?"),))]
    assert made.chat(turns, dataset="MMDU") == model.chat(more, max_tokens=8).text


def test_roles_of_items_become_turns() -> None:
    items = [{"type": "text", "value": "Be short.", "role": "system"}, {"type": "video", "value": "a.mp4"},
             {"type": "text", "value": "Why?", "role": "user"}]
    assert adapter.messages_of(items) == [Message("system", (TextPart("Be short."),)),
                                          Message("user", (VideoPart("a.mp4"), TextPart("Why?")))]


@pytest.mark.parametrize(("items", "words"), [
    ([{"type": "smell", "value": "x"}], "expected .type. .one of text, image, video, audio."),
    ([{"type": "text"}], "VLMEvalKit gave {'type': 'text'}"),
    ([{"type": "text", "value": "Best option: (", "role": "assistant"}], "the last turn is of assistant"),
    ([], "the last turn is of nobody"),
])
def test_what_cannot_be_asked_is_named(items: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(MessageError, match=words):
        adapter.messages_of(items)


def test_without_vlmeval_it_says_so() -> None:
    if importlib.util.find_spec("vlmeval") is not None:
        pytest.skip("vlmeval is installed")
    with pytest.raises(MissingExtraError, match="install it from the repository"):
        _ = adapter.MiniCPMORuntime
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        _ = adapter.Other
