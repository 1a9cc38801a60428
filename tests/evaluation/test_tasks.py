"""What each file of a data folder turns into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.moments import Moment
from minicpm_o.evaluation.tasks import load_tasks
from minicpm_o.evaluation.tasks.base import Task, TaskSet
from minicpm_o.evaluation.tasks.caltech101_names import BROADER, SYNONYMS, names_of
from minicpm_o.inputs import prompts


def by_name(found: TaskSet) -> dict[str, Task]:
    return {task.name: task for task in found.tasks}


def questions(task: Task) -> list[str]:
    return [item.question for item in task.items]


def test_a_folder_without_known_files_says_what_it_looked_for(data: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the known files.*flickr8k/captions\.jsonl"):
        load_tasks(data.root)
    with pytest.raises(InputError, match="is not there"):
        load_tasks(tmp_path / "nowhere")


def test_flickr8k_has_english_and_chinese_captions(data: Any) -> None:
    data.images("flickr8k/images", "1.png", "2.png")
    data.rows(
        "flickr8k/captions.jsonl",
        [
            {"image": "images/1.png", "en": ["a dog", "the dog"], "zh": ["狗"]},
            {"image": "images/2.png", "en": ["a cat"]},
            {"image": "images/2.png", "en": []},
        ],
    )
    found = load_tasks(data.root)
    tasks = by_name(found)
    assert [item.expected for item in tasks["flickr8k/caption"].items] == [("a dog", "the dog"), ("a cat",)]
    assert questions(tasks["flickr8k/caption"]) == [prompts.CAPTION] * 2
    assert questions(tasks["flickr8k/caption_zh"]) == [prompts.CAPTION_ZH]
    assert [bad.line for bad in found.bad_rows] == [3]


def boxes(*names: str) -> list[list[object]]:
    return [[name, 0.5, 0.5, 0.1, 0.1] for name in names]


def coco_rows(data: Any) -> list[dict[str, object]]:
    pictures = [
        ("person", "car", "dog", "dog"),
        ("person", "car", "bus"),
        ("person", "cat"),
        ("cup",),
        ("person", "car", "kite", "boat"),
        (),
    ]
    rows = []
    for index, names in enumerate(pictures):
        data.images("coco/images", f"{index}.png")
        captions = [f"caption {index}"] if index < 2 else []
        rows.append({"image": f"images/{index}.png", "captions": captions, "boxes_cxcywh": boxes(*names)})
    return rows


def test_coco_captions_are_asked_where_there_are_some(data: Any) -> None:
    data.rows("coco/annotations.jsonl", coco_rows(data))
    found = load_tasks(data.root)
    assert len(by_name(found)["coco/caption"].items) == 2
    assert "coco/caption: 4 of 6 rows have no captions" in found.notes
    assert "coco/presence: 1 of 6 rows have no boxes" in found.notes


def test_presence_is_balanced_truthful_and_repeatable(data: Any) -> None:
    rows = coco_rows(data)
    data.rows("coco/annotations.jsonl", rows)
    items = by_name(load_tasks(data.root))["coco/presence"].items
    present = {str(row["image"]): {box[0] for box in row["boxes_cxcywh"]} for row in rows}  # type: ignore[attr-defined]
    for item in items:
        kind, answer, name = item.id.split(" ")[1:]
        assert item.question == f"Is there a {name} in this picture? Answer yes or no."
        assert item.expected == (answer,)
        assert (name in present[item.media[0].name]) == (answer == "yes")
        assert item.tag == kind
    per_picture = Counter((item.group, item.expected[0]) for item in items)
    assert all(per_picture[(group, "yes")] == per_picture[(group, "no")] <= 3 for group, _ in per_picture)
    per_kind = Counter((item.tag, item.expected[0]) for item in items)
    assert all(per_kind[(kind, "yes")] == per_kind[(kind, "no")] > 0 for kind in ("random", "popular", "adversarial"))
    assert len(set(questions_by_picture(items))) == len(items)
    assert by_name(load_tasks(data.root))["coco/presence"].items == items


def questions_by_picture(items: Sequence[Any]) -> list[tuple[str, str]]:
    return [(item.group, item.question) for item in items]


def test_popular_and_adversarial_negatives(data: Any) -> None:
    """car is in four pictures and boat in three, so car is popular; but beside a dog stands only the boat."""
    pictures = [("dog",), ("dog", "boat"), ("dog", "boat"), ("cup", "boat"), *[("cup", "car")] * 4]
    for index in range(len(pictures)):
        data.images("coco", f"{index}.png")
    data.rows(
        "coco/annotations.jsonl",
        [{"image": f"{index}.png", "boxes_cxcywh": boxes(*names)} for index, names in enumerate(pictures)],
    )
    items = by_name(load_tasks(data.root))["coco/presence"].items
    first = {item.tag for item in items if item.group == "0.png"}
    assert first == {"random"}  # a single class: the kinds take turns, picture 0 begins
    second = {item.tag: item.question for item in items if item.group == "1.png" and item.expected == ("no",)}
    assert "cup" in second["popular"]  # five pictures have a cup
    third = {item.tag: item.question for item in items if item.group == "2.png" and item.expected == ("no",)}
    assert "cup" in third["adversarial"]  # one cup stands beside a boat, no car does


def test_caltech_names(data: Any) -> None:
    data.images("caltech101/Faces", "1.png")
    data.rows(
        "caltech101/labels.jsonl",
        [
            {"image": "Faces/1.png", "label": "Faces"},
            {"image": "Faces/1.png", "label": "dalmatian"},
            {"image": "Faces/1.png", "label": "BACKGROUND_Google"},
        ],
    )
    found = load_tasks(data.root)
    task = by_name(found)["caltech101/naming"]
    assert len({item.id for item in task.items}) == 2
    scores = task.scorer.score(task.items, ["A woman smiles", "a spotted dog"])
    assert scores.metrics == {"accuracy": 0.5, "accuracy_broad": 1.0}
    assert task.scorer.chance(task.items).value == 0.5
    assert [bad.line for bad in found.bad_rows] == [3]


def test_every_caltech_label_has_names_and_wider_names_are_no_synonyms() -> None:
    assert len(SYNONYMS) == 101
    assert set(BROADER) <= set(SYNONYMS)
    assert all(set(BROADER[label]).isdisjoint(names_of(label)) for label in BROADER)
    assert names_of("car_side") == ("car side", "car", "automobile", "sedan", "hatchback", "station wagon")
    assert names_of("unlisted_thing") == ("unlisted thing",)


def test_daquar_lists_ask_for_every_part(data: Any) -> None:
    data.images("daquar/images", "1.png")
    data.rows(
        "daquar/qa.jsonl",
        [
            {"image": "images/1.png", "qa": [["what is it?", "fax machine, printer"], ["how many?", "2"]]},
            {"image": "images/1.png", "qa": [["no answer"]]},
            {"image": "images/1.png", "question": "colour?", "answer": "red"},
        ],
    )
    found = load_tasks(data.root)
    items = by_name(found)["daquar/qa"].items
    assert [item.expected for item in items] == [("fax machine", "printer"), ("2",), ("red",)]
    assert len({item.id for item in items}) == 3
    assert [bad.line for bad in found.bad_rows] == [2]


def test_speech_takes_both_field_names_and_keeps_languages_apart(data: Any) -> None:
    data.sounds("speech", "a.wav", "b.wav", "c.wav", "d.wav")
    data.rows(
        "speech/asr.jsonl",
        [
            {"audio": "a.wav", "text": "hello there"},
            {"audio": "b.wav", "transcript": "good day", "lang": "en"},
            {"audio": "c.wav", "text": "你好"},
            {"audio": "d.wav", "text": "guten Tag", "language": "de"},
            {"audio": "a.wav"},
        ],
    )
    found = load_tasks(data.root)
    tasks = by_name(found)
    assert list(tasks) == [
        "speech/asr_transcribe", "speech/asr_transcribe_de", "speech/asr_transcribe_zh",
        "speech/asr_ears", "speech/asr_ears_written", "speech/retrieval", "speech/matching", "speech/spoken",
        "speech/asr_ears_de", "speech/asr_ears_zh", "speech/no_speech",
    ]  # fmt: skip
    assert len(tasks["speech/asr_transcribe"].items) == 2
    ears = tasks["speech/asr_ears"]
    assert (ears.verb, ears.transcript, questions(ears)) == ("chat", False, [prompts.EARS] * 2)
    written = tasks["speech/asr_ears_written"]
    assert (written.verb, written.transcript) == ("transcribe", False)
    assert (
        next(iter(tasks["speech/asr_ears_zh"].scorer.score(tasks["speech/asr_ears_zh"].items, ["你"]).metrics)) == "cer"
    )
    assert [bad.line for bad in found.bad_rows] == [5]


def test_digits(data: Any) -> None:
    data.sounds("fsdd", "0_a_5.wav")
    data.rows(
        "fsdd/labels.jsonl",
        [{"audio": "0_a_5.wav", "text": "zero"}, {"audio": "0_a_5.wav", "label": "ten"}],
    )
    found = load_tasks(data.root)
    tasks = by_name(found)
    assert tasks["fsdd/digit"].transcript and not tasks["fsdd/digit_ears"].transcript
    assert questions(tasks["fsdd/digit"]) == [prompts.DIGIT]
    assert found.bad_rows[0].reason == "'ten' does not name one digit"


def qa_row(kind: str, **fields: object) -> dict[str, object]:
    return {"image": "1.png", "type": kind, "lang": "en", "question": "Which?", **fields}


def test_images_qa_types_and_languages_are_lines_of_their_own(data: Any) -> None:
    data.images("images", "1.png")
    data.rows(
        "images_qa_mine.jsonl",
        [
            qa_row("yesno", answers=["Yes"]),
            qa_row("open", answers=["cat", "kitten"]),
            qa_row("open", lang="zh", answers=["猫"]),
            qa_row("caption", references=["a cat", "the cat"]),
            qa_row("mcq", choices={"A": "cat", "B": "dog"}, answers=["B"]),
            qa_row("mcq", answers=["B"]),
            qa_row("mcq", choices={"A": "cat"}, answers=["B"]),
            qa_row("yesno", answers=["maybe"]),
            qa_row("essay"),
            qa_row("open", answers=[]),
        ],
    )
    found = load_tasks(data.root)
    tasks = by_name(found)
    assert sorted(tasks) == [f"images_qa_mine/{line}" for line in ("caption", "mcq", "open", "open_zh", "yesno")]
    assert tasks["images_qa_mine/mcq"].items[0].question == (
        "Which?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    )
    assert tasks["images_qa_mine/yesno"].items[0].expected == ("yes",)
    assert [bad.line for bad in found.bad_rows] == [6, 7, 8, 9, 10]


def test_nlvr_is_asked_in_its_own_words(data: Any) -> None:
    data.images("images/nlvr", "1.png")
    data.rows("nlvr_dev.jsonl", [{"id": "1", "image": "nlvr/1.png", "question": "True?", "answers": ["no"]}])
    assert questions(by_name(load_tasks(data.root))["nlvr_dev/yesno"]) == ["True?"]


def test_audio_tasks(data: Any) -> None:
    data.sounds("audio", "1.wav")
    rows: list[dict[str, object]] = [
        {"task": "asr", "lang": "en", "transcript": "hello"},
        {"task": "asr", "lang": "zh", "transcript": "你好"},
        {"task": "digit", "label": "7", "transcript": "seven"},
        {"task": "keyword", "label": "yes"},
        {"task": "sound-event", "label": "dog", "lang": ""},
        {"task": "audio-caption", "caption": "a duck quacks"},
        {"task": "spoken-question", "lang": "en", "transcript": "why?", "expected_keywords_any": ["light"]},
        {"task": "spoken-question", "lang": "en", "transcript": "who?", "expected_keywords_any": []},
        {"task": "spoken-image-question", "lang": "en", "transcript": "what?", "expected_keywords_any": []},
        {"task": "singing"},
    ]
    data.rows("audio_mine.jsonl", [{"audio": "1.wav", **row} for row in rows])
    found = load_tasks(data.root)
    sizes = {name.removeprefix("audio_mine/"): len(task.items) for name, task in by_name(found).items()}
    assert sizes == {
        "asr_transcribe": 1, "asr_transcribe_zh": 1, "asr_ears": 1, "asr_ears_written": 1, "asr_ears_zh": 1,
        "spoken": 1, "digit": 1, "digit_ears": 1,
        "keyword": 1, "sound-event": 1, "audio-caption": 1, "spoken-question": 1, "spoken-question_ears": 1,
        "spoken-question_transcribe": 2, "spoken-image-question_transcribe": 1,
        "speech/no_speech": sizes["speech/no_speech"],
    }  # fmt: skip
    assert any("1 rows accept any answer" in note for note in found.notes)
    assert any("1 rows name no picture" in note for note in found.notes)
    assert [bad.line for bad in found.bad_rows] == [10]


def test_video_questions_carry_their_second(data: Any) -> None:
    data.sounds("video", "1.mp4")
    qa = [
        {"id": "a", "time": 1.5, "question": "Which digit?", "answers": ["1", "one"]},
        {"id": "b", "time": None, "question": "A dog? Please answer yes or no.", "answers": ["no"]},
        {"id": "c", "type": "proactive", "question": "Say when.", "ground_truth_output": "three",
         "ground_truth_time_stamp": "00:01:03"},
    ]
    late = {"id": "d", "type": "proactive", "question": "Say when.", "ground_truth_output": "three"}
    data.rows("video_mine.jsonl", [{"video": "1.mp4", "qa": qa}, {"video": "1.mp4"}, {"video": "1.mp4", "qa": [late]}])
    found = load_tasks(data.root)
    tasks = by_name(found)
    assert questions(tasks["video_mine/open"]) == ["At 1.5 seconds: Which digit?"]
    assert len(tasks["video_mine/yesno"].items) == 1
    (request,) = tasks["video_mine/proactive"].items
    assert request.moment == Moment(0, 63) and request.expected == ("three",)
    assert [bad.line for bad in found.bad_rows] == [2, 3] and "ground_truth_time_stamp" in found.bad_rows[1].reason


def test_files_that_no_task_reads_are_named(data: Any) -> None:
    data.images("images", "1.png")
    data.rows("nlvr.jsonl", [{"image": "1.png", "question": "?", "answers": ["no"]}])
    data.rows("other/labels.jsonl", [{"image": "x"}])
    data.rows("nlvr_report.answers.jsonl", [{"answer": "x"}])
    found = load_tasks(data.root)
    assert found.notes == ("other/labels.jsonl: no task reads this file",)
    assert list(by_name(found)) == ["nlvr/yesno"]
