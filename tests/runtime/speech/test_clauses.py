from __future__ import annotations

import pytest

from minicpm_o.runtime.speech.clauses import cut_clauses, final_mark


def test_sentences_are_clauses() -> None:
    assert cut_clauses("ab cd. ef? gh!", 510) == ["ab cd.", "ef?", "gh!"]


def test_short_inner_parts_stay_together() -> None:
    assert cut_clauses("ab, cd, ef.", 510) == ["ab, cd, ef."]


def test_the_first_clause_can_be_short() -> None:
    phonemes = f"{'a' * 30}, {'b' * 40}, {'c' * 40}."
    assert cut_clauses(phonemes, 510, first=50) == [f"{'a' * 30},", f"{'b' * 40}, {'c' * 40}."]
    assert cut_clauses(phonemes, 510, first=180) == [phonemes]


@pytest.mark.parametrize(
    "phonemes",
    ["word " * 400 + ".", "x" * 1700 + ".", ", ".join(["abcdefg"] * 300) + ".", "a. " * 300, "ab " * 170 + "c" * 600],
)
def test_no_clause_is_over_the_limit_and_nothing_is_lost(phonemes: str) -> None:
    clauses = cut_clauses(phonemes, 510)
    assert all(0 < len(clause) <= 510 for clause in clauses)
    assert "".join(clauses).replace(" ", "") == phonemes.replace(" ", "")


@pytest.mark.parametrize("phonemes", ["", " ", ".", ", . !"])
def test_nothing_to_say(phonemes: str) -> None:
    assert cut_clauses(phonemes, 510) == []


def test_final_mark() -> None:
    assert [final_mark(clause) for clause in ("ab.", "ab,", "ab", "")] == [".", ",", "", ""]
