"""Media, addresses, sound formats, places in line: what callers may send and what they get for it."""

from __future__ import annotations

import asyncio
import base64
import http.server
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.inputs.audio import load_audio
from minicpm_o.server.config import Limits, ServerConfig
from minicpm_o.server.errors import ApiError
from minicpm_o.server.fetch import fetch, public_address
from minicpm_o.server.media import MediaReader, from_pcm16, pcm16
from minicpm_o.server.schema import ChatMessage, ChatRequest
from minicpm_o.server.slots import Slots
from minicpm_o.server.sound_formats import FORMATS, SoundWriter, whole
from minicpm_o.server.tools import answer_form, plain_messages, tool_calls

RATE_HZ = 24_000


def tone(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(RATE_HZ * seconds)) / RATE_HZ)).astype(np.float32)


def reader(**options) -> MediaReader:
    return MediaReader(ServerConfig(port=0, **options), {"audio_1": "earlier words"}.get)


def user(*parts: dict) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def test_media_come_as_data_addresses_and_base64(samples: Path) -> None:
    photo = base64.b64encode((samples / "photo.jpg").read_bytes()).decode()
    sound = base64.b64encode((samples / "speech.wav").read_bytes()).decode()
    (message,) = reader().messages(user(
        {"type": "text", "text": "Look."},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{photo}"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:image/jpeg;base64,{photo}"}}))
    assert [type(part).__name__ for part in message.parts] == ["TextPart", "ImagePart", "AudioPart", "ImagePart"]


def test_an_earlier_spoken_answer_stands_for_its_words() -> None:
    found = reader().messages([{"role": "assistant", "content": None, "audio": {"id": "audio_1"}}, *user(
        {"type": "text", "text": "Go on."})])
    assert found[0].parts[0].text == "earlier words"
    with pytest.raises(ApiError, match="audio_9"):
        reader().messages([{"role": "assistant", "audio": {"id": "audio_9"}}])


