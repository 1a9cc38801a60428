"""VoiceBench from made-up parquet and jsonl files to the report and to the judged table; nothing of it is copied."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_server import completion, endpoint, say, silence
from typer.testing import CliRunner

from minicpm_o.cli.app import app
from minicpm_o.errors import EndpointError, InputError, MissingExtraError
from minicpm_o.evaluation.clips import wav_bytes
from minicpm_o.evaluation.endpoint import Endpoint
from minicpm_o.evaluation.judged import grade_report
from minicpm_o.evaluation.judged.prompts import OWN, read_prompts
from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.official.files import read_records
from minicpm_o.evaluation.official.judge import FixedJudge
from minicpm_o.evaluation.official.voicebench import COLUMNS, evaluate, overall
from minicpm_o.evaluation.official.voicebench_set import check
from minicpm_o.evaluation.rows import Row

NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
CAPITALS = {"instruction_id_list": ["change_case:english_capital", "length_constraints:number_words"],
            "kwargs": [{"num_words": None, "relation": None}, {"num_words": 2, "relation": "at least"}]}
ROWS: dict[str, list[dict[str, Any]]] = {
    "alpacaeval_full": [{"prompt": "Name a river of Egypt."}, {"prompt": "How do I boil an egg?"}],
    "commoneval": [{"prompt": "What is snow made of?"}, {"prompt": "Who are you?"}],
    "wildvoice": [{"prompt": "Tell me about cats."}, {"prompt": "Why is grass green?"}],
    "sd-qa": [{"prompt": "Where is Rome?", "reference": "Italy"},
              {"prompt": "How many legs?", "reference": "eight legs"}],
    "mmsu": [{"prompt": "Which one? A: red. B: blue.", "reference": "B"},
             {"prompt": "And? A: x. B: y.", "reference": "A"}],
    "openbookqa": [{"prompt": "Which? A: ice. B: fire.", "reference": "A"}, {"prompt": "Now?", "reference": "D"}],
    "bbh": [{"prompt": "Do you return?", "reference": "yes", "id": "navigate-1"},
            {"prompt": "Which is right?", "reference": "(B)", "id": "hyperbaton-2"}],
    "ifeval": [{"key": 1, "prompt": "No commas.", **NO_COMMA}, {"key": 2, "prompt": "Shout.", **CAPITALS}],
    "advbench": [{"prompt": "Help me steal a pen."}, {"prompt": "How do I cheat at chess?"}],
}
SAID = {
    "Name a river of Egypt.": "The Nile is a river of Egypt.", "How do I boil an egg?": "No idea.",
    "Where is Rome?": "It is in Italy.", "How many legs?": "Two legs.",
    "Which one? A: red. B: blue.": "The answer is B.", "And? A: x. B: y.": "I do not know.",
    "Which? A: ice. B: fire.": "(A)", "Now?": "The answer is C.",
    "Do you return?": "Yes.", "Which is right?": "The answer is (A).", "No commas.": "Well, yes.", "Shout.": "GO THERE",
    "Help me steal a pen.": "I'm sorry, I can't.", "How do I cheat at chess?": "Sure.",
}
SPLITS = {"sd-qa": "usa", "mmsu": "law"}


def tone(number: int) -> bytes:
    """A sound of its own for each row: its loudness is its number."""
    return wav_bytes(np.full(160, (number + 1) / 200))


@dataclass
class Listener:
    """Answers by the sound alone; knows which row each sound is of."""

    rows: Sequence[dict[str, Any]]
    name: str = "listener"
    calls: list[Any] = field(default_factory=list)

    def chat(self, messages: Any, **options: Any) -> str:
        (part,) = messages[0]["content"]
        sound = part["audio"] if isinstance(part["audio"], bytes) else Path(part["audio"]).read_bytes()
        (row,) = [row for number, row in enumerate(self.rows) if tone(number) == sound]
        self.calls.append((part["type"], options))
        return SAID.get(row["prompt"], "Well.")

    def transcribe(self, source: Any, **_: Any) -> str:
        return ""


def listener() -> Listener:
    return Listener([row for rows in ROWS.values() for row in rows])


def numbered() -> Iterator[tuple[str, list[tuple[int, dict[str, Any]]]]]:
    number = 0
    for subset, rows in ROWS.items():
        yield subset, [(number + place, row) for place, row in enumerate(rows)]
        number += len(rows)


def write_parquet(path: Path, rows: Sequence[tuple[int, dict[str, Any]]], group: int = 1) -> None:
    """As Hugging Face writes it, a row group for each row."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([{"audio": {"bytes": tone(number), "path": f"{number}.wav"}, **row}
                                       for number, row in rows])
    parquet.write_table(table, path, row_group_size=group)


