"""4.5 live on random weights: whole seconds in, listening or sound out, lag told, and through the official dialect."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import serving
from PIL import Image
from stand_ins import save_speaker, save_tokenizer

from minicpm_o import MiniCPMO
from minicpm_o.errors import OptionError
from minicpm_o.evaluation.live import Attended, Unit, attend, live_config
from minicpm_o.runtime.decide import DecideConfig
from minicpm_o.runtime.live.duplex_session import MOST_WAITING, DuplexConfig, DuplexSession, open_duplex
from minicpm_o.runtime.live.events import AudioChunk, Interrupted, Lagging, Listening, Speaking, TextPiece
from minicpm_o.runtime.live.session import Work
from minicpm_o.runtime.window import WindowConfig
from minicpm_o.server.config import ServerConfig

pytest.importorskip("torch")
pytest.importorskip("transformers")
websockets = pytest.importorskip("websockets")

from minicpm_o.checkpoints.random_official import write_random_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MiniCPMO:
    folder = tmp_path_factory.mktemp("official") / "4.5"
    write_random_checkpoint(folder, "4.5")
    save_tokenizer(folder / "assets" / "token2wav" / "speech_tokenizer_v2_25hz.onnx", 10)
    save_speaker(folder / "assets" / "token2wav" / "campplus.onnx")
    return MiniCPMO.from_pretrained(folder, dtype="float32", threads=1)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))).astype(np.float32)


def opened(model: MiniCPMO, **options: Any) -> DuplexSession:
    return open_duplex(model.parts, ref_audio=sound(2.0, 1), config=DuplexConfig(seed=0, **options))


def through(live: DuplexSession, waveform: np.ndarray, size: int = 16_000) -> list[Any]:
    told: list[Any] = []
    for start in range(0, len(waveform), size):
        for item in live.hear(waveform[start : start + size]):
            assert isinstance(item, Work)
            told += item.run()
    return told


def summary(told: list[Any]) -> list[Any]:
    return [(type(event).__name__, getattr(event, "text", None)) for event in told]


def test_every_second_is_listened_to_or_answered(model: MiniCPMO) -> None:
    live = opened(model)
    told = through(live, sound(6.0))
    units = [event for event in told if isinstance(event, (Listening, TextPiece, AudioChunk))]
    assert live.stream.units_decided == 6 and len(units) >= 6
    for chunk in (event for event in told if isinstance(event, AudioChunk)):
        assert chunk.rate_hz == 24_000 and np.isfinite(chunk.waveform).all()


def test_whole_is_chunked(model: MiniCPMO) -> None:
    assert summary(through(opened(model), sound(5.0))) == summary(through(opened(model), sound(5.0), 3000))


def test_forced_units_listen(model: MiniCPMO) -> None:
    live = opened(model, force_listen=3)
    assert [type(event) for event in through(live, sound(3.0))] == [Listening] * 3
    live.interrupt()
    assert isinstance(through(live, sound(1.0))[-1], Listening)


def test_an_interrupted_turn_begins_anew(model: MiniCPMO) -> None:
    live = opened(model, decide=DecideConfig(greedy=True))
    told = through(live, sound(8.0))
    if any(isinstance(event, Speaking) for event in told) and live.is_busy:
        assert isinstance(live.interrupt(), Interrupted)
        assert isinstance(through(live, sound(1.0))[0], Listening) and live.voice.turn is None
    assert live.interrupt() is None or not live.is_busy


def test_what_cannot_be_kept_up_with_is_left_out_and_told(model: MiniCPMO) -> None:
    live = opened(model)
    (work,) = live.hear(sound(float(MOST_WAITING + 3)))
    told = list(work.run())
    assert told[0] == Lagging(3) and live.stream.units_decided == MOST_WAITING


def test_long_sessions_stay_within_their_window(model: MiniCPMO) -> None:
    live = opened(model, window=WindowConfig("basic", high=200, low=120))
    lengths = []
    for _ in range(30):
        through(live, sound(1.0))
        lengths.append(live.num_cached)
    assert max(lengths) <= 240


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_an_evaluated_stream_is_told_the_same_again(model: MiniCPMO, temperature: float) -> None:
    units = [Unit(number + 1.0, sound(1.0, number), Image.new("RGB", (64, 64), "red")) for number in range(4)]

    def run() -> Attended:
        return attend(*model.live_session("Say stop when it turns green.", live_config(16, temperature, 3)), units)

    assert model.has_live
    first = run()
    assert first.said and first.said == run().said, "random weights speak, and the same each time"
    assert all(one.time_s in (1, 2, 3, 4) and one.content for one in first.said)
    assert first.measured["unit_max_s"] >= first.measured["unit_s"] > 0


def test_others_are_refused(nano: Path) -> None:
    with pytest.raises(OptionError, match="4.5 was"):
        open_duplex(MiniCPMO.from_pretrained(str(nano)).parts)


def test_clients_of_the_official_demo_are_served(model: MiniCPMO) -> None:
    clip = model_clip()

    async def act(url: str) -> list[str]:
        async with websockets.connect(f"{url}?mode=video", max_size=None) as socket:
            await socket.send(json.dumps({"type": "session.update", "session": {
                "instructions": "Streaming Omni Conversation.", "ref_audio": clip}}))
            created = json.loads(await asyncio.wait_for(socket.recv(), 60))
            assert created["type"] == "session.created" and created["prompt_length"] > 10, created
            kinds: list[str] = []
            for number in range(4):
                piece = base64.b64encode(sound(1.0, number).astype("<f4").tobytes()).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
                event = json.loads(await asyncio.wait_for(socket.recv(), 60))
                assert event["kv_cache_length"] > created["prompt_length"]
                kinds.append(event["type"])
            return kinds

    with serving(model, ServerConfig(port=0)) as server:
        kinds = asyncio.run(act(server.live_url))
    assert set(kinds) <= {"response.listen", "response.output_audio.delta"}


def model_clip() -> str:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, sound(2.0, 1), 16_000, format="WAV")
    return base64.b64encode(file.getvalue()).decode()
