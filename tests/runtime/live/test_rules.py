"""Requests to speak up later."""

from __future__ import annotations

import pytest

from minicpm_o.runtime.live.rules import Rule, Watched, is_heard, is_yes, parse_rule, watched


@pytest.mark.parametrize(("asked", "sense", "what", "say"), [
    ("Tell me when you see a dog.", "see", "a dog", "I see a dog."),
    ("Please say hello when you see a cat", "see", "a cat", "hello"),
    ('Say "stop now" as soon as you hear the word banana.', "hear", "the word banana", "stop now"),
    ("When you see a red car, say look out!", "see", "a red car", "look out"),
    ("Could you let me know if there is a person in the picture?", "see", "a person", "I see a person."),
    ("Say 'three' when the digit 3 appears.", "see", "the digit 3", "three"),
    ('When a red ball shows up, output "ball".', "see", "a red ball", "ball"),
    ("Tell me when you see a dog appear.", "see", "a dog", "I see a dog."),
    ("看到猫的时候告诉我", "see", "猫", "我看到了猫。"),
    ("请你听到苹果就说你好。", "hear", "苹果", "你好"),
])
def test_requests_become_rules(asked: str, sense: str, what: str, say: str) -> None:
    rule = parse_rule(asked)
    assert rule is not None and (rule.sense, rule.what, rule.say) == (sense, what, say)


@pytest.mark.parametrize("text", ["What do you see?", "Tell me about dogs.", "When was Rome founded?", "你好吗？", ""])
def test_other_things_are_no_rules(text: str) -> None:
    assert parse_rule(text) is None


def test_a_rule_asks_about_pictures_and_listens_to_words() -> None:
    assert Rule("", "see", "a dog", "x").question == "Is there a dog in the picture?"
    heard = Rule("", "hear", "the word banana", "x")
    assert is_heard(heard, "I like Banana bread.") and not is_heard(heard, "I like bananas.")
    assert is_yes("Yes, there is.") and is_yes("有。") and not is_yes("No.")


def test_a_rule_speaks_once_until_it_has_ceased_to_hold() -> None:
    state, spoke = Watched(), []
    for holds in (1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1):
        speaks, state = watched(state, bool(holds), 2)
        spoke.append(speaks)
    assert [place for place, speaks in enumerate(spoke) if speaks] == [1, 10]