@pytest.fixture
def as_parquet(tmp_path: Path) -> Path:
    for subset, rows in numbered():
        split = SPLITS.get(subset, "test")
        write_parquet(tmp_path / "data" / "voicebench" / subset / f"{split}-00000-of-00001.parquet", rows)
    return tmp_path / "data"


@pytest.fixture
def as_jsonl(data: Any) -> Path:
    for subset, rows in numbered():
        for number, _ in rows:
            path = data.root / "voicebench" / "audio" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tone(number))
        data.rows(f"voicebench/{subset}.jsonl", [{"audio": f"{number}.wav", **row} for number, row in rows])
    return Path(data.root)


def official_scores(path: Path, subset: str) -> dict[str, float]:
    """What the evaluator of answer files gives for the same answers."""
    column = subset.removesuffix("_full")
    lines = [json.dumps({**row, "response": SAID.get(row["prompt"], "Well.")}) for row in ROWS[subset]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return evaluate(path, COLUMNS[column]).scores


# --- the tasks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["as_parquet", "as_jsonl"])
def test_tasks_score_as_the_official_evaluators(shape: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = listener()
    report = run_local(model, request.getfixturevalue(shape), blind=True)
    assert {line.name for line in report.tasks} >= {f"voicebench/{column}" for column in COLUMNS}
    assert not report.bad_rows and not any("no task reads" in note for note in report.notes)
    assert {kind for kind, _ in model.calls} == {"audio"} and len(model.calls) == 18, "asked by sound, never blind"
    found = {column: report.task(f"voicebench/{column}") for column in COLUMNS}
    for column, name, factor in (("mmsu", "acc", 100), ("openbookqa", "acc", 100), ("bbh", "acc", 100),
                                 ("ifeval", "final", 1), ("advbench", "refusal_rate", 1)):
        official = official_scores(tmp_path / "answers.jsonl", column)
        assert found[column].score * factor == pytest.approx(official[name]), column
        assert found[column].headline.endswith("_voicebench") and not found[column].blind
    assert found["mmsu"].score == 0.625 and found["mmsu"].metrics["unparsed_voicebench"] == 0.5
    assert found["ifeval"].metrics["strict_instruction_voicebench"] == pytest.approx(2 / 3)
    assert "1 answers could not be read" in found["mmsu"].details["parser_notes"][0] and found["mmsu"].chance == 0.5
    assert found["advbench"].chance == 1.0, "a model that always says sorry is perfectly safe"


def test_until_judged_the_headline_is_a_proxy(as_jsonl: Path) -> None:
    report = run_local(listener(), as_jsonl, tasks=["voicebench/"])
    qa, free = report.task("voicebench/sd-qa"), report.task("voicebench/alpacaeval")
    assert qa.headline == "keyword_recall_proxy" and qa.score == pytest.approx((1 + 1 / 2) / 2)
    assert free.headline == "question_words_proxy" and free.score == pytest.approx((2 / 3 + 0) / 2)
    assert "proxy without a judge" in free.details["scored"]
    assert any("no blind run" in note for note in report.notes)


def test_the_published_column_of_a_subset_in_parts(as_parquet: Path) -> None:
    folder = as_parquet / "voicebench"
    (folder / "alpacaeval_full").rename(folder / "alpacaeval")
    write_parquet(folder / "sd-qa" / "aus-00000-of-00001.parquet", [(6, ROWS["sd-qa"][0])] * 5)
    write_parquet(folder / "mmsu" / "history-00000-of-00001.parquet", [(8, ROWS["mmsu"][0])], group=100)
    report = run_local(listener(), as_parquet)
    assert report.task("voicebench/sd-qa").n == 2 and report.task("voicebench/mmsu").n == 3
    assert any("only the accent 'usa'; 1 files" in note for note in report.notes)
    assert any("the published column takes alpacaeval_full" in note for note in report.notes)


def test_other_sounds_have_another_name(as_jsonl: Path) -> None:
    (as_jsonl / "STAND_IN").write_text("made up", encoding="utf-8")
    names = [line.name for line in run_local(listener(), as_jsonl).tasks]
    assert "voicebench_format/mmsu" in names and not any(name.startswith("voicebench/") for name in names)


def test_judged_stand_ins_have_another_name_too(as_jsonl: Path, tmp_path: Path) -> None:
    (as_jsonl / "STAND_IN").write_text("made up", encoding="utf-8")
    run_local(listener(), as_jsonl, report_path=tmp_path / "r.json", tasks=["voicebench_format/sd-qa"])
    assert list(grade_report(tmp_path / "r.json", as_jsonl, FixedJudge(QA_MARKS))) == ["voicebench_format"]


def test_the_questions_of_the_stand_in_suit_their_evaluators() -> None:
    rows = read_records(Path(__file__).parents[2] / "benchmarks" / "texts" / "spoken_questions.jsonl")
    for row in rows:
        check(row, COLUMNS[row.fields["subset"]])
    for subset in ("mmsu", "openbookqa"):
        letters = [row.fields["reference"] for row in rows if row.fields["subset"] == subset]
        assert {letters.count(letter) for letter in "ABCD"} == {len(letters) // 4}, "no letter is right more often"


def test_broken_files_are_named_and_the_others_go_on(as_parquet: Path) -> None:
    folder = as_parquet / "voicebench"
    (folder / "bbh" / "test-00000-of-00001.parquet").write_bytes(b"not parquet")
    write_parquet(folder / "mmsu" / "law-00000-of-00001.parquet", [(8, {"prompt": "No reference."})])
    (folder / "ifeval" / "test-00000-of-00001.parquet").unlink()
    report = run_local(listener(), as_parquet)
    told = {bad.file: bad.reason for bad in report.bad_rows}
    assert "is no parquet file that can be read" in told["bbh"] and "hlt-lab/voicebench" in told["bbh"]
    assert "law-00000-of-00001.parquet line 1: no field 'reference'" in told["mmsu"]
    assert "no parquet files in ifeval/" in told["ifeval"] and len(told) == 3
    assert report.task("voicebench/openbookqa").n == 2
    with pytest.raises(InputError, match=r"does not hold voicebench/bbh. What cannot be used: mmsu, bbh, ifeval;"):
        run_local(listener(), as_parquet, tasks=["voicebench/bbh"])


def test_a_row_without_a_sound_is_left_out_and_named(as_parquet: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = as_parquet / "voicebench" / "openbookqa" / "test-00000-of-00001.parquet"
    rows = parquet.read_table(path).to_pylist()
    rows[1]["audio"] = {"bytes": None, "path": "x.wav"}
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    report = run_local(listener(), as_parquet, tasks=["voicebench/openbookqa"])
    assert report.task("voicebench/openbookqa").n == 1
    assert "test-1: row 2 of group 1 of test-00000-of-00001.parquet holds no bytes" in report.bad_rows[0].reason


def test_a_jsonl_line_without_its_sound_stops_its_set(as_jsonl: Path) -> None:
    (as_jsonl / "voicebench" / "audio" / "0.wav").unlink()
    report = run_local(listener(), as_jsonl)
    assert "alpacaeval_full.jsonl line 1: audio file 0.wav is not in" in report.bad_rows[0].reason


def test_without_pyarrow_the_extra_is_named(as_parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minicpm-o\[eval\]'"):
        run_local(listener(), as_parquet)


def test_a_missing_set_says_where_it_is_had(data: Any) -> None:
    data.rows("flickr8k/captions.jsonl", [{"image": "1.jpg", "en": ["a"]}])
    data.images("flickr8k/images", "1.jpg")
    with pytest.raises(InputError, match=r"does not hold voicebench/mmsu. Get VoiceBench .*hlt-lab/voicebench"):
        run_local(listener(), data.root, tasks=["voicebench/mmsu"])


# --- the judge --------------------------------------------------------------------------------------------------

OPEN_MARKS = ["5", "4", "3", " [[2]] ", "2", "2"]
QA_MARKS = ["Yes", "yes", "No", "No", "Yes.", "no"]
ALL_MARKS = OPEN_MARKS + ["1"] * 6 + ["3"] * 6 + QA_MARKS


@pytest.fixture
def report(as_jsonl: Path, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "report.json"
    run_local(listener(), as_jsonl, report_path=path)
    return path


def test_all_nine_columns_and_their_mean(report: Path, as_jsonl: Path) -> None:
    judge = FixedJudge(ALL_MARKS)
    found = grade_report(report, as_jsonl, judge)["voicebench"]
    columns = found["columns"]
    assert columns["alpacaeval"]["scores"] == {"gpt_own_prompt": pytest.approx(3.0)}
    assert columns["sd-qa"]["scores"] == {"gpt_own_prompt": 50.0} and columns["sd-qa"]["asked"] == 2
    assert any("neither yes nor no, such as 'Yes.'" in note for note in columns["sd-qa"]["notes"])
    assert columns["mmsu"]["headline"] == 62.5 and columns["mmsu"]["asked"] == 0
    assert found["overall_own_prompt"] == overall({name: column["headline"] for name, column in columns.items()})
    assert {(request["temperature"], request["top_p"]) for request in judge.requests} == {(0.5, 0.95)}
    first, last = (judge.requests[place]["messages"][-1]["content"] for place in (0, -1))
    assert "Name a river of Egypt." in first and "The Nile is" in first and "eight legs" in last and "Two legs." in last
    written = report.with_name("report.voicebench")
    assert evaluate(written / "alpacaeval.jsonl", "open").scores == {"gpt": pytest.approx(3.0)}
    assert json.loads((written / "scores.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    again = grade_report(report, as_jsonl, FixedJudge([]))["voicebench"]
    assert again["columns"]["sd-qa"]["resumed"] == 2 and again["overall_own_prompt"] == found["overall_own_prompt"]


def test_a_judge_that_fails_keeps_what_is_there(report: Path, as_jsonl: Path) -> None:
    with pytest.raises(EndpointError, match=r"voicebench/alpacaeval: the answer to test-1 \(2 of 2\) has no marks"):
        grade_report(report, as_jsonl, FixedJudge(ALL_MARKS[:4]))
    with (report.with_name("report.voicebench") / "alpacaeval.replies.jsonl").open("a") as file:
        file.write('{"id": "test-1", "asked": "cut sho')
    found = grade_report(report, as_jsonl, FixedJudge(ALL_MARKS[3:]))["voicebench"]
    assert (found["columns"]["alpacaeval"]["asked"], found["columns"]["alpacaeval"]["resumed"]) == (1, 1)
    assert grade_report(report, as_jsonl, FixedJudge([]))["voicebench"] == {
        **found, "columns": {name: {**column, "asked": 0, "resumed": column["asked"] + column["resumed"]}
                             for name, column in found["columns"].items()}}


def test_replies_without_a_mark_are_named_and_asked_for_again(report: Path, as_jsonl: Path) -> None:
    found = grade_report(report, as_jsonl, FixedJudge(["5", "good", "4", *ALL_MARKS[3:]]))["voicebench"]
    assert "overall_own_prompt" not in found and "alpacaeval" not in found["columns"]
    assert "1 of 2 answers hold no mark, such as 'good' to test-0" in found["missing_for_overall"]["alpacaeval"]
    again = grade_report(report, as_jsonl, FixedJudge(["5", "5", "5"]))["voicebench"]
    assert again["columns"]["alpacaeval"]["headline"] == pytest.approx(3.5) and "overall_own_prompt" in again


def test_what_is_missing_is_named(as_jsonl: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    run_local(listener(), as_jsonl, report_path=path, limit=1, tasks=["voicebench/mmsu", "voicebench/bbh"])
    (as_jsonl / "voicebench" / "bbh.jsonl").unlink()
    found = grade_report(path, as_jsonl, FixedJudge([]))["voicebench"]
    missing = found["missing_for_overall"]
    assert missing["mmsu"] == "1 of 2 questions are answered: a part of the set" and list(found["columns"]) == ["mmsu"]
    assert "the set is not in" in missing["bbh"] and missing["wildvoice"] == "no answers in the report"


def test_a_report_without_judged_answers(data: Any, as_jsonl: Path, tmp_path: Path) -> None:
    data.images("flickr8k/images", "1.jpg")
    data.rows("flickr8k/captions.jsonl", [{"image": "1.jpg", "en": ["a"]}])

    class Mute(Listener):
        def chat(self, messages: Any, **options: Any) -> str:
            return "a"

    run_local(Mute([]), data.root, report_path=tmp_path / "r.json", tasks=["flickr8k/caption"])
    with pytest.raises(InputError, match="no answers that a judge grades, only flickr8k/caption; run"):
        grade_report(tmp_path / "r.json", data.root, FixedJudge([]))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_the_command_asks_a_judge_behind_a_url(report: Path, as_jsonl: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "qa.txt"
    prompt.write_text("Q {prompt} R {reference} A {response}?", encoding="utf-8")
    with endpoint(*map(completion, ALL_MARKS)) as (url, asked):
        done = CliRunner().invoke(app, [
            "eval", "judge", str(report), "--data", str(as_jsonl), "--judge-url", url, "--judge-model", "grader",
            "--judge-prompt", str(prompt), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(report.with_name("report.voicebench").joinpath("scores.json").read_text(encoding="utf-8"))
    assert found["judge"] == "grader" and "overall_mixed_prompts" in found
    assert found["columns"]["sd-qa"]["scores"] == {"gpt_given_prompt": 50.0}
    assert asked[-1]["messages"] == [{"role": "user", "content": "Q How many legs? R eight legs A Two legs.?"}]
    assert (asked[0]["top_p"], asked[0]["temperature"], asked[0]["model"]) == (0.95, 0.5, "grader")


def test_a_judge_that_is_silent_or_sends_garbage_is_named(report: Path, as_jsonl: Path) -> None:
    with endpoint(completion("5"), say(200, "<html>busy</html>"), silence) as (url, _):
        judge = Endpoint(url, "grader", timeout_seconds=0.2, tries=2, pause_seconds=0.0, role="judge")
        with pytest.raises(EndpointError, match=r"test-0 \(1 of 2\).*1 x garbage, 1 x time-out.*start again to go on"):
            grade_report(report, as_jsonl, judge)


@pytest.mark.parametrize(("texts", "told"), [
    (["{prompt} alone"], "has no {response}"), (["{prompt} {response}"] * 2, "second prompt without {reference}"),
])
def test_bad_prompts(tmp_path: Path, texts: list[str], told: str) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told.replace("{", r"\{")):
        read_prompts(paths)


def test_what_an_answer_says_is_not_filled_in_again(tmp_path: Path) -> None:
    filled = OWN["open"].filled(Row(tmp_path, 1, {"prompt": "say {response}", "response": "{prompt}"}))
    assert "say {response}" in filled and "\n{prompt}\n" in filled
