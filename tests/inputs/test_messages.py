"""Chat turns: OpenAI's forms, the flat history, and every wrong shape."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpm_o.errors import MessageError
from minicpm_o.inputs.messages import (
    AudioPart,
    ImagePart,
    Message,
    TextPart,
    VideoPart,
    messages_from_history,
    messages_from_openai,
)


def user(*parts: object) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def test_strings_and_roles() -> None:
    items = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "Ann"},
             {"role": "assistant", "content": ""}, {"role": "developer", "content": "x"}]
    assert messages_from_openai(items) == [
        Message("system", (TextPart("Be brief."),)), Message("user", (TextPart("Hi"),)),
        Message("assistant", (TextPart(""),)), Message("system", (TextPart("x"),))]


def test_openai_parts_keep_their_order() -> None:
    data = base64.b64encode(b"sound").decode()
    [message] = messages_from_openai(user(
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "image_url", "image_url": "photo.png"},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": f"data:audio/wav;base64,{data}"}},
        {"type": "audio_url", "audio_url": {"url": "http://example.invalid/a.wav"}},
        {"type": "video_url", "video_url": {"url": "clip.mp4"}},
        {"type": "input_video", "input_video": {"data": data, "format": "mp4"}},
    ))
    assert message.parts == (
        TextPart("a"), ImagePart("data:image/png;base64,AA=="), ImagePart("photo.png"), AudioPart(b"sound"),
        AudioPart(f"data:audio/wav;base64,{data}"), AudioPart("http://example.invalid/a.wav"), VideoPart("clip.mp4"),
        VideoPart(b"sound"))


@pytest.mark.parametrize("source", ["a.png", Path("a.png"), b"x", bytearray(b"x"), io.BytesIO(b"x")])
def test_short_forms_keep_the_source_as_it_is(source: object) -> None:
    parts = user({"type": "image", "image": source}, {"type": "audio", "audio": source},
                 {"type": "video", "video": source})
    [message] = messages_from_openai(parts)
    assert message.parts == (ImagePart(source), AudioPart(source), VideoPart(source))


def test_media_in_memory() -> None:
    image, waveform = Image.new("RGB", (4, 4)), np.zeros(5, np.float32)
    [message] = messages_from_openai(user({"type": "image", "image": image},
                                          {"type": "audio", "audio": waveform, "rate_hz": 8000}))
    assert message.parts[0].source is image
    assert message.parts[1].source is waveform and message.parts[1].rate_hz == 8000


def test_messages_and_parts_pass_through() -> None:
    message = Message("user", (TextPart("a"), ImagePart("b.png")))
    assert messages_from_openai([message, {"role": "user", "content": list(message.parts)}]) == [message, message]


def test_replies_of_an_api_can_be_sent_back_without_warnings() -> None:
    reply = {"role": "assistant", "content": "Yes.", "refusal": None, "annotations": [], "tool_calls": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert messages_from_openai([reply]) == [Message("assistant", (TextPart("Yes."),))]


def test_keys_without_effect_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="message 0: 'tool_calls' has no effect"):
        messages_from_openai([{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}])
    with pytest.warns(UserWarning, match="part 0 of message 0: 'cache_control' has no effect"):
        messages_from_openai(user({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}))


@pytest.mark.parametrize(("items", "words"), [
    ([], "empty list"),
    ("hello", "messages is a value of type str; expected a list"),
    ({"role": "user", "content": "x"}, "of type dict; expected a list"),
    (None, "is None; expected a list"),
    (["hello"], "message 0 is a value of type str; expected a dictionary with 'role'"),
    ([{"content": "x"}], "message 0 has no 'role'; it has 'content'"),
    ([{}], "no keys at all"),
    ([{"role": "user"}], "message 0 has no 'content'"),
    ([{"role": "user", "content": "a"}, {"role": "tool", "content": "x"}], "message 1 has the unknown role 'tool'"),
    ([{"role": ["user"], "content": "x"}], "unknown role"),
    ([{"role": "user", "content": None}], "content of message 0 is None"),
    ([{"role": "user", "content": 5}], "is a value of type int; expected a string or a list"),
    ([{"role": "user", "content": ""}], "message 0: the user message is empty"),
    ([{"role": "user", "content": " \n"}], "message 0: the user message is empty"),
    ([{"role": "user", "content": []}], "message 0: .* no parts"),
    (user("text"), "part 0 of message 0 is a value of type str"),
    (user({"text": "x"}), "part 0 of message 0 has no 'type'"),
    (user({"type": "text", "text": "x"}, {"type": "smell"}), "part 1 of message 0 has the unknown type 'smell'"),
    (user({"type": ["text"]}), "unknown type"),
    (user({"type": "text"}), "has no 'text'"),
    (user({"type": "text", "text": 5}), "holds a value of type int"),
    (user({"type": "image_url"}), "has no 'image_url'"),
    (user({"type": "image_url", "image_url": {}}), "has no 'url'"),
    (user({"type": "image_url", "image_url": {"url": None}}), "None; expected a string"),
    (user({"type": "image_url", "image_url": {"url": ""}}), "is blank"),
    (user({"type": "input_audio", "input_audio": "data"}), "expected a dictionary with 'data'"),
    (user({"type": "input_audio", "input_audio": None}), "expected a dictionary with 'data'"),
    (user({"type": "input_audio", "input_audio": {"format": "wav"}}), "has no 'data'"),
    (user({"type": "input_audio", "input_audio": {"data": "*", "format": "wav"}}), "not valid base64"),
    (user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), "is blank"),
    (user({"type": "input_audio", "input_audio": {"data": "AA==", "format": "pcm16"}}), "raw pcm16.*send a wav"),
    (user({"type": "image", "image": None}), "None; expected a path"),
    (user({"type": "image", "image": 7}), "type int; expected a path"),
    (user({"type": "audio", "audio": [0.0, 0.1]}), "type list; expected a path"),
    (user({"type": "video", "video": " "}), "is blank"),
])
def test_wrong_messages(items: object, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        messages_from_openai(items)


def test_history_groups_what_the_user_says() -> None:
    waveform = np.zeros(5, np.float32)
    messages = messages_from_history([
        {"type": "system", "content": "Be brief."},
        {"type": "image", "content": "a.png"}, {"type": "text", "content": "What is it?"},
        {"type": "assistant", "content": "A cat."},
        {"type": "audio", "content": waveform, "rate_hz": 8000}, {"type": "video", "content": Path("v.mp4")},
    ])
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1].parts == (ImagePart("a.png"), TextPart("What is it?"))
    assert messages[2].parts == (TextPart("A cat."),)
    assert messages[3].parts[0].source is waveform and messages[3].parts[0].rate_hz == 8000
    assert messages[3].parts[1] == VideoPart(Path("v.mp4"))


@pytest.mark.parametrize(("items", "words"), [
    ([], "history is an empty list"),
    ("text", "expected a list"),
    ([{"type": "text"}], "history item 0 has no 'content'"),
    ([{"content": "x"}], "history item 0 has no 'type'"),
    ([{"type": "text", "content": "a"}, {"type": "user", "content": "x"}], "item 1 has the unknown type 'user'"),
    ([{"type": "text", "content": "  "}], "history item 0 is blank"),
    ([{"type": "assistant", "content": None}], "None; expected a string"),
    ([{"type": "image", "content": None}], "None; expected a path"),
    ([7], "history item 0 is a value of type int"),
])
def test_wrong_history(items: object, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        messages_from_history(items)


def test_message_checks_itself() -> None:
    with pytest.raises(MessageError, match="unknown role 'bot'"):
        Message("bot", (TextPart("x"),))
    with pytest.raises(MessageError, match="no parts"):
        Message("user", ())
