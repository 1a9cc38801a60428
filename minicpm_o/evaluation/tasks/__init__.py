"""One small file a task. `load_tasks` reads whatever of them a data folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official import mmbench as official_mmbench
from minicpm_o.evaluation.official import mme as official_mme
from minicpm_o.evaluation.official import ocrbench as official_ocrbench
from minicpm_o.evaluation.official import pope as official_pope
from minicpm_o.evaluation.official import seed_bench as official_seed_bench
from minicpm_o.evaluation.official import streamingbench_set as official_streamingbench
from minicpm_o.evaluation.official import voicebench_set as official_voicebench
from minicpm_o.evaluation.official import vqa as official_vqa
from minicpm_o.evaluation.tasks import (
    audio,
    caltech101,
    coco,
    daquar,
    flickr8k,
    fsdd,
    images_qa,
    llava_bench,
    mmbench,
    mme,
    nlvr,
    ocrbench,
    pope,
    questions,
    retrieval_sets,
    seed_bench,
    speech,
    streamingbench,
    video,
    voicebench,
    vqa,
)
from minicpm_o.evaluation.tasks.base import Item, Loader, Task, TaskSet, Verb
from minicpm_o.evaluation.tasks.no_speech import no_speech_task
from minicpm_o.evaluation.tasks.published import stand_in

__all__ = ["PUBLISHED", "Item", "Task", "TaskSet", "Verb", "load_tasks"]

FOLDERS: dict[str, Loader] = {
    "flickr8k/captions.jsonl": flickr8k.load,
    "coco/annotations.jsonl": coco.load,
    "caltech101/labels.jsonl": caltech101.load,
    "daquar/qa.jsonl": daquar.load,
    "speech/asr.jsonl": speech.load,
    "fsdd/labels.jsonl": fsdd.load,
    "questions/qa.jsonl": questions.load,
    f"{mme.FOLDER}/": mme.load,
    f"{seed_bench.FILE} with {seed_bench.FOLDERS[0]}/": seed_bench.load,
    "pope/coco_pope_*.json with val2014/": pope.load,
    f"{llava_bench.FOLDER}/": llava_bench.load,
    f"{streamingbench.FOLDER}/": streamingbench.load,
    "textvqa/, vqa_v2/, docvqa/, chartqa/": vqa.load,
    f"{official_voicebench.FOLDER}/": voicebench.load,
    f"{retrieval_sets.FOLDER}/": retrieval_sets.load,
}
"""Files of a set -> loader of the data folder."""

PATTERNS: dict[str, Loader] = {
    "images_qa*.jsonl": images_qa.load,
    "nlvr*.jsonl": nlvr.load,
    "audio*.jsonl": audio.load,
    "video*.jsonl": video.load,
    "MMBench*.tsv": mmbench.load,
    "OCRBench*.tsv": ocrbench.load,
}
"""Name pattern -> loader of one file."""
PUBLISHED: dict[str, str] = {
    "mme": official_mme.WHERE,
    "pope": official_pope.WHERE,
    "seed_bench": official_seed_bench.WHERE,
    "mmbench": official_mmbench.WHERE,
    "ocrbench": official_ocrbench.OCRBENCH,
    "textvqa": official_vqa.TEXTVQA,
    "vqa_v2": official_vqa.VQA_V2,
    "docvqa": official_vqa.DOCVQA,
    "chartqa": official_vqa.CHARTQA,
    "voicebench": official_voicebench.WHERE,
    retrieval_sets.NAME: retrieval_sets.WHERE,
    "streamingbench": official_streamingbench.WHERE,
}
"""Benchmark -> where its set is had and what is expected."""

ANSWERS_ENDING = ".answers.jsonl"
"""Answer files of earlier runs, which are never data."""


def load_tasks(data_dir: Path) -> TaskSet:
    """All tasks of a data folder, their bad rows, and notes on what was left aside.

    Raises InputError where the folder is missing or holds none of the known files."""
    if not data_dir.is_dir():
        raise InputError(f"data folder {data_dir} is not there; give a folder that holds {_known()}")
    sets = list(_load(data_dir))
    files = tuple(file for found in sets for file in found.files)
    if not files:
        raise InputError(f"data folder {data_dir} holds none of the known files; expected {_known()}")
    tasks = [task for found in sets for task in found.tasks]
    if any(task.verb == "transcribe" for task in tasks):
        tasks.append(no_speech_task())
    notes = [note for found in sets for note in found.notes] + _left_aside(data_dir, files)
    if (told := stand_in(data_dir)) is not None:
        notes.insert(0, f"stand-in sets, no scores of the benchmarks whose format they have: {told}")
    return TaskSet(tuple(tasks), tuple(bad for found in sets for bad in found.bad_rows), files, tuple(notes))


def _load(data_dir: Path) -> Iterator[TaskSet]:
    for loader in FOLDERS.values():
        yield loader(data_dir)
    for pattern, loader in PATTERNS.items():
        for path in sorted(data_dir.glob(pattern)):
            if not path.name.endswith(ANSWERS_ENDING):
                yield loader(path)


def _left_aside(data_dir: Path, files: tuple[Path, ...]) -> list[str]:
    """A note for each jsonl that no task reads."""
    found = sorted({*data_dir.glob("*.jsonl"), *data_dir.glob("*/*.jsonl")} - set(files))
    names = [path.relative_to(data_dir).as_posix() for path in found if not path.name.endswith(ANSWERS_ENDING)]
    return [f"{name}: no task reads this file" for name in names]


def _known() -> str:
    return ", ".join([*FOLDERS, *PATTERNS])
