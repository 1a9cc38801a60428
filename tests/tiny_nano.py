"""A tiny nano with cached media, for tests of its training: made numbers for what its encoders would say."""

from __future__ import annotations

import random

import numpy as np
import torch

from minicpm_o.inputs.processor import Processor
from minicpm_o.model.config import tiny
from minicpm_o.model.omni import OmniModel
from minicpm_o.training import samples as s
from minicpm_o.training.features import AudioCache, FeatureStore, ImageCache
from minicpm_o.training.lora import add_lora


class ByteTokenizer:
    """Letters as ids after the special ones, for the tiny vocabulary of 96."""

    class special:
        im_start, im_end, image_start, image_end, audio_start, audio_end, placeholder = 1, 2, 3, 4, 7, 8, 9
        endoftext = 0

    def encode(self, text: str) -> list[int]:
        return [10 + ord(letter) % 86 for letter in text]

    def decode(self, ids: list[int]) -> str:
        """Small letters come back; what was something else may become one."""
        return "".join(chr(number - 10 + (86 if number < 47 else 0)) for number in ids if number >= 10)


class Layout:
    """What `lay_out` asks of the Processor, at the tiny model's token counts."""

    tokenizer = ByteTokenizer()

    def lay_image(self, draft, pixels) -> None:
        Processor.lay_image(self, draft, pixels)

    def lay_audio(self, draft, waveform, transcript) -> None:
        Processor.lay_audio(self, draft, waveform, transcript)

    def _audio_run(self, draft, num_tokens, kind):
        return Processor._audio_run(self, draft, num_tokens, kind)

    def _write_heard(self, draft, transcript) -> None:
        assert transcript is None

    config = tiny()


def make_store() -> FeatureStore:
    """Four views of two pictures, and a sound of two seconds."""
    config, rng = tiny(), np.random.default_rng(0)
    images = ImageCache(
        rng.normal(size=(4, config.vision.grid**2, config.vision.width)).astype(np.float16),
        rng.normal(size=(4, config.vision.num_classes)).astype(np.float16),
        [{"set": "made", "image": f"{i // 2}.jpg"} for i in range(4)],
    )
    frames = rng.normal(size=(100, config.hearing.width)).astype(np.float16)
    return FeatureStore(images, AudioCache([frames], [{"source": 0, "frame": 0, "units": 2, "n": 32000, "text": "ab"}]))


def draw(rng: random.Random) -> list[s.Sample]:
    branches = [s.Branch("naming", "q", "cat"), s.Branch("presence", "p", "no")]
    picture = s.lay_out(Layout(), s.Trunk(images=(rng.randrange(4),)), branches)
    heard = s.lay_out(Layout(), s.Trunk(audio=0, audio_samples=32000), [s.Branch("ears", "e", "ab", transcript="ab")])
    return [picture, heard]


def make_model() -> OmniModel:
    torch.manual_seed(0)
    model = OmniModel(tiny(), marker_ids=(3, 4, 5, 6, 7, 8, 9))
    model.language.requires_grad_(False)
    add_lora(model, rank=2, dropout=0.0)
    return model
