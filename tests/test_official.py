"""Both official versions through the whole package, on random weights: torch and the exported bundle, side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_ins import save_speaker, save_tokenizer

from minicpm_o import MiniCPMO
from minicpm_o.api import Reply
from minicpm_o.checkpoints.export import export_checkpoint
from minicpm_o.checkpoints.export_steps import ExportSettings
from minicpm_o.checkpoints.random_official import write_random_checkpoint
from minicpm_o.errors import CheckpointError, MemoryPlanError, MessageError, OptionError, UnknownModelError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.inputs.official_processor import PromptOptions
from minicpm_o.inputs.system_prompts import system_prompt
from minicpm_o.rates import SPEECH_RATE_HZ
from minicpm_o.runtime import opening
from minicpm_o.runtime.conversation import prompt_keys
from minicpm_o.runtime.engine import Engine

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

VERSIONS = ("4.5", "2.6")
TOKEN_SCALE = 10
"""Keeps the stand-in's speech tokens within the tiny flow's vocabulary."""
ROUNDED = 0.12
"""Largest rms of the difference that 8 bits make to logits and features, as a share of their own rms."""


@pytest.fixture(scope="module", params=VERSIONS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint; 4.5 has stand-ins for the networks that analyse a voice."""
    folder = tmp_path_factory.mktemp("official") / request.param
    write_random_checkpoint(folder, request.param)
    if request.param == "4.5":
        save_tokenizer(folder / "assets" / "token2wav" / "speech_tokenizer_v2_25hz.onnx", TOKEN_SCALE)
        save_speaker(folder / "assets" / "token2wav" / "campplus.onnx")
    return folder


@pytest.fixture(scope="module")
def on_torch(checkpoint: Path) -> MiniCPMO:
    return MiniCPMO.from_pretrained(checkpoint, dtype="float32", threads=1)


