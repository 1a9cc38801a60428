"""LLaVA-Bench against what the official scripts gave; the judge behind a URL against a small server on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Answer, completion, endpoint, say, silence

from minicpm_o.errors import EndpointError, InputError
from minicpm_o.evaluation.endpoint import Endpoint
from minicpm_o.evaluation.official.judge import FixedJudge
from minicpm_o.evaluation.official.llava_bench import (
    JUDGE_MODEL,
    ReviewItem,
    ReviewItems,
    Summary,
    lmms_eval_parse_score,
    load_distribution,
    parse_score,
    proxy_scores,
    read_items,
    read_scores,
    review,
    summarize,
    summarize_all,
    summarize_lmms_eval,
    summarize_vlmevalkit,
    write_answers,
)

from .conftest import cases

PIPELINE = ("questions.jsonl", "context.jsonl", "answers_ref.jsonl", "answers_model.jsonl",
            "canned_judge_replies.json", "expected.json")
SUMMARY = ("reviews.jsonl", "expected.json", "summarize_stdout.txt")
TABLE = ("table.jsonl",)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(case: Path) -> dict[str, Any]:
    return json.loads((case / "expected.json").read_text(encoding="utf-8"))


def load(case: Path) -> ReviewItems:
    return read_items(case / "questions.jsonl", case / "context.jsonl", case / "answers_ref.jsonl",
                      case / "answers_model.jsonl")


def replies(case: Path) -> list[str]:
    return json.loads((case / "canned_judge_replies.json").read_text(encoding="utf-8"))


def ignored(wanted: dict[str, Any]) -> set[int]:
    arguments = [str(value) for value in wanted.get("args", [])]
    return {int(value) for value in arguments[arguments.index("-i") + 1:]} if "-i" in arguments else set()


# --- the official scripts ---------------------------------------------------------------------------------------


def test_every_case_has_a_test() -> None:
    claimed = {case.id for holding in (PIPELINE, SUMMARY, TABLE) for case in cases("llava_bench", *holding)}
    assert claimed == {case.id for case in cases("llava_bench")}


@pytest.mark.parametrize("case", cases("llava_bench", *PIPELINE))
def test_requests_and_reviews_are_the_official_ones(case: Path, tmp_path: Path) -> None:
    reviews = tmp_path / "reviews.jsonl"
    if (case / "reviews_before.jsonl").is_file():
        reviews.write_bytes((case / "reviews_before.jsonl").read_bytes())
    if expected(case)["review_returncode"]:
        with pytest.raises(InputError):
            review(load(case).items, FixedJudge(replies(case)), reviews)
        return
    judge = FixedJudge(replies(case))
    run = review(load(case).items, judge, reviews)
    requests = [{"model": JUDGE_MODEL, **request} for request in judge.requests]
    assert requests == lines(case / "judge_requests.jsonl")
    assert reviews.read_bytes() == (case / "reviews.jsonl").read_bytes()
    assert run.asked == len(requests)


@pytest.mark.parametrize("case", cases("llava_bench", *SUMMARY))
def test_summary_is_the_official_one(case: Path) -> None:
    wanted = expected(case)
    scores = read_scores(case / "reviews.jsonl", ignored(wanted))
    if wanted.get("summary_returncode", wanted.get("returncode")):
        with pytest.raises(InputError, match="expected"):
            summarize(scores)
        return
    printed = (case / "summarize_stdout.txt").read_text(encoding="utf-8").splitlines()
    assert summarize(scores).lines(printed[0]) == printed


def same(summary: Summary, wanted: dict[str, Any], *names: str) -> None:
    assert set(summary.splits) == set(wanted)
    for key, values in wanted.items():
        given = [getattr(summary.splits[key], name) for name in names]
        values = [float(value) for value in values] if isinstance(values, list) else [values]
        assert given == pytest.approx(values, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("case", cases("llava_bench", *PIPELINE))
def test_all_summaries_of_the_same_reviews(case: Path) -> None:
    wanted = expected(case)
    if wanted["review_returncode"] or wanted["summary_returncode"]:
        pytest.skip("the official script crashed: there are no numbers")
    scores = read_scores(case / "reviews.jsonl")
    official = {key: [value["relative"], value["ref_x10"], value["model_x10"]]
                for key, value in wanted["summary"].items()}
    same(summarize(scores), official, "relative", "reference", "model")
    same(summarize_lmms_eval(scores), wanted["lmms_eval_on_same_tuples"], "relative")
    kit = {key: [value["relative"], value["gpt4"], value["vlm"]]
           for key, value in wanted["vlmevalkit_on_same_tuples"].items()}
    same(summarize_vlmevalkit(scores), kit, "relative", "reference", "model")
    assert {name: summary.parser for name, summary in summarize_all(scores).items()} == {
        "llava_official": "llava_official", "lmms_eval": "lmms_eval", "vlmevalkit": "vlmevalkit"}


@pytest.mark.parametrize("case", cases("llava_bench", *TABLE))
def test_reply_parsers(case: Path) -> None:
    for row in lines(case / "table.jsonl"):
        assert [str(value) for value in parse_score(row["review"])] == row["llava_official"], row
        assert list(lmms_eval_parse_score(row["review"])) == row["lmms_eval"], row


# --- made-up files ----------------------------------------------------------------------------------------------


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
                    encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "questions.jsonl", *({"question_id": number, "image": "001.jpg", "text": "What?",
                                           "category": "conv"} for number in range(3)))
    write(tmp_path / "context.jsonl", {"image": "001.jpg", "caption": "A red ball."})
    write(tmp_path / "answers_ref.jsonl", *({"question_id": number, "text": "A red ball lies there."}
                                            for number in range(3)))
    write(tmp_path / "answers_model.jsonl", *({"question_id": number, "text": "A red ball.", "answer_id": f"m{number}"}
                                              for number in range(3)))
    return tmp_path


def test_reference_without_answer_id_goes_by_its_question(folder: Path) -> None:
    assert [item.reference_id for item in load(folder).items] == [0, 1, 2]


@pytest.mark.parametrize(("name", "row", "told"), [
    ("answers_model.jsonl", {"question_id": 0, "text": "x"}, "answers_model.jsonl line 1: no field 'answer_id'"),
    ("answers_model.jsonl", {"question_id": 0, "text": None, "answer_id": "a"}, "'text' is None; expected a text"),
    ("answers_model.jsonl", "", "the line is blank"),
    ("answers_ref.jsonl", "{", "answers_ref.jsonl line 1: not JSON"),
    ("answers_ref.jsonl", "[]", "[]; expected one JSON object"),
    ("questions.jsonl", {"question_id": 0, "image": "2.jpg", "text": "x", "category": "conv"}, "'2.jpg' has no capt"),
    ("questions.jsonl", {"question_id": 0, "image": "001.jpg", "text": "x", "category": "poem"}, "category 'poem'"),
    ("context.jsonl", {"image": "001.jpg"}, "no field 'caption'"),
])  # fmt: skip
def test_bad_rows_name_file_line_and_cure(folder: Path, name: str, row: dict[str, Any] | str, told: str) -> None:
    path = folder / name
    rest = path.read_text(encoding="utf-8").splitlines()[1:]
    write(path, row, *rest)
    with pytest.raises(InputError) as error:
        load(folder)
    assert told in str(error.value)


def test_missing_file(folder: Path) -> None:
    (folder / "context.jsonl").unlink()
    with pytest.raises(InputError, match="is not there"):
        load(folder)


def test_odd_lengths_and_ids_are_told(folder: Path) -> None:
    rows = lines(folder / "answers_model.jsonl")
    write(folder / "answers_model.jsonl", rows[1], rows[0])
    items = load(folder)
    assert len(items.items) == 2
    assert "only the first 2 are judged" in items.notes[0]
    assert "lines 1, 2 pair different question ids" in items.notes[1]


def test_a_failing_judge_keeps_what_is_there_and_the_next_run_goes_on(folder: Path) -> None:
    items, reviews = load(folder).items, folder / "reviews.jsonl"
    with pytest.raises(EndpointError, match=r"question 2 \(3 of 3\).*2 reviews are kept"):
        review(items, FixedJudge(["8 4", "9 x"]), reviews)
    reviews.write_bytes(reviews.read_bytes().rstrip(b"\n"))
    run = review(items, FixedJudge(["6 3"]), reviews)
    assert (run.asked, run.resumed, run.notes) == (1, 2, ())
    summary = summarize(read_scores(reviews))
    assert summary.splits["all"].relative == round(100 * (4 - 1 + 3) / (8 - 1 + 6), 1)
    assert "1 of 3 replies could not be read" in summary.notes[0] and "questions 1" in summary.notes[0]


def test_reviews_of_other_questions_are_told(folder: Path) -> None:
    write(folder / "reviews.jsonl", *({"question_id": 7, "answer2_id": "m0", "tuple": [1, 1]} for _ in range(4)))
    notes = review(load(folder).items, FixedJudge([]), folder / "reviews.jsonl").notes
    assert [any(words in note for note in notes) for words in ("4 reviews for 3", "lines 1, 2, 3", "other answers")]


def test_all_unparseable_is_100_and_says_that_it_means_nothing(folder: Path) -> None:
    review(load(folder).items, FixedJudge(["none", "", "8, 7"]), folder / "reviews.jsonl")
    summaries = summarize_all(read_scores(folder / "reviews.jsonl"))
    assert summaries["llava_official"].splits["all"].relative == 100.0
    assert any("means nothing" in note for note in summaries["llava_official"].notes)
    assert summaries["lmms_eval"].splits["all"].model == 16.7  # it reads the third reply, and keeps -1 for the others


def test_lmms_eval_leaves_999_out(folder: Path) -> None:
    path = write(folder / "reviews.jsonl", *({"question_id": 0, "category": "llava_bench_conv", "tuple": pair}
                                             for pair in ([8, 4], [-999, -999])))
    assert summarize_lmms_eval(read_scores(path)).splits["conv"].relative == 50.0


@pytest.mark.parametrize("row", [{"tuple": [1, 2]}, {"question_id": 0}, {"question_id": 0, "tuple": [1]},
                                 {"question_id": 0, "tuple": "8 7"}])
def test_bad_reviews(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"reviews.jsonl line 1: .*; expected"):
        read_scores(write(tmp_path / "reviews.jsonl", row))


def test_proxy_needs_no_judge_and_says_so() -> None:
    def item(reference: str, answer: str) -> ReviewItem:
        return ReviewItem(0, "llava_bench_conv", "What?", "", reference, 0, answer, 0)

    same_words = proxy_scores([item("A red ball on the grass.", "A red ball on the grass.")])
    assert same_words.rouge_l_proxy["all"] == same_words.keyword_recall_proxy["llava_bench_conv"] == 100
    assert proxy_scores([item("A red ball.", "the a on")]).keyword_recall_proxy["all"] == 0
    assert proxy_scores([item("红色的球", "球")]).keyword_recall_proxy["all"] == pytest.approx(100 / 3)
    assert "does not compare" in same_words.note


def test_official_folder(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no answers_gpt4.jsonl, images; expected .*liuhaotian"):
        load_distribution(folder)
    (folder / "images").mkdir()
    (folder / "answers_ref.jsonl").rename(folder / "answers_gpt4.jsonl")
    with pytest.raises(InputError, match="picture '001.jpg' is not in images/"):
        load_distribution(folder)
    (folder / "images" / "001.jpg").write_bytes(b"x")
    loaded = load_distribution(folder)
    assert "3 questions" in loaded.notes[0]
    write_answers(folder / "mine.jsonl", loaded.questions, ["a", "", "c"], "nano")
    items = read_items(loaded.questions_file, loaded.context_file, loaded.references_file, folder / "mine.jsonl")
    assert [item.answer for item in items.items] == ["a", "", "c"] and not items.notes


# --- a judge behind a URL ---------------------------------------------------------------------------------------

ASKED = [{"role": "user", "content": "grade"}]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def ask(url: str, **options: Any) -> tuple[Endpoint, Callable[[], str]]:
    judge = Endpoint(url, "grader", role="judge", **{"pause_seconds": 0.0, "tries": 3, **options})
    return judge, lambda: judge(ASKED, temperature=0.2, max_tokens=7)


def test_endpoint_is_asked_in_openai_words() -> None:
    with endpoint(completion("8 7")) as (url, asked):
        judge, grade = ask(url + "/", api_key="secret-1")
        assert grade() == "8 7"
    assert asked == [{"path": "/v1/chat/completions", "key": "Bearer secret-1", "model": "grader", "messages": ASKED,
                      "temperature": 0.2, "max_tokens": 7}]
    assert not judge.troubles and "secret-1" not in repr(judge)


def test_endpoint_recovers_and_counts_what_went_wrong() -> None:
    with endpoint(say(500, "busy"), say(429, "slow down", Retry_After="0"), say(200, "<html>"),
                  completion("")) as (url, asked):
        judge, grade = ask(url, tries=4)
        assert grade() == ""
    assert len(asked) == 4
    assert judge.troubles == {"status 500": 1, "status 429": 1, "garbage": 1}


@pytest.mark.parametrize(("answers", "told"), [
    ([silence], r"3 tries \(3 x time-out\); the last: time-out: nothing came for 0.1 s"),
    ([say(200, "no json")], r"3 x garbage.*expected a chat completion, got 'no json'"),
    ([say(200, "[]")], "3 x garbage"),
    ([completion(None)], "content is None; expected a text"),
    ([say(503, "down"), completion(None)], r"1 x status 503, 2 x garbage"),
    ([say(401, "wrong key")], r"1 try \(1 x status 401\); the last: status 401: wrong key"),
])  # fmt: skip
def test_endpoint_gives_up_with_names_and_numbers(answers: Sequence[Answer], told: str) -> None:
    with endpoint(*answers) as (url, _):
        judge, grade = ask(url, timeout_seconds=0.1)
        with pytest.raises(EndpointError, match=told):
            grade()
    assert sum(judge.troubles.values()) in (1, 3)


def test_endpoint_that_is_not_there() -> None:
    with endpoint() as (url, _):
        pass
    with pytest.raises(EndpointError, match="3 x no connection"):
        ask(url)[1]()


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with endpoint(say(500, ""), say(500, ""), say(429, "", Retry_After="9"), completion("1 1")) as (url, _):
        ask(url, tries=4, pause_seconds=1.5)[1]()
    assert [pause for pause in pauses if pause >= 1] == [1.5, 3.0, 9.0]


@pytest.mark.parametrize("options", [{"base_url": "host/v1"}, {"tries": 0}, {"timeout_seconds": 0},
                                     {"api_key": "sk\n"}])
def test_endpoint_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="judge"):
        Endpoint(role="judge", **{"base_url": "http://host/v1", "model": "m", **options})


def test_a_silent_judge_stops_the_review_with_the_question(folder: Path) -> None:
    with endpoint(completion("8 7"), silence) as (url, _), pytest.raises(EndpointError, match="question 1 .*time-out"):
        review(load(folder).items, ask(url, timeout_seconds=0.1)[0], folder / "reviews.jsonl")
    assert len(lines(folder / "reviews.jsonl")) == 1
