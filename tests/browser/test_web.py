"""The exported folder in a real Chromium, from a plain file server that is stopped once all is here.

Answers must be those of Python's runtime on the same numbers, and so must every step on the way to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import made_or_given
from PIL import Image
from web_page import CHROMIUM, WebPage, opened_offline

from minicpm_o.api import MiniCPMO
from minicpm_o.inputs.audio import load_audio, log_mel
from minicpm_o.inputs.image import load_image, slice_image, to_pixels
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.inputs.prompts import CAPTION, CAPTION_BEAMS
from minicpm_o.web.export import FILES, export_web, open_in_python

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"),
                                reason="Chromium is not installed (Debian: apt install chromium)")
MOST_BYTES = 250_000_000
MOST_MEMORY_BYTES = 1_000_000_000
SPOKEN = ("Hello, Dr. Smith! It's 3:05 pm on March 3rd, 2024.", "I paid $1,250.40 for 3.5 kg of apples.",
          "1. Bananas\n2. Oranges\n3. Grapes", "She'll've reread the unbelievable prefabricated thingamajig.",
          "NASA's GPUs are well-known; OpenAI's iPhone isn't. THE END! STOP SHOUTING",
          "24/7 and ½ cup, 5'11\", No. 5 😀",
          "(555) 123-4567 e.g. this vs. that, at 221B Baker St. in St. Louis", "Visit https://www.example.com/a-b?x=1.")
TYPED = ("Hello, world! It's 2024; <image> stays text.", "东京 and émigrés  cost $12,345.67\n\tdon't they?", "a  b 😀")


@dataclass(frozen=True)
class Opened:
    """The page with nano in it, the network gone, and Python's runtime on the same numbers."""

    web: WebPage
    model: MiniCPMO

    @property
    def page(self) -> Any:
        return self.web.page

    def python(self, *parts: Any, beams: int = 1, tokens: int = 40) -> str:
        return self.model.chat([Message("user", parts)], num_beams=beams, max_tokens=tokens).text


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new export, or the one in the folder that MINICPM_O_TEST_WEB names."""
    return made_or_given("MINICPM_O_TEST_WEB", tmp_path_factory.mktemp("web") / "nano",
                         lambda folder: export_web(folder, progress=False), "the page")


@pytest.fixture(scope="module")
def opened(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    python = open_in_python(exported, tmp_path_factory.mktemp("python"))
    with opened_offline(exported) as web:
        yield Opened(web, MiniCPMO.from_pretrained(python, progress=False))


def test_the_folder_is_small_enough(exported: Path) -> None:
    assert sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) <= MOST_BYTES
    assert (exported / FILES).is_file()


def test_a_page_of_its_own_has_threads_without_a_servers_help(opened: Opened) -> None:
    assert opened.page.evaluate("crossOriginIsolated")
    assert opened.page.evaluate("page.started().device") == "wasm"


def test_a_photo_is_described_as_python_describes_it(opened: Opened, samples: Path) -> None:
    photo, words = {"sample": "samples/photo.jpg"}, {"text": CAPTION}
    greedy = opened.python(ImagePart(samples / "photo.jpg"), TextPart(CAPTION))
    assert opened.web.ask(photo, words)["text"] == greedy
    assert "cat" in greedy
    best = opened.python(ImagePart(samples / "photo.jpg"), TextPart(CAPTION), beams=CAPTION_BEAMS)
    assert opened.web.ask(photo, words, beams="caption")["text"] == best


def test_a_spoken_question_is_answered_as_python_answers_it(opened: Opened, samples: Path) -> None:
    reply = opened.web.ask({"sample": "samples/speech.wav"})
    assert reply["heard"] == opened.model.transcribe(samples / "speech.wav").text
    assert reply["text"] == opened.python(AudioPart(samples / "speech.wav"))
    assert "Paris" in reply["text"]
    assert reply["wasmBytes"] <= MOST_MEMORY_BYTES


def test_typed_questions_are_answered_as_python_answers_them(opened: Opened) -> None:
    for question in ("Name three fruits.", "Who wrote Hamlet?", "What colour is the sky?"):
        assert opened.web.ask({"text": question})["text"] == opened.python(TextPart(question))


def test_the_conversation_on_the_page_goes_on(opened: Opened) -> None:
    page = opened.page
    page.locator("#sample-photo").click()
    page.locator("#messages .assistant:not(.waiting) .text", has_text="cat").wait_for()
    page.locator("#question").fill("What animal is this?")
    page.keyboard.press("Enter")
    page.locator("#messages .assistant:not(.waiting)").nth(1).wait_for()
    assert "cat" in page.locator("#messages .assistant .text").nth(1).inner_text().lower()
    assert "tokens/s" in page.locator("#figures").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#open-settings").click()
    page.locator("#language").select_option("zh")
    assert "已就绪" in page.locator("#status").inner_text()
    page.locator("#language").select_option("en")
    page.keyboard.press("Escape")


def test_an_answer_is_spoken(opened: Opened) -> None:
    said = opened.page.evaluate("""async () => {
        const pieces = [];
        const { seconds } = await page.call("speak", { text: "The capital of France is Paris." },
            { sound: ({ samples, rateHz }) => pieces.push([...samples]) });
        return { seconds, samples: pieces.flat(), rate: Math.round(pieces.flat().length / seconds) };
    }""")
    assert said["seconds"] > 1
    heard = opened.model.transcribe(np.array(said["samples"], np.float32), rate_hz=said["rate"])
    said_words = set(heard.text.lower().strip(".").split())
    assert len(said_words & {"the", "capital", "of", "france", "is", "paris"}) >= 4, "the voice draws its noise anew"


def test_texts_are_read_aloud_in_pythons_phonemes(opened: Opened, model: MiniCPMO) -> None:
    for text in SPOKEN:
        found = opened.page.evaluate("(text) => page.call('phonemes', { text })", text)
        assert found["phonemes"] == model.parts.speaker.phonemize(text), text


def test_words_become_pythons_tokens(opened: Opened) -> None:
    found = opened.page.evaluate("""async (texts) => {
        const [{ Tokenizer }, { unzip }] = [await import("./tokenizer.js"), await import("./model.js")];
        const bytes = new Uint8Array(await (await fetch("model/tokenizer.small.json.gz")).arrayBuffer());
        const tokenizer = new Tokenizer(JSON.parse(new TextDecoder().decode(await unzip(bytes))), true);
        return texts.map((text) => [tokenizer.encode(text), tokenizer.decode(tokenizer.encode(text))]);
    }""", list(TYPED))
    for text, (ids, decoded) in zip(TYPED, found, strict=True):
        assert ids == opened.model.parts.tokenizer.encode(text)
        assert decoded == text


def test_pictures_become_pythons_pixels(opened: Opened, samples: Path) -> None:
    """A photo, a large one that is reduced first, and a wide one that is sliced."""
    config = opened.model.parts.config.vision
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, shape, np.uint8) for shape in ((901, 1203, 3), (120, 510, 3), (30, 40, 3))]
    for picture in (load_image(samples / "photo.jpg"), *map(Image.fromarray, noise)):
        found = opened.page.evaluate("""async ([width, height, bytes, vision]) => {
            const { slices, toPixels } = await import("./picture.js");
            const { image } = await (await fetch("model/config.json")).json();
            const data = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
            return [...toPixels(slices({ width, height, data }, vision), vision.image_px, image)];
        }""", [*picture.size, _base64(picture.tobytes()), config.to_dict()])
        expected = to_pixels(slice_image(picture, config), config)
        np.testing.assert_array_equal(np.array(found, np.float32).reshape(expected.shape), expected)


def test_the_browser_decodes_the_photo_as_python_does(opened: Opened, samples: Path) -> None:
    found = opened.page.evaluate("""async () => {
        const { decodePicture } = await import("./picture.js");
        const blob = await (await fetch("samples/photo.jpg")).blob();
        const { data } = await decodePicture(blob, { max_pixels: 1e8, shrink_pixels: 1e7 });
        return [...data];
    }""")
    expected = np.asarray(load_image(samples / "photo.jpg")).reshape(-1)
    assert np.abs(np.array(found, int) - expected).max() <= 1, "decoders of JPEG may round differently"


def test_sounds_become_pythons_mel_frames(opened: Opened, samples: Path) -> None:
    found = opened.page.evaluate("""async () => {
        const { logMel, readWav } = await import("./sound.js");
        const { samples } = readWav(await (await fetch("samples/speech.wav")).arrayBuffer());
        return [[...samples], [...logMel(samples).data]];
    }""")
    waveform = load_audio(samples / "speech.wav")
    np.testing.assert_array_equal(np.array(found[0], np.float32), waveform)
    np.testing.assert_allclose(np.array(found[1], np.float32), log_mel(waveform).reshape(-1), atol=1e-4)


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()
