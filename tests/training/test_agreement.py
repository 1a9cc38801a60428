"""Captions by how far people agree on them."""

from __future__ import annotations

import random
from collections import Counter

from minicpm_o.training.agreement import LEAST, agreement, draw_weighted

PICTURES = [
    ["A dog runs over the grass.", "A dog runs over green grass.", "The dog is running over the grass.",
     "Somebody left the gate open again."],
    ["Two boats lie in the harbour.", "Boats in a harbour.", "Two boats in the harbour at night."],
    ["A man rides a bike."],
]


def test_what_others_say_too_weighs_more():
    dogs, _, alone = agreement(PICTURES)
    assert min(dogs[:3]) > 10 * dogs[3] >= 10 * LEAST
    assert alone == [LEAST]


def test_a_caption_does_not_agree_with_itself():
    (weights, _) = agreement([["A red kite.", "Nothing alike here."], ["A cat.", "A cat."]])
    assert weights == [LEAST, LEAST]


def test_draws_are_distinct_and_follow_the_weights():
    rng = random.Random(0)
    drawn = [draw_weighted(rng, "abcd", [0.7, 0.2, 0.1, 1e-9], 2) for _ in range(2000)]
    assert all(len(set(pair)) == 2 for pair in drawn)
    first = Counter(pair[0] for pair in drawn)
    assert abs(first["a"] / 2000 - 0.7) < 0.04
    assert abs(first["b"] / 2000 - 0.2) < 0.04
    assert not first["d"]
    assert draw_weighted(rng, ["one"], [LEAST], 3) == ["one"]
