"""The exported folder: what is in it, and that a phone's steps give Python's answers on the same numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from exports import made_or_given
from phone import Phone, cpu_session

from minicpm_o.api import MiniCPMO
from minicpm_o.checkpoints import storage
from minicpm_o.cli.app import run
from minicpm_o.errors import DiskFullError, OptionError
from minicpm_o.inputs.audio import load_audio
from minicpm_o.inputs.image import load_image, to_pixels
from minicpm_o.inputs.messages import ImagePart, Message, TextPart
from minicpm_o.inputs.prompts import CAPTION
from minicpm_o.mobile.export import HEARS, SEES, TARGETS, export_mobile, open_in_python
from minicpm_o.mobile.ort_format import OPERATORS_FILE
from minicpm_o.mobile.tokens import PLAIN
from minicpm_o.portable.folder import FILES
from minicpm_o.runtime.encoders import HearingEncoder
from minicpm_o.runtime.transcribe import Recogniser, RecogniserSessions
from minicpm_o.runtime.vad import SpeechDetector

EXAMPLES = Path(__file__).resolve().parents[2] / "minicpm_o" / "assets" / "mobile"
KOTLIN = EXAMPLES / "android/example/src/main/kotlin/org/example/nano/Nano.kt"
SWIFT = EXAMPLES / "ios/example/Sources/Nano/Nano.swift"
MOST_BYTES = 180_000_000
"""Of what sees and answers: an app's store asks."""
TYPES = {"tensor(float)": {"Float", "float"}, "tensor(int64)": {"Long", "int64"}, "tensor(int32)": {"Int", "int32"}}
"""A graph's type to Java's buffer and Swift's element."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new export, or the one in the folder that MINICPM_O_TEST_MOBILE names."""
    return made_or_given("MINICPM_O_TEST_MOBILE", tmp_path_factory.mktemp("mobile") / "nano",
                         lambda folder: export_mobile(folder, "android", progress=False), "nano for a phone")


@pytest.fixture(scope="module")
def phone(exported: Path) -> Phone:
    return Phone.open(exported / "model")


