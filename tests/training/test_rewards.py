"""Rewards by rule, and the smooth length reward of 4.5's report by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from minicpm_o.errors import OptionError
from minicpm_o.training.rewards import (
    REWARDS,
    length_rewards,
    preference_rows,
    total_reward,
)


@pytest.mark.parametrize(("name", "text", "facts", "wanted"), [
    ("answer", "It is a red ball.", {"answer": "Red ball."}, 1),
    ("answer", "No, there is not.", {"answer": "Yes."}, 0),
    ("answer", "Yes.", {"answer": "yes"}, 1),
    ("exact", " three! ", {"answer": "Three."}, 1),
    ("exact", "three balls", {"answer": "Three."}, 0),
    ("facts", "A red ball and a blue cube.", {"present": ["red ball", "green cone"], "absent": ["blue cube"]}, 0),
    ("facts", "A red ball.", {"present": ["red ball", "green cone"]}, 0.5),
    ("format", '{"a": 1}', {"format": "json"}, 1),
    ("format", "{a}", {"format": "json"}, 0),
    ("format", "B", {"format": "[A-D]"}, 1),
    ("number", "2 + 3 is 5, so 1,005.", {"number": 1005}, 1),
    ("number", "5 or 6", {"number": 5}, 0),
    ("number", "none", {"number": 5}, 0),
    ("choice", "The answer is (B).", {"choice": "b"}, 1),
    ("choice", "A or B", {"choice": "B"}, 0),
    ("choice", "Bananas", {"choice": "B"}, 0),
    ("overlap", "a dog runs", {"references": ["a cat", "a dog runs"]}, 1),
    ("fluency", "a clear sentence", {}, 0),
    ("fluency", "red red red red", {}, -2 / 3),
    ("fluency", "", {}, -1),
])
def test_rewards(name: str, text: str, facts: dict, wanted: float) -> None:
    assert REWARDS[name](text, facts) == pytest.approx(wanted)


def test_a_true_description_earns_more_than_another() -> None:
    facts = {"references": ["Two red balls on a grey floor.", "Two red balls."]}
    true, near, other = (REWARDS["caption"](text, facts) for text in (
        "Two red balls on a grey floor.", "Two red balls on a floor.", "A dog runs."))
    assert true > near > other


def test_rewards_add_up_by_weight_where_facts_allow() -> None:
    total, parts = total_reward("Yes.", {"answer": "Yes."}, {"answer": 2.0, "facts": 1.0, "fluency": 0.5})
    assert (total, parts) == (2.0, {"answer": 1.0, "fluency": 0.0})
    with pytest.raises(OptionError, match="no reward 'beauty'; rewards are answer"):
        total_reward("x", {}, {"beauty": 1})
    with pytest.raises(OptionError, match=r"facts are \['smell'\].*know nothing"):
        total_reward("x", {"smell": 1}, {"answer": 1.0, "fluency": 1.0})


def test_the_smooth_length_reward() -> None:
    assert length_rewards([10, 20, 30], [True, True, True], tau=10) == pytest.approx([0.5, 0.0, -0.5])
    assert length_rewards([10, 20, 30], [True, True, True], tau=40) == pytest.approx([0.5, 0.25, 0.0])
    assert length_rewards([10, 30], [False, False], tau=10) == pytest.approx([0.0, -0.5]), "short alone earns nothing"
    assert length_rewards([7, 7], [True, False], tau=10) == [0.5, 0.0]


def test_preferences_by_rule() -> None:
    facts = {"present": ["red ball"], "absent": ["blue cube"]}
    rows = preference_rows({"prompt": "what?"}, ["A red ball.", "A blue cube.", "Shapes."], facts, {"facts": 1.0})
    assert rows == [{"prompt": "what?", "chosen": "A red ball.", "rejected": "A blue cube."}]
    assert preference_rows({}, ["Shapes.", "Things."], facts, {"facts": 1.0}) == []
