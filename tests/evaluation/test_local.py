"""Whole runs with a scripted model whose scores are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.errors import InputError, OptionError
from minicpm_o.evaluation import run_local
from minicpm_o.evaluation.local import answers_path
from minicpm_o.inputs.prompts import CAPTION, DIGIT, EARS

Scripted = Callable[..., Any]
YES_NO = "Is it red? Please answer yes or no."


@pytest.fixture
def four(data: Any) -> Any:
    """Four yes/no questions, two of each, on two pictures."""
    data.images("images", "1.png", "2.png")
    rows = [
        {"id": "a", "image": "1.png", "type": "yesno", "question": "Red?", "answers": ["yes"]},
        {"id": "b", "image": "1.png", "type": "yesno", "question": "Blue?", "answers": ["no"]},
        {"id": "c", "image": "2.png", "type": "yesno", "question": "Red?", "answers": ["no"]},
        {"id": "d", "image": "2.png", "type": "yesno", "question": "Blue?", "answers": ["yes"]},
    ]
    data.rows("images_qa.jsonl", rows)
    return data


@pytest.fixture
def three_of_four(scripted: Scripted) -> Any:
    """Right on a, b and c; without the picture it always says yes."""
    answers = {("1.png", "Red?"): "Yes.", ("1.png", "Blue?"): "No.", ("2.png", "Red?"): "no", ("2.png", "Blue?"): "no"}
    return scripted(answers, default="yes")


def test_numbers_of_a_run_with_blind(four: Any, three_of_four: Any) -> None:
    report = run_local(three_of_four, four.root, blind=True)
    line = report.task("images_qa/yesno")
    assert report.model == "scripted"
    assert line.n == 4
    assert line.metrics == {"accuracy": 0.75, "yes_ratio": 0.25, "unparsed": 0.0}
    assert line.interval == pytest.approx((0.3006, 0.9544), abs=5e-4)
    assert line.chance == 0.5
    assert line.blind == {"accuracy": 0.5, "yes_ratio": 1.0, "unparsed": 0.0}
    assert line.seconds_per_item >= 0
    seen = [call for call in three_of_four.calls if call["media"]]
    unseen = [call["question"] for call in three_of_four.calls if not call["media"]]
    assert len(seen) == 4
    assert sorted(unseen) == ["Blue?", "Red?"], "a blind question is put once"


def test_without_blind_nothing_is_asked_blind(four: Any, three_of_four: Any) -> None:
    line = run_local(three_of_four, four.root).tasks[0]
    assert line.blind == {}
    assert all(call["media"] for call in three_of_four.calls)


def test_json_report_has_the_agreed_fields(four: Any, three_of_four: Any, tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.json"
    run_local(three_of_four, four.root, blind=True, report_path=path)
    report = json.loads(path.read_text(encoding="utf-8"))
    assert set(report) == {"model", "settings", "tasks", "details", "bad_rows", "notes"}
    assert report["model"] == "scripted"
    (line,) = report["tasks"]
    assert list(line) == ["name", "n", "metrics", "interval", "chance", "blind", "seconds_per_item"]
    assert line["metrics"]["accuracy"] == 0.75 and line["blind"]["accuracy"] == 0.5
    assert len(line["interval"]) == 2
    assert report["settings"]["prompts"]["caption"] == CAPTION
    assert report["settings"]["fingerprint"] == "v1"
    assert report["details"]["images_qa/yesno"]["chance"] == "random guess"


def test_raw_answers_lie_beside_the_report(four: Any, three_of_four: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run_local(three_of_four, four.root, blind=True, report_path=path)
    lines = [json.loads(line) for line in answers_path(path).read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 8
    first = lines[0]
    assert first["task"] == "images_qa/yesno" and first["id"] == "a" and first["blind"] is False
    assert first["media"] == ["images/1.png"] and first["question"] == "Red?"
    assert first["answer"] == "Yes." and first["expected"] == ["yes"] and first["judged"] == {"correct": True}
    assert lines[-1]["blind"] is True and lines[-1]["media"] == []


def test_an_interrupted_run_goes_on_where_it_stopped(four: Any, three_of_four: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    three_of_four.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run_local(three_of_four, four.root, report_path=path)
    assert not path.exists()
    with answers_path(path).open("a", encoding="utf-8") as file:
        file.write('{"run": "cut sho')
    three_of_four.stop_after = None
    report = run_local(three_of_four, four.root, blind=True, report_path=path)
    assert report.tasks[0].metrics["accuracy"] == 0.75
    assert len([call for call in three_of_four.calls if call["media"]]) == 4, "two before, two after"
    assert any("2 answers were taken over" in note for note in report.notes)
    assert len(answers_path(path).read_text(encoding="utf-8").splitlines()) == 8


@pytest.mark.parametrize("change", ["fingerprint", "data"])
def test_answers_of_other_weights_or_data_are_moved_aside(
    four: Any, three_of_four: Any, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "report.json"
    run_local(three_of_four, four.root, report_path=path)
    if change == "fingerprint":
        three_of_four.fingerprint = "v2"
    else:
        four.rows("nlvr.jsonl", [{"image": "1.png", "question": "?", "answers": ["no"]}])
    report = run_local(three_of_four, four.root, report_path=path)
    assert not any("taken over" in note for note in report.notes)
    assert any("moved to report.answers.jsonl.old1" in note for note in report.notes)
    assert len((tmp_path / "report.answers.jsonl.old1").read_text(encoding="utf-8").splitlines()) == 4


def test_bad_rows_and_unreadable_media_are_counted_and_named(four: Any, scripted: Scripted) -> None:
    four.rows("nlvr.jsonl", ["{broken", json.dumps({"image": "gone.png", "question": "?", "answers": ["no"]})])
    model = scripted({}, default="yes", broken=frozenset({"2.png"}))
    report = run_local(model, four.root)
    assert report.task("images_qa/yesno").n == 2
    reasons = [(bad.file, bad.line, bad.reason) for bad in report.bad_rows]
    assert len(reasons) == 4
    assert reasons[0][1] == 1 and "not JSON" in reasons[0][2]
    assert reasons[1][1] == 2 and "gone.png" in reasons[1][2]
    assert reasons[2] == ("images_qa/yesno", None, "c: 2.png is no picture")
    assert report.to_dict()["bad_rows"]["count"] == 4
    assert "4 bad rows" in report.to_markdown()


def test_limit_keeps_whole_pictures_and_repeats_itself(four: Any, three_of_four: Any) -> None:
    report = run_local(three_of_four, four.root, limit=3)
    assert report.tasks[0].n == 2
    assert len({call["media"] for call in three_of_four.calls}) == 1
    again = run_local(three_of_four, four.root, limit=3)
    assert again.tasks[0].metrics == report.tasks[0].metrics
    with pytest.raises(OptionError, match="limit is 0"):
        run_local(three_of_four, four.root, limit=0)


def test_tasks_can_be_chosen(four: Any, three_of_four: Any) -> None:
    four.rows("nlvr.jsonl", [{"image": "1.png", "question": "?", "answers": ["no"]}])
    assert [line.name for line in run_local(three_of_four, four.root, tasks=["nlvr/"]).tasks] == ["nlvr/yesno"]
    with pytest.raises(OptionError, match="no task 'nlvr/other'"):
        run_local(three_of_four, four.root, tasks=["nlvr/other"])


def test_captions_by_hand(data: Any, scripted: Scripted) -> None:
    """One caption is right word for word (10), the other shares nothing: CIDEr (10 + 0) / 2 = 5, ROUGE-L 0.5."""
    data.images("flickr8k", "1.png", "2.png")
    data.rows(
        "flickr8k/captions.jsonl",
        [
            {"image": "1.png", "en": ["A dog runs fast ."]},
            {"image": "2.png", "en": ["Two red cars park ."]},
        ],
    )
    model = scripted({("1.png", CAPTION): "a dog runs fast"}, default="nothing here")
    line = run_local(model, data.root, blind=True).task("flickr8k/caption")
    assert line.metrics == pytest.approx({"cider": 5.0, "rouge_l": 0.5})
    assert line.blind == {"cider": 0.0, "rouge_l": 0.0}
    assert line.chance == 0.0


def test_speech_through_both_ways(data: Any, scripted: Scripted) -> None:
    """transcribe: 1 error in 4 words; ears: 2 in 4, their writing 3 in 4; blind ears: all 4 missing, 1 invented."""
    data.sounds("speech", "1.wav", "2.wav")
    data.rows("speech/asr.jsonl", [{"audio": "1.wav", "text": "Good day"}, {"audio": "2.wav", "text": "Mr. Park"}])
    model = scripted(
        {("1.wav", EARS): "good", ("2.wav", EARS): "mister bark", ("", EARS): "what"},
        spoken={"1.wav": "good day", "2.wav": "Mister Bark", "noise": "hello", "silence": ""},
        own_ears={"1.wav": "good hay", "2.wav": "blister bark"},
    )
    report = run_local(model, data.root, blind=True)
    assert report.task("speech/asr_ears_written").metrics == {"wer": 0.75, "exact": 0.0}
    assert report.task("speech/asr_transcribe").metrics == {"wer": 0.25, "exact": 0.5}
    assert report.task("speech/asr_transcribe").blind["wer"] == 1.0
    assert report.task("speech/asr_ears").metrics["wer"] == 0.5
    assert report.task("speech/asr_ears").blind["wer"] == 1.0
    assert all(not call["transcript"] for call in model.calls if call["question"] == EARS)
    silent = report.task("speech/no_speech")
    assert silent.metrics == {"empty": pytest.approx(2 / silent.n)}, (
        "two clips are silence, this model hears words in noise"
    )
    assert silent.chance is None and silent.blind == {}


def test_digits_with_and_without_the_recogniser(data: Any, scripted: Scripted) -> None:
    data.sounds("fsdd", "7_a_5.wav")
    data.rows("fsdd/labels.jsonl", [{"audio": "7_a_5.wav", "text": "seven"}])
    model = scripted({("7_a_5.wav", DIGIT): "It is 7."})
    report = run_local(model, data.root)
    assert report.task("fsdd/digit").metrics == {"accuracy": 1.0}
    assert [call["transcript"] for call in model.calls] == [True, False]


def test_tables_show_every_task(four: Any, three_of_four: Any) -> None:
    from rich.console import Console

    report = run_local(three_of_four, four.root, blind=True)
    markdown = report.to_markdown()
    assert markdown.splitlines()[0] == "| task | n | metric | score | 95 % interval | chance | blind | s/item |"
    assert "| images_qa/yesno | 4 | accuracy | 0.750 | 0.301 – 0.954 | 0.500 | 0.500 |" in markdown
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(report.to_table())
    assert "images_qa/yesno" in console.export_text()
    with pytest.raises(KeyError, match="there are images_qa/yesno"):
        report.task("nothing")


def test_progress_is_told(four: Any, three_of_four: Any) -> None:
    told: list[tuple[str, int, int]] = []
    run_local(three_of_four, four.root, blind=True, progress=lambda *step: told.append(step))
    assert told[3] == ("images_qa/yesno", 4, 4)
    assert told[-1] == ("images_qa/yesno (blind)", 4, 4)


def test_a_report_path_that_cannot_be_written_is_said_before_any_question(four: Any, three_of_four: Any) -> None:
    in_the_way = four.root / "images_qa.jsonl"
    with pytest.raises(InputError, match="cannot write"):
        run_local(three_of_four, four.root, report_path=in_the_way / "report.json")
    assert three_of_four.calls == []