@pytest.fixture(scope="module")
def on_device(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MiniCPMO:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    export_checkpoint(checkpoint, folder, ExportSettings(bits=8, block_size=32), progress=False)
    return MiniCPMO.from_pretrained(folder, threads=1)


@pytest.fixture(scope="module", params=["torch", "device"])
def model(request: pytest.FixtureRequest, on_torch: MiniCPMO, on_device: MiniCPMO) -> MiniCPMO:
    chosen = on_torch if request.param == "torch" else on_device
    if chosen.name.endswith("4.5"):
        chosen.parts.voice.max_codes = 60  # random weights would talk to the limit
    return chosen


def picture(seed: int = 0, size: tuple[int, int] = (700, 300)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def user(*parts: Any) -> Message:
    kinds = {str: TextPart, Image.Image: ImagePart}
    return Message("user", tuple(AudioPart(part, 16000) if isinstance(part, np.ndarray) else kinds[type(part)](part)
                                 for part in parts))


def everything() -> list[Message]:
    """Two pictures, two sounds and words in one turn."""
    return [user(picture(0), "What?", sound(1.5), picture(1, (448, 448)), sound(0.7, 1))]


def greedy(model: MiniCPMO, messages: str | Sequence[Message], **more: Any) -> Reply:
    return model.chat(messages, temperature=0, max_tokens=8, **more)


# --- talking ---------------------------------------------------------------------------------------------------------


def test_media_are_counted(model: MiniCPMO) -> None:
    usage = greedy(model, everything()).usage
    assert usage.image > 2 * 64 and usage.audio > 15 and usage.text > 5 and usage.output > 0


def test_defaults_are_the_versions(model: MiniCPMO) -> None:
    defaults = model.parts.defaults()
    sampling = defaults.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.8, 100)
    is_45 = model.name.endswith("4.5")
    assert (sampling.repetition_penalty, defaults.num_beams) == ((1.02, 3) if is_45 else (1.05, 1))
    assert defaults.max_tokens == (4096 if is_45 else 2048)
    assert model.parts.defaults(streamed=True).num_beams == 1


def test_a_seed_repeats_an_answer(model: MiniCPMO) -> None:
    answers = [model.chat("Hello", seed=seed, max_tokens=6).text for seed in (1, 1, 2, 3, 4)]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


def test_words_come_as_a_stream(model: MiniCPMO) -> None:
    *deltas, reply = model.chat("Hello", seed=5, max_tokens=8, stream=True)
    assert "".join(delta.text for delta in deltas).strip() == reply.text
    assert len(deltas) >= reply.usage.output


def test_cached_is_uncached(model: MiniCPMO) -> None:
    turn = everything()[0]
    first = greedy(model, [turn])
    turns = [turn, Message("assistant", (TextPart(first.text or "Well."),)), user("And?", picture(3))]
    cached = greedy(model, turns)
    model.forget()
    fresh = greedy(model, turns)
    assert cached.usage.cached > 100 and fresh.usage.cached == 0
    assert cached.text == fresh.text


def test_a_new_process_finds_a_picture_on_disk(model: MiniCPMO, tmp_path: Path) -> None:
    """Of a bundle; what torch has read is not kept, and nothing is said of it."""
    fresh = greedy(MiniCPMO.from_parts(model.parts), everything())
    for _ in range(2):
        reply = greedy(MiniCPMO.from_parts(model.parts, prefix_cache=tmp_path / "prefixes"), everything())
        assert reply.text == fresh.text
    has_store = isinstance(model.parts.engine, Engine)
    assert (reply.usage.cached > 100) == has_store == (tmp_path / "prefixes").exists()


def test_a_cached_sound_is_heard_as_beside_a_longer_one(model: MiniCPMO) -> None:
    """The last block of a sound hears what it is filled up with to the longest of its prompt."""
    first = user(sound(1.5))
    before = model.parts.prepare([first])
    later = model.parts.prepare([first, Message("assistant", (TextPart("Well."),)), user(sound(3, 1), sound(0.4, 2))])
    place = before.media[0].spans[0].start
    assert prompt_keys(before)[place] != prompt_keys(later)[place], "the cache would not be what is heard now"
    for item, together in zip(later.media, model.parts.encode(later.media), strict=True):
        np.testing.assert_array_equal(model.parts.encode([item])[0], together)


def test_many_are_each_alone(model: MiniCPMO) -> None:
    """With and without sound in one batch, which the reference cannot run."""
    conversations = ["Hello, who are you?", everything(), [user("Hm?", sound(0.6))], [user(picture(2, (100, 400)))]]
    together = model.chat_many(conversations, temperature=0, max_tokens=8)
    model.forget()
    alone = [greedy(model, conversation) for conversation in conversations]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.finish_reason for reply in together] == [reply.finish_reason for reply in alone]
    assert [reply.usage.prompt for reply in together] == [reply.usage.prompt for reply in alone]


def test_prompt_options_count(model: MiniCPMO) -> None:
    turn = [user(picture(0, (1000, 800)))]
    whole, cut = (greedy(model, turn, options=PromptOptions(max_slice_nums=slices)).usage.image for slices in (1, 4))
    assert cut >= whole + 2 * 64


def test_beams_find_an_answer_at_least_as_likely(model: MiniCPMO) -> None:
    assert greedy(model, "Hello", num_beams=3).usage.output > 0


def test_beams_share_what_torch_has_read(on_torch: MiniCPMO) -> None:
    """A copy of a cache costs no memory until either goes on, and neither then changes the other."""
    engine = on_torch.parts.engine
    cache = engine.new_cache()
    engine.prefill(engine.embed([5, 6, 7]), cache)
    copy = cache.copy()
    keys = [item._layers()[0].keys for item in (cache, copy)]
    assert keys[0].data_ptr() == keys[1].data_ptr()
    after = engine.decode(8, copy).logits
    engine.decode(9, cache)
    assert (cache.length, copy.length) == (4, 4)
    copy.truncate(3)
    np.testing.assert_array_equal(engine.decode(8, copy).logits, after)


# --- the article ------------------------------------------------------------------------------------------------------


