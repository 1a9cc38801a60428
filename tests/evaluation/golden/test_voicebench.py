"""VoiceBench against what the official evaluators gave, and the rule of each instruction of IFEval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.errors import InputError, OptionError
from minicpm_o.evaluation.official.voicebench import bbh_answer, chosen_option, evaluate, is_refusal, overall
from minicpm_o.evaluation.official.voicebench_ifeval import CHECKS, count_sentences, language_of, loose_forms

from .conftest import cases

EVALUATED = ("input.jsonl", "expected.json")
TABLE = ("table.jsonl",)
NOT_HERE = {"panda"}
"""Needs the PEDANT classifier."""


def test_every_case_has_a_test() -> None:
    claimed = {case.id for holding in (EVALUATED, TABLE) for case in cases("voicebench", *holding)}
    assert claimed == {case.id for case in cases("voicebench")}


@pytest.mark.parametrize("case", cases("voicebench", *EVALUATED))
def test_scores_are_the_official_ones(case: Path) -> None:
    wanted = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    if "error" in wanted:
        with pytest.raises(InputError, match=r"input.jsonl line \d+: .*; expected"):
            evaluate(case / "input.jsonl", wanted["evaluator"])
        return
    result = evaluate(case / "input.jsonl", wanted["evaluator"])
    official = {name: value for name, value in wanted["result"].items() if name not in NOT_HERE}
    assert set(result.scores) == set(official)
    compared = {"fail"} if official.get("fail") else set(official)  # the official script guesses where it fails
    assert {name: result.scores[name] for name in compared} == pytest.approx(
        {name: official[name] for name in compared}, abs=1e-6)


@pytest.mark.parametrize("case", cases("voicebench", *TABLE))
def test_what_is_read_from_an_answer(case: Path) -> None:
    rows = [json.loads(line) for line in (case / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    read = [bbh_answer(row["id"], row["response"]) if "id" in row else chosen_option(row["response"]) for row in rows]
    assert read == [row["extracted"] for row in rows]


# --- files ------------------------------------------------------------------------------------------------------


def save(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("evaluator", "row"), [
    ("open", {"score": []}), ("open", {"score": "4"}), ("open", {"score": ["nan"]}), ("qa", {}),
    ("mcq", {"response": "A"}), ("mcq", {"response": None, "reference": "A"}), ("harm", {}),
    ("bbh", {"id": "navigate-1", "response": "yes", "reference": "perhaps"}),
    ("ifeval", {"prompt": "p", "response": "r", "instruction_id_list": ["no:such"], "kwargs": [{}]}),
    ("ifeval", {"prompt": "p", "response": "r", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}),
    ("ifeval", {"prompt": "p", "response": "r", "instruction_id_list": ["startend:end_checker"],
                "kwargs": [{"end_phrase": None}]}),
])  # fmt: skip
def test_bad_rows(tmp_path: Path, evaluator: Any, row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"answers.jsonl line 1: .*; expected .*; "):
        evaluate(save(tmp_path / "answers.jsonl", row), evaluator)


def test_no_file_no_lines_no_evaluator(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        evaluate(tmp_path / "answers.jsonl", "open")
    with pytest.raises(InputError, match="no lines"):
        evaluate(save(tmp_path / "answers.jsonl"), "open")
    with pytest.raises(OptionError, match="open, qa, mcq"):
        evaluate(tmp_path / "answers.jsonl", "panda")  # type: ignore[arg-type]


def test_unread_letters_count_as_the_mean_of_a_guess(tmp_path: Path) -> None:
    path = save(tmp_path / "answers.jsonl", {"response": "no idea", "reference": "A"},
                {"response": "B", "reference": "B"})
    result = evaluate(path, "mcq")
    assert result.scores == {"acc": 62.5, "fail": 50.0}
    assert "1 answers could not be read (lines 1)" in result.notes[0]


def test_ties_of_the_judge_are_told(tmp_path: Path) -> None:
    result = evaluate(save(tmp_path / "answers.jsonl", {"score": ["Yes", "No", "Perhaps"]}, {"score": ["yes"]},
                           {"score": ["No", "yes.", "no"]}), "qa")
    assert result.scores == {"gpt": pytest.approx(100 / 3)}
    assert "PEDANT" in result.notes[0] and "lines 1: as many" in result.notes[1]


def test_two_answers(tmp_path: Path) -> None:
    path = save(tmp_path / "answers.jsonl", {"id": "navigate-3", "response": "Yes.", "reference": "yes"},
                {"id": "hyperbaton-1", "response": "The answer is (B).", "reference": "(B)"},
                {"id": "web_of_lies-9", "response": "He lies.", "reference": "yes"},
                {"id": "navigate-4", "response": "Hm.", "reference": "no"})
    assert evaluate(path, "bbh").scores == {"acc": 62.5, "fail": 25.0}


def test_headlines_are_those_of_the_table(tmp_path: Path) -> None:
    harm = evaluate(save(tmp_path / "answers.jsonl", {"response": "Sorry."}, {"response": "Sure."}), "harm")
    assert (harm.scores["refusal_rate"], harm.headline) == (0.5, 50.0)


def test_overall_is_that_of_the_published_table() -> None:
    moshi = {"alpacaeval": 2.01, "commoneval": 1.60, "wildvoice": 1.30, "sd-qa": 15.64, "mmsu": 24.04,
             "openbookqa": 25.93, "bbh": 47.40, "ifeval": 10.12, "advbench": 44.23}
    assert round(overall(moshi), 2) == 29.51
    with pytest.raises(InputError, match="expected all of"):
        overall({"mmsu": 24.0})


@pytest.mark.parametrize(("response", "letter"), [
    ("The answer is a dog", "A"), ("I would select option D.", "D"), ('It is "c".', "C"), ("<2>  d", "D"),
    ("Option B is the best choice", "B"), ("I choose c", "C"), ("I pick a card", None), ("答案应该是 D", "D"),
    ("No letter at all, I fear", None), ("b: the sun", "B"), ("It is **C**, I think", "C"),
])  # fmt: skip
def test_letters(response: str, letter: str | None) -> None:
    assert chosen_option(response) == letter


def test_refusals() -> None:
    assert is_refusal("I can’t do that") and is_refusal(" \n")
    assert not is_refusal("First, open the door.")


# --- IFEval -----------------------------------------------------------------------------------------------------


def ifeval(path: Path, instruction: str, kwargs: dict[str, Any], response: str) -> dict[str, float]:
    return evaluate(save(path / "answers.jsonl", {
        "prompt": "p", "instruction_id_list": [instruction], "kwargs": [kwargs], "response": response}),
        "ifeval").scores


LEAST, LESS = {"relation": "at least"}, {"relation": "less than"}
FOLLOWED: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["tree", "ri.er"]}, "a TREE, a river", "a tree"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, **LEAST}, "Ha ha", "ha"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "A Cat."),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": "less than"}, "queue", "Qq"),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund", "This is the dog"),
    ("length_constraints:number_sentences", {"num_sentences": 2, **LESS}, "Mr. Fox runs.", "One. Two."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, **LEAST}, "it's so", "so it"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"}, "a\n\n'well, b", "a\n\nb"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\np. s. y", "ps y"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP.P.S y", "P.S. y"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b", "** a\n- b"),
    ("detectable_format:constrained_response", {}, " My answer is no. ", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*a b*", "* *"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     "SECTION 1 a SECTION 2 b", "SECTION 1"),
    ("detectable_format:json_format", {}, "```json\n{\"a\": [1]}\n```", "{a: 1}"),
    ("detectable_format:title", {}, "<<A b>>\nc", "<< >>"),
    ("combination:two_responses", {}, "a\n******\nb", "a ****** a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, "say IT. It.", "It."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'So. the END."', "The end. So."),
    ("startend:quotation", {}, ' "so" ', '"'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
     "NO, THE u.s.", "No THE"),
    ("change_case:english_capital", {}, "THE END", "The end"),
    ("change_case:english_lowercase", {}, "the end", "The end"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
]


@pytest.mark.parametrize(("instruction", "kwargs", "good", "bad"), FOLLOWED)
def test_instructions(tmp_path: Path, instruction: str, kwargs: dict[str, Any], good: str, bad: str) -> None:
    assert ifeval(tmp_path, instruction, kwargs, good)["strict-prompt"] == 1
    assert ifeval(tmp_path, instruction, kwargs, bad)["strict-prompt"] == 0


def test_every_instruction_has_an_example() -> None:
    assert {example[0] for example in FOLLOWED} == set(CHECKS)


def test_loose_takes_off_lines_and_asterisks(tmp_path: Path) -> None:
    scores = ifeval(tmp_path, "startend:quotation", {}, 'Sure:\n**"so"**')
    assert (scores["strict-prompt"], scores["loose-prompt"], scores["final"]) == (0, 1, 0.5)
    assert len(loose_forms("a\nb\nc")) == 8
    assert ifeval(tmp_path, "punctuation:no_comma", {}, " ")["loose-instruction"] == 0


def test_answers_are_looked_up_by_prompt(tmp_path: Path) -> None:
    row = {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    result = evaluate(save(tmp_path / "answers.jsonl", {**row, "response": "a, b"}, {**row, "response": "a"}), "ifeval")
    assert result.scores["strict-prompt"] == 1
    assert "2 rows have 1 different prompts" in result.notes[0]


def test_sentences() -> None:
    assert count_sentences("Is it 3.5? \"No!\" Dr. J. Fox said so... and left.") == 3
    assert count_sentences("no end") == 1 and count_sentences("") == 0


@pytest.mark.parametrize(("text", "code"), [
    ("Это не так", "ru"), ("Це не є так", "uk"), ("今日はいい天気です", "ja"), ("오늘 날씨", "ko"),
    ("你好世界", "zh-cn"), ("नमस्ते दुनिया", "hi"), ("El perro y la casa", "es"), ("12", "en"), ("یہ ٹھیک ہے", "ur"),
])  # fmt: skip
def test_languages(text: str, code: str) -> None:
    assert language_of(text) == code
