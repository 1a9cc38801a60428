"""The command line: options to calls, results to lines or one JSON object, errors to one sentence and an exit code."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

import minicpm_o
from minicpm_o.api import Reply, ReplyUsage
from minicpm_o.checkpoints.random_official import write_random_checkpoint
from minicpm_o.cli import bench, chat, doctor, evaluate, loading, models
from minicpm_o.cli.app import app, run, wants_json
from minicpm_o.cli.options import in_order
from minicpm_o.cli.output import report
from minicpm_o.errors import MissingExtraError, UnknownModelError
from minicpm_o.evaluation.report import Report, TaskLine
from minicpm_o.evaluation.speed import Measure
from minicpm_o.inputs.image import load_image
from minicpm_o.inputs.messages import AudioPart, ImagePart, TextPart, VideoPart, messages_from_openai
from minicpm_o.runtime.events import TextDelta
from minicpm_o.runtime.speech.speaker import Speech
from minicpm_o.runtime.timing import Timing
from minicpm_o.runtime.transcribe import Transcript

VERBS = ("describe", "ask", "chat", "transcribe", "speak", "models", "doctor", "export", "pull", "train", "data",
         "eval", "bench")
WORDS = ("A", " small", " answer.")


class StubModel:
    """Answers in three words and remembers what it was asked."""

    def __init__(self) -> None:
        self.name = "stub"
        self.plan = SimpleNamespace(threads=2, provider="CPUExecutionProvider")
        self.parts = SimpleNamespace(load_s=0.5)
        self.asked: list[Any] = []
        self.options: dict[str, Any] = {}
        self.during: Any = lambda: None
        """Called in the middle of an answer."""
        self.warnings: tuple[str, ...] = ()

    def chat(self, messages: Any, *, stream: bool, cancel: Any = None, **options: Any) -> Iterator[Any]:
        self.asked.append(list(messages))
        self.options = options
        for part in messages[-1].parts:
            if isinstance(part, ImagePart):
                load_image(part.source)
        said = ""
        for i, word in enumerate(WORDS):
            if cancel is not None and cancel.is_set():
                break
            said += word
            yield TextDelta(word, i)
            self.during()
        reason = "stop" if said == "".join(WORDS) else "cancelled"
        timing = Timing(0.25, 0.1, 20.0, 1.0, 100.0)
        yield Reply(said.strip(), reason, ReplyUsage(text=5, image=7, output=3), timing, self.name, self.warnings)

    def transcribe(self, source: Any, language: str | None = None, *, own_ears: bool = False,
                   allow_urls: bool = False) -> Transcript:
        said = "helo" if own_ears else "hello"
        return Transcript("" if "silence" in str(source) else said, language or "en")

    def speak(self, text: str, path: Any = None, voice: str | None = None, speed: float = 1.0) -> Speech:
        soundfile.write(path, np.zeros(24000), 24000)
        self.asked.append((text, voice, speed))
        return Speech(np.zeros(24000, np.float32), "")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    model = StubModel()
    for module in (loading, evaluate, bench):
        monkeypatch.setattr(module, "MiniCPMO", SimpleNamespace(from_pretrained=lambda *args, **options: model))
    return model


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def one_object(text: str) -> dict[str, Any]:
    """The only JSON object in text, with nothing around it."""
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


# --- the frame -------------------------------------------------------------------------------------------------------


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(verb in listed for verb in VERBS)
    for verb in VERBS:
        assert run([verb, "--help"]) == 0
        assert "Usage: minicpm-o" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    heavy = ["numpy", "onnxruntime", "PIL", "av", "tokenizers", "soundfile", "torch", "pydantic"]
    code = ("import sys; from minicpm_o.cli.app import run; code = run(['--help']); "
            f"print(code, sorted(set({heavy}) & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"


def test_no_verb_shows_help_and_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "describe" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == minicpm_o.__version__


@pytest.mark.parametrize("args", [["sing"], ["describe"], ["describe", "a.jpg", "--max-tokens", "0"],
                                  ["describe", "a.jpg", "--colour"], ["bench", "--rounds", "x"]])
def test_wrong_commands_are_one_sentence_and_exit_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minicpm-o: ")
    assert captured.err.count("\n") == 1
    assert run([*args, "--json"]) == 2
    assert set(one_object(capsys.readouterr().out)["error"]) == {"type", "message"}


def test_python_m_runs_it() -> None:
    done = subprocess.run([sys.executable, "-m", "minicpm_o", "sing", "--json"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "sing" in one_object(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_json_of_eval_is_a_file_unless_it_is_a_dash() -> None:
    assert wants_json(["ask", "hi", "--json"])
    assert not wants_json(["eval", "local", "--json", "report.json"])
    assert wants_json(["eval", "local", "--json", "-"])
    assert not wants_json([])


def test_environment_chooses_the_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MINICPM_O_MODEL", "no-such-model")
    assert run(["describe", "a.jpg"]) == 2
    assert "no-such-model" in capsys.readouterr().err


# --- describe and ask ------------------------------------------------------------------------------------------------


def test_describe_streams_the_answer(stub: StubModel, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", photo]) == 0
    captured = capsys.readouterr()
    assert captured.out == "A small answer.\n"
    assert "first word 0.10 s" in captured.err
    assert "5 text + 7 image tokens in, 3 out" in captured.err
    assert stub.asked[0][0].parts == (ImagePart(photo), TextPart("Describe this picture in one sentence."))


def test_describe_json_is_one_object(stub: StubModel, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub.during = lambda: print("noise of a library")
    stub.warnings = ("mind this",)
    assert run(["describe", photo, "--prompt", "Colour?", "--json"]) == 0
    captured = capsys.readouterr()
    found = one_object(captured.out)
    assert (found["text"], found["model"]) == ("A small answer.", "stub")
    assert found["usage"] == {"text": 5, "image": 7, "audio": 0, "video": 0, "cached": 0, "output": 3}
    assert set(found["timing"]) == {"load_s", "ttft_s", "tokens_per_s", "total_s", "peak_rss_mb"}
    assert found["timing"]["load_s"] >= 0.25
    assert found["warnings"] == ["mind this"]
    assert "noise of a library" in captured.err
    assert stub.asked[0][0].parts[-1] == TextPart("Colour?")


def test_quiet_says_nothing_on_stderr(stub: StubModel, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["describe", photo, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "num_beams"),
    [([], 3), (["--prompt", "What colour is it?"], 1), (["--temperature", "0.5"], 1), (["--beams", "5"], 5)],
)
def test_describe_tries_several_sentences_unless_it_is_asked_otherwise(
    stub: StubModel, photo: str, more: list[str], num_beams: int
) -> None:
    assert run(["describe", photo, *more]) == 0
    assert stub.options["num_beams"] == num_beams


def test_ask_keeps_the_order_of_media(stub: StubModel, photo: str) -> None:
    args = ["ask", "-i", photo, "--audio", "b.wav", f"--image={photo}", "What?", "--video", "c.mp4", "-a", "d.wav"]
    assert run([*args, "--own-ears", "--temperature", "0.5", "--seed", "3"]) == 0
    assert stub.asked[0][0].parts == (ImagePart(photo), AudioPart("b.wav"), ImagePart(photo), VideoPart("c.mp4"),
                                      AudioPart("d.wav"), TextPart("What?"))
    assert stub.options == {"max_tokens": None, "temperature": 0.5, "seed": 3, "num_beams": None, "transcript": False,
                            "options": None, "allow_urls": False}


def test_order_of_options_and_values() -> None:
    values = {"image": ["a", "c"], "audio": ["b"], "question": "?"}
    assert in_order(values, ["image", "question", "audio", "image"]) == [("image", "a"), ("audio", "b"), ("image", "c")]


@pytest.mark.parametrize(("media", "question"), [
    (["--audio", "a.wav"], "Answer the spoken question."),
    (["--video", "a.mp4"], "Describe this video in one sentence."),
])
def test_ask_without_words_asks_what_the_media_suggest(stub: StubModel, media: list[str], question: str) -> None:
    assert run(["ask", *media]) == 0
    assert stub.asked[0][0].parts[-1] == TextPart(question)


def test_ask_for_nothing_says_how(stub: StubModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "  "]) == 2
    assert "nothing to answer" in capsys.readouterr().err


def test_ask_speaks_the_answer(stub: StubModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.wav"
    assert run(["ask", "Hi", "--speak", str(out), "--voice", "anna", "--speed", "1.5", "--json"]) == 0
    assert one_object(capsys.readouterr().out)["speech"] == {"path": str(out), "seconds": 1.0}
    assert stub.asked[-1] == ("A small answer.", "anna", 1.5)
    assert out.is_file()


def test_bad_media_is_one_sentence(stub: StubModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    assert run(["describe", str(empty)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "empty.png" in captured.err
    assert "Traceback" not in captured.err
    assert run(["describe", str(empty), "--json"]) == 2
    assert one_object(capsys.readouterr().out)["error"]["type"] == "ImageError"


@pytest.fixture
def heeded_ctrl_c() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C; a test of it must not depend on that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_exits_130(stub: StubModel, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub.during = lambda: signal.raise_signal(signal.SIGINT)
    assert run(["describe", photo]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert run(["describe", photo, "--json"]) == 130
    assert one_object(capsys.readouterr().out)["error"]["message"] == "interrupted"


def test_a_program_error_is_not_hidden(stub: StubModel, photo: str) -> None:
    def break_down() -> None:
        raise ZeroDivisionError

    stub.during = break_down
    with pytest.raises(ZeroDivisionError):
        run(["describe", photo])


# --- chat ------------------------------------------------------------------------------------------------------------


def test_chat_reads_a_pipe(stub: StubModel, stdin: Any, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(f"/image {photo}\nWhat is it?\n\nSure?\n//really\n/quit\nnever asked\n")
    assert run(["chat", "--system", "Be brief.", "--quiet"]) == 0
    assert capsys.readouterr().out == "A small answer.\n" * 3
    first, second, third = stub.asked
    assert [message.role for message in second] == ["system", "user", "assistant", "user"]
    assert first[-1].parts == (ImagePart(photo), TextPart("What is it?"))
    assert second[-1].parts == (TextPart("Sure?"),)
    assert third[-1].parts == (TextPart("/really"),)


def test_chat_goes_on_after_errors(stub: StubModel, stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stdin("/image nothing.png\n/smell rose\n/audio\nHello\n")
    assert run(["chat"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "A small answer.\n"
    assert all(words in captured.err for words in ("nothing.png", "/smell", "/audio needs a file"))
    assert len(stub.asked[0][-1].parts) == 1


def test_chat_sends_media_that_are_left_at_the_end(stub: StubModel, stdin: Any, photo: str) -> None:
    stdin(f"/image '{photo}'\n")
    assert run(["chat"]) == 0
    assert stub.asked[0][-1].parts[0] == ImagePart(photo)


def test_chat_reset_history_and_save(stub: StubModel, stdin: Any, photo: str, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "chat.json"
    stdin(f"old\n/reset\n/image {photo}\nnew\n/history\n/save {saved}\n/save\n/help\n")
    assert run(["chat"]) == 2, "/save without a file is an error"
    captured = capsys.readouterr()
    assert f"user: [image {photo}] new\nassistant: A small answer.\n" in captured.out
    assert "old" not in captured.out
    assert "/video FILE" in captured.err
    messages = messages_from_openai(json.loads(saved.read_text(encoding="utf-8")))
    assert [message.role for message in messages] == ["user", "assistant"]
    assert messages[0].parts == (ImagePart(photo), TextPart("new"))


def test_ctrl_c_stops_the_answer_and_not_the_chat(stub: StubModel, stdin: Any,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    presses = iter([True])
    stub.during = lambda: signal.raise_signal(signal.SIGINT) if next(presses, False) else None
    before = signal.getsignal(signal.SIGINT)
    stdin("one\ntwo\n")
    assert run(["chat"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "A\nA small answer.\n"
    assert "(stopped)" in captured.err
    assert [message.role for message in stub.asked[1]] == ["user", "assistant", "user"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_leaves_the_chat(stub: StubModel, stdin: Any) -> None:
    def press_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stub.during = press_twice
    stdin("one\ntwo\n")
    assert run(["chat"]) == 130


def test_ctrl_c_at_the_prompt_clears_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter([KeyboardInterrupt, "hello", EOFError])

    def fake_input(prompt: str) -> str:
        value = next(typed)
        if isinstance(value, str):
            return value
        raise value

    monkeypatch.setattr("builtins.input", fake_input)
    assert list(chat.typed_lines()) == ["hello"]


def test_chat_json_holds_all_turns(stub: StubModel, stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stdin("one\ntwo\n")
    assert run(["chat", "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert found["text"] == "A small answer."
    assert len(found["turns"]) == 2
    assert {"text", "model", "usage", "timing"} <= set(found["turns"][0])


# --- ears, voice, models ---------------------------------------------------------------------------------------------


def test_transcribe(stub: StubModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", "a.wav"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert run(["transcribe", "silence.wav"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no speech was heard\n")
    assert run(["transcribe", "a.wav", "--own-ears"]) == 0
    assert capsys.readouterr().out == "helo\n"
    assert run(["transcribe", "a.wav", "--language", "zh", "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert (found["text"], found["language"], found["model"]) == ("hello", "zh", "stub")
    assert found["timing"]["total_s"] >= 0


def test_speak(stub: StubModel, tmp_path: Path, stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.wav"
    assert run(["speak", "Hello.", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    stdin("From a pipe.")
    assert run(["speak", "-", "--output", str(out), "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert found["text"] == "From a pipe."
    assert found["speech"] == {"path": str(out), "seconds": 1.0, "rate_hz": 24000}


def test_models_lists_nano(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infos = [models.ModelInfo("nano", "the default", True, None), models.ModelInfo("big", "8 B", False, None),
             models.ModelInfo("mine", "here", True, tmp_path)]
    monkeypatch.setattr(models, "models", lambda: infos)
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    assert "minicpm-o pull nano" in out
    assert "not loaded by this release" in out
    assert run(["models", "--json"]) == 0
    found = one_object(capsys.readouterr().out)["models"]
    assert [(entry["name"], entry["installed"]) for entry in found] == [("nano", False), ("big", False), ("mine", True)]


def test_models_clears_what_was_kept_of_prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "models", list)
    entry = tmp_path / "prefixes" / ("0" * 32) / f"7-{'1' * 32}.safetensors"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(bytes(3_000_000))
    assert run(["doctor"]) == 0
    assert "1 (3 MB)" in capsys.readouterr().out
    assert run(["models", "--clear-prefixes", "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert (found["removed"], found["mb"], found["path"]) == (1, 3.0, str(tmp_path / "prefixes"))
    assert not (tmp_path / "prefixes").exists()
    assert run(["models", "--clear-prefixes"]) == 0
    assert "removed 0 kept prefixes" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "variable", "asked"), [
    ([], None, (True, None)), (["--prefix-cache-mb", "64"], "7", (True, 64.0)), ([], "7", (True, 7.0)),
    (["--prefix-cache-mb", "0"], None, (False, None)),
])
@pytest.mark.parametrize("verb", ["describe", "ask", "chat"])
def test_verbs_keep_prefixes_unless_told(monkeypatch: pytest.MonkeyPatch, photo: str, stdin: Any, verb: str,
                                         options: list[str], variable: str | None, asked: tuple[bool, Any]) -> None:
    given: dict[str, Any] = {}
    if variable is None:
        monkeypatch.delenv("MINICPM_O_PREFIX_CACHE_MB")
    else:
        monkeypatch.setenv("MINICPM_O_PREFIX_CACHE_MB", variable)
    monkeypatch.setattr(loading, "MiniCPMO", SimpleNamespace(
        from_pretrained=lambda name, **more: given.update(more) or StubModel()))
    stdin("Hello\n")
    assert run({"describe": ["describe", photo], "ask": ["ask", "Who?"], "chat": ["chat"]}[verb] + options) == 0
    assert (given["prefix_cache"], given["prefix_cache_mb"]) == asked


def test_pull(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").write_bytes(bytes(2_000_000))
    added: list[tuple[str, ...]] = []
    monkeypatch.setattr(models, "resolve", lambda name, progress: tmp_path)
    monkeypatch.setattr(models.nano, "add_optional", lambda home, names, progress: added.append(names) or tmp_path)
    assert run(["pull"]) == 0
    assert capsys.readouterr().out == f"nano is ready in {tmp_path} (2 MB)\n"
    assert run(["pull", "nano", "--voices", "--json"]) == 0
    assert one_object(capsys.readouterr().out)["path"] == str(tmp_path)
    assert added == [("voices",)]


def test_pull_of_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", "gigantic", "--json"]) == 2
    error = one_object(capsys.readouterr().out)["error"]
    assert error["type"] == UnknownModelError.__name__
    assert "gigantic" in error["message"]


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_of_an_empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "models", lambda: [models.ModelInfo("nano", "the default", True, None)])
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "minicpm-o pull nano" in out
    assert run(["doctor", "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert {"nano", "language", "whisper"} <= set(found["missing"])
    assert found["threads"] >= 1
    assert {"versions", "device", "model", "extras"} == {check["group"] for check in found["checks"]}
    assert not (tmp_path / "home").exists(), "looking must leave nothing behind"


def test_doctor_says_what_brings_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = {check.name: check for check in doctor._extras()}
    assert found["heic pictures"].mend == 'pip install "minicpm-o[heic]"'
    assert found["npm (more voices)"].state == "optional"


def test_doctor_of_an_official_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    name = "openbmb/MiniCPM-o-4_5"
    monkeypatch.setattr(doctor, "models", lambda: [models.ModelInfo(name, "9 B", True, None)])
    assert run(["doctor", "--model", name]) == 0
    out = capsys.readouterr().out
    assert f"minicpm-o pull {name}" in out and "whisper" not in out, "nano's parts are not its own"
    write_random_checkpoint(tmp_path / "whole", "4.5")
    assert run(["doctor", "--model", str(tmp_path / "whole")]) == 0
    assert "minicpm-o export" in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"model_type": "minicpmo"}')
    assert run(["doctor", "--model", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "MISSING" in out and "no weights" in out, "a config alone is no checkpoint"


def test_doctor_foresees_memory(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["doctor", "--model", "openbmb/MiniCPM-o-4_5", "--memory"]
    assert run([*asked, "16GB"]) == 0
    assert "it fits" in capsys.readouterr().out
    assert run([*asked, "6GB", "--context", "2048", "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert not found["fits"] and found["nearest"]["bits"] == 4 and found["request"]["context_tokens"] == 2048
    assert found["total_bytes"] == sum(line["bytes"] for line in found["lines"]) > found["available_bytes"] == 6e9
    assert run([*asked, "24GB", "--dtype", "bfloat16", "--json"]) == 0
    assert one_object(capsys.readouterr().out)["request"]["backend"] == "torch"


@pytest.mark.parametrize(("options", "words"), [
    (["--model", "openbmb/MiniCPM-o-4_5", "--memory", "much"], "'much' is not an amount of memory"),
    (["--model", "openbmb/MiniCPM-o-4_5", "--memory", "8GB", "--context", "50000"], "takes 1 to 40960"),
    (["--model", "openbmb/MiniCPM-o-4_5", "--memory", "8GB", "--dtype", "int4"], "use one of float32, bfloat16"),
    (["--model", "openbmb/MiniCPM-o-4_5", "--memory", "8GB", "--bits", "3"], "4 or 8 bits"),
    (["--memory", "8GB"], "small enough for any machine"),
    (["--model", "gigantic", "--memory", "8GB"], "no model 'gigantic'"),
])
def test_doctor_refuses_to_foresee_nonsense(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *options]) == 2
    assert words in capsys.readouterr().err


# --- export ----------------------------------------------------------------------------------------------------------


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_random_checkpoint(tmp_path / "tiny", "4.5")
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path / "home"))
    options = ["export", str(tmp_path / "tiny"), "--bits", "8", "--block", "32", "--no-vision", "--no-audio",
               "--no-speech", "--quiet", "--json"]
    assert run(options) == 0
    found = one_object(capsys.readouterr().out)
    folder = Path(found["path"])
    assert folder == tmp_path / "home" / "bundles" / "tiny-8bit" and (folder / "language.onnx").is_file()
    assert not (folder / "vision.onnx").exists()
    assert {step["name"] for step in found["export"]["steps"]} == {"language", "words", "text"}
    assert run(options) == 0
    assert one_object(capsys.readouterr().out)["export"] is None, "it is there already"
    assert run(["export", str(folder)]) == 2
    assert "is a bundle already" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "tiny"), "--bits", "5", "--quiet"]) == 2
    assert "4 or 8 bits" in capsys.readouterr().err


# --- eval and bench --------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Report:
    line = TaskLine("fsdd/digit", 4, {"accuracy": 0.5}, (0.1, 0.9), 0.1, {}, 0.2)
    found = Report("stub", {"data": "here"}, (line,))
    monkeypatch.setattr(evaluate, "run_local", lambda model, data, **options: found)
    return found


def test_eval_local_prints_a_table(stub: StubModel, scored: Report, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "local", "--data", str(tmp_path)]) == 0
    assert "fsdd/digit" in capsys.readouterr().out


def test_eval_local_json(stub: StubModel, scored: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "local", "--data", str(tmp_path), "--json", "-"]) == 0
    assert one_object(capsys.readouterr().out)["tasks"][0]["name"] == "fsdd/digit"
    assert run(["eval", "local", "--data", str(tmp_path), "--json", str(tmp_path / "no" / "report.json")]) == 2
    assert "report.json" in capsys.readouterr().err


def test_eval_all_asks_as_it_is_told(stub: StubModel, scored: Report, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    how: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate, "run_local", lambda model, data, **options: how.append(options) or scored)
    command = ["eval", "all", "--data", str(tmp_path), "--report", str(tmp_path / "out")]
    assert run([*command, "--batch", "3", "--temperature", "0.5", "--seed", "7"]) == 0
    assert (how[0]["decoding"].temperature, how[0]["decoding"].seed) == (0.5, 7) and how[0]["spread"] is not None
    assert (tmp_path / "out" / "card.html").is_file()
    assert run(command) == 0 and how[1]["spread"] is None and how[1]["decoding"].seed is None
    assert run([*command, "--batch", "2", "--ray", "2"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_eval_local_of_an_empty_folder(stub: StubModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "local", "--data", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_bench_prints_each_figure(stub: StubModel, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    figures = [Measure("first word", "s", (0.5, 0.7, 0.6), "a note"), Measure("peak", "MB", (900.0,))]
    monkeypatch.setattr(bench, "measure", lambda model, **options: iter(figures))
    monkeypatch.setattr(bench, "has_llama_cpp", lambda: False)
    assert run(["bench"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["first", "word", "0.6", "s", "[0.5", "..", "0.7]", "a", "note"]
    assert out[1].split() == ["peak", "900", "MB"]
    assert run(["bench", "--json"]) == 0
    found = one_object(capsys.readouterr().out)
    assert found["measures"][0] == {"name": "first word", "unit": "s", "median": 0.6, "min": 0.5, "max": 0.7, "n": 3,
                                    "note": "a note"}


def test_bench_against_llama_cpp_needs_it(stub: StubModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "has_llama_cpp", lambda: False)
    assert run(["bench", "--gguf", str(tmp_path / "a.gguf"), "--json"]) == 2
    error = one_object(capsys.readouterr().out)["error"]
    assert error["type"] == MissingExtraError.__name__
    assert "minicpm-o[bench]" in error["message"]


def test_report_has_the_same_keys_for_every_verb() -> None:
    assert list(report("hi", model=None)) == ["text", "model", "usage", "timing"]


def test_every_verb_takes_json() -> None:
    names = {command.callback.__name__: command for command in app.registered_commands}
    live = {"serve", "talk"}  # they go on until they are stopped: there is no result
    assert set(names) == set(VERBS) - {"eval", "data", "bench"} | live, "these three have verbs of their own"
    assert all("as_json" in command.callback.__annotations__ for name, command in names.items() if name not in live)


# --- the assembled model ---------------------------------------------------------------------------------------------


def test_nano_describes_within_its_memory(nano: Path, samples: Path) -> None:
    words = ["describe", str(samples / "photo.jpg"), "--model", str(nano), "--json"]
    done = subprocess.run([sys.executable, "-m", "minicpm_o", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = one_object(done.stdout)
    assert found["text"]
    assert found["usage"]["image"] > 0
    assert found["timing"]["peak_rss_mb"] <= 1200