def test_the_articles_methods(model: MiniCPMO, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    import soundfile

    soundfile.write(tmp_path / "a.wav", sound(1), 16000)
    ask = {"max_tokens": 4}
    assert model.chat([user(picture())], **ask).usage.output
    history = [{"type": "image", "content": str(tmp_path / "a.png")}, {"type": "audio", "content":
               str(tmp_path / "a.wav")}, {"type": "text", "content": "What?"}]
    from minicpm_o.inputs.messages import messages_from_history

    assert model.chat(messages_from_history(history), **ask).usage.audio
    assert isinstance(model.transcribe(tmp_path / "a.wav", language="en").text, str)


# --- speech -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return sound(1.0, 7)


def speaking(model: MiniCPMO, voice: np.ndarray) -> list[Message]:
    version = model.parts.processor.version
    return [system_prompt(version, "audio_assistant", language="en", ref_audio=voice, rate_hz=16000), user("Hello")]


def test_an_answer_is_spoken_in_the_given_voice(model: MiniCPMO, voice: np.ndarray) -> None:
    reply = model.chat(speaking(model, voice), seed=3, max_tokens=6, generate_audio=True)
    assert reply.speech is not None and reply.speech.rate_hz == SPEECH_RATE_HZ
    assert len(reply.speech.waveform) > 2000 and np.isfinite(reply.speech.waveform).all()
    again = model.chat(speaking(model, voice), seed=3, max_tokens=6, generate_audio=True)
    assert again.text == reply.text and again.speech is not None
    np.testing.assert_allclose(again.speech.waveform, reply.speech.waveform, atol=1e-4)


def test_the_next_turn_goes_on_after_speaking(model: MiniCPMO, voice: np.ndarray) -> None:
    turns = speaking(model, voice)
    reply = model.chat(turns, seed=3, max_tokens=6, generate_audio=True)
    more = [*turns, Message("assistant", (TextPart(reply.text or "Well."),)), user("More?")]
    cached = greedy(model, more)
    model.forget()
    assert cached.text == greedy(model, more).text


def test_a_text_is_read_aloud(model: MiniCPMO, voice: np.ndarray, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "voice.wav", voice, 16000)
    try:
        speech = model.speak("Good morning.", tmp_path / "out.wav", voice=str(tmp_path / "voice.wav"))
    except OptionError as error:  # random weights may answer with nothing that can be written
        assert "answered nothing" in str(error)
    else:
        assert (tmp_path / "out.wav").stat().st_size > 1000 and speech.seconds > 0


def test_no_words_are_no_sound(model: MiniCPMO, voice: np.ndarray) -> None:
    parts = model.parts
    inputs = parts.prepare(speaking(model, voice), options=PromptOptions(use_tts_template=True))
    cache = parts.engine.new_cache()
    parts.engine.prefill(parts.engine.embed(inputs.ids), cache)
    said = parts.say(inputs, [parts.tokenizer.special.tts_bos], cache, ref_audio=voice)
    assert len(said.waveform) == 0


def test_4_5_needs_a_voice(model: MiniCPMO) -> None:
    if model.name.endswith("2.6"):
        pytest.skip("2.6 has a voice of its own")
    with pytest.raises(MessageError, match="ref_audio"):
        model.chat("Hello", seed=3, max_tokens=4, generate_audio=True)


class Listener:
    """Stands in front of a voice and notes what it is given."""

    def __init__(self, voice: Any) -> None:
        self.voice = voice
        self.ids: list[int] = []
        self.clip: Any = None

    def check(self, ref_audio: Any) -> None:
        self.voice.check(ref_audio)

    def speak(self, ids: Sequence[int], hidden: np.ndarray, **more: Any) -> Any:
        self.ids, self.clip = list(ids), more["ref_audio"]
        assert len(hidden) == len(self.ids)
        return self.voice.speak(ids, hidden, **more)


@pytest.fixture
def listener(model: MiniCPMO, monkeypatch: pytest.MonkeyPatch) -> Listener:
    found = Listener(model.parts.voice)
    monkeypatch.setitem(model.parts._opened, "voice", found)
    return found


def test_a_voice_keeps_its_rate_and_is_read_once(model: MiniCPMO, voice: np.ndarray, listener: Listener) -> None:
    """An array of 48 kHz is no clip of 16 kHz; an open file is empty once it was read for the prompt."""
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.repeat(voice, 3), 48000, format="WAV")
    for part in (AudioPart(np.repeat(voice, 3), 48000), AudioPart(io.BytesIO(file.getvalue()))):
        reply = model.chat([Message("user", (part, TextPart("Hello")))], seed=3, max_tokens=4, generate_audio=True)
        assert reply.speech is not None
        assert abs(len(listener.clip) - len(voice)) <= 2


