"""nano in a browser: size, start, first word, tokens a second and memory, in headless Chromium without a network.

    python benchmarks/web.py [--folder EXPORTED] [--rounds 3]

Needs Chromium and playwright. The page runs on the processor: headless Chromium has no graphics card here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(common.ROOT / "tests"))

from web_page import WebPage, opened_offline

from minicpm_o.inputs.prompts import CAPTION
from minicpm_o.web.export import export_web

PHOTO, SPEECH = {"sample": "samples/photo.jpg"}, {"sample": "samples/speech.wav"}
STORY = {"text": "Tell me about the sea."}
SENTENCE = "The capital of France is Paris."


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All figures of an exported folder."""
    with opened_offline(folder) as web:
        first = {"photo": web.ask(PHOTO, {"text": CAPTION}), "speech": web.ask(SPEECH)}
        spoken = [speak(web) for _ in range(rounds + 1)][1:]
        figures = {
            "start after fetching": [web.first_s], "start from what the browser kept": [web.again_s],
            "first word about a photo, first time": [first["photo"]["firstWordMs"] / 1e3],
            "first word to a spoken question, first time": [first["speech"]["firstWordMs"] / 1e3],
            "first word about a photo": [web.ask(PHOTO, {"text": CAPTION})["firstWordMs"] / 1e3 for _ in range(rounds)],
            "first word to a spoken question": [web.ask(SPEECH)["firstWordMs"] / 1e3 for _ in range(rounds)],
            "first sound of a spoken answer": [item["firstSoundMs"] / 1e3 for item in spoken],
        }
        writing = [web.ask(STORY, tokens=64)["tokensPerS"] for _ in range(rounds)]
        reply = web.ask(STORY, tokens=2)
        started = web.page.evaluate("page.started()")
        memory = {"wasm_mb": reply["wasmBytes"] / 1e6, "browser_process_mb": renderer_mb()}
        chromium = web.page.evaluate("navigator.userAgent").partition("HeadlessChrome/")[2].split()[0]
    return {"seconds": figures, "tokens_per_s": writing, "memory": memory, "threads": started["threads"],
            "device": started["device"], "chromium": chromium, "folder_mb": folder_mb(folder)}


def speak(web: WebPage) -> dict[str, float]:
    found: dict[str, float] = web.page.evaluate("(text) => page.call('speak', { text })", SENTENCE)
    return found


def renderer_mb() -> float:
    """Resident memory of the browser's largest process below this one: the page, its worker and all graphs."""
    import psutil

    return max(process.memory_info().rss for process in psutil.Process().children(recursive=True)) / 1e6


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    rows: list[tuple[object, ...]] = [(name, "s", f"{statistics.median(values):.2f}",
                                       f"{min(values):.2f} … {max(values):.2f}")
                                      for name, values in report["seconds"].items()]
    speed = report["tokens_per_s"]
    rows += [("writing", "tokens/s", f"{statistics.median(speed):.1f}", f"{min(speed):.1f} … {max(speed):.1f}"),
             ("WebAssembly's memory, all parts open", "MB", f"{report['memory']['wasm_mb']:.0f}", ""),
             ("the browser's process, all parts open", "MB", f"{report['memory']['browser_process_mb']:.0f}", ""),
             ("the folder", "MB", f"{report['folder_mb']:.0f}", "")]
    return (f"{common.table(('measured', 'unit', 'median', 'range'), rows)}\n\n"
            f"Chromium {report['chromium']}, {report['device']}, {report['threads']} threads; load of the machine "
            f"{report['load']:.1f}.\n\n{common.provenance(report)}\n")


def main() -> None:
    import os

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="an exported folder; by default one is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "web.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = args.folder or export_web(Path(work) / "nano", progress=False).folder
        report = {"name": "web", "command": "python benchmarks/web.py", "machine": common.machine(),
                  "load": os.getloadavg()[0], **measure(folder, args.rounds)}
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
