"""Normalisers, WER and CER against Whisper, jiwer and lmms-eval, and what broken files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation.golden.conftest import cases

from minicpm_o.errors import InputError
from minicpm_o.evaluation.normalise import english_normaliser
from minicpm_o.evaluation.official.asr import (
    NORMALISERS,
    ErrorCounts,
    align,
    asr_scores,
    chinese_text,
    jiwer_words,
    lmms_eval_error_rate,
    load_librispeech,
    read_pairs,
    spell_number,
    whisper_basic,
    whisper_english,
)

PAIRS = "pairs.jsonl"
TABLE = "table.jsonl"
COLUMNS: dict[str, Callable[[], Callable[[str], str]]] = {
    "whisper_english": whisper_english,
    "whisper_basic": whisper_basic,
    "whisper_basic_split_letters": lambda: whisper_basic(split_letters=True),
    "whisper_basic_remove_diacritics": lambda: whisper_basic(remove_diacritics=True),
    "pypi_whisper_normalizer_english": english_normaliser,
}


def expected_of(case: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    return value


def is_english(case: Path) -> bool:
    return (case / PAIRS).is_file() and "jiwer_wer" in expected_of(case)


def is_chinese(case: Path) -> bool:
    return (case / PAIRS).is_file() and "jiwer_cer_basic_norm_no_spaces" in expected_of(case)


def is_edges(case: Path) -> bool:
    return all(isinstance(row, dict) and "wer" in row for row in expected_of(case).values())


def those(kind: Callable[[Path], bool]) -> list[Any]:
    """The cases with numbers that are of a kind."""
    return [parameter for parameter in cases("asr", "expected.json") if kind(parameter.values[0])]


# --- golden cases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("asr"))
def test_every_case_belongs_to_a_test(case: Path) -> None:
    claimed = (case / TABLE).is_file() or is_english(case) or is_chinese(case) or is_edges(case)
    assert claimed, sorted(case.iterdir())


@pytest.mark.parametrize("case", cases("asr", TABLE))
def test_normalisers_write_what_whisper_writes(case: Path) -> None:
    rows = [json.loads(line) for line in (case / TABLE).read_text(encoding="utf-8").splitlines()]
    for column in set(rows[0]) - {"text"}:
        normalise = COLUMNS[column]()
        assert [normalise(row["text"]) for row in rows] == [row[column] for row in rows], column


@pytest.mark.parametrize("case", those(is_english))
def test_english_rates_are_those_of_jiwer_and_lmms_eval(case: Path) -> None:
    expected = expected_of(case)
    pairs = read_pairs(case / PAIRS)
    scores = asr_scores("whisper_english", *pairs)
    assert list(scores.references) == expected["normalised_refs"]
    assert list(scores.hypotheses) == expected["normalised_hyps"]
    for name in ("wer", "mer", "wil", "cer"):
        rate = scores.metrics[f"{name}_jiwer_whisper_english"]
        assert rate == pytest.approx(expected[f"jiwer_{name}"], abs=1e-9), name
    for name in ("hits", "substitutions", "deletions", "insertions"):
        assert getattr(scores.words, name) == expected[name], name
    assert scores.utterances == pytest.approx(expected["per_utt_wer"], abs=1e-9)
    assert asr_scores("raw", *pairs).words.rate == pytest.approx(expected["raw_wer_without_normalisation"], abs=1e-9)
    percent = lmms_eval_error_rate(*pairs, "en").percent
    assert percent == pytest.approx(expected["lmms_eval_librispeech_wer_percent"], abs=1e-9)


@pytest.mark.parametrize("case", those(is_chinese))
def test_chinese_rates_are_those_of_jiwer_and_lmms_eval(case: Path) -> None:
    expected = expected_of(case)
    pairs = read_pairs(case / PAIRS)
    scores = asr_scores("whisper_basic_no_blanks", *pairs)
    assert list(scores.references) == expected["normalised_refs"]
    assert list(scores.hypotheses) == expected["normalised_hyps"]
    assert scores.characters == pytest.approx(expected["jiwer_cer_basic_norm_no_spaces"], abs=1e-9)
    assert asr_scores("raw", *pairs).characters == pytest.approx(expected["raw_cer"], abs=1e-9)
    assert lmms_eval_error_rate(*pairs, "zh").percent == pytest.approx(expected["lmms_eval_zh_percent"], abs=1e-9)


@pytest.mark.parametrize("case", those(is_edges))
def test_empty_texts_give_the_numbers_of_jiwer(case: Path) -> None:
    for row in expected_of(case).values():
        scores = asr_scores("raw", [row["reference"]], [row["hypothesis"]])
        assert scores.words.rate == pytest.approx(row["wer"], abs=1e-9), row


# --- rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "hypothesis", "counts"), [
    ("a b c", "a c", ErrorCounts(2, 0, 1, 0)),
    ("a", "x a y z", ErrorCounts(1, 0, 0, 3)),
    ("a b", "b c", ErrorCounts(0, 2, 0, 0)),  # a deletion and an insertion cost as much
    ("c a d a", "a c b d", ErrorCounts(2, 1, 1, 1)),  # and here three substitutions do
    ("", "a b", ErrorCounts(0, 0, 0, 2)),
    ("a b", "", ErrorCounts(0, 0, 2, 0)),
])  # fmt: skip
def test_alignments_are_those_of_rapidfuzz(reference: str, hypothesis: str, counts: ErrorCounts) -> None:
    assert align(reference.split(), hypothesis.split()) == counts


def test_two_words_against_nothing_are_two_errors_for_jiwer() -> None:
    nothing = ErrorCounts(0, 0, 0, 0)
    assert ErrorCounts(0, 0, 0, 2).rate == 2.0
    assert (nothing.rate, nothing.match_error_rate, nothing.information_lost) == (0.0, 0.0, 0.0)
    assert (ErrorCounts(0, 0, 2, 0).information_lost, ErrorCounts(0, 0, 0, 2).information_lost) == (1.0, 1.0)


def test_jiwer_does_not_split_at_a_lone_tab() -> None:
    assert jiwer_words(" a\tb  c\t d ") == ["a\tb", "c", "d"]


def test_the_package_has_more_contractions_than_whisper() -> None:
    assert whisper_english()("I kinda know") == "i kinda know"
    assert NORMALISERS["pypi_english"]() is english_normaliser()
    whisper_english()
    assert r"\bkinda\b" in english_normaliser().replacers  # the shared one is left as it was


@pytest.mark.parametrize(("number", "spelled"), [
    ("0", "零"), ("10", "十"), ("12", "十二"), ("105", "一百零五"), ("2", "二"), ("200", "两百"),
    ("22000", "两万两千"), ("20", "二十"), ("222", "两百二十二"), ("05", "零五"), ("0.25", "零点二五"),
    ("120000000", "一亿两千万"), ("00", ""),
])  # fmt: skip
def test_numbers_are_spelled_out(number: str, spelled: str) -> None:
    assert spell_number(number) == spelled


@pytest.mark.parametrize(("text", "plain"), [
    ("2019年12月3日", "二零一九年十二月三日"),
    ("我有3个苹果，他有12.5斤。", "我有三个苹果 他有十二点五斤 "),
    ("一共200元5角", "一共两百元五角"),
    ("拨打13812345678吧", "拨打一三八一二三四五六七八吧"),
    ("电话010-62345678。", "电话零一零六二三四五六七八 "),
    ("占3/4或50%", "占四分之三或百分之五十"),
    ("编号20345", "编号二零三四五"),
    ("P2P和B2B", "P2P和B2B"),
    ("13 3个", "一三 三个"),  # the 3 of "3个" is replaced where a 3 stands first
    ("103个和3个", "一百零三个和三个"),
    ("没有数字", "没有数字"),
])  # fmt: skip
def test_chinese_texts_are_spelled_out(text: str, plain: str) -> None:
    assert chinese_text(text) == plain


def test_lmms_eval_drops_tags_and_sends_english_through_both_normalisers() -> None:
    english = lmms_eval_error_rate(["<|en|>it isn't $5"], ["It is not 5"], "en")
    assert (english.name, english.percent) == ("wer_lmms_eval_en", 0.0)
    assert lmms_eval_error_rate(["Straße 5"], ["straße fünf"], "de").percent == 50.0
    chinese = lmms_eval_error_rate(["我 有 3 个"], ["我有三個"], "zh")
    assert (chinese.name, chinese.percent) == ("cer_lmms_eval_zh", 25.0)


# --- what is wrong ----------------------------------------------------------------------------------------------


def test_texts_that_do_not_fit_are_errors() -> None:
    with pytest.raises(InputError, match="2 references and 1 hypotheses; expected as many of both"):
        asr_scores("raw", ["a", "b"], ["a"])
    with pytest.raises(InputError, match="0 references and 0 hypotheses"):
        lmms_eval_error_rate([], [], "en")
    with pytest.raises(InputError, match="'none' is unknown here; known are whisper_english"):
        asr_scores("none", ["a"], ["a"])
    with pytest.raises(InputError, match="the first reference, '!', has no words left; lmms-eval stops there"):
        lmms_eval_error_rate(["!", "a"], ["a", "a"], "en")
    with pytest.raises(InputError, match="Cantonese .yue. needs the tables of the package zhconv"):
        lmms_eval_error_rate(["a"], ["a"], "yue")


def test_broken_pairs_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / PAIRS
    path.write_text('{"reference": "a", "hypothesis": null}\n', encoding="utf-8")
    with pytest.raises(InputError, match="pairs.jsonl line 1: 'hypothesis' is None; expected a text"):
        read_pairs(path)
    with pytest.raises(InputError, match="is not there. Expected a line"):
        read_pairs(tmp_path / "other.jsonl")


def test_librispeech_is_read_as_it_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no transcripts .*Get LibriSpeech from https://www.openslr.org/12"):
        load_librispeech(tmp_path)
    chapter = tmp_path / "61" / "70968"
    chapter.mkdir(parents=True)
    (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1 is '61-70968-0000 HE BEGAN'; expected the name of a recording"):
        load_librispeech(tmp_path)
    (chapter / "61-70968-0000.flac").write_bytes(b"")
    (item,) = load_librispeech(tmp_path)
    assert (item.id, item.audio.name, item.text) == ("61-70968-0000", "61-70968-0000.flac", "HE BEGAN")
