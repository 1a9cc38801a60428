"""The command line on the official models: every verb on a tiny random checkpoint and on a bundle of it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from stand_ins import save_speaker, save_tokenizer

from minicpm_o.checkpoints.export import export_checkpoint
from minicpm_o.checkpoints.export_steps import ExportSettings
from minicpm_o.checkpoints.random_official import write_random_checkpoint
from minicpm_o.cli import loading
from minicpm_o.cli.app import run
from minicpm_o.runtime import official_voice

VERSIONS = ("4.5", "2.6")
TOKEN_SCALE = 10
"""Keeps the stand-in's speech tokens within the tiny flow's vocabulary."""
FEW = ["--max-tokens", "4"]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def checkpoint(version: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("official") / version
    write_random_checkpoint(folder, version)
    if version == "4.5":
        save_tokenizer(folder / "assets" / "token2wav" / "speech_tokenizer_v2_25hz.onnx", TOKEN_SCALE)
        save_speaker(folder / "assets" / "token2wav" / "campplus.onnx")
    return str(folder)


@pytest.fixture(scope="module")
def bundle(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    export_checkpoint(Path(checkpoint), folder, ExportSettings(bits=8, block_size=32), progress=False)
    return str(folder)


@pytest.fixture(scope="module", params=["checkpoint", "bundle"])
def model(request: pytest.FixtureRequest, checkpoint: str, bundle: str) -> str:
    if request.param == "bundle":
        return bundle
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return checkpoint


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights would talk to the limit, on the screen and aloud; and for so little one thread is quickest."""
    monkeypatch.setenv("MINICPM_O_THREADS", "1")
    monkeypatch.setattr(official_voice, "MAX_CODES", 60)
    monkeypatch.setattr("minicpm_o.api.READ_ALOUD_TOKENS", 6)
    monkeypatch.setattr("minicpm_o.runtime.generation_defaults.MAX_NEW_TOKENS", {"2.6": 6, "4.5": 6})


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 900, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.fixture
def sound(tmp_path: Path) -> str:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(7).standard_normal(16000), 16000)
    return str(tmp_path / "a.wav")


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening gigabytes would come too late for a wrong option."""

    def open_model(*args: Any, **options: Any) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(loading.MiniCPMO, "from_pretrained", open_model)


def told(capsys: pytest.CaptureFixture[str], args: list[str]) -> dict[str, Any]:
    """The one JSON object of a verb that went well."""
    code = run([*args, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


def first_seed_with_words(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Random weights may say nothing at all, which the verb then tells."""
    for seed in map(str, range(8)):
        if run([*args, "--seed", seed]) == 0:
            capsys.readouterr()
            return seed
        assert "the answer is empty" in capsys.readouterr().err
    raise AssertionError("eight seeds said nothing")