@pytest.fixture(scope="module")
def python(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> MiniCPMO:
    """Python's runtime on the exported numbers."""
    return MiniCPMO.from_pretrained(open_in_python(tmp_path_factory.mktemp("python")), progress=False)


def test_a_photo_is_described_as_python_describes_it(phone: Phone, python: MiniCPMO, samples: Path) -> None:
    pixels = to_pixels([load_image(samples / "photo.jpg")], python.parts.config.vision)
    asked = [Message("user", (ImagePart(samples / "photo.jpg"), TextPart(CAPTION)))]
    found = phone.describe(pixels)
    assert found == python.chat(asked).text
    assert "cat" in found


def test_a_plain_question_is_answered_as_python_answers_it(phone: Phone, python: MiniCPMO) -> None:
    found = phone.answer_plainly()
    assert found == python.chat([Message("user", (TextPart(PLAIN),))]).text
    assert "Paris" in found


def test_ready_prompts_are_pythons(phone: Phone, python: MiniCPMO, samples: Path) -> None:
    for prompt in phone.tables["ready"].values():
        pictures = [ImagePart(samples / "photo.jpg")] * prompt["pictures"]
        prepared = python.parts.prepare([Message("user", (*pictures, TextPart(prompt["text"])))])
        assert prompt["ids"] == prepared.ids.tolist()


def test_tokens_are_the_tokenizers(phone: Phone, python: MiniCPMO) -> None:
    tokenizer = python.parts.tokenizer
    for text in ("A cat on a white blanket.", "It's 3:05 — émigrés, 东京 😀\n\ttwo  spaces"):
        assert b"".join(phone.words[token] for token in tokenizer.encode(text)).decode() == text
    assert len(phone.words) == tokenizer.vocab_size
    assert {phone.words[token] for token in (*phone.tables["eos"], *phone.tables["banned"])} == {b""}


def test_more_placeholders_than_media_are_refused(phone: Phone) -> None:
    with pytest.raises(RuntimeError, match="out of data bounds"):
        phone.answer("describe", np.zeros((1, 1, phone.tables["config"]["language"]["width"]), np.float32))


def test_graphs_for_sounds_hear_what_python_hears(exported: Path, python: MiniCPMO, samples: Path) -> None:
    opened = [cpu_session(exported / "model" / f"{name}.ort") for name in HEARS]
    encoder, projector, decoder, cross, vad = opened
    waveform, own = load_audio(samples / "speech.wav"), python.parts.recogniser
    recogniser = Recogniser(RecogniserSessions(encoder, cross, decoder), own.vocabulary, own.shape, SpeechDetector(vad))
    assert recogniser.transcribe(waveform).text == own.transcribe(waveform).text
    tokens = HearingEncoder(encoder, projector).tokens(waveform)
    np.testing.assert_allclose(tokens, python.parts.hearing.tokens(waveform), atol=1e-4)


def test_every_graph_opens_with_the_processors_kernels(exported: Path) -> None:
    for name in (*SEES, *HEARS):
        assert cpu_session(exported / "model" / f"{name}.ort").get_outputs()
    operators = (exported / "model" / OPERATORS_FILE).read_text()
    assert "com.microsoft;1;" in operators and "MatMulNBits" in operators
    assert re.findall(r"^# - (.*)$", operators, flags=re.MULTILINE) == sorted(f"{name}.ort" for name in (*SEES, *HEARS))


def test_the_folder_says_what_is_in_it(exported: Path) -> None:
    listed = json.loads((exported / FILES).read_text())
    found = {path.relative_to(exported).as_posix(): path.stat().st_size
             for path in exported.rglob("*") if path.is_file()}
    assert listed["files"] == {name: size for name, size in found.items() if name != FILES}
    assert listed["onnxruntime"] == ort.__version__
    assert sum(found[f"model/{name}.ort"] for name in SEES) <= MOST_BYTES
    assert {"README.md", "example/build.gradle.kts", "example/src/main/kotlin/org/example/nano/Nano.kt"} <= set(found)


def sources() -> Iterator[str]:
    yield from (path.read_text(encoding="utf-8") for path in (KOTLIN, SWIFT))


def test_examples_name_what_the_graphs_have(phone: Phone) -> None:
    language, vision = phone.language, phone.vision
    expected = {value.name for session in (language, vision) for value in session.get_inputs()}
    expected |= {"logits", "tokens"} | {value.name for value in language.get_outputs()}
    for source in sources():
        names = set(re.findall(r'"(pixels|tokens|ids|media|total_tokens|logits)"', source))
        (layered,) = set(re.findall(r'"present\.\$?\\?\(?layer\)?\.\$?\\?\(?kind\)?"', source))
        assert 'listOf("key", "value")' in source or '["key", "value"]' in source, layered
        (renamed,) = re.findall(r'"present\.",? (?:with: )?"(\w+\.)"', source)
        layers = range(phone.tables["config"]["language"]["layers"])
        names |= {f"{stem}{layer}.{kind}" for stem in ("present.", renamed) for layer in layers
                  for kind in ("key", "value")}
        assert names == expected


def test_examples_give_the_types_that_the_graphs_take(phone: Phone) -> None:
    types = {value.name: value.type for value in (*phone.language.get_inputs(), *phone.vision.get_inputs())}
    source = KOTLIN.read_text(encoding="utf-8")
    made = dict(re.findall(r"val (\w+) = OnnxTensor\.createTensor\(environment, (\w+)Buffer", source))
    given = dict(re.findall(r'"(ids|total_tokens)" to (\w+)', source))
    kotlin = {name: made[variable] for name, variable in given.items()}
    swift = dict(re.findall(r'inputs\["(\w+)"\] = try ORTValue\(tensorData: .*elementType: \.(\w+)',
                            SWIFT.read_text(encoding="utf-8")))
    for found in (kotlin, swift):
        assert set(found) == {"ids", "total_tokens"}
        assert all(kind in TYPES[types[name]] for name, kind in found.items())
    floats = {name for name, kind in types.items() if kind == "tensor(float)"}
    assert floats == set(types) - {"ids", "total_tokens"}, "everything else is made of floats"


def test_examples_read_tables_that_are_there(phone: Phone) -> None:
    keys = set(_keys(phone.tables))
    kotlin = set(re.findall(r'get(?:JSONObject|JSONArray|Int|Long|Double)\("(\w+)"\)', KOTLIN.read_text("utf-8")))
    structs = re.search(r"struct Tables.*?\n}\n", SWIFT.read_text("utf-8"), flags=re.DOTALL)
    assert structs
    fields = re.findall(r"\blet ([^}\n]+)", structs[0])
    swift = {name for field in fields for name in re.findall(r"\b[a-z]\w*", field)}  # types begin with a capital
    assert {"layers", "image_px", "banned", "max_tokens"} <= kotlin & swift
    assert kotlin | swift <= keys


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _keys(inner)


@pytest.mark.parametrize(("grammar", "pattern"), [("tree_sitter_kotlin", "*.kt*"), ("tree_sitter_swift", "*.swift")])
def test_examples_are_written_in_their_language(grammar: str, pattern: str) -> None:
    tree_sitter, language = pytest.importorskip("tree_sitter"), pytest.importorskip(grammar)
    parser = tree_sitter.Parser(tree_sitter.Language(language.language()))
    files = sorted(EXAMPLES.rglob(pattern))
    assert len(files) >= 3
    assert [path.name for path in files if parser.parse(path.read_bytes()).root_node.has_error] == []


def test_both_examples_pin_their_runtime() -> None:
    gradle = (EXAMPLES / "android/example/build.gradle.kts").read_text()
    package = (EXAMPLES / "ios/example/Package.swift").read_text()
    assert re.search(r"onnxruntime-android:\d+\.\d+\.\d+\"", gradle)
    assert re.search(r"onnxruntime-swift-package-manager\", exact: \"\d+\.\d+\.\d+\"", package)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="no exported model for phones"):
        export_mobile(tmp_path, "ios", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_nothing(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = storage.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(DiskFullError, match="800 MB are needed"):
        export_mobile(tmp_path / "out", "ios", home=nano.parent, progress=False)
    assert not any(tmp_path.iterdir())


def test_options_and_models_that_it_does_not_heed_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                                              ) -> None:
    out = ["--out", str(tmp_path / "app")]
    for target in TARGETS:
        for options, words in ((["openbmb/MiniCPM-o-2_6"], "is for 'nano'"),
                               (["nano", "--bits", "8"], f"has no effect with --target {target}"),
                               (["nano", "--no-vision"], f"has no effect with --target {target}"),
                               (["nano", "--no-speech"], "the voice stays at home")):
            assert run(["export", *options, "--target", target, *out]) == 2
            assert words in capsys.readouterr().err
    with pytest.raises(OptionError, match="goes to android and ios"):
        export_mobile(tmp_path / "app", "toaster", progress=False)
    assert not any(tmp_path.iterdir())
