"""Writes docs/performance.md and its roofline plot from the reports: goals, what was measured, what remains.

    python benchmarks/performance_page.py            # `make bench` does so at its end

No number is typed by hand: every one comes from a report in benchmarks/results, and a report that does not exist yet
leaves a line that says so. A goal is met, not met, or not measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import footprint
import latency
import peers
import roofline
import sound_peers

PAGE = common.ROOT / "docs" / "performance.md"
RIVAL = "llama.cpp"
LARGE_PARAMETERS = 400_000_000
"""Models from here on shall come near to the bandwidth; smaller ones spend much of a token on other things."""
HEARD_S = 30
"""Length of the sound whose speed is the goal's."""
NOT_MEASURED = "not measured"
Reports = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """One figure that was promised."""

    text: str
    goal: float
    unit: str
    measured: float | None
    is_least: bool = True
    """Whether the figure shall be at least the goal; else at most."""

    @property
    def is_met(self) -> bool | None:
        """None when it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.goal if self.is_least else self.measured <= self.goal

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: NOT_MEASURED}[self.is_met]

    def row(self) -> tuple[str, ...]:
        sign = "≥" if self.is_least else "≤"
        measured = "–" if self.measured is None else f"{self.measured:.3g} {self.unit}".strip()
        return self.text, f"{sign} {self.goal:g} {self.unit}".strip(), measured, self.verdict


def read_reports(folder: Path) -> dict[str, Any]:
    """Every report there, by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


# Goals


def goals(reports: Reports) -> list[Goal]:
    """All that were set, in the order of the page."""
    return [*language_goals(reports), *limit_goals(reports), *sense_goals(reports), *other_goals(reports)]


def language_goals(reports: Reports) -> Iterator[Goal]:
    """Against llama.cpp, for each race."""
    for title, raced in reports.get(peers.NAME, {"races": {}})["races"].items():
        row = next((row for row in raced["engines"] if row["engine"] == RIVAL), None)
        for what, least in (("decode", 1.0), ("prefill", 1.3)):
            yield Goal(f"{title}: {what} against {RIVAL}", least, "×", row and row[f"{what}_ratio"])


def limit_goals(reports: Reports) -> Iterator[Goal]:
    """Share of the bandwidth, for the larger models."""
    for row in reports.get(roofline.NAME, {"limits": []})["limits"]:
        if row["parameters"] >= LARGE_PARAMETERS:
            yield Goal(f"{row['model']}: decode, share of what the memory allows", 75, "%", 100 * row["share"])


def sense_goals(reports: Reports) -> Iterator[Goal]:
    """First words, hearing and speaking."""
    yield Goal("photo question on nano, first word, warm", 0.6, "s",
               latency_figure(reports, "photo question to first word"), is_least=False)
    yield Goal(f"hearing, {HEARD_S} s of sound", 10, "× real time", sound_figure(
        reports, "hearing", lambda row: row["contestant"] == "minicpm-o" and row["sound_s"] == HEARD_S))
    for voice in ("joe", "Kokoro"):
        yield Goal(f"speaking, {voice}", 3, "× real time", sound_figure(
            reports, "speaking", lambda row, voice=voice: row["contestant"] == f"minicpm-o, {voice}"))
    yield Goal("`describe`, cold start to first word, whole process", 3, "s", first_process_s(reports), is_least=False)


def latency_figure(reports: Reports, name: str) -> float | None:
    """Median of a figure of `minicpm-o bench`."""
    measures = reports.get("latency", {"measures": []})["measures"]
    return next((item["median"] for item in measures if item["name"] == name), None)


def sound_figure(reports: Reports, kind: str, wanted: Any) -> float | None:
    """Times real time of the first row that is wanted."""
    rows = reports.get(sound_peers.NAME, {kind: {"rows": []}})[kind]["rows"]
    return next((row["times_real_time"] for row in rows if wanted(row)), None)


def first_process_s(reports: Reports) -> float | None:
    """From the start of a process that describes a photo to its end, which is later than its first word."""
    runs = reports.get("footprint", {"runs": {}})["runs"]
    return runs["describe"]["process_s"] if "describe" in runs else None


def other_goals(reports: Reports) -> Iterator[Goal]:
    """Of reports that other benchmarks make."""
    sets = reports.get("speculative", {}).get("sets", {})
    for name in sorted(sets) or ["chat", "repetitive"]:
        found = sets.get(name, {})
        for of, figure in (("tokens of the set", "tokens_ratio"), ("its median prompt", "median_ratio")):
            ratio = found.get(figure) if found.get("identical", True) else 0.0  # other answers are no gain
            yield Goal(f"speculative decoding, {name} prompts, answers identical: {of}", 1.4, "×", ratio)
    web = reports.get("web", {})
    yield Goal("in the browser: the folder", 250, "MB", web.get("folder_mb"), is_least=False)
    yield Goal("in the browser: memory, all parts open", 1000, "MB", web.get("memory", {}).get("browser_process_mb"),
               is_least=False)