def test_what_cannot_be_spoken_is_said_before_the_answer(model: MiniCPMO, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **more: Any) -> Any:
        raise AssertionError("nothing may be computed for an answer that cannot be spoken")

    monkeypatch.setattr(model.parts.engine, "prefill_chunks", never)
    if model.name.endswith("4.5"):
        with pytest.raises(MessageError, match="ref_audio"):
            model.chat("Hello", max_tokens=4, generate_audio=True)
    with pytest.raises(OptionError, match="ref_audio has no effect"):
        model.chat("Hello", max_tokens=4, ref_audio=sound(1))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_stop_string_is_not_spoken(model: MiniCPMO, voice: np.ndarray, listener: Listener, num_beams: int) -> None:
    turns = speaking(model, voice)
    tokenizer = model.parts.tokenizer
    full = greedy(model, turns, num_beams=num_beams, generate_audio=True)
    said = listener.ids
    stop = tokenizer.decode(said[3:5]).replace("\N{REPLACEMENT CHARACTER}", "")
    if not stop or full.speech is None:
        pytest.skip("these random weights say nothing that could stop them")
    cut = greedy(model, turns, num_beams=num_beams, stop=[stop], generate_audio=True)
    assert cut.finish_reason == "stop_string"
    if cut.speech is not None:
        assert len(listener.ids) < len(said)
        assert tokenizer.decode(listener.ids).strip() == cut.text


def test_a_full_window_is_spoken_to_its_last_word(model: MiniCPMO, voice: np.ndarray, listener: Listener,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = model.parts.prepare(speaking(model, voice), options=PromptOptions(use_tts_template=True))
    words = np.full(5, inputs.ids[1]).tolist()
    monkeypatch.setattr(type(model.parts.engine), "context_tokens", len(inputs.ids) + len(words) - 1)
    from minicpm_o.runtime.conversation import embed

    cache = model.parts.engine.new_cache()
    model.parts.engine.prefill(embed(inputs, 0, model.parts.engine, model.parts.encode), cache)
    assert model.parts.say(inputs, words, cache, ref_audio=voice, seed=1) is not None
    assert listener.ids == words[:-1]


def test_nobody_takes_the_cache_of_an_answer_that_is_being_spoken(model: MiniCPMO, voice: np.ndarray,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    idle: list[int] = []
    say = model.parts.say

    def watched(inputs: Any, ids: Any, cache: Any, **more: Any) -> Any:
        idle.extend(id(item.cache) == id(cache) for item in model._pool.idle)
        return say(inputs, ids, cache, **more)

    monkeypatch.setattr(model.parts, "say", watched)
    model.chat("Something else", temperature=0, max_tokens=2)
    assert model.chat(speaking(model, voice), seed=3, max_tokens=6, generate_audio=True).speech is not None
    assert idle and not any(idle)


def test_the_voice_stays_when_old_turns_are_left_out(model: MiniCPMO, voice: np.ndarray) -> None:
    """Also with 2.6, where the user says the system prompt."""
    shown = speaking(model, voice)
    long = [*shown, Message("assistant", (TextPart("Well. " * 200),)), user("More?")]
    short = [shown[0], user("More?")]
    from minicpm_o.api import _turns, _without_turns

    kept = _without_turns(_turns(long), 1, model.parts.config.version)
    assert [message.role for message in kept] == [message.role for message in short]
    assert kept[0] is shown[0]


def test_the_end_of_speech_ends_the_answer(model: MiniCPMO) -> None:
    """What comes after it is neither shown nor spoken by the official code."""
    assert model.parts.tokenizer.special.tts_eos in model.parts.eos_ids


# --- torch and device ------------------------------------------------------------------------------------------------


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, np.float64)))))