def refused(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """The one sentence of a verb that did not."""
    assert run(args) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("minicpm-o: ")
    return captured.err


# --- what each verb does ---------------------------------------------------------------------------------------------


def test_describe(model: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["describe", photo, "--model", model, *FEW]
    whole, cut = (told(capsys, [*args, "--slices", slices])["usage"]["image"] for slices in ("1", "4"))
    assert 64 <= whole <= cut - 2 * 64
    assert run([*args, "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() and "MiniCPM-o" in captured.err


def test_ask_hears_a_question_without_words(model: str, sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["ask", "--audio", sound, "--model", model, *FEW, "--own-ears"]
    alone = told(capsys, args)
    assert alone["usage"]["audio"] > 5 and 0 < alone["usage"]["output"] <= 4
    assert told(capsys, [*args, "What?"])["usage"]["text"] > alone["usage"]["text"], "words were made up for the sound"


def test_a_seed_repeats_an_answer(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [told(capsys, ["ask", "Hello", "--model", model, "--seed", seed])["text"] for seed in ("1", "1", "2", "3")]
    assert texts[0] == texts[1] and len(set(texts)) > 1


def test_ask_thinks_aloud(model: str, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["ask", "Hello", "--model", model, *FEW]
    if version == "2.6":
        assert "--thinking has no effect on MiniCPM-o 2.6" in refused(capsys, [*args, "--thinking"])
        return
    plain, thinking = (told(capsys, [*args, *more])["usage"]["text"] for more in ([], ["--thinking"]))
    assert thinking < plain, "a prompt without thinking ends with empty thoughts"


def test_ask_speaks_in_the_voice_of_a_clip(model: str, sound: str, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.wav"
    args = ["ask", "Hello", "--model", model, *FEW, "--ref-audio", sound, "--language", "en", "--speak", str(out)]
    seed = first_seed_with_words(capsys, args)
    found = told(capsys, [*args, "--seed", seed])
    assert found["usage"]["audio"] > 5, "the system prompt has the clip in it"
    assert found["speech"]["path"] == str(out) and found["speech"]["seconds"] > 0
    waveform, rate_hz = soundfile.read(out)
    assert rate_hz == 24000 and len(waveform) / rate_hz == pytest.approx(found["speech"]["seconds"], abs=1e-3)


def test_modes_are_system_prompts(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["ask", "Hello", "--model", bundle, *FEW]
    sizes = [told(capsys, [*args, *more])["usage"]["text"] for more in (
        [], ["--mode", "default"], ["--mode", "audio_assistant", "--language", "en"],
        ["--mode", "audio_assistant", "--language", "zh"])]
    assert len(set(sizes)) == 4 and min(sizes) == sizes[0]


def test_chat(model: str, photo: str, sound: str, monkeypatch: pytest.MonkeyPatch,
              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Hello\n/image {photo}\n/audio {sound}\n\n"))
    found = told(capsys, ["chat", "--model", model, "--system", "Be brief.", "--slices", "1", "--temperature", "0"])
    first, second = found["turns"]
    assert 0 < first["usage"]["output"] <= 6, "the limit is the model's own"
    assert second["usage"]["image"] >= 64 and second["usage"]["audio"] > 5 and second["usage"]["cached"] > 5


def test_transcribe(model: str, sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, ["transcribe", sound, "--model", model, "--language", "zh"])
    assert isinstance(found["text"], str) and found["language"] == "zh" and found["segments"] == []
    assert "write down" in refused(capsys, ["transcribe", sound, "--model", model, "--language", "fr"])
    assert "--own-ears has no effect" in refused(capsys, ["transcribe", sound, "--model", model, "--own-ears"])


def test_speak(model: str, sound: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.wav"
    code = run(["speak", "Good morning.", "--model", model, "--ref-audio", sound, "--output", str(out)])
    captured = capsys.readouterr()
    if code:  # random weights may answer with nothing that can be said
        assert "answered nothing" in captured.err or "talker ended" in captured.err
    else:
        assert captured.out == f"{out}\n" and soundfile.info(out).samplerate == 24000


def test_a_checkpoint_is_loaded_as_told(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    args = ["ask", "Hello", "--model", checkpoint, *FEW]
    assert told(capsys, [*args, "--device", "cpu", "--dtype", "float32", "--context", "512"])["usage"]["output"]
    assert "no device 'warp'" in refused(capsys, [*args, "--device", "warp"])
    assert "expected one of float32" in refused(capsys, [*args, "--dtype", "int3"])


def test_what_does_not_fit_is_tried_only_when_told(bundle: str, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("minicpm_o.runtime.memory.available_memory_bytes", lambda: 10_000_000)
    args = ["ask", "Hello", "--model", bundle, *FEW]
    assert "GB are available" in refused(capsys, args)
    assert told(capsys, [*args, "--no-memory-check"])["usage"]["output"]


# --- what has no effect is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "words"), [
    (["--transcript"], "--transcript has no effect on MiniCPM-o"),
    (["--voice", "anna", "--speak", "o.wav"], "--voice has no effect on MiniCPM-o"),
    (["--speed", "2", "--speak", "o.wav", "--voice", "x"], "--voice and --speed have no effect on MiniCPM-o"),
    (["--voice", "anna"], "--voice has no effect without --speak"),
    (["--speak", "o.txt"], "cannot write sound as .txt"),
    (["--slices", "2"], "--slices has no effect without a picture"),
    (["--mode", "shouting"], "no system prompt of mode 'shouting'"),
    (["--mode", "voice_cloning"], "needs ref_audio"),
    (["--language", "en"], "--language has no effect without a mode"),
    (["--mode", "omni", "--language", "fr"], "in language 'fr'"),
    (["--mode", "default", "--ref-audio", "a.wav"], "--ref-audio has no effect in --mode default"),
    (["--ref-audio", "nothing.wav"], "nothing.wav"),
    (["--image", "nothing.png"], "nothing.png"),
])
def test_ask_refuses(more: list[str], words: str, bundle: str, never_opened: None,
                     capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, ["ask", "Hello", "--model", bundle, *more])


@pytest.mark.usefixtures("never_opened")
def test_an_answer_needs_a_voice(bundle: str, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoken = ["ask", "Hello", "--model", bundle, "--speak", "o.wav"]
    if version == "4.5":
        assert "--ref-audio FILE" in refused(capsys, spoken)
    speak = ["speak", "Hello", "--model", bundle]
    assert "--ref-audio FILE" in refused(capsys, speak)
    assert "--voice has no effect" in refused(capsys, [*speak, "--voice", "anna"])
    assert "nothing.wav" in refused(capsys, [*speak, "--ref-audio", "nothing.wav"])


def test_2_6_speaks_in_a_voice_of_its_own(bundle: str, version: str, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    if version == "2.6":
        args = ["ask", "Hello", "--model", bundle, *FEW, "--seed", "3", "--speak", str(tmp_path / "o.wav")]
        assert told(capsys, args)["speech"]["seconds"] > 0


def test_an_empty_answer_is_not_spoken(bundle: str, sound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loading.MiniCPMO, "_say", lambda *args: None)
    out = tmp_path / "o.wav"
    assert run(["ask", "Hi", "--model", bundle, *FEW, "--ref-audio", sound, "--speak", str(out), "--quiet"]) == 2
    assert "nothing was spoken" in capsys.readouterr().err and not out.exists()


@pytest.mark.usefixtures("never_opened")
def test_chat_refuses(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--transcript has no effect" in refused(capsys, ["chat", "--model", bundle, "--transcript"])
    assert "--thinking and --slices have no effect on nano" in refused(capsys, ["chat", "--thinking", "--slices", "2"])


def test_a_bundle_knows_no_device(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    told_off = refused(capsys, ["ask", "Hello", "--model", bundle, "--device", "cuda"])
    assert "device has no effect on an exported bundle" in told_off


def test_bench_measures_nano(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "official_full_size.py" in refused(capsys, ["bench", "--model", bundle])


@pytest.mark.parametrize(("args", "words"), [
    (["ask", "Hi", "--mode", "omni", "--ref-audio", "a.wav", "--language", "en"],
     "--ref-audio and --mode and --language have no effect on nano"),
    (["describe", "a.jpg", "--slices", "2"], "--slices has no effect on nano"),
    (["speak", "Hi", "--ref-audio", "a.wav"], "--ref-audio has no effect on nano"),
    (["doctor", "--bits", "8"], "--bits has no effect without --memory"),
    (["doctor", "--model", "openbmb/MiniCPM-o-4_5", "--memory", "8GB", "--bits", "8", "--dtype", "float16"],
     "give one of them"),
])
def test_nano_refuses_what_is_the_official_models(args: list[str], words: str, never_opened: None,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, args)


def test_a_name_on_the_hub_is_known_without_it() -> None:
    assert loading.version_of("openbmb/MiniCPM-o-4_5") == "4.5"
    assert loading.version_of("MiniCPM-o-2_6") == "2.6"
    assert loading.version_of("nano") is None


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_knows_what_a_bundle_is_made_of(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    request = told(capsys, ["doctor", "--model", bundle, "--memory", "8GB"])["request"]
    assert (request["bits"], request["block_size"]) == (8, 32)
    assert "has 8" in refused(capsys, ["doctor", "--model", bundle, "--memory", "8GB", "--bits", "4"])


def test_doctor_tells_damage_of_an_official_model_and_nothing_of_nano(
        bundle: str, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    (broken / "language.onnx").write_bytes(b"")
    missing = told(capsys, ["doctor", "--model", str(broken)])["missing"]
    assert missing == [str(broken)]
    torn = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, torn)
    with (torn / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    assert told(capsys, ["doctor", "--model", str(torn)])["missing"] == [str(torn)]
