"""StreamingBench: `StreamingBench/` as it is given out -> `streamingbench/real`, `/omni`, `/sqa` and `/proactive`.

Questions with options are asked about the last minute before them, as in the benchmark's main table. `proactive` is
asked every second whether its time has come; what is said at the first yes counts. `proactive_live` puts the same
requests to a live session, which speaks of its own accord; that is no way of the benchmark's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.moments import Moment
from minicpm_o.evaluation.official import streamingbench as official
from minicpm_o.evaluation.official import streamingbench_set as distribution
from minicpm_o.evaluation.rows import BadRow, Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, with_unique_ids
from minicpm_o.evaluation.tasks.published import PublishedScorer, named
from minicpm_o.evaluation.tasks.timed import timed_scorer

FOLDER = "StreamingBench"
NAMES_SHOWN = 5
"""Of the missing videos."""
RULE = "the first character of the answer is the letter"
PROACTIVE_RULE = "said within 2 s of the true time, and the expected output stands in it"


def load(data_dir: Path) -> TaskSet:
    """Tasks of the question files that are there; nothing where the folder is not."""
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return TaskSet()
    name, videos = named(data_dir, "streamingbench"), distribution.Videos.below(folder)
    sets = [_load(f"{name}/{task}", task, paths, videos) for task in official.TASKS
            if (paths := distribution.find_files(folder, task))]
    if not sets:
        reason = f"no question file is below it. {distribution.WHERE}"
        return TaskSet(bad_rows=(BadRow(FOLDER, None, reason),), files=(folder,))
    return TaskSet(tuple(task for found in sets for task in found.tasks),
                   tuple(bad for found in sets for bad in found.bad_rows), (folder,),
                   tuple(note for found in sets for note in found.notes))


def _load(name: str, task: official.TaskName, paths: Sequence[Path], videos: distribution.Videos) -> TaskSet:
    """One task; a broken file becomes a bad row, a missing video a note."""
    found, bad = list[distribution.Found](), list[BadRow]()
    for path in paths:
        try:
            found.append(distribution.read(path, task, videos))
        except InputError as error:
            bad.append(BadRow(path.name, None, str(error)))
    tasks = (proactive_tasks if task == "proactive" else choice_tasks)(name, found)
    return TaskSet(tuple(task for task in tasks if task.items), tuple(bad),
                   notes=tuple(_missing(name, one) for one in found if one.missing))


def _missing(name: str, found: distribution.Found) -> str:
    shown = ", ".join(found.missing[:NAMES_SHOWN])
    more = len(found.missing) - NAMES_SHOWN
    return (f"{name}: {len(found.missing)} videos of {found.file.name} are not there, {found.left_out} questions about "
            f"them are left out: {shown}{f' and {more} more' if more > 0 else ''}")


# --- questions with options -------------------------------------------------------------------------------------


def choice_tasks(name: str, found: Iterable[distribution.Found]) -> list[Task]:
    """Each question with the minute before it."""
    items = with_unique_ids(_choice(choice) for one in found for choice in one.choices)
    scorer = PublishedScorer(RULE, lambda item, answer: float(official.is_letter(answer, item.expected[0])), _totals,
                             constants=distribution.LETTERS, guess=1 / len(distribution.LETTERS))
    return [Task(name, items, scorer, max_tokens=16)]


def _choice(choice: distribution.Choice) -> Item:
    start_s = max(0, choice.asked_s - official.WINDOW_SECONDS)
    video = Media("video", choice.video, choice.video_name).cut(start_s, max(choice.asked_s, 1))
    return Item(choice.id, (video,), choice.request, (choice.answer,), group=choice.video_name, tag=choice.task_type,
                choices=choice.options)


def _totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Accuracy over all and over each task type."""
    judged = ((item.tag, {"correct": official.is_letter(answer, item.expected[0])})
              for item, answer in zip(items, answers, strict=True))
    stats = official.tally(judged, official.CHOICE_RATIOS, with_total=True)
    types = sorted(name for name in stats if name != "total")
    scores = {"accuracy_official": stats["total"]["accuracy"]}
    scores |= {f"{name.lower().replace(' ', '_')}_official": stats[name]["accuracy"] for name in types}
    unread = sum(answer[:1] not in tuple(distribution.LETTERS) for answer in answers)
    return scores | {"unparsed_official": unread / max(1, len(answers))}


# --- proactive --------------------------------------------------------------------------------------------------


def proactive_tasks(name: str, found: Iterable[distribution.Found]) -> list[Task]:
    """Each request with the stretch from it to the last look: asked every second, and in a live session unasked."""
    items = with_unique_ids(_request(request) for one in found for request in one.requests)
    official_way, live = (timed_scorer(_holds, PROACTIVE_RULE, parser=way) for way in ("official", "live"))
    return [Task(name, items, official_way, max_tokens=32, verb="poll"),
            Task(f"{name}_live", items, live, max_tokens=32, verb="live")]


def _holds(item: Question, words: str) -> bool:
    return item.expected[0] in words


def _request(request: distribution.Request) -> Item:
    last_s = request.due_s + official.LAST_POLL_AFTER_SECONDS
    video = Media("video", request.video, request.video_name).cut(request.asked_s, last_s)
    return Item(request.id, (video,), request.question, (request.output,), group=request.video_name,
                tag=request.task_type, moment=Moment(request.asked_s, request.due_s))
