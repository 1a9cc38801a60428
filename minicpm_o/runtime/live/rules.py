"""Requests to speak up later ("say hello when you see a dog") to rules that are checked once per unit.

For models that were not taught to speak unasked; those that were decide by themselves. Knows no model: whoever checks
asks `question` about the newest picture, or `is_heard` of what was said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Sense = Literal["see", "hear"]

_SAY = (r"(?:say|output|tell me|warn me|alert me|notify me|let me know|speak up|shout|call out|remind me)"
        r"(?:\s+(?P<say>.+?))??,?\s+(?:when(?:ever)?|as soon as|if|once)\s+")
_WHAT = (r"(?:(?:you\s+)?(?:can\s+)?(?P<sense>see|spot|notice|hear|there is|there's|there are)\s+(?P<what>.+?)"
         r"(?:\s+(?:in the picture|in front of (?:you|the camera)|on camera|appears?))?"
         r"|(?P<shown>.+?)\s+(?:appears?|shows? up|comes? into (?:view|the picture)))")
_ENGLISH = re.compile(rf"^\s*(?:please\s+|can you\s+|could you\s+)*{_SAY}{_WHAT}\s*[.!?]*\s*$", re.IGNORECASE)
_ENGLISH_TURNED = re.compile(rf"^\s*(?:when(?:ever)?|as soon as|once)\s+{_WHAT},\s*(?:please\s+)?"
                             r"(?:say|output|tell me|warn me|let me know|call out)\b\s*(?P<say>.*?)\s*[.!?]*\s*$",
                             re.IGNORECASE)
_CHINESE = re.compile(r"^\s*(?:请)?(?:如果|当|等)?(?:你)?(?P<sense>看到|看见|听到|听见)(?:了)?(?P<what>.+?)"
                      r"(?:的时候|时|以后|之后)?[,，]?(?:就|请|请你)*(?:说|告诉我|提醒我|叫我)(?P<say>.*?)[。！!.]*\s*$")


@dataclass(frozen=True)
class Rule:
    """What to watch for and what to say then."""

    asked: str
    """The user's own words."""
    sense: Sense
    what: str
    """ "a dog" """
    say: str
    is_chinese: bool = False

    @property
    def question(self) -> str:
        """What to ask about a picture; the answer begins with yes where the rule holds."""
        return f"图片里有{self.what}吗？" if self.is_chinese else f"Is there {self.what} in the picture?"

    @property
    def promise(self) -> str:
        """The answer to the request itself."""
        return "好的，我会注意的。" if self.is_chinese else "All right, I will tell you."


@dataclass(frozen=True)
class Watched:
    """How often in a row a rule was found to hold (above 0) or not (below), and whether it has spoken since."""

    streak: int = 0
    has_spoken: bool = False


def watched(before: Watched, holds: bool, needed: int) -> tuple[bool, Watched]:
    """One look more: whether to speak now. A rule speaks when it held `needed` times in a row, and not again before
    it failed to hold as often."""
    streak = max(before.streak, 0) + 1 if holds else min(before.streak, 0) - 1
    speaks = streak >= needed and not before.has_spoken
    return speaks, Watched(streak, (before.has_spoken or speaks) and streak > -needed)


def parse_rule(text: str) -> Rule | None:
    """A request to a rule, or None where the text asks for nothing of the kind."""
    english = _ENGLISH.match(text) or _ENGLISH_TURNED.match(text)
    if english:
        sense: Sense = "hear" if (english["sense"] or "").lower() == "hear" else "see"
        what = _unquoted(english["what"] or english["shown"])
        said = _unquoted(english["say"] or "")
        return Rule(text.strip(), sense, what, said or f"I {sense} {what}.")
    chinese = _CHINESE.match(text)
    if chinese:
        hears = chinese["sense"].startswith("听")
        what = _unquoted(chinese["what"])
        said = _unquoted(chinese["say"].strip("：:"))
        default = f"我{'听到' if hears else '看到'}了{what}。"
        return Rule(text.strip(), "hear" if hears else "see", what, said or default, True)
    return None


def is_heard(rule: Rule, text: str) -> bool:
    """Whether what a rule listens for was said."""
    wanted = re.sub(r"^(?:the word|somebody say|someone say|me say)\s+", "", rule.what, flags=re.IGNORECASE)
    wanted = _unquoted(wanted).lower()
    if rule.is_chinese:
        return wanted in text
    return re.search(rf"\b{re.escape(wanted)}\b", text.lower()) is not None


def is_yes(answer: str) -> bool:
    """Whether an answer to `Rule.question` says that it holds."""
    first = answer.strip().lower()
    return first.startswith(("yes", "是", "有", "对"))


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'“”‘’「」『』").strip()
