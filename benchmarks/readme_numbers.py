"""Writes the numbers of the READMEs, the model card and pages of docs between their markers, from the reports.

    python benchmarks/readme_numbers.py            # fill in
    python benchmarks/readme_numbers.py --check    # exit 1 when a file does not say what the reports say

A report that does not exist yet leaves one line that says so. No number is ever typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import live as live_bench

import common
import latency
import official_full_size
import race

FILES = ("README.md", "README_zh.md", "MODEL_CARD.md", "docs/checkpoints.md", "docs/fusion.md", "docs/live.md",
         "docs/mobile.md", "docs/web.md")
CHINESE = {
    "task": "任务", "metric": "指标", "score": "得分", "95 % interval": "95 % 区间", "chance": "随机", "blind": "盲测",
    "s per item": "秒/条", "engine": "引擎", "decode tok/s": "解码 词元/秒", "prefill tok/s": "预填充 词元/秒",
    "nano / it": "nano / 它", "peak MB": "峰值 MB", "run": "命令", "load s": "加载 秒", "first word s": "首词 秒",
    "whole process s": "整个进程 秒", "target": "目标", "minutes": "分钟", "MB received": "下载 MB",
    "MB of .venv": ".venv MB", "MB of cache": "缓存 MB", "measured": "测量项", "unit": "单位",
    "median": "中位数", "range": "范围",
    "p95": "p95", "goal": "目标值", "end of speech to first word, ms": "话音结束到首词，毫秒",
    "end of speech to first sound, ms": "话音结束到首个声音，毫秒",
    "silence inside an answer, ms": "回答中的停顿，毫秒",
    "computing for a second of listening, s": "听一秒所需的计算，秒",
    "the same with camera and a rule, s": "同上，加摄像头和一条规则，秒", "server over engine": "服务器与引擎耗时之比",
    "chats and": "个文字聊天和", "live sessions": "个实时会话", "answers with gaps": "有停顿的回答",
    "first sound, ms": "首个声音，毫秒", "chat tokens/s": "聊天词元/秒", "turns": "轮",
    "MB after a third, at the end": "三分之一处与结束时 MB", "flat": "持平",
    "ours / it": "本项目 / 它", "model": "模型", "step": "步骤", "s": "秒", "MB on disk": "磁盘 MB",
    "random checkpoint written": "写出随机权重", "exported to 4 bits": "导出为 4 位", "question": "问题",
    "prompt tokens": "提示词元", "first token s": "首词元 秒", "whole s": "总计 秒", "text": "文本", "picture": "图片",
    "sound": "声音", "spoken answer": "语音回答",
    "Not measured yet.": "尚未测量。", "again": "再次运行", "nano on disk": "nano 占用磁盘", "base install": "基础安装",
}
Say = race.Say


def read(name: str) -> dict[str, Any] | None:
    """A report by its name; None when it was not made yet."""
    path = common.RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def head(say: Say, *names: str) -> list[str]:
    return [say(name) for name in names]


def number(value: Any, digits: int = 3) -> str:
    """A number as it is shown; – for what is not there."""
    if isinstance(value, Mapping):
        value = value.get("value")
    return "–" if value is None else f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits > 1 else f"{value:.1f}"


def interval(value: Any) -> str:
    return "–" if not value else f"{value[0]:.3f} … {value[1]:.3f}"


def score_row(task: Mapping[str, Any]) -> tuple[str, ...]:
    """One task: its first metric is the headline that interval and chance belong to."""
    name, score = next(iter(task["metrics"].items()))
    blind = (task.get("blind") or {}).get(name)
    return (f"`{task['name']}`", name, str(task["n"]), f"{score:.3f}", interval(task.get("interval")),
            number(task.get("chance")), number(blind), number(task["seconds_per_item"], 2))


def scores(say: Say) -> str | None:
    """Every report of `eval local` that was kept as eval_NAME.json."""
    columns = head(say, "task", "metric", "n", "score", "95 % interval", "chance", "blind", "s per item")
    found = []
    for path in sorted(common.RESULTS.glob("eval_*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = [score_row(task) for task in report["tasks"] if task["n"] and task["metrics"]]
        found.append(f"{path.stem.removeprefix('eval_')}:\n\n{common.table(columns, rows)}")
    return "\n\n".join(found) or None


def speed(say: Say) -> str | None:
    report = read("language_vs_llamacpp")
    if report is None:
        return None
    return f"{race.table(report['engines'], 'nano', say)}\n\n{common.provenance(report)}"


def official(say: Say) -> str | None:
    """2.6 and 4.5 at full size."""
    report = read(official_full_size.NAME)
    return None if report is None else official_full_size.tables(report, say)


def official_speed(say: Say) -> str | None:
    """Their language parts against llama.cpp."""
    report = read(official_full_size.NAME)
    return None if report is None else official_full_size.speeds(report, say)


def waiting(say: Say) -> str | None:
    report = read("latency")
    if report is None:
        return None
    columns = head(say, "measured", "unit", "median", "range")
    return f"{common.table(columns, latency.rows(report))}\n\n{common.provenance(report)}"


def footprint(say: Say) -> str | None:
    report = read("footprint")
    if report is None:
        return None
    columns = head(say, "run", "peak MB", "load s", "first word s", "whole process s")
    rows = [(f"`{name}`", number(run["peak_rss_mb"], 1), number(run["load_s"], 2), number(run["ttft_s"], 2),
             number(run["process_s"], 2)) for name, run in report["runs"].items()]
    sizes = [(say(words), number(report[key], 1))
             for words, key in (("nano on disk", "bundle_mb"), ("base install", "install_mb"))]
    return "\n\n".join([common.table(columns, rows), common.table([say("measured"), "MB"], sizes),
                        common.provenance(report)])


def setup(say: Say) -> str | None:
    report = read("fresh_clone")
    if report is None:
        return None
    columns = head(say, "target", "minutes", "MB received", "MB of .venv", "MB of cache")
    rows = []
    for name, run in report["runs"].items():
        target, _, again = name.partition(", ")
        label = f"`{target}`" + (f", {say(again)}" if again else "")
        rows.append((label, number(run["minutes"], 1), number(run["download_mb"], 1), number(run["environment_mb"], 1),
                     number(run["cache_mb"], 1)))
    return f"{common.table(columns, rows)}\n\n{common.provenance(report)}"


def fusion(say: Say) -> str | None:
    """As the benchmark wrote it: making it anew would load torch."""
    path = common.RESULTS / "fusion_depth.md"
    return path.read_text(encoding="utf-8").rstrip() if path.is_file() else None


def live(say: Say) -> str | None:
    """How soon spoken questions are answered, and the rest of `bench live`."""
    report = read("live")
    if report is None:
        return None
    columns = head(say, "measured", "median", "p95", "goal")
    return f"{common.table(columns, live_bench.rows(report, say))}\n\n{common.provenance(report)}"


def live_more(say: Say) -> str | None:
    """The soak, and whether spoken answers say what is written."""
    paths = [common.RESULTS / f"{name}.md" for name in ("live_soak", "spoken_answers")]
    return "\n\n".join(path.read_text(encoding="utf-8").rstrip() for path in paths if path.is_file()) or None


def web(say: Say) -> str | None:
    """nano in a browser, as the benchmark wrote it."""
    path = common.RESULTS / "web.md"
    return path.read_text(encoding="utf-8").rstrip() if path.is_file() else None


def mobile(say: Say) -> str | None:
    """The graphs for phones, as the benchmark wrote it."""
    path = common.RESULTS / "mobile.md"
    return path.read_text(encoding="utf-8").rstrip() if path.is_file() else None


SECTIONS: dict[str, Callable[[Say], str | None]] = {
    "scores": scores, "speed": speed, "official": official, "official-speed": official_speed, "latency": waiting,
    "footprint": footprint, "setup": setup, "fusion": fusion, "live": live,
    "live-more": live_more, "web": web, "mobile": mobile,
}


def fill(text: str, say: Say) -> str:
    """A file's text with every section between markers written anew."""
    for name, section in SECTIONS.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", flags=re.DOTALL)
        if pattern.search(text):
            body = section(say) or say("Not measured yet.")
            text = pattern.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when something would change")
    check = parser.parse_args().check
    stale = []
    for name in FILES:
        path: Path = common.ROOT / name
        text = path.read_text(encoding="utf-8")
        say: Say = (lambda words: CHINESE.get(words, words)) if name.endswith("_zh.md") else str
        filled = fill(text, say)
        if filled != text:
            stale.append(name)
            if not check:
                path.write_text(filled, encoding="utf-8")
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not the numbers of benchmarks/results; run `make docs`")


if __name__ == "__main__":
    main()