@pytest.mark.parametrize(("part", "words"), [
    ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "data: address"),
    ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "--media-folder"),
    ({"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}, "--allow-urls"),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}}, "no valid base64"),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}, "picture"),
    ({"type": "image_url", "image_url": {}}, "data: address"),
    ({"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}}, "sound"),
    ({"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "pcm16"}}, "wav file"),
    ({"type": "input_audio", "input_audio": "x"}, "base64 'data'"),
    ({"type": "file", "file": {"file_id": "file-1"}}, "file ids"),
    ({"type": "image", "image": "/etc/passwd"}, "not known"),
    ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,aGVsbG8="}}, "video"),
])
def test_what_cannot_be_read_is_refused_with_its_place(part: dict, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        reader().messages(user(part))
    assert refused.value.status == 400 and refused.value.param.startswith("messages[0].content[0]")


def test_sounds_have_a_longest_length() -> None:
    data = base64.b64encode(whole("wav", tone(3.0), RATE_HZ)).decode()
    with pytest.raises(ApiError, match="limit of 2 s"):
        reader(limits=Limits(max_media_s=2)).messages(user({"type": "input_audio", "input_audio": {
            "data": data, "format": "wav"}}))


def test_local_files_are_read_below_one_folder_alone(tmp_path: Path) -> None:
    inside = tmp_path / "media"
    inside.mkdir()
    (inside / "a.txt").write_bytes(b"inside")
    (tmp_path / "b.txt").write_bytes(b"outside")
    (inside / "link.txt").symlink_to(tmp_path / "b.txt")
    found = reader(media_folder=inside)
    assert found.read("file:///a.txt", "") == b"inside" and found.read(f"file://{inside}/a.txt", "") == b"inside"
    for path in ("/../b.txt", "/link.txt", f"{tmp_path}/b.txt", "/missing.txt", "/"):
        with pytest.raises(ApiError, match="media folder"):
            found.read(f"file://{path}", "")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fd00::1",
                                     "0.0.0.0"])
def test_private_addresses_are_never_fetched(address: str) -> None:
    with pytest.raises(ApiError, match="no public address"):
        public_address(urlsplit("http://innocent.example/x"), lambda *_: [address])
    with pytest.raises(ApiError, match="no public address"):
        public_address(urlsplit("http://innocent.example/x"), lambda *_: ["93.184.216.34", address])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://inner.example/secret")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/gone" else 404)
        self.end_headers()
        self.wfile.write(b"x" * 2000)

    def log_message(self, *_: object) -> None:
        pass


def test_fetching_keeps_its_limits_and_checks_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://outer.example:{server.server_port}"
    looked: list[str] = []

    def lookup(host: str, port: int) -> list[str]:
        looked.append(host)
        return ["10.0.0.1"] if host == "inner.example" else ["127.0.0.1"]

    import minicpm_o.server.fetch as module
    monkeypatch.setattr(module.ipaddress, "ip_address", lambda text: type("Public", (), {
        "is_global": text != "10.0.0.1"}))
    assert len(fetch(f"{address}/fine", 5000, lookup=lookup)) == 2000
    with pytest.raises(ApiError, match="larger than"):
        fetch(f"{address}/fine", 1000, lookup=lookup)
    with pytest.raises(ApiError, match="404"):
        fetch(f"{address}/gone", 5000, lookup=lookup)
    with pytest.raises(ApiError, match="'inner.example' is no public"):
        fetch(f"{address}/moved", 5000, lookup=lookup)
    with pytest.raises(ApiError, match="only http"):
        fetch("ftp://outer.example/x", 5000, lookup=lookup)
    server.shutdown()


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("pcm")])
def test_sounds_are_written_piece_by_piece(name: str) -> None:
    writer, sound = SoundWriter(name, RATE_HZ), tone(1.5)
    first = writer.write(sound[:RATE_HZ])
    data = first + writer.write(sound[RATE_HZ:]) + writer.close()
    heard = load_audio(data)
    assert abs(len(heard) / 16_000 - 1.5) < 0.1 and 0.2 < np.abs(heard).max() < 0.4


def test_bare_samples_go_there_and_back() -> None:
    sound = tone(0.1)
    assert np.abs(from_pcm16(pcm16(sound)) - sound).max() < 1e-4
    assert whole("pcm", sound, RATE_HZ) == pcm16(sound) and len(from_pcm16(b"123")) == 1
    with pytest.raises(OptionError, match="'mp9'"):
        SoundWriter("mp9", RATE_HZ)


def test_places_are_given_first_come_first_served() -> None:
    async def run() -> None:
        slots, told = Slots(1), []
        assert slots.take("a") and slots.take("a") and not slots.take("b") and not slots.take("c")
        assert (slots.position("b"), slots.position("c")) == (1, 2) and slots.eta_s("c") > slots.eta_s("b") > 0
        waiting = asyncio.create_task(slots.wait("c", lambda place, _: told.append(place)))
        await asyncio.sleep(0)
        slots.leave("b")
        await asyncio.sleep(0)
        slots.leave("a")
        await asyncio.wait_for(waiting, 5)
        assert told == [2, 1] and slots.taken == {"c"}
        slots.leave("nobody")

    asyncio.run(run())


def chat(**fields) -> ChatRequest:
    return ChatRequest.model_validate({"model": "nano", "messages": [{"role": "user", "content": "Hi."}], **fields})


TOOL = {"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}


def test_the_form_of_an_answer_follows_the_request() -> None:
    assert answer_form(chat()) is None and answer_form(chat(response_format={"type": "text"})) is None
    assert answer_form(chat(response_format={"type": "json_object"})) == {"type": "object"}
    assert "anyOf" in answer_form(chat(tools=[TOOL], tool_choice="required"))
    assert answer_form(chat(tools=[TOOL])).startswith("start: text | call")
    assert answer_form(chat(tools=[TOOL], tool_choice="none")) is None
    for wrong in ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "stay"}}},
                  {"tool_choice": "required"}, {"response_format": {"type": "grammar"}}):
        with pytest.raises(ApiError):
            answer_form(chat(**wrong))


def test_calls_are_read_from_answers_and_shown_to_the_model() -> None:
    tools = chat(tools=[TOOL]).tools
    (call,) = tool_calls('{"name": "go", "arguments": {"far": true}}', tools)
    assert call["function"] == {"name": "go", "arguments": '{"far": true}'}
    for text in ("go", "{}", '{"name": "stay"}', "[1]"):
        assert tool_calls(text, tools) == []
    laid = plain_messages([ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Go."),
                           ChatMessage(role="assistant", tool_calls=[call]),
                           ChatMessage(role="tool", tool_call_id="x", content="gone")], tools)
    assert "go" in laid[0]["content"][-1]["text"] and laid[2]["content"] == '{"name": "go", "arguments": {"far": true}}'
    assert laid[3] == {"role": "user", "content": "The function returned: gone"}
