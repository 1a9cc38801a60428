"""Defaults of the official checkpoints' answers; what the reference hands on is compared in tests/parity."""

from __future__ import annotations

import pytest

from minicpm_o.errors import OptionError
from minicpm_o.runtime.generation_defaults import (
    GenerationArguments,
    chat_arguments,
    generate_kwargs,
    reply_arguments,
    spoken_text,
)


def test_45_draws_along_three_beams_unless_told_otherwise() -> None:
    assert chat_arguments("4.5") == GenerationArguments(num_beams=3, repetition_penalty=1.02, max_new_tokens=4096)
    assert chat_arguments("4.5", num_beams=1).num_beams == 1


@pytest.mark.parametrize(("version", "num_beams", "penalty"), [
    ("2.6", None, 1.2), ("4.5", None, 1.2), ("2.6", 1, 1.2), ("4.5", 1, 1.02)])
def test_penalty_without_drawing(version: str, num_beams: int | None, penalty: float) -> None:
    arguments = chat_arguments(version, do_sample=False, num_beams=num_beams)
    assert arguments.repetition_penalty == penalty and arguments.num_beams == (num_beams or 3)


def test_26_leaves_out_what_it_does_not_set() -> None:
    assert "num_beams" not in generate_kwargs("2.6", chat_arguments("2.6"))
    searched = generate_kwargs("2.6", chat_arguments("2.6", do_sample=False, min_new_tokens=2))
    assert searched == {"max_new_tokens": 2048, "num_beams": 3, "repetition_penalty": 1.2, "min_new_tokens": 2}


def test_what_is_given_counts() -> None:
    given = {"temperature": 0.1, "top_p": 0.5, "top_k": 7, "repetition_penalty": 1.5, "max_new_tokens": 9,
             "min_new_tokens": 3}
    for version in ("2.6", "4.5"):
        kwargs = generate_kwargs(version, chat_arguments(version, **given))
        assert {name: kwargs[name] for name in given} == given


def test_an_answer_that_is_given_needs_one_token() -> None:
    assert chat_arguments("4.5", teacher_forcing=True, max_new_tokens=50).max_new_tokens == 1


def test_what_has_no_effect_warns() -> None:
    with pytest.warns(UserWarning, match="does not draw along beams"):
        assert chat_arguments("2.6", num_beams=4).num_beams == 1
    with pytest.warns(UserWarning, match="top_p without do_sample"):
        chat_arguments("4.5", do_sample=False, top_p=0.5)


def test_replies() -> None:
    assert reply_arguments("4.5") == GenerationArguments(repetition_penalty=1.02, max_new_tokens=256)
    assert reply_arguments("2.6").max_new_tokens == 512
    assert reply_arguments("2.6", max_new_tokens=5).max_new_tokens == 5


def test_wrong_arguments() -> None:
    with pytest.raises(OptionError, match="num_beams is 0"):
        chat_arguments("4.5", num_beams=0)
    with pytest.raises(OptionError, match="min_new_tokens is 9, more than max_new_tokens, 5"):
        chat_arguments("2.6", max_new_tokens=5, min_new_tokens=9)


def test_spoken_text() -> None:
    assert spoken_text("Yes.<|tts_eos|>rest") == "Yes." and spoken_text("Yes.") == "Yes."
