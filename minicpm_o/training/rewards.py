"""Rewards by rule: what an answer earns for what is known about its prompt. Pure functions of text and facts.

The smooth length reward is that of MiniCPM-o 4.5's report: among the answers to one prompt the shorter right ones earn
more, and no wrong one earns anything by being short.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import OptionError
from ..evaluation.metrics import CiderCorpus, contains_answer, yes_no
from ..evaluation.official.caption import ptb_tokens

Facts = Mapping[str, Any]
Reward = Callable[[str, Facts], float]


def answer_reward(text: str, facts: Facts) -> float:
    """1 when the right answer stands in the text; yes and no by the first of them."""
    wanted = str(_fact(facts, "answer")).strip(" .")
    if wanted.lower() in ("yes", "no"):
        return float(yes_no(text) == wanted.lower())
    return float(contains_answer(text, wanted))


def exact_reward(text: str, facts: Facts) -> float:
    """1 when the text is the right answer, but for case and punctuation."""
    return float(_plain(text) == _plain(str(_fact(facts, "answer"))))


def number_reward(text: str, facts: Facts) -> float:
    """1 when the last number of the text is the right one, as digits: the last is what a chain of steps comes to."""
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(bool(found) and float(found[-1]) == float(_fact(facts, "number")))


def choice_reward(text: str, facts: Facts) -> float:
    """1 when the first letter that stands alone is the right one of a multiple choice."""
    found = re.search(r"(?<![A-Za-z])[A-J](?![A-Za-z'])", text)
    return float(found is not None and found[0] == str(_fact(facts, "choice")).strip().upper())


def caption_reward(text: str, facts: Facts) -> float:
    """CIDEr agreement with the reference descriptions, 0 to 10: n-grams shared, the longer the better.

    How rare a word is, is known from `corpus`, a CiderCorpus, where the facts have one; without it every n-gram counts
    alike.
    """
    references = [ptb_tokens(reference) for reference in _fact(facts, "references")]
    corpus = facts.get("corpus") or CiderCorpus([references, [["something"]]])
    return corpus.score(ptb_tokens(text), references)


def facts_reward(text: str, facts: Facts) -> float:
    """Things that are there and named, less those that are named and not there, by the number that are there; -1 to 1.

    A thing is a phrase such as `red ball`.
    """
    present, absent = _fact(facts, "present"), facts.get("absent", ())
    named = sum(contains_answer(text, thing) for thing in present)
    invented = sum(contains_answer(text, thing) for thing in absent)
    return max(-1.0, (named - invented) / max(1, len(present)))


def overlap_reward(text: str, facts: Facts) -> float:
    """F1 of the words shared with the best of the references, 0 to 1."""
    return max(_f1(ptb_tokens(text), ptb_tokens(reference)) for reference in _fact(facts, "references"))


def format_reward(text: str, facts: Facts) -> float:
    """1 when the text has the wanted form: `format` is "json" or a pattern that the whole text must match."""
    wanted = _fact(facts, "format")
    if wanted != "json":
        return float(re.fullmatch(wanted, text.strip(), re.DOTALL) is not None)
    try:
        json.loads(text)
    except ValueError:
        return 0.0
    return 1.0


def fluency_reward(text: str, facts: Facts) -> float:
    """0 for clean words; down to -1 for repeated ones and for letters of another script than the question's."""
    words = text.lower().split()
    if not words:
        return -1.0
    pairs = Counter(itertools.pairwise(words))
    repeated = sum(count - 1 for count in pairs.values()) / max(1, len(words) - 1)
    has_han = re.search(r"[\u4e00-\u9fff]", text) is not None
    mixes = has_han and re.search(r"[A-Za-z]{4,}", text) is not None
    return -min(1.0, repeated + 0.5 * mixes)


REWARDS: Mapping[str, Reward] = {
    "answer": answer_reward, "exact": exact_reward, "caption": caption_reward, "facts": facts_reward,
    "overlap": overlap_reward, "format": format_reward, "fluency": fluency_reward, "number": number_reward,
    "choice": choice_reward,
}
NEEDS: Mapping[str, str] = {"answer": "answer", "exact": "answer", "caption": "references", "facts": "present",
                            "overlap": "references", "format": "format", "number": "number",
                            "choice": "choice"}
"""Reward -> the fact without which it says nothing."""


def total_reward(text: str, facts: Facts, weights: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Weighted sum of the rewards that the facts allow, and each by name.

    Raises OptionError for a reward that is unknown, or facts of which none of them knows anything.
    """
    check_weights(weights)
    told = {name: REWARDS[name](text, facts) for name in weights if NEEDS.get(name, "") in ("", *facts)}
    if not any(name in NEEDS for name in told):
        raise OptionError(f"the sample's facts are {sorted(facts)}, of which the rewards {sorted(weights)} know "
                          f"nothing; give one of {sorted(set(NEEDS.values()))}")
    return sum(weights[name] * value for name, value in told.items()), told


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises OptionError for a reward that is unknown."""
    unknown = sorted(set(weights) - set(REWARDS))
    if unknown:
        raise OptionError(f"there is no reward {unknown[0]!r}; rewards are {', '.join(REWARDS)}")


def length_rewards(lengths: Sequence[int], is_right: Sequence[bool], tau: float) -> list[float]:
    """The smooth length reward of answers to one prompt, by their lengths in tokens.

    s = 0.5 - (l - l_min) / (l_max - l_min) * min(1, (l_max - l_min) / tau); a right answer earns s, a wrong one
    min(0, s). Answers of one length earn 0.5 when they are right.
    """
    shortest, spread = min(lengths), max(lengths) - min(lengths)
    rewards = []
    for length, right in zip(lengths, is_right, strict=True):
        smooth = 0.5 - ((length - shortest) / spread * min(1.0, spread / tau) if spread else 0.0)
        rewards.append(smooth if right else min(0.0, smooth))
    return rewards


def preference_rows(prompt: Mapping[str, Any], answers: Sequence[str], facts: Facts, weights: Mapping[str, float], *,
                    least_gap: float = 0.1) -> list[dict[str, Any]]:
    """Answers to one prompt as preference rows: the best against the worst, where their scores differ enough.

    RLAIF-V splits answers into claims that a judge checks; here the rewards check them by rule.
    """
    scored = sorted(((total_reward(text, facts, weights)[0], text) for text in dict.fromkeys(answers)), reverse=True)
    if len(scored) < 2 or scored[0][0] - scored[-1][0] < least_gap:
        return []
    return [{**prompt, "chosen": scored[0][1], "rejected": scored[-1][1]}]


def _fact(facts: Facts, name: str) -> Any:
    if name not in facts:
        raise OptionError(f"the sample's facts are {sorted(facts)}; this reward needs {name!r}")
    return facts[name]


def _plain(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text.lower()).strip()


def _f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0
