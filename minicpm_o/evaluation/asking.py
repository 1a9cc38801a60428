"""One question to one model: how each verb asks, with the medium and without it. Knows no reports.

The blind run asks the same question with the picture or sound taken out of the prompt; `transcribe`, which has no
prompt, hears silence instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minicpm_o.errors import AudioError, ContextFullError, ImageError, OptionError, VideoError
from minicpm_o.evaluation.answers import Answer, Key
from minicpm_o.evaluation.clips import silence
from minicpm_o.evaluation.live import attend, dark, live_config, stream
from minicpm_o.evaluation.moments import Utterance, written
from minicpm_o.evaluation.official import streamingbench
from minicpm_o.evaluation.protocol import Attends, EvaluatedModel, HasTiming, Ranks, Speaks, text_of
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.spoken import read_aloud
from minicpm_o.evaluation.tasks import Item, Task, Verb
from minicpm_o.evaluation.tasks.timed import moment_of


@dataclass(frozen=True)
class Decoding:
    """How words are chosen; 0 is the likeliest word every time."""

    temperature: float = 0.0
    seed: int | None = None
    """Of the draws; needed where the temperature is not 0."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise OptionError(f"temperature is {self.temperature}; expected 0 (no draws) or more")
        if self.temperature and self.seed is None:
            raise OptionError(f"temperature is {self.temperature} and no seed is given; draws can only be repeated "
                              f"with one, give seed=0")

    @property
    def options(self) -> dict[str, Any]:
        """As `EvaluatedModel.chat` takes them."""
        return {"temperature": self.temperature} | ({} if self.seed is None else {"seed": self.seed})


@dataclass(frozen=True)
class Said:
    """An answer, and what was measured while it came."""

    text: str
    measured: Mapping[str, float] = field(default_factory=dict)


Ask = Callable[[EvaluatedModel, Task, Item, Sequence[Media], Decoding], Said]
"""Model, task, item, the media that it may have (none in the blind run), decoding."""


def unable(model: EvaluatedModel, task: Task, name: str) -> str | None:
    """Why a model cannot be given a task; None where it can."""
    if task.verb in ("rank", "match") and not isinstance(model, Ranks):
        return f"{name} does not tell how likely an answer is"
    if task.verb == "speak" and not isinstance(model, Speaks):
        return f"{name} does not speak"
    if task.verb == "live" and not (isinstance(model, Attends) and getattr(model, "has_live", True)):
        return f"{name} has no live sessions"
    if not task.transcript and not getattr(model, "has_recogniser", True):
        return f"{name} has no recogniser to be kept from"
    return None


@dataclass(frozen=True)
class Asker:
    """A model and the questions that it may be given, each by its key."""

    model: EvaluatedModel
    items: Mapping[tuple[str, str], tuple[Task, Item]]
    folder: Path
    decoding: Decoding = Decoding()

    @classmethod
    def of(cls, model: EvaluatedModel, tasks: Sequence[Task], folder: Path, decoding: Decoding) -> Asker:
        """Over all items of the tasks."""
        items = {(task.name, item.id): (task, item) for task in tasks for item in task.items}
        return cls(model, items, folder, decoding)

    def __call__(self, key: Key) -> Answer:
        """The answer to one question; a medium that cannot be read is noted in `error`, a prompt too long for the
        model is no answer."""
        name, item_id, blind = key
        task, item = self.items[name, item_id]
        started = time.perf_counter()
        said, error = Said(""), None
        try:
            said = ask(self.model, task, item, self.decoding, blind=blind)
        except (ImageError, AudioError, VideoError) as problem:
            error = str(problem)
        except ContextFullError:
            pass
        return self._record(task, item, said, time.perf_counter() - started, blind=blind, error=error)

    def same_question(self, key: Key, known: Answer) -> Answer:
        """The answer to a blind question that was put before in the same words."""
        task, item = self.items[key[0], key[1]]
        return self._record(task, item, Said(known.answer), 0.0, blind=True, error=None)

    def _record(self, task: Task, item: Item, said: Said, seconds: float, *, blind: bool, error: str | None) -> Answer:
        return Answer(
            task=task.name,
            id=item.id,
            blind=blind,
            answer=said.text,
            seconds=round(seconds, 4),
            media=() if blind else tuple(_shown_name(item, index, self.folder) for index in range(len(item.media))),
            question=item.question if task.verb != "transcribe" else "",
            decoding=_decoding(task, self.decoding),
            expected=item.expected,
            error=error,
            judged={} if error else task.scorer.judge(item, said.text),
            measured={name: round(value, 4) for name, value in said.measured.items()},
        )


