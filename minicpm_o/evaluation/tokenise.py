"""Chinese texts to what CIDEr and ROUGE-L count; English captions: `official.caption.ptb_tokens`."""

from __future__ import annotations

import re
import unicodedata

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def character_tokens(text: str) -> list[str]:
    """A Chinese text as characters; runs of Latin letters or digits stay one token, punctuation goes."""
    plain = unicodedata.normalize("NFKC", text).lower()
    spaced = _HAN.sub(lambda match: f" {match.group()} ", plain)
    return re.findall(r"\w+", spaced)
