"""Rows of the sets to training samples: prompts laid out as at run time, answers, and which cached features fill them.

A sample names rows of the feature cache; it holds no pixels. Shapes: T fused tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..inputs import prompts
from ..inputs.processor import Draft, Processor, heard_line
from ..model.fusion.spans import Span
from .labels import sentence, spoken_label, with_article

CAPTION_PROMPTS = (prompts.CAPTION,) * 5 + (
    "What do you see in this picture?",
    "Describe this image.",
    "Describe the picture.",
    "Write a short caption for this image.",
    "What is happening in this picture?",
)
SHORT_PROMPTS = ("What do you see in this picture?", "Write a short caption for this image.")
"""Of these, those that a bare name answers; who asks for a sentence wants to hear more."""
NAMING_PROMPTS = (prompts.NAMING,) * 5 + ("What is this?", "What is shown in this image?", "Name the main object.")
PRESENCE_PROMPTS = (prompts.PRESENCE,) * 3 + (
    "Is there {article} in this picture? Answer yes or no.",
    "Is there {article} in the image?",
    "Do you see {article} in this picture?",
    "Does this picture show {article}?",
)
MATCH_PROMPTS = (
    'Does this sentence describe the picture? "{text}"',
    'Is this true of the picture: "{text}" Answer yes or no.',
)
EARS_PROMPTS = (prompts.EARS,) * 4 + ("Transcribe the audio.", "What does the speaker say?", "What was said?")


@dataclass(frozen=True)
class Sample:
    """A tree: one prompt's media (segment 0) under several questions, each with its answer (segments 1, 2, ...).

    Branches see the trunk and themselves, at the positions that they would have alone: the media are then paid for
    once. ids, positions, segments (T,); is_answer (T,) marks what is learned; media by rows of the caches.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    is_answer: np.ndarray
    tasks: tuple[str, ...]
    """One per branch."""
    image_rows: tuple[int, ...] = ()
    image_spans: tuple[Span, ...] = ()
    audio_rows: tuple[int, ...] = ()
    audio_spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Branch:
    """One question about the trunk's media, and its answer."""

    task: str
    question: str
    answer: str
    transcript: str | None = None
    """Written between the sound and the question, as the runtime's switch does."""


@dataclass(frozen=True)
class Trunk:
    """The media that several questions share."""

    images: tuple[int, ...] = ()
    """Rows of the image cache."""
    audio: int | None = None
    """Row of the audio cache."""
    audio_samples: int = 0


def lay_out(processor: Processor, trunk: Trunk, branches: Sequence[Branch]) -> Sample:
    """The tree's ids, through the same layout as at run time."""
    tokenizer, special = processor.tokenizer, processor.tokenizer.special
    draft = Draft(tokenizer)
    draft.token(special.im_start, "text")
    draft.text("user\n")
    for _ in trunk.images:
        processor.lay_image(draft, np.empty((1, 0)))
    if trunk.audio is not None:
        processor.lay_audio(draft, np.empty(trunk.audio_samples), None)
    stem = len(draft.ids)
    ids, positions, segments, answers = list(draft.ids), list(range(stem)), [0] * stem, [False] * stem
    for index, branch in enumerate(branches, start=1):
        question = [] if branch.transcript is None else tokenizer.encode(heard_line(branch.transcript))
        question += tokenizer.encode(branch.question) if branch.question else []
        question += [special.im_end, *tokenizer.encode("\n"), special.im_start, *tokenizer.encode("assistant\n")]
        answer = [*tokenizer.encode(branch.answer), special.im_end]
        length = len(question) + len(answer)
        ids += question + answer
        positions += range(stem, stem + length)
        segments += [index] * length
        answers += [False] * len(question) + [True] * len(answer)
    spans = [span for media in draft.media for span in media.spans]
    num_images = len(trunk.images)
    return Sample(
        ids=np.array(ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        segments=np.array(segments, dtype=np.int64),
        is_answer=np.array(answers),
        tasks=tuple(branch.task for branch in branches),
        image_rows=trunk.images,
        image_spans=tuple(spans[:num_images]),
        audio_rows=() if trunk.audio is None else (trunk.audio,),
        audio_spans=tuple(spans[num_images:]),
    )


def caption_branch(rng: random.Random, caption: str, prompt: str | None = None) -> Branch:
    return Branch("caption", prompt or rng.choice(CAPTION_PROMPTS), sentence(caption))


def label_caption_branch(rng: random.Random, label: str, colour: str | None, ground: str | None) -> Branch:
    """A picture that one thing fills, described by that thing, its colour and a plain ground, where they are known."""
    name = spoken_label(label)
    words = with_article(f"{colour} {name}" if colour and colour not in name.split() else name)
    words += f" on a {ground} background" if ground else ""
    said = rng.choice((words, words, f"a close-up of {words}", f"a photo of {words}"))
    is_bare = not (colour or ground)
    return Branch("label_caption", rng.choice(SHORT_PROMPTS if is_bare else CAPTION_PROMPTS), sentence(said))


def naming_branch(rng: random.Random, label: str) -> Branch:
    return Branch("naming", rng.choice(NAMING_PROMPTS), sentence(with_article(spoken_label(label))))


def second_picture_branch(labels: Sequence[str], which: int) -> Branch:
    """Two pictures in one turn; asks for one of them."""
    question = f"What is in the {('first', 'second')[which]} picture?"
    return Branch("two_pictures", question, sentence(with_article(spoken_label(labels[which]))))


def presence_branch(rng: random.Random, name: str, is_there: bool) -> Branch:
    name = spoken_label(name)
    question = rng.choice(PRESENCE_PROMPTS).format(name=name, article=with_article(name))
    return Branch("presence", question, "Yes." if is_there else "No.")


def match_branch(rng: random.Random, caption: str, is_true: bool) -> Branch:
    """Image-text matching, asked in words."""
    question = rng.choice(MATCH_PROMPTS).format(text=sentence(caption))
    return Branch("match", question, "Yes." if is_true else "No.")


def choice_branch(rng: random.Random, label: str, others: Sequence[str]) -> Branch:
    options = [label, *others]
    rng.shuffle(options)
    lines = "\n".join(f"{'ABCD'[i]}. {spoken_label(option)}" for i, option in enumerate(options))
    question = prompts.CHOICES.format(question=prompts.NAMING, choices=lines)
    return Branch("choice", question, "ABCD"[options.index(label)])


def ears_branch(rng: random.Random, text: str, heard: str | None = None) -> Branch:
    """What was said; heard: what own ears wrote down of it, mistakes and all."""
    return Branch("ears", rng.choice(EARS_PROMPTS), text, heard)


def digit_branch(word: str, heard: str | None = None) -> Branch:
    return Branch("digit", prompts.DIGIT, sentence(word), heard)


def spoken_branches(rng: random.Random, question: str, answer: str, heard: str | None = None) -> list[Branch]:
    """The question is heard, not read: once with the recogniser's text beside it, once by own ears."""
    written = rng.choice(("", "", prompts.SPOKEN_QUESTION, "Answer the question."))
    return [Branch("spoken", written, answer, question), Branch("spoken_by_ear", written, answer, heard)]


def chat_branch(question: str, answer: str) -> Branch:
    return Branch("chat", question, answer)
