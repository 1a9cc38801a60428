"""The exported folder opened in Chromium from a plain file server, with the network cut once all is there."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--autoplay-policy=no-user-gesture-required"]
PATIENCE_MS = 240_000

ASK = """async ([parts, numBeams, maxTokens]) => {
    const media = parts.map((part) => part.sample
        ? page.sample(part.sample, "sample").then(({ type, blob, samples, key }) => ({ type, blob, samples, key }))
        : { type: "text", text: part.text });
    let heard = null;
    const messages = [{ role: "user", parts: await Promise.all(media) }];
    const reply = await page.call("ask", { messages, numBeams, maxTokens }, { heard: ({ text }) => { heard = text; } });
    return { ...reply, heard };
}"""


@dataclass(frozen=True)
class WebPage:
    """nano in a browser without a network."""

    page: Any
    first_s: float
    """From the button to nano being ready, files fetched."""
    again_s: float
    """From opening the page again to nano being ready, from what the browser kept."""

    def ask(self, *parts: dict[str, Any], beams: int | str = 1, tokens: int = 40) -> dict[str, Any]:
        """What the page answers to one turn of a new conversation; a sample is a part {"sample": path}."""
        reply: dict[str, Any] = self.page.evaluate(ASK, [list(parts), beams, tokens])
        return reply


class PlainFiles(http.server.SimpleHTTPRequestHandler):
    """Files and nothing else: no headers of its own."""

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def opened_offline(folder: Path, *flags: str, language: str = "nano is ready", **context: Any) -> Iterator[WebPage]:
    """Load the page, cut the network, stop the server, open the page again; its errors are raised at the end."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(PlainFiles, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        browser = chromium.new_context(**{"viewport": {"width": 390, "height": 844}, **context})
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("#load").click()
        started = time.monotonic()
        page.get_by_text(language).wait_for()
        first_s = time.monotonic() - started
        browser.set_offline(True)
        server.shutdown()
        server.server_close()
        started = time.monotonic()
        page.reload()
        page.get_by_text(language).wait_for()
        yield WebPage(page, first_s, time.monotonic() - started)
        chromium.close()
        assert problems == []
