"""A report as a folder to look at: card.html and card.md with plots of scores, of the mean by kind, and of seconds.

    scores.svg    every task: score with its interval, the best constant answer or the random guess, the blind run
    totals.svg    the same for scores that are no shares, such as MME's total of 2800
    profile.svg   a radar of the kinds of tasks, each the mean of how far its scores rise above chance
    seconds.svg   seconds an item takes

Computes no scores.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm_o.errors import MissingExtraError
from minicpm_o.evaluation.answers import write_atomically
from minicpm_o.evaluation.report import CELL_COLUMNS, LOWER_IS_BETTER, Report, TaskLine, cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Axes", Sequence[TaskLine]], bool]

MOST_SHARE = 3.0
"""Error rates and CIDEr end above 1; what is more than this is a total."""
ROW_INCHES = 0.28
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child, .scores th:nth-child(3), .scores td:nth-child(3),
.words td, .words th { text-align: left; }
img { max-width: 100%; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd; } td, th { border-color: #333; }
  img { background: #fff; border-radius: 6px; } }
"""


def write_card(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write the card of a report into a folder; returns the files. Raises MissingExtraError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = [line for line in report.tasks if is_share(line)]
    plots: dict[str, tuple[Draw, Sequence[TaskLine]]] = {
        "scores.svg": (draw_scores, shares),
        "totals.svg": (draw_scores, [line for line in report.tasks if line not in shares]),
        "profile.svg": (draw_profile, report.tasks), "seconds.svg": (draw_seconds, report.tasks)}
    drawn = [name for name, (draw, lines) in plots.items() if save(draw, lines, folder / name)]
    pages = {"card.md": report.to_markdown() + "".join(f"\n![{name}]({name})\n" for name in drawn),
             "card.html": to_html(report, drawn)}
    for name, text in pages.items():
        write_atomically(folder / name, text)
    return tuple(folder / name for name in (*pages, *drawn))


def to_html(report: Report, plots: Sequence[str]) -> str:
    """The card as a page that needs nothing but the plots beside it."""
    title = html.escape(f"{report.model}: report card")
    more = "".join(f"<h2>{html.escape(name)}</h2>{_table(columns, rows, 'words' if len(columns) == 2 else '')}"
                   for name, columns, rows in report.more_tables())
    pictures = "".join(f'<p><img src="{name}" alt="{name.removesuffix(".svg")}"></p>' for name in plots)
    bad = [f"bad row: {row.place}: {row.reason}" for row in report.bad_rows]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*bad, *report.notes))
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width">'
            f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
            f"{pictures}{_table(CELL_COLUMNS, [cells(line) for line in report.tasks], 'scores')}{more}"
            f"<h2>How each was scored</h2><dl>{_rules(report.tasks)}</dl>"
            f"<h2>Run</h2><dl>{_settings(report.settings)}</dl><h2>Notes</h2><ul>{notes}</ul></body></html>\n")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _rules(lines: Sequence[TaskLine]) -> str:
    return "".join(f"<dt>{html.escape(line.name)}</dt><dd>{html.escape(str(line.details.get('scored', '')))}</dd>"
                   for line in lines)


def _settings(settings: Mapping[str, Any]) -> str:
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
                   for name, value in settings.items() if not isinstance(value, Mapping))


# --- plots ------------------------------------------------------------------------------------------------------


def draw_scores(axis: Axes, lines: Sequence[TaskLine]) -> bool:
    """Scores with intervals, and what no looking and no listening gives; whether there was anything to draw."""
    if not lines:
        return False
    for place, line in enumerate(lines):
        low, high = line.interval or (line.score, line.score)
        axis.plot([low, high], [place, place], color="#4878d0", linewidth=2, alpha=0.6)
        axis.plot(line.score, place, "o", color="#4878d0", label="score" if not place else None)
    _marks(axis, lines, "|", "#d65f5f", "chance", lambda line: line.chance)
    _marks(axis, lines, "x", "#888888", "blind", lambda line: line.blind.get(line.headline))
    _names(axis, lines, [f"{line.name} ({cells(line)[2]})" for line in lines])
    axis.legend(loc="best", fontsize=8, frameon=False)
    return True


def is_share(line: TaskLine) -> bool:
    """Whether a score is a fraction, or an error rate, and no total."""
    return max(line.score, line.chance or 0.0) <= MOST_SHARE


def draw_seconds(axis: Axes, lines: Sequence[TaskLine]) -> bool:
    """Seconds an item takes."""
    axis.barh(range(len(lines)), [line.seconds_per_item for line in lines], color="#6acc64")
    _names(axis, lines, [line.name for line in lines])
    axis.set_xlabel("seconds an item")
    return bool(lines)


def draw_profile(axis: Axes, lines: Sequence[TaskLine]) -> bool:
    """The radar; nothing for fewer than three kinds of tasks."""
    import numpy as np

    kinds = profile(lines)
    if len(kinds) < 3:
        return False
    angles = np.linspace(0, 2 * np.pi, len(kinds), endpoint=False)
    around, values = np.append(angles, angles[0]), [*kinds.values(), next(iter(kinds.values()))]
    axis.plot(around, values, color="#4878d0")
    axis.fill(around, values, color="#4878d0", alpha=0.25)
    axis.set_xticks(angles, list(kinds), fontsize=8)
    axis.set_ylim(0, 1)
    axis.set_title("how far above chance, 0 to 1, mean by set", fontsize=9)
    return True


def profile(lines: Sequence[TaskLine]) -> dict[str, float]:
    """Set of tasks -> mean of (score - chance) / (best - chance), cut at 0; tasks without a known best are left out."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if line.chance is None or line.headline == "cider" or not is_share(line):
            continue
        best = 0.0 if line.headline in LOWER_IS_BETTER else 1.0
        if best != line.chance:
            share = (line.score - line.chance) / (best - line.chance)
            found.setdefault(line.name.split("/")[0], []).append(min(1.0, max(0.0, share)))
    return {name: sum(shares) / len(shares) for name, shares in found.items()}


def _marks(axis: Axes, lines: Sequence[TaskLine], marker: str, colour: str, label: str, value: Any) -> None:
    found = [(value(line), place) for place, line in enumerate(lines) if value(line) is not None]
    if found:
        axis.plot(*zip(*found, strict=True), marker, color=colour, label=label, markersize=8)


def _names(axis: Axes, lines: Sequence[TaskLine], names: Sequence[str]) -> None:
    axis.set_yticks(range(len(lines)), names, fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.25)


def save(draw: Draw, lines: Sequence[TaskLine], path: Path) -> bool:
    """Draw into an SVG file; whether there was anything to draw. Raises MissingExtraError without matplotlib."""
    figure = _figure(len(lines), is_round=draw is draw_profile)
    if not draw(figure.axes[0], lines):
        return False
    figure.savefig(path, format="svg", bbox_inches="tight")
    return True


def _figure(rows: int, *, is_round: bool) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib; pip install 'minicpm-o[eval]'") from error
    figure = Figure(figsize=(6, 6) if is_round else (9, 1.0 + ROW_INCHES * max(3, rows)))
    figure.add_subplot(projection="polar" if is_round else None)
    return figure
