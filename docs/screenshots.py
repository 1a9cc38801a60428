"""Takes the pictures of the pages: a conversation on a desk, a call on a phone, nano in a phone's browser.

    python docs/screenshots.py [served] [web]

Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from minicpm_o import MiniCPMO
from minicpm_o.cli.serve import warm_up
from minicpm_o.server.live_bench import serving
from minicpm_o.web.export import export_web

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
         "--autoplay-policy=no-user-gesture-required"]
PATIENCE_MS = 60_000


@contextmanager
def page(width: int, height: int, *flags: str, **context: Any) -> Iterator[Any]:
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *flags])
        yield chromium.new_context(viewport={"width": width, "height": height}, **context).new_page()
        chromium.close()


def ask(opened: Any, words: str, number: int) -> None:
    opened.locator("#question").fill(words)
    opened.keyboard.press("Enter")
    opened.locator("#messages .assistant:not(.waiting)").nth(number).wait_for(timeout=PATIENCE_MS)
    opened.locator("#send").wait_for(timeout=PATIENCE_MS)


def desktop(address: str, photo: Path) -> None:
    with page(1180, 820) as opened:
        opened.goto(f"http://{address}/")
        opened.get_by_text("is ready").wait_for(timeout=PATIENCE_MS)
        opened.locator("#files").set_input_files(photo)
        opened.locator("#attachments img").wait_for()
        ask(opened, "What animal is in the picture?", 0)
        ask(opened, "What is the capital of France?", 1)
        opened.screenshot(path=HERE / "page_desktop.png")


def phone(address: str, model: MiniCPMO, folder: Path) -> None:
    """A call: the question about the camera is spoken, the answer is being spoken."""
    import sys

    sys.path.insert(0, str(HERE.parent / "tests"))
    import numpy as np
    from live_server import RATE_HZ, save_camera, spoken
    from PIL import Image

    from minicpm_o.inputs.audio import write_wav

    write_wav(folder / "mic.wav", spoken(model, 3.0, "What animal is in the picture?", 20.0), RATE_HZ)
    photo = resources.files("minicpm_o") / "assets" / "samples" / "photo.jpg"
    save_camera(folder / "cam.y4m", np.asarray(Image.open(str(photo)).convert("RGB").resize((320, 240))))
    flags = (f"--use-file-for-fake-audio-capture={folder / 'mic.wav'}%noloop",
             f"--use-file-for-fake-video-capture={folder / 'cam.y4m'}")
    with page(390, 844, *flags, is_mobile=True, has_touch=True, device_scale_factor=2, color_scheme="dark") as opened:
        opened.goto(f"http://{address}/")
        opened.locator("#start-call").tap()
        opened.locator("#toggle-camera").tap()
        opened.locator("#latency").wait_for(timeout=PATIENCE_MS)
        opened.wait_for_timeout(300)
        opened.screenshot(path=HERE / "page_phone.png")


def web(folder: Path) -> None:
    """The exported page, without a network: the sample photo described, the sample question answered."""
    import sys

    sys.path.insert(0, str(HERE.parent / "tests"))
    from web_page import opened_offline

    with opened_offline(folder, device_scale_factor=2) as opened:
        for number, button in enumerate(("#sample-photo", "#sample-speech")):
            opened.page.evaluate(f"document.querySelector('{button}').click()")
            opened.page.locator("#messages .assistant:not(.waiting)").nth(number).wait_for()
            opened.page.locator("#send").wait_for()
        opened.page.wait_for_timeout(300)
        opened.page.screenshot(path=HERE / "web_phone.png")


def served() -> None:
    """The server's page."""
    model = MiniCPMO.from_pretrained("nano", progress=False)
    warm_up(model)
    photo = Path(str(resources.files("minicpm_o") / "assets" / "samples" / "photo.jpg"))
    with serving(model, with_page=True) as address, tempfile.TemporaryDirectory() as folder:
        desktop(address, photo)
        phone(address, model, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="served, web; by default both")
    parser.add_argument("--folder", type=Path, help="an exported folder; by default one is made")
    args = parser.parse_args()
    pages = args.pages or ["served", "web"]
    if "served" in pages:
        served()
    if "web" in pages:
        with tempfile.TemporaryDirectory() as work:
            web(args.folder or export_web(Path(work) / "nano", progress=False).folder)


if __name__ == "__main__":
    main()
