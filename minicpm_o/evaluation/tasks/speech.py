"""`speech/asr.jsonl`: {"audio", "text" or "transcript", "lang"?} -> error rates of every way to hear.

`asr_transcribe` is the recogniser (`transcribe`); `asr_ears` asks the model itself, without the recogniser's text;
`asr_ears_written` is what own ears write before the model has read it (English).
English: WER after Whisper's normaliser. Chinese: CER on lines of its own (`asr_transcribe_zh`). Other languages: WER
after the basic normaliser. The blind run of `asr_transcribe` hears silence: words there would be invented.
`spoken` has the model read the English transcripts aloud: word errors of what its recogniser hears, real-time factor,
and DNSMOS where speechmos is installed. `retrieval`, `matching`: which transcript belongs to which clip, by own ears.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.evaluation.normalise import has_han
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import ErrorRateScorer, character_errors, english_word_errors, other_word_errors
from minicpm_o.evaluation.spoken import has_quality
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.evaluation.tasks.retrieval import pair_tasks
from minicpm_o.inputs.prompts import EARS

MOST_SPOKEN = 40
MOST_PAIRS = 30
"""Own ears are slower than eyes."""


def load(data_dir: Path) -> TaskSet:
    """Tasks speech/asr_transcribe and speech/asr_ears, and those of other languages."""
    return load_file(data_dir / "speech" / "asr.jsonl", parse_speech, lambda items: asr_tasks("speech", items))


def parse_speech(row: Row) -> Iterable[Item]:
    """One clip with its transcript; the tag is the language, from `lang` or else from the script of the transcript."""
    audio = row.media("audio")
    transcript = row.text("text", "transcript")
    language = row.text_or("lang", row.text_or("language", "zh" if has_han(transcript) else "en"))
    yield Item(audio.name, (audio,), EARS, (transcript,), tag=language.lower()[:2])


def asr_tasks(prefix: str, items: list[Item]) -> Iterable[Task]:
    """The recogniser's line and the model's for every language, that of own ears for English."""
    yield from transcribe_tasks(f"{prefix}/asr_transcribe", items)
    for suffix, group, scorer in _by_language(items):
        yield Task(f"{prefix}/asr_ears{suffix}", group, scorer, max_tokens=128, transcript=False)
        if not suffix:
            yield Task(f"{prefix}/asr_ears_written", group, scorer, verb="transcribe", transcript=False)
            yield from pair_tasks(prefix, group, transcript=False, most=MOST_PAIRS)
            yield spoken_task(f"{prefix}/spoken", [item.expected[0] for item in group])


def spoken_task(name: str, texts: Iterable[str]) -> Task:
    """Texts read aloud, each once, at most `MOST_SPOKEN`."""
    chosen = tuple(dict.fromkeys(texts))[:MOST_SPOKEN]
    items = tuple(Item(text, (), text, (text,)) for text in chosen)
    missing = "" if has_quality() else "; no DNSMOS without pip install 'minicpm-o[voice-quality]'"
    return Task(name, items, english_word_errors(), verb="speak", has_blind=False,
                notes=(f"the model's own recogniser writes down its voice{missing}",))


def transcribe_tasks(name: str, items: list[Item]) -> Iterable[Task]:
    """The recogniser's line for every language."""
    for suffix, group, scorer in _by_language(items):
        yield Task(f"{name}{suffix}", group, scorer, verb="transcribe")


def _by_language(items: list[Item]) -> Iterable[tuple[str, tuple[Item, ...], ErrorRateScorer]]:
    for language in sorted({item.tag for item in items}, key=lambda tag: (tag != "en", tag)):
        group = tuple(item for item in items if item.tag == language)
        yield "" if language == "en" else f"_{language}", group, _scorer(language)


def _scorer(language: str) -> ErrorRateScorer:
    if language == "en":
        return english_word_errors()
    return character_errors() if language in ("zh", "yu", "ja") else other_word_errors()