def test_the_bundle_is_the_network_within_its_rounding(on_torch: MiniCPMO, on_device: MiniCPMO) -> None:
    """Features of pictures and sound, and logits of a prompt with both; how much 8 bits change is stated above."""
    inputs = on_torch.parts.prepare(everything())
    assert inputs.ids.tolist() == on_device.parts.prepare(everything()).ids.tolist()
    exact, rounded = (parts.encode(inputs.media) for parts in (on_torch.parts, on_device.parts))
    for mine, theirs in zip(exact, rounded, strict=True):
        assert mine.shape == theirs.shape
        assert rms(mine - theirs) <= ROUNDED * rms(mine)
    from minicpm_o.runtime.conversation import embed

    steps = [parts.engine.prefill(embed(inputs, 0, parts.engine, parts.encode), parts.engine.new_cache())
             for parts in (on_torch.parts, on_device.parts)]
    assert rms(steps[0].logits - steps[1].logits) <= ROUNDED * rms(steps[0].logits)


def test_the_bundle_runs_without_torch(on_device: MiniCPMO) -> None:
    folder = on_device.parts.networks.folder
    code = (f"import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers'])); "
            f"from minicpm_o import MiniCPMO; model = MiniCPMO.from_pretrained({str(folder)!r}); "
            f"print(model.chat('Hello', temperature=0, max_tokens=3).usage.output)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_loading(checkpoint: Path, on_device: MiniCPMO,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpm_o.runtime.memory.available_memory_bytes", lambda: 10_000_000)
    for source in (checkpoint, on_device.parts.networks.folder):
        with pytest.raises(MemoryPlanError, match="GB are available"):
            MiniCPMO.from_pretrained(source)


def test_the_check_of_memory_can_be_left_out(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1, total=1))
    with pytest.raises(CheckpointError):
        MiniCPMO.from_pretrained(checkpoint)
    assert greedy(MiniCPMO.from_pretrained(checkpoint, check_memory=False), "Hello").usage.output


def test_parts_left_out_say_so(checkpoint: Path) -> None:
    model = MiniCPMO.from_pretrained(checkpoint, dtype="float32", vision=False, hearing=False, speech=False)
    assert greedy(model, "Hello").usage.output
    with pytest.raises(MessageError, match="without vision"):
        greedy(model, [user(picture())])
    with pytest.raises(MessageError, match="without hearing"):
        greedy(model, [user(sound(1))])


def test_options_that_have_no_effect_are_refused(checkpoint: Path, on_device: MiniCPMO) -> None:
    with pytest.raises(OptionError, match="dtype has no effect on an exported bundle"):
        MiniCPMO.from_pretrained(on_device.parts.networks.folder, dtype="float32")
    with pytest.raises(OptionError, match="parts has no effect on an official checkpoint"):
        MiniCPMO.from_pretrained(checkpoint, parts={"language": "x"})
    with pytest.raises(OptionError, match="float64"):
        MiniCPMO.from_pretrained(checkpoint, dtype="float64")
    with pytest.raises(TypeError, match="no argument 'devise'"):
        MiniCPMO.from_pretrained(checkpoint, devise="cpu")
    with pytest.raises(CheckpointError, match="no device 'warp'"):
        MiniCPMO.from_pretrained(checkpoint, device="warp")


def test_no_such_model() -> None:
    with pytest.raises(UnknownModelError, match="nothing/such"):
        MiniCPMO.from_pretrained("nothing/such")


def test_without_torch_the_way_out_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minicpm_o.runtime.torch_parts", None)
    with pytest.raises(ImportError, match=r"minicpm-o\[torch\].*minicpm-o export"):
        opening.open_parts(checkpoint)
