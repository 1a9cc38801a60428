"""`bench live`: the figures of `server.live_bench` as text or JSON."""

from __future__ import annotations

import time
from importlib import resources
from typing import Any

from ..api import MiniCPMO
from ..errors import MissingExtraError
from ..inputs.image import load_image
from ..runtime.timing import Timing, peak_rss_mb
from .output import report, say, write


def bench_live(image: str | None, rounds: int, load_s: float, chats: int, lives: int, minutes: float, *, model: str,
               threads: int | None, as_json: bool) -> dict[str, Any]:
    """Measure and print. Raises MissingExtraError without the packages of the server."""
    try:
        from ..server.live_bench import LiveBenchConfig, measure
    except ImportError as cause:
        raise MissingExtraError("measuring live use needs the server; install minicpm-o[serve]") from cause
    started = time.perf_counter()
    opened = MiniCPMO.from_pretrained(model, threads=threads)
    config = LiveBenchConfig(rounds, load_s, chats, lives, minutes)
    picture = image or str(resources.files("minicpm_o") / "assets" / "samples" / "photo.jpg")
    found = measure(opened, load_image(picture), config, told=lambda words: say(f"measuring {words}"))
    text = "\n".join(lines(found))
    if not as_json:
        write(text + "\n")
    timing = Timing(opened.parts.load_s, None, None, time.perf_counter() - started, peak_rss_mb())
    return report(text, model=opened.name, timing=timing, measures=found)


def lines(found: dict[str, Any]) -> list[str]:
    """The report for people."""
    answers, load, memory = found["answers"], found["load"], found["long_session"]
    return [
        f"voice {found['voice']}, {found['threads']} threads",
        _spread(f"first word after the end of speech ({answers['count']} answers)", answers["first_text_ms"]),
        _spread("first sound after the end of speech", answers["first_audio_ms"]),
        _spread("gaps in the sound", answers["gap_ms"]),
        f"a second of listening costs {found['unit_s']['listening']:.3f} s, with camera and rule "
        f"{found['unit_s']['with_camera_and_rule']:.3f} s",
        f"server over engine {found['overhead']['server_over_engine']:.3f}",
        f"{load['chats']} chats and {load['live_sessions']} live sessions: {load['chat_tokens_per_s']} tokens/s, "
        f"{load['live_answers']} live answers, {load['answers_with_gaps']} of them with gaps",
        _spread("  first sound under load", load["first_audio_ms"]), _spread("  gaps under load", load["gap_ms"]),
        f"{memory['minutes']:g} minutes, {memory['turns']} turns: {memory['rss_mb']['settled']} MB settled, "
        f"{memory['rss_mb']['end']} MB at the end, {memory['rss_mb']['most']} MB at most",
    ]


def _spread(name: str, found: dict[str, float]) -> str:
    return f"{name:58} {found['median']:7.0f} ms   p95 {found['p95']:7.0f} ms   most {found['most']:7.0f} ms"
