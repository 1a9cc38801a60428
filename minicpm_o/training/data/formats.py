"""Rows of data sets to Examples. What a row is, its keys say.

    messages        {"messages": [...]} as OpenAI's chat API has them; beside them rejected, facts, task, speech_codes
    official        {"id", "image", "conversations"} of the official finetune scripts, and "audio" in the same way
    pair            {"image" | "audio", "text" | "caption" | "captions"}
    question        {"image" | "audio", "question", "answer"}
    preference      {"prompt" | "question", "images" | "image", "chosen", "rejected"}, as RLAIF-V has them
    document        {"document": [{"text"} | {"image"} | {"audio"}, ...]}: interleaved, every word is learned
    live            {"units": [{"audio", "images", "text", "says", "ends_turn"}, ...], "system"}: seconds of a session

Paths in a row are relative to the folder of its file. Opens no medium.
Source: MiniCPM-o's finetune/dataset.py for the official form; HuggingFaceH4/rlaif-v_formatted for preferences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...inputs.messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart, messages_from_openai
from ...inputs.prompts import CAPTION, SOUND_CAPTION
from ..examples import Example
from ..live import LiveUnit

SHAPES = ("messages; conversations; image or audio with text, captions, or question and answer; chosen and rejected "
          "with a prompt; document; units")
_PLACEHOLDER = re.compile(r"<(image|audio)(?:_\d+)?>")
Locate = Callable[[Any], Any]
"""A row's medium to what the inputs open: a path becomes absolute, bytes and pictures stay."""


def example_of(row: Mapping[str, Any], folder: Path, *, name: str, task: str | None = None) -> Example:
    """One row. task: instead of the row's own. Raises InputError, naming the row, for a shape that is not known."""
    if not isinstance(row, Mapping):
        raise InputError(f"{name} is {type(row).__name__}; a row is a table with {SHAPES}")
    read = next((read for keys, read in _READERS if all(_has(row, key) for key in keys)), None)
    if read is None:
        raise InputError(f"{name} has the keys {sorted(map(str, row))}, which make no known row; known are {SHAPES}")
    try:
        found = read(row, lambda source: located(source, folder))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    chosen = task or (row["task"] if isinstance(row.get("task"), str) else found.task)
    return Example(found.messages, chosen, name, found.rejected, found.speech_codes,
                   {**found.facts, **_facts(row)})


def located(source: Any, folder: Path) -> Any:
    """A relative path in the folder of its row; anything else as it is."""
    is_path = isinstance(source, str) and not source.startswith(("data:", "http://", "https://"))
    return str(folder / source) if is_path else source


def _has(row: Mapping[str, Any], key: str) -> bool:
    return any(row.get(name) is not None for name in key.split("|"))


def _first(row: Mapping[str, Any], key: str) -> Any:
    return next((row[name] for name in key.split("|") if row.get(name) is not None), None)


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = row.get("facts", {})
    if not isinstance(facts, Mapping):
        raise InputError(f"'facts' is {type(facts).__name__}; expected a table")
    return dict(facts)


# Shapes


def _messages(row: Mapping[str, Any], locate: Locate) -> Example:
    messages = tuple(_located_message(message, locate) for message in messages_from_openai(row["messages"]))
    codes = tuple(None if item is None else np.asarray(item, np.int64) for item in row.get("speech_codes", ()))
    rejected = row.get("rejected")
    if rejected is not None and not isinstance(rejected, str):
        raise InputError(f"'rejected' is {type(rejected).__name__}; expected the worse answer as a text")
    return Example(messages, rejected=rejected, speech_codes=codes)


def _located_message(message: Message, locate: Locate) -> Message:
    return Message(message.role, tuple(_located_part(part, locate) for part in message.parts))


def _located_part(part: Part, locate: Locate) -> Part:
    if isinstance(part, AudioPart):
        return AudioPart(locate(part.source), part.rate_hz)
    if isinstance(part, ImagePart | VideoPart):
        return type(part)(locate(part.source))
    return part


def _official(row: Mapping[str, Any], locate: Locate) -> Example:
    """Placeholders stand where media go; media that have none come first."""
    media = {kind: _numbered(row.get(kind), kind) for kind in ("image", "audio")}
    messages = []
    for number, turn in enumerate(row["conversations"]):
        role, text = _turn(turn, number)
        parts = tuple(_split(text, media, locate)) if role == "user" else (TextPart(text),)
        messages.append(Message(role, parts))  # type: ignore[arg-type]  # _turn gives user, assistant or system
    left = [(kind, source) for kind, sources in media.items() for source in sources.values()]
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if left and first is None:
        raise InputError("'conversations' has media and no turn of the user to show them in")
    if left and first is not None:
        parts = tuple(_part(kind, locate(source)) for kind, source in left)
        messages[first] = Message("user", (*parts, *messages[first].parts))
    return Example(tuple(messages))


def _numbered(sources: Any, kind: str) -> dict[str, Any]:
    """Media by placeholder: one alone is `<image>`, a table has its own names."""
    if sources is None:
        return {}
    if isinstance(sources, Mapping):
        return dict(sources)
    if isinstance(sources, Sequence) and not isinstance(sources, str | bytes):
        return {f"<{kind}_{number:02}>": source for number, source in enumerate(sources)}
    return {f"<{kind}>": sources}


