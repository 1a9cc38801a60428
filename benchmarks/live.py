"""How live nano is on this machine: `minicpm-o bench live` with where and when, kept as a report.

    python benchmarks/live.py --minutes 30
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import resources
from typing import Any

import common


def main() -> None:
    from minicpm_o import MiniCPMO
    from minicpm_o.inputs.image import load_image
    from minicpm_o.server.live_bench import LiveBenchConfig, measure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    picture = load_image(str(resources.files("minicpm_o") / "assets" / "samples" / "photo.jpg"))
    model = MiniCPMO.from_pretrained("nano", progress=False)
    found = measure(model, picture, LiveBenchConfig(rounds=options.rounds, minutes=options.minutes),
                    told=lambda words: print(f"measuring {words}", file=sys.stderr, flush=True))
    report = {"machine": common.machine(), "command": f"python benchmarks/live.py --minutes {options.minutes:g}",
              "measures": found}
    common.publish(common.RESULTS / "live.json", report, text(report))


def rows(report: dict[str, Any], say: Callable[[str], str] = str) -> list[tuple[object, ...]]:
    """What was measured, median, 95th percentile, goal; `say` translates the words."""
    found = report["measures"]
    answers, load, memory, unit = found["answers"], found["load"], found["long_session"], found["unit_s"]
    together = f"{load['chats']} {say('chats and')} {load['live_sessions']} {say('live sessions')}"
    session = f"{memory['minutes']:g} {say('minutes')}, {memory['turns']} {say('turns')}"
    return [
        (say("end of speech to first word, ms"), *_spread(answers["first_text_ms"]), ""),
        (say("end of speech to first sound, ms"), *_spread(answers["first_audio_ms"]), "700, p95 1200"),
        (say("silence inside an answer, ms"), *_spread(answers["gap_ms"]), "0"),
        (say("computing for a second of listening, s"), unit["listening"], "", "0.5"),
        (say("the same with camera and a rule, s"), unit["with_camera_and_rule"], "", "0.5"),
        (say("server over engine"), found["overhead"]["server_over_engine"], "", "1.1"),
        (f"{together}: {say('answers with gaps')}", f"{load['answers_with_gaps']} / {load['live_answers']}", "", "0"),
        (f"{together}: {say('first sound, ms')}", *_spread(load["first_audio_ms"]), ""),
        (f"{together}: {say('chat tokens/s')}", load["chat_tokens_per_s"], "", ""),
        (f"{session}: {say('MB after a third, at the end')}",
         memory["rss_mb"]["settled"], memory["rss_mb"]["end"], say("flat")),
    ]


def _spread(found: dict[str, float]) -> tuple[int, int]:
    return round(found["median"]), round(found["p95"])


def text(report: dict[str, Any]) -> str:
    found = report["measures"]
    head = ["measured", "median", "p95", "goal"]
    voice = f"voice {found['voice']}, {found['threads']} threads, {found['answers']['count']} spoken questions"
    memory = " ".join(map(str, found["long_session"]["mb_by_minute"]))
    return f"{common.table(head, rows(report))}\n\nMB by minute: {memory}\n\n{voice}; {common.provenance(report)}\n"


if __name__ == "__main__":
    main()
