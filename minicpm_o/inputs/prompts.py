"""The fixed questions, in one place: training asks in the words that the evaluation and the API ask in.

Rows that bring their own question (`images_qa*`, `nlvr*`, `daquar`, `video*`) are asked in their own words.
"""

from __future__ import annotations

CAPTION = "Describe this picture in one sentence."
CAPTION_BEAMS = 3
"""Descriptions that are tried side by side; a description's whole matters more than its first word."""
CAPTION_ZH = "用一句话描述这张图片。"
NAMING = "What is in this picture?"
PRESENCE = "Is there a {name} in this picture? Answer yes or no."
DIGIT = "Which digit is spoken?"
EARS = "Write down what you hear."
KEYWORD = "Which word is spoken?"
SOUND_EVENT = "What makes this sound?"
SOUND_CAPTION = "Describe this sound in one sentence."
SPOKEN_QUESTION = "Answer the spoken question."
CHOICES = "{question}\n{choices}\nAnswer with the option's letter from the given choices directly."
VIDEO_TIME = "At {time_s:g} seconds: {question}"


def all_prompts() -> dict[str, str]:
    """Name -> sentence, for the settings of a report."""
    return {name.lower(): value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
