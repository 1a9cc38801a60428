"""Samples as a page to look at: one file, with pictures and sounds in it. What samples say is shown, never run."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError, OptionError
from ...inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ...inputs.text import Tokenizer
from ..examples import Example
from ..pretrain_feed import loaded
from ..rows import NOT_LEARNED, Row
from ..trainee import Trainee, open_trainee
from .mixture import MixtureConfig, SourceConfig
from .sources import Source, kind_of_path, open_source

THUMB_PX = 320
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
article { border: 1px solid #8886; border-radius: .5rem; padding: .8rem 1rem; margin: .8rem 0; }
img { max-width: 20rem; max-height: 16rem; display: block; margin: .4rem 0; } audio { display: block; margin: .4rem 0; }
.role { font-weight: 600; margin-right: .5rem; } .meta { color: #888; font-size: .85em; } .bad { color: #c33; }
mark { background: #7c76; color: inherit; } pre { white-space: pre-wrap; word-break: break-word; font-size: .85em; }
.bar { fill: #48a; } table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
"""


@dataclass(frozen=True)
class Page:
    """What was found."""

    html: str
    counts: dict[str, int]
    """Samples by source."""
    problems: list[str]


def inspect_source(name: str, samples: int = 12, model: str | None = None) -> Page:
    """A recipe, by file or name, or a bare file or folder of samples. Raises OptionError, InputError."""
    trainee = open_trainee(model) if model else None
    configs, folder = _sources_of(name)
    sections, counts, problems = [], {}, []
    for config in configs:
        path = config.path if config.kind in ("made", "hf") or folder is None else str(folder / config.path)
        source = open_source(config.kind, config.name, path, config.task, config.size)
        counts[config.name] = len(source)
        shown, wrong = _section(source, samples, trainee)
        sections.append(shown)
        problems += wrong
    return Page(_page(name, sections, counts, problems), counts, problems)


def _sources_of(name: str) -> tuple[Sequence[SourceConfig], Path | None]:
    from ..recipe import load_recipe, packaged_recipes

    path = Path(name).expanduser()
    if name in packaged_recipes() or path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(name)
        return recipe.data.sources, path.parent if path.is_file() else None
    if not path.exists() and "*" not in name and "{" not in name:
        raise OptionError(f"{name} is neither a recipe nor a file or folder of samples")
    config = MixtureConfig(sources=(SourceConfig(name=path.name, kind=kind_of_path(path), path=str(path)),))
    return config.sources, None


def _section(source: Source, samples: int, trainee: Trainee | None) -> tuple[str, list[str]]:
    shown, problems, lengths = [], [], []
    for count in range(min(samples, len(source))):
        try:
            example = loaded(source.draw(0, count))
            row = trainee.row(example) if trainee and example.messages else None
        except InputError as error:
            problems.append(f"{source.name}: {error}")
            shown.append(f'<article class="bad">{html.escape(str(error))}</article>')
            continue
        lengths += [len(row)] if row else []
        shown.append(_article(example, row, trainee))
    head = f"<h2>{html.escape(source.name)} <span class=meta>{len(source)} samples</span></h2>"
    return head + _histogram(lengths) + "".join(shown), problems


def _article(example: Example, row: Row | None, trainee: Trainee | None) -> str:
    told = [f"<p class=meta>{html.escape(example.name)} · task {html.escape(example.task)}</p>"]
    told += [_message(message) for message in example.messages]
    if example.rejected is not None:
        told.append(f"<p><span class=role>worse</span>{html.escape(example.rejected)}</p>")
    if "units" in example.facts:
        told.append(f"<p class=meta>{len(example.facts['units'])} live units</p>")
    if example.facts:
        known = {key: value for key, value in example.facts.items() if key not in ("units",)}
        told.append(f"<p class=meta>known: {html.escape(str(known))}</p>")
    if row is not None and trainee is not None:
        told.append(_tokens(row, trainee))
    return f"<article>{''.join(told)}</article>"


def _message(message: Message) -> str:
    return f"<div><span class=role>{message.role}</span>{''.join(_part(part) for part in message.parts)}</div>"


def _part(part: Part) -> str:
    if isinstance(part, TextPart):
        return f"<span>{html.escape(part.text)}</span>"
    if isinstance(part, ImagePart) and isinstance(part.source, Image.Image):
        return f'<img alt="" src="data:image/jpeg;base64,{_jpeg(part.source)}">'
    if isinstance(part, AudioPart) and isinstance(part.source, np.ndarray):
        seconds = len(part.source) / (part.rate_hz or 16_000)
        return (f'<audio controls src="data:audio/flac;base64,{_flac(part.source, part.rate_hz or 16_000)}"></audio>'
                f"<span class=meta>{seconds:.1f} s</span>")
    return f"<span class=meta>{type(part).__name__}</span>"


def _jpeg(image: Image.Image) -> str:
    file, small = io.BytesIO(), image.convert("RGB")
    small.thumbnail((THUMB_PX, THUMB_PX))
    small.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def _flac(waveform: np.ndarray, rate_hz: int) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, waveform, rate_hz, format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


def _tokens(row: Row, trainee: Trainee) -> str:
    """The row as text, media's placeholders counted, what is learned marked."""
    pieces, place = [], 0
    spans = sorted((*row.media.image_spans, *row.media.audio_spans))
    while place < len(row):
        span = next((span for span in spans if span.start == place), None)
        if span is not None:
            pieces.append(f"[{span.length} media tokens]")
            place = span.stop
            continue
        learned, stop = row.labels[place] != NOT_LEARNED, place + 1
        while stop < len(row) and (row.labels[stop] != NOT_LEARNED) == learned and all(s.start != stop for s in spans):
            stop += 1
        text = html.escape(_decoded(trainee, row.ids[place:stop]))
        pieces.append(f"<mark>{text}</mark>" if learned else text)
        place = stop
    return f"<details><summary class=meta>{len(row)} tokens, {row.num_labels} learned</summary><pre>" \
           f"{''.join(pieces)}</pre></details>"


def _decoded(trainee: Trainee, ids: np.ndarray) -> str:
    tokenizer = trainee.tokenizer
    return tokenizer.decode(ids.tolist()) if isinstance(tokenizer, Tokenizer) else tokenizer.decode(
        ids, keep_special=True)


def _histogram(lengths: Sequence[int]) -> str:
    if len(lengths) < 2:
        return ""
    counts, edges = np.histogram(lengths, bins=min(12, len(lengths)))
    high = max(1, int(counts.max()))
    bars = "".join(f'<rect class=bar x="{20 * i}" y="{40 - 36 * int(n) / high:.1f}" width="17" '
                   f'height="{36 * int(n) / high:.1f}"/>' for i, n in enumerate(counts))
    return (f'<svg width="{20 * len(counts)}" height="42" role="img" aria-label="lengths">{bars}</svg>'
            f"<p class=meta>tokens: {int(edges[0])} to {int(edges[-1])}</p>")


def _page(name: str, sections: Sequence[str], counts: dict[str, int], problems: Sequence[str]) -> str:
    rows = "".join(f"<tr><td>{html.escape(source)}</td><td>{count}</td></tr>" for source, count in counts.items())
    wrong = "".join(f"<li class=bad>{html.escape(problem)}</li>" for problem in problems)
    return (f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>Samples of {html.escape(name)}</title><style>{_STYLE}</style><h1>{html.escape(name)}</h1>"
            f"<table><tr><th>source</th><th>samples</th></tr>{rows}</table>"
            f"{f'<h2>Problems</h2><ul>{wrong}</ul>' if wrong else ''}{''.join(sections)}</html>")