def _turn(turn: Any, number: int) -> tuple[str, str]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("content", turn.get("value")), str):
        raise InputError(f"turn {number} of 'conversations' is {turn!r}; expected {{'role', 'content'}}")
    role = str(turn.get("role", turn.get("from")))
    names = {"human": "user", "gpt": "assistant"}
    if names.get(role, role) not in ("user", "assistant", "system"):
        raise InputError(f"turn {number} of 'conversations' has the role {role!r}; expected user, assistant or system")
    return names.get(role, role), turn.get("content", turn.get("value"))


def _split(text: str, media: dict[str, dict[str, Any]], locate: Locate) -> Iterator[Part]:
    """Text and, where its placeholders stand, media, which are taken out of `media`."""
    place = 0
    for match in _PLACEHOLDER.finditer(text):
        kind = match[1]
        if match[0] not in media[kind]:
            raise InputError(f"the text has {match[0]} and the row's {kind} {sorted(media[kind]) or 'is not there'}")
        if before := text[place : match.start()].strip("\n"):
            yield TextPart(before)
        yield _part(kind, locate(media[kind].pop(match[0])))
        place = match.end()
    if rest := text[place:].strip("\n"):
        yield TextPart(rest)


def _part(kind: str, source: Any) -> Part:
    return ImagePart(source) if kind == "image" else AudioPart(source)


def _asked(row: Mapping[str, Any], locate: Locate, question: str, answer: str, task: str) -> Example:
    media = [_part(kind, locate(source)) for kind in ("image", "audio") for source in _several(row, kind)]
    words = (TextPart(question),) if question else ()
    return Example((Message("user", (*media, *words)), Message("assistant", (TextPart(answer),))), task)


def _several(row: Mapping[str, Any], kind: str) -> list[Any]:
    found = _first(row, f"{kind}|{kind}s")
    if found is None:
        return []
    return list(found) if isinstance(found, Sequence) and not isinstance(found, str | bytes) else [found]


def _pair(row: Mapping[str, Any], locate: Locate) -> Example:
    text = _first(row, "text|caption|captions")
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(item, str) and item.strip() for item in texts):
        raise InputError(f"the text is {text!r}; expected words, or a list of them")
    prompt = CAPTION if _has(row, "image") else SOUND_CAPTION
    found = _asked(row, locate, prompt, texts[0], "caption")
    return Example(found.messages, found.task, facts={"references": texts})


def _question(row: Mapping[str, Any], locate: Locate) -> Example:
    answer = str(row["answer"])
    found = _asked(row, locate, str(row["question"]), answer, "question")
    return Example(found.messages, found.task, facts={"answer": answer})


def _preference(row: Mapping[str, Any], locate: Locate) -> Example:
    chosen, rejected = _said(row["chosen"]), _said(row["rejected"])
    prompt = _said(_first(row, "prompt|question"))
    if not chosen or not rejected or chosen == rejected:
        raise InputError(f"chosen is {chosen!r} and rejected {rejected!r}; expected two answers that differ")
    found = _asked(row, locate, prompt or "", chosen, "preference")
    return Example(found.messages, found.task, rejected=rejected)


def _said(value: Any) -> str | None:
    """The words of a text or of chat messages whose content is a text or parts."""
    if value is None or isinstance(value, str):
        return value
    words = []
    for message in value:
        content = message["content"]
        words += [content] if isinstance(content, str) else [part["text"] for part in content if part.get("text")]
    return "\n".join(words)


def _document(row: Mapping[str, Any], locate: Locate) -> Example:
    parts: list[Part] = []
    for number, item in enumerate(row["document"]):
        kind = next((kind for kind in ("text", "image", "audio") if isinstance(item, Mapping) and kind in item), None)
        if kind is None:
            raise InputError(f"item {number} of 'document' is {item!r}; expected a table with text, image or audio")
        parts.append(TextPart(item["text"]) if kind == "text" else _part(kind, locate(item[kind])))
    return Example((Message("assistant", tuple(parts)),), "document")


def _live(row: Mapping[str, Any], locate: Locate) -> Example:
    known = {"audio", "images", "text", "says", "ends_turn"}
    units = []
    for number, unit in enumerate(row["units"]):
        if not isinstance(unit, Mapping) or set(unit) - known:
            raise InputError(f"unit {number} is {unit!r}; expected a table of {sorted(known)}")
        sound = unit.get("audio")
        units.append(LiveUnit(None if sound is None else locate(sound), tuple(map(locate, unit.get("images", ()))),
                              unit.get("text", ""), unit.get("says"), bool(unit.get("ends_turn", False))))
    return Example((), "live", facts={"units": tuple(units), "system": row.get("system", "")})


_READERS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any], Locate], Example]], ...] = (
    (("messages",), _messages),
    (("conversations",), _official),
    (("units",), _live),
    (("document",), _document),
    (("chosen", "rejected", "prompt|question"), _preference),
    (("question", "answer"), _question),
    (("image|images|audio|audios", "text|caption|captions"), _pair),
)


def read_rows(path: Path) -> list[Any]:
    """Rows of a .jsonl, or of a .json that holds a list. Raises InputError, with the line, for what is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix == ".json":
        rows = _json(text, path, None)
        if not isinstance(rows, list):
            raise InputError(f"{path} holds {type(rows).__name__}; expected a list of rows")
        return rows
    return [_json(line, path, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _json(text: str, path: Path, line: int | None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        where = str(path) if line is None else f"{path} line {line}"
        raise InputError(f"{where} is not JSON: {error}") from error
