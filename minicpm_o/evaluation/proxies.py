"""How near an answer is to a reference without a judge: words shared. No benchmark's score, and never called one."""

from __future__ import annotations

from minicpm_o.evaluation.metrics import rouge_l
from minicpm_o.evaluation.normalise import has_han
from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.tokenise import character_tokens

# Words that say nothing about what a text is about.
_EMPTY_WORDS = frozenset(
    "a an the this that these those it its is are was were be been being am do does did has have had having can could "
    "will would may might must shall should and or but nor so if then than as at by for from in into of on onto over "
    "to up with within without about there here which who whom whose what when where why how not no also some any each "
    "such their his her our your my they he she we you i them him us me 's 的 了 是 在 和 有 一 个 这 那 它 们 也 着 与"
    .split()
)


def keyword_recall(answer: str, reference: str) -> float:
    """Share of the reference's content words that the answer holds."""
    wanted = set(_words(reference)) - _EMPTY_WORDS
    return len(wanted & set(_words(answer))) / len(wanted) if wanted else 0.0


def rouge_of(answer: str, reference: str) -> float:
    """ROUGE-L of an answer against one reference."""
    return rouge_l(_words(answer), [_words(reference)])


def _words(text: str) -> list[str]:
    return character_tokens(text) if has_han(text) else ptb_tokens(text)
