"""Draws docs/architecture.svg from the table below: boxes on a grid, arrows between them. Standard library only."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

CELL_W, CELL_H, BOX_W, BOX_H, MARGIN = 160, 78, 136, 48, 16
COLOURS = {"in": "#f3f1ea", "frozen": "#dce8f2", "trained": "#f8dcc4", "out": "#e2efdc"}


class Box(NamedTuple):
    """A box at (column, row) with two lines of words."""

    column: float
    row: float
    title: str
    note: str
    kind: str


BOXES = {
    "picture": Box(0, 0, "picture", "slices", "in"),
    "vision": Box(1, 0, "vision encoder", "EfficientNet-Lite", "frozen"),
    "resampler": Box(2, 0, "resampler", "2-D positions", "trained"),
    "sound": Box(0, 1, "sound", "log-mel, 1 s blocks", "in"),
    "hearing": Box(1, 1, "hearing encoder", "Whisper base", "frozen"),
    "projector": Box(2, 1, "projector", "10 tokens a second", "trained"),
    "detector": Box(0, 2, "speech detector", "Silero", "frozen"),
    "recogniser": Box(1, 2, "recogniser", "Whisper decoder", "frozen"),
    "ears": Box(2, 2, "own ears", "letters", "trained"),
    "text": Box(0, 3, "text", "messages", "in"),
    "template": Box(2, 3, "chat template", "placeholder runs", "in"),
    "fusion": Box(3, 1.5, "fused tokens", "scatter", "in"),
    "language": Box(4, 1.5, "language model", "SmolLM2 + low rank", "trained"),
    "answer": Box(5, 1.5, "text", "word by word", "out"),
    "voice": Box(5, 3, "voice", "Kokoro, 24 kHz", "frozen"),
}
ARROWS = [
    ("picture", "vision"), ("vision", "resampler"), ("resampler", "fusion"), ("sound", "hearing"),
    ("hearing", "projector"), ("projector", "fusion"), ("sound", "detector"), ("detector", "recogniser"),
    ("hearing", "recogniser"), ("recogniser", "template"), ("hearing", "ears"), ("ears", "template"),
    ("text", "template"), ("template", "fusion"),
    ("fusion", "language"), ("language", "answer"), ("answer", "voice"),
]
LEGEND = [("in", "data"), ("frozen", "pretrained part"), ("trained", "trained here"), ("out", "answer")]


def corner(box: Box) -> tuple[float, float]:
    return MARGIN + box.column * CELL_W, MARGIN + box.row * CELL_H


def draw_box(box: Box) -> str:
    x, y = corner(box)
    middle = x + BOX_W / 2
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="6" fill="{COLOURS[box.kind]}" stroke="#555"/>'
        f'<text x="{middle}" y="{y + 20}" class="title">{escape(box.title)}</text>'
        f'<text x="{middle}" y="{y + 37}" class="note">{escape(box.note)}</text>'
    )


def draw_arrow(source: Box, target: Box) -> str:
    (x1, y1), (x2, y2) = corner(source), corner(target)
    if source.column == target.column:  # downwards
        ends = (x1 + BOX_W / 2, y1 + BOX_H, x2 + BOX_W / 2, y2)
    else:
        ends = (x1 + BOX_W, y1 + BOX_H / 2, x2, y2 + BOX_H / 2)
    return '<line x1="{}" y1="{}" x2="{}" y2="{}" class="arrow"/>'.format(*ends)


def draw_legend(y: float) -> str:
    swatches = []
    for index, (kind, words) in enumerate(LEGEND):
        x = MARGIN + index * CELL_W
        swatches.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{COLOURS[kind]}" stroke="#555"/>'
                        f'<text x="{x + 20}" y="{y + 12}" class="legend">{escape(words)}</text>')
    return "\n".join(swatches)


def draw() -> str:
    """The whole picture as SVG."""
    width = 2 * MARGIN + max(box.column for box in BOXES.values()) * CELL_W + BOX_W
    height = 2 * MARGIN + max(box.row for box in BOXES.values()) * CELL_H + BOX_H + 34
    style = ("text{font-family:sans-serif;fill:#222}.title{font-size:13px;font-weight:bold;text-anchor:middle}"
             ".note{font-size:10.5px;text-anchor:middle}.legend{font-size:11px}"
             ".arrow{stroke:#555;stroke-width:1.3;marker-end:url(#tip)}")
    tip = ('<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
           '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
        "<title>How pictures, sounds and text become an answer</title>",
        f"<defs><style>{style}</style>{tip}</defs>",
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
        *(draw_arrow(BOXES[source], BOXES[target]) for source, target in ARROWS),
        *map(draw_box, BOXES.values()),
        draw_legend(height - MARGIN - 14),
        "</svg>",
    ]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(draw(), encoding="utf-8")
