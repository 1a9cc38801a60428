"""Encoder frames to words without the recogniser: nano's own ears write letters, and a search makes words of them.

One run of a small graph for all frames, then `word_search`. Letters: F2 encoder frames, E encoder width, C classes of
letters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from .device import DevicePlan, make_session
from .filters import log_softmax
from .word_search import Heard, WordModel, WordSearch

ASKING = frozenset("who whose what when where why how which is are was were am do does did can could will would should "
                   "shall may has have".split())
"""Words that questions begin with."""

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..checkpoints.bundle import Bundle
    from .encoders import EncoderOut


class OwnEars:
    """What the hearing encoder made of a sound, to words."""

    def __init__(self, session: InferenceSession, search: WordSearch) -> None:
        self.session = session
        self.search = search

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> OwnEars:
        search = WordSearch(WordModel.from_file(bundle.path("words_en.txt.gz")))
        return cls(make_session(bundle.path("hearing_ears.onnx"), plan, kind="hearing"), search)

    def log_probs(self, encoded: EncoderOut) -> np.ndarray:
        """(1, F2, E) -> (F2, C) float32, F2 whole seconds."""
        return log_softmax(self.session.run(["logits"], {"encoder_out": encoded.frames})[0][0])

    def words(self, encoded: EncoderOut) -> str:
        """Small letters, one space between words; "" where nothing was heard."""
        return self.search.words(self.search.listen(Heard(), self.log_probs(encoded)))

    def sentence(self, encoded: EncoderOut) -> str:
        """The words as people write them, which is what a language model has read most."""
        return written(self.words(encoded))


def written(words: str) -> str:
    """A capital in front, I and its kin, and a mark behind: what begins like a question is one."""
    if not words:
        return ""
    words = re.sub(r"\bi\b", "I", words)
    mark = "?" if words.split()[0] in ASKING else "."
    return words[0].upper() + words[1:] + mark
