"""Several questions at a time, draws from a seed, voices measured, texts matched to media."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicpm_o import MiniCPMO
from minicpm_o.errors import OptionError
from minicpm_o.evaluation.asking import Decoding
from minicpm_o.evaluation.clips import speechless_clips
from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.spoken import at_audio_rate, quality
from minicpm_o.evaluation.tasks import Item
from minicpm_o.evaluation.tasks.retrieval import pair_tasks
from minicpm_o.evaluation.together import in_threads


@dataclass
class Everything:
    """Knows the text of each medium by its name, speaks tones, draws numbers."""

    texts: dict[str, str] = field(default_factory=dict)
    seeds: list[Any] = field(default_factory=list)
    slots: int = 1
    name: str = "everything"

    def chat(self, messages: Any, *, seed: int | None = None, **options: Any) -> Any:
        self.seeds.append((seed, options["temperature"]))
        return SimpleNamespace(text="a red square", timing=SimpleNamespace(ttft_s=0.25, tokens_per_s=None))

    def losses(self, messages: Any, texts: list[str], *, transcript: bool = True) -> list[Any]:
        (name,) = [str(part["image"]).rpartition("/")[2] for part in messages[0]["content"] if part["type"] == "image"
                   ] or [""]
        return [SimpleNamespace(loss=len(text) - 1.0 * (self.texts.get(name) == text), num_tokens=1) for text in texts]

    def transcribe(self, source: Any, *, own_ears: bool = False) -> str:
        return "hello there"

    def speak(self, text: str) -> Any:
        return SimpleNamespace(waveform=np.full(24_000, 0.1, np.float32), rate_hz=24_000)

    def share(self, slots: int) -> None:
        self.slots = slots


def captioned(data: Any, count: int) -> dict[str, str]:
    names = [f"{number}.png" for number in range(count)]
    data.images("flickr8k/images", *names)
    texts = {name: f"{'very ' * number}red square number {number}" for number, name in enumerate(names)}
    data.rows("flickr8k/captions.jsonl", [{"image": name, "en": [text]} for name, text in texts.items()])
    return texts


def test_a_text_finds_its_picture_whatever_it_scores_elsewhere(data: Any) -> None:
    model = Everything(captioned(data, 12))
    report = run_local(model, data.root, blind=True)
    line = report.task("flickr8k/retrieval")
    assert line.metrics["text_r1"] == line.metrics["medium_r1"] == 1.0, "long texts lose more, and are found"
    assert line.chance == pytest.approx(1 / 12) and line.blind["text_r1"] == pytest.approx(1 / 12)
    matching = report.task("flickr8k/matching")
    assert matching.score < 1.0, "the mean loss alone prefers a short text"
    assert matching.chance == 0.5


def test_fewer_media_are_scored_among_themselves(data: Any) -> None:
    model = Everything(captioned(data, 12))
    line = run_local(model, data.root, limit=3).task("flickr8k/retrieval")
    assert line.n == 3 and line.chance == pytest.approx(1 / 3)


def test_a_rival_is_the_most_similar_text() -> None:
    texts = ("a dog runs on grass", "a dog runs on sand", "two cars in the rain")
    items = [Item(text, (Media("image", b"", text),), "?", (text,)) for text in texts]
    _, matching = pair_tasks("x", items)
    rivals = {item.id: next(text for letter, text in item.choices.items() if letter not in item.expected)
              for item in matching.items}
    assert rivals[texts[0]] == texts[1] and rivals[texts[1]] == texts[0]


def test_a_voice_is_measured(data: Any) -> None:
    data.sounds("speech/audio", "1.wav")
    data.rows("speech/asr.jsonl", [{"audio": "1.wav", "text": "hello dear"}])
    line = run_local(Everything(), data.root, tasks=["speech/spoken"]).task("speech/spoken")
    assert line.headline == "wer" and line.score == 0.5 and line.metrics["real_time_factor"] >= 0.0
    assert 1.0 <= line.metrics["dnsmos_overall"] <= 5.0
    assert line.details["measured"]["spoken_s"]["mean"] == pytest.approx(1.0, abs=0.01)


def test_dnsmos_prefers_speech_to_the_same_under_noise(model: MiniCPMO) -> None:
    speech = model.speak("The train to the city leaves at half past nine.")
    clean = at_audio_rate(np.asarray(speech.waveform), speech.rate_hz)
    noise = np.resize(speechless_clips()["white_-20dB"], len(clean))
    better, worse = quality(clean), quality(np.clip(clean + noise, -1, 1).astype(np.float32))
    assert better["dnsmos_overall"] > worse["dnsmos_overall"] + 0.5
    assert better["dnsmos_background"] > worse["dnsmos_background"] + 0.5


def test_seconds_to_the_first_word_are_reported(data: Any) -> None:
    captioned(data, 2)
    line = run_local(Everything(), data.root).task("flickr8k/caption")
    assert line.details["measured"]["first_word_s"] == {"median": 0.25, "p95": 0.25, "mean": 0.25, "n": 2}


def test_together_as_alone(data: Any, tmp_path: Any) -> None:
    model = Everything(captioned(data, 6))
    alone = run_local(model, data.root, blind=True)
    together = run_local(model, data.root, blind=True, spread=in_threads(3), report_path=tmp_path / "r.json")
    assert model.slots == 3
    assert [(line.name, line.metrics, line.blind) for line in alone.tasks] == [
        (line.name, line.metrics, line.blind) for line in together.tasks]


def test_draws_are_told_and_never_mixed_with_others(data: Any, tmp_path: Any) -> None:
    captioned(data, 2)
    model, path = Everything(), tmp_path / "report.json"
    run_local(model, data.root, report_path=path, decoding=Decoding(0.7, seed=3), tasks=["flickr8k/caption"])
    assert set(model.seeds) == {(3, 0.7)}
    answers = path.with_name("report.answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["decoding"]["seed"] == 3 for line in answers)
    again = run_local(model, data.root, report_path=path, decoding=Decoding(0.7, seed=4), tasks=["flickr8k/caption"])
    assert any("another run" in note for note in again.notes)
    assert "seed 4" in again.settings["decoding"]


@pytest.mark.parametrize(("given", "words"), [((-1.0, None), "temperature is -1"), ((0.5, None), "no seed")])
def test_bad_decoding(given: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Decoding(*given)


def test_a_batch_is_at_least_one() -> None:
    with pytest.raises(OptionError, match="batch is 0"):
        in_threads(0)