def ask(model: EvaluatedModel, task: Task, item: Item, decoding: Decoding, *, blind: bool = False) -> Said:
    """What a model says to one item. Raises ImageError, AudioError or VideoError for a medium that cannot be read."""
    return ASK[task.verb](model, task, item, () if blind else item.media, decoding)


# --- verbs ------------------------------------------------------------------------------------------------------


def _chat(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    return _reply(model, task, item.question, media, decoding)


def _transcribe(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    source = media[0].for_model if media else silence()
    return Said(text_of(model.transcribe(source, own_ears=not task.transcript)).strip())


def _rank(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    """The letter of the choice with the smallest mean loss of a token."""
    losses = _losses(model, task, item, media)
    return Said(list(item.choices)[losses.index(min(losses))])


def _match(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    """The mean losses of all choices, as a JSON list."""
    return Said(json.dumps([round(loss, 4) for loss in _losses(model, task, item, media)]))


def _speak(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    """What the recogniser hears in the question read aloud."""
    assert isinstance(model, Speaks)  # tasks that speak are left out for others
    heard, measured = read_aloud(model, item.question)
    return Said(heard, measured)


def _poll(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    """What is said at the first second for which the model says that it is time; nothing where it never does.

    It sees what has gone by since the request; blind it says the same at all times, so the first is enough."""
    moment, output = moment_of(item), item.expected[0]
    whole = [one.held() for one in media]
    times = streamingbench.poll_times(round(moment.asked_s), round(moment.due_s))
    for number, time_s in enumerate(times if media else times[:1], start=1):
        seen = [one.cut(0, time_s - moment.asked_s) for one in whole]
        question = streamingbench.POLL.format(request=item.question, output=output)
        if streamingbench.is_yes(_reply(model, task, question, seen, decoding).text):
            said = _reply(model, task, streamingbench.SAY.format(request=item.question), seen, decoding).text
            return Said(written([Utterance(time_s, said)]), {"polls": number})
    return Said(written([]), {"polls": len(times) if media else 1})


def _live(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media], decoding: Decoding) -> Said:
    """What the model says to a stream of its own accord. Blind, the stream is as long, without pictures and sound."""
    assert isinstance(model, Attends)  # tasks that are live are left out for others
    units = stream(item.media[0]) if media else dark(stream(item.media[0]))
    session, works = model.live_session(item.question, live_config(task.max_tokens, decoding.temperature,
                                                                    decoding.seed))
    attended = attend(session, works, units)
    return Said(written(attended.said), attended.measured)


ASK: Mapping[Verb, Ask] = {"chat": _chat, "transcribe": _transcribe, "rank": _rank, "match": _match, "speak": _speak,
                           "poll": _poll, "live": _live}


def _reply(model: EvaluatedModel, task: Task, question: str, media: Sequence[Media], decoding: Decoding) -> Said:
    reply = model.chat(_turn(question, media), max_tokens=task.max_tokens, transcript=task.transcript,
                       num_beams=task.num_beams, **decoding.options)
    return Said(text_of(reply).strip(), _timing(reply))


def _turn(question: str, media: Sequence[Media]) -> list[dict[str, Any]]:
    shown = [{"type": one.kind, one.kind: one.for_model} for one in media]
    words = [{"type": "text", "text": question}] if question else []
    return [{"role": "user", "content": [*shown, *words]}]


def _losses(model: EvaluatedModel, task: Task, item: Item, media: Sequence[Media]) -> list[float]:
    assert isinstance(model, Ranks)  # tasks that rank are left out for others
    found = model.losses(_turn(item.question, media), list(item.choices.values()), transcript=task.transcript)
    return [one.loss / max(1, one.num_tokens) for one in found]


def _timing(reply: object) -> dict[str, float]:
    """Seconds to the first word and tokens a second, of a reply that tells."""
    if not isinstance(reply, HasTiming):
        return {}
    found = {"first_word_s": reply.timing.ttft_s, "tokens_per_s": reply.timing.tokens_per_s}
    return {name: value for name, value in found.items() if value is not None}


def _decoding(task: Task, decoding: Decoding) -> dict[str, Any]:
    if task.verb not in ("chat", "poll", "live"):
        return {}
    return {"max_tokens": task.max_tokens, "num_beams": task.num_beams, **decoding.options,
            "transcript": task.transcript}


def _shown_name(item: Item, index: int, folder: Path) -> str:
    """A file with its folders below the data folder, and which seconds of it (as media fragments are written)."""
    media = item.media[index]
    window = "" if media.window is None else f"#t={media.window[0]:g},{media.window[1]:g}"
    if isinstance(media.source, Path) and media.source.is_relative_to(folder):
        return media.source.relative_to(folder).as_posix() + window
    return media.name + window
