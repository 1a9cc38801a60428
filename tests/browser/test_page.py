"""The page in a real Chromium with a microphone and a camera that play files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import RATE_HZ, Running, save_camera, serving, spoken
from PIL import Image

from minicpm_o.api import MiniCPMO
from minicpm_o.inputs.audio import write_wav

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"),
                                reason="Chromium is not installed (Debian: apt install chromium)")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
         "--autoplay-policy=no-user-gesture-required"]
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def server(model: MiniCPMO) -> Iterator[Running]:
    model.chat("Hello.", max_tokens=2)
    model.written_down(np.zeros(16_000, np.float32))
    model.speak("Hello.", voice=model.quick_voice("Hello."))
    with serving(model) as running:
        yield running


@contextmanager
def browser(*flags: str, width: int = 1180, height: int = 820, **context: Any) -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        page = opened.new_context(viewport={"width": width, "height": height}, **context).new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield page
        opened.close()
        assert problems == []


def microphone(path: Path, waveform: np.ndarray) -> str:
    """The flag that lets a file be the microphone, once."""
    write_wav(path, waveform, RATE_HZ)
    return f"--use-file-for-fake-audio-capture={path}%noloop"


def camera(path: Path, picture: Path) -> str:
    save_camera(path, np.asarray(Image.open(picture).convert("RGB").resize((320, 240))))
    return f"--use-file-for-fake-video-capture={path}"


def until(page: Any, expression: str) -> None:
    """Wait for what the page computes; its own rules forbid `wait_for_function`, which needs eval."""
    for _ in range(PATIENCE_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"{expression} never held")


def shown(page: Any, selector: str, **having: str) -> None:
    """Wait until something is there; else fail with what the conversation holds."""
    try:
        page.locator(selector, **having).first.wait_for(timeout=PATIENCE_MS)
    except sync_api.TimeoutError:
        pytest.fail(f"{selector} {having} was never shown; the page holds {page.locator('#messages').inner_text()!r}")


def test_a_typed_question_is_answered(server: Running) -> None:
    with browser() as page:
        page.goto(server.address)
        page.get_by_text("nano is ready").wait_for(timeout=PATIENCE_MS)
        page.get_by_label("Question").fill("What is the capital of France?")
        page.keyboard.press("Enter")
        shown(page, "#messages .assistant .text", has_text="Paris")
        page.reload()  # the conversation is kept in the browser
        shown(page, "#messages .assistant .text", has_text="Paris")


def test_a_picture_is_dropped_in_on_a_phone_in_chinese(server: Running, samples: Path) -> None:
    with browser(width=390, height=844, locale="zh-CN", has_touch=True, is_mobile=True) as page:
        page.goto(server.address)
        page.get_by_text("nano 已就绪").wait_for(timeout=PATIENCE_MS)
        page.locator("#files").set_input_files(samples / "photo.jpg")
        page.locator("#attachments img").wait_for()
        page.get_by_label("问题").fill("What animal is in the picture?")
        page.get_by_label("发送").tap()
        shown(page, "#messages .assistant .text", has_text="cat")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_call_about_the_camera_is_answered_aloud(server: Running, model: MiniCPMO, samples: Path,
                                                   tmp_path: Path) -> None:
    sound = spoken(model, 3.0, "What animal is in the picture?", 30.0)
    with browser(microphone(tmp_path / "mic.wav", sound), camera(tmp_path / "cam.y4m", samples / "photo.jpg")) as page:
        page.goto(server.address)
        page.get_by_label("Start a live call").click()
        page.get_by_label("Show the camera").click()
        shown(page, "#messages .user .text", has_text="animal")
        shown(page, "#messages .assistant .text", has_text="cat")
        page.locator("#latency").wait_for(timeout=PATIENCE_MS)  # shown when the first sound is played
        page.locator("#call[data-state=listening]").wait_for(timeout=PATIENCE_MS)
        assert page.evaluate("call.gaps") == 0
        page.get_by_label("End the call").click()
        page.get_by_text("The call has ended").wait_for()
        page.get_by_label("Start a live call").click()  # a second call
        page.locator("#call[data-state=listening]").wait_for(timeout=PATIENCE_MS)
        page.get_by_label("End the call").click()


def test_speech_stops_the_answer_that_is_being_played(server: Running, model: MiniCPMO, tmp_path: Path) -> None:
    question = "Please tell me how to make pancakes for four people."
    sound = spoken(model, 1.0, question, 5.0, "Stop it, please. That is enough.", 20.0)
    with browser(microphone(tmp_path / "mic.wav", sound)) as page:
        page.goto(server.address)
        page.get_by_label("Start a live call").click()
        page.locator("#call[data-state=speaking]").wait_for(timeout=PATIENCE_MS)
        until(page, "Boolean(call.flushed)")
        assert page.evaluate("call.flushed.playedMs") > 0
        assert 0 < page.evaluate("call.bargeInMs") <= 300
        shown(page, "#messages .assistant.cut")
        page.get_by_label("End the call").click()