# The page


def page(reports: Reports) -> str:
    """The whole page."""
    return "\n\n".join([
        "# Performance",
        "Written by `make bench` (`benchmarks/performance_page.py`) from the reports in `benchmarks/results`; every "
        "section says on which machine, at which commit and with what command its numbers were made.",
        "## Goals", common.table(("goal", "asked", "measured", ""), [goal.row() for goal in goals(reports)]),
        "## Reading and writing text against other engines", *section(reports, peers.NAME, peers_text),
        "## How near to the limit", *section(reports, roofline.NAME, roofline_text),
        "## Hearing and speaking against other packages", *section(reports, sound_peers.NAME, sound_text),
        "## What a user waits for", *section(reports, "latency", lambda report: [latency.markdown(report).strip()]),
        "## Memory, size, start", *section(reports, "footprint", footprint_text),
        "## Speculative decoding", *section(reports, "speculative", speculative_text),
        "## In the browser", *section(reports, "web", web_text),
        "## What remains between us and the limit", *remaining(reports),
    ]) + "\n"


def section(reports: Reports, name: str, write: Any) -> list[str]:
    return list(write(reports[name])) if name in reports else ["Not measured yet."]


def peers_text(report: Reports) -> list[str]:
    return [peers.__doc__.split("\n\n")[2].strip().replace("\n", " "), peers.markdown(dict(report)).strip()]


def roofline_text(report: Reports) -> list[str]:
    explained = roofline.__doc__.split("\n\n")[2].strip().replace("\n", " ")
    return [explained, f"![Tokens a second against bytes of a token]({roofline.PLOT.name})",
            roofline.markdown(dict(report)).strip()]


def sound_text(report: Reports) -> list[str]:
    return [sound_peers.__doc__.split("\n\n")[2].strip().replace("\n", " "), sound_peers.markdown(dict(report)).strip()]


def footprint_text(report: Reports) -> list[str]:
    rows = footprint.run_rows(dict(report))
    return [common.table(footprint.RUN_COLUMNS, rows), common.provenance(dict(report))]


def speculative_text(report: Reports) -> list[str]:
    """Results of benchmarks/speculative.py; run costs are told by its own report."""
    rows = [(name, found["median_ratio"], found["tokens_ratio"], found["plain_tokens_per_s"],
             found["speculative_tokens_per_s"], "yes" if found["identical"] else "no")
            for name, found in report["sets"].items()]
    head = ("prompts", "median ratio", "ratio of all tok/s", "plain tok/s", "speculative tok/s", "identical")
    return [common.table(head, rows), common.provenance(dict(report))]


def web_text(report: Reports) -> list[str]:
    """Results of benchmarks/web.py."""
    rows = [(f"{name}, s", f"{statistics.median(values):.3g}") for name, values in report["seconds"].items()]
    rows += [("writing, tokens/s", f"{statistics.median(report['tokens_per_s']):.3g}"),
             *((f"{name.replace('_', ' ')}", f"{value:.0f}") for name, value in report["memory"].items()),
             ("folder MB", f"{report['folder_mb']:.0f}")]
    return [common.table(("measured", "median"), rows), common.provenance(dict(report))]


def remaining(reports: Reports) -> list[str]:
    """Goals that are not met, and how far decode is from the memory's limit."""
    found = goals(reports)
    short = [f"- {goal.text}: {goal.measured:.3g} {goal.unit} instead of {goal.goal:g}." for goal in found
             if goal.is_met is False and goal.measured is not None]
    waiting = [goal.text for goal in found if goal.is_met is None]
    lines = ["\n".join(short)] if short else ["Every goal that was measured is met."]
    lines += [f"Not measured yet: {'; '.join(waiting)}."] if waiting else []
    return lines + limits_left(reports.get(roofline.NAME, {"limits": []})["limits"])


def limits_left(limits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Milliseconds of a token that reading the weights does not explain."""
    rows = [(row["model"], round(1000 / row["tokens_per_s"], 2), round(1000 / row["limit_tokens_per_s"], 2),
             round(1000 / row["tokens_per_s"] - 1000 / row["limit_tokens_per_s"], 2)) for row in limits]
    if not rows:
        return []
    return ["Of a token's time, what reading its bytes does not explain:",
            common.table(("model", "ms a token", "ms to read it", "ms left"), rows)]


def main() -> None:
    reports = read_reports(common.RESULTS)
    if roofline.NAME in reports:
        roofline.plot(reports[roofline.NAME], roofline.PLOT)
    PAGE.write_text(page(reports), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(common.ROOT)}")


if __name__ == "__main__":
    main()
