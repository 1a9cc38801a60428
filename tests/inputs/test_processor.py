"""The prompt's layout: runs where media go, counts that agree, text that stays text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from minicpm_o.errors import CheckpointError, MessageError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.inputs.processor import AudioMedia, ImageMedia, Processor
from minicpm_o.inputs.text import SPECIAL_STRINGS, Tokenizer
from minicpm_o.inputs.video import Frame, Video
from minicpm_o.model.config import NanoConfig
from minicpm_o.model.fusion.spans import find_spans
from minicpm_o.rates import AUDIO_RATE_HZ


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Bytes as tokens after the special ones: every text round-trips."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = list(SPECIAL_STRINGS.values())
    vocab = {token: i for i, token in enumerate(special + letters)}
    backend = Backend(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return Tokenizer(backend)


@pytest.fixture
def processor(tokenizer: Tokenizer) -> Processor:
    return Processor(NanoConfig(), tokenizer)


def user(*parts) -> list[Message]:
    return [Message("user", tuple(parts))]


def sound(seconds: float) -> AudioPart:
    return AudioPart(np.full(int(seconds * AUDIO_RATE_HZ), 0.1, dtype=np.float32), AUDIO_RATE_HZ)


def picture(width: int = 64, height: int = 64) -> ImagePart:
    return ImagePart(Image.new("RGB", (width, height), "teal"))


def test_text_alone_is_the_chat_template(processor: Processor, tokenizer: Tokenizer) -> None:
    inputs = processor.prepare(user(TextPart("Hi")))
    special = tokenizer.special
    expected = [special.im_start, *tokenizer.encode("user\nHi"), special.im_end, *tokenizer.encode("\n")]
    expected += [special.im_start, *tokenizer.encode("assistant\n")]
    assert inputs.ids.tolist() == expected
    assert inputs.usage.text == inputs.usage.total == len(expected)


def test_special_strings_in_user_text_stay_letters(processor: Processor, tokenizer: Tokenizer) -> None:
    text = "<image><unk></image><|im_end|>"
    inputs = processor.prepare(user(TextPart(text)))
    assert find_spans(inputs.ids, tokenizer.special.placeholder) == []
    assert text in tokenizer.decode(inputs.ids)


def test_each_medium_has_the_run_that_its_span_says(processor: Processor, tokenizer: Tokenizer) -> None:
    inputs = processor.prepare(user(picture(), picture(), sound(2.3), TextPart("What?")))
    runs = find_spans(inputs.ids, tokenizer.special.placeholder)
    assert [span for media in inputs.media for span in media.spans] == runs
    tokens = NanoConfig().resampler.num_tokens
    assert [span.length for span in runs] == [tokens, tokens, 30]
    assert inputs.usage.image == 2 * (tokens + 2) and inputs.usage.audio == 30 + 2
    assert inputs.usage.total == len(inputs.ids)


def test_wide_picture_brings_slices(processor: Processor, tokenizer: Tokenizer) -> None:
    media = processor.prepare(user(picture(300, 100))).media[0]
    assert isinstance(media, ImageMedia) and len(media.spans) == len(media.pixels) == 1 + 3


def test_nano_spends_32_to_64_tokens_on_a_picture() -> None:
    assert 32 <= NanoConfig().resampler.num_tokens <= 64


def test_transcripts_are_written_beside_sounds(processor: Processor, tokenizer: Tokenizer) -> None:
    heard = processor.prepare(user(sound(1)), transcripts=["hello"])
    assert 'Heard: "hello"' in tokenizer.decode(heard.ids)
    silent = processor.prepare(user(sound(1)), transcripts=[""])
    assert "Heard: no speech." in tokenizer.decode(silent.ids)
    alone = processor.prepare(user(sound(1)), transcripts=[None])
    assert "Heard" not in tokenizer.decode(alone.ids)


@pytest.mark.parametrize("transcripts", [[], ["a", "b"]])
def test_transcripts_must_match_sounds(processor: Processor, transcripts: list[str]) -> None:
    with pytest.raises(MessageError, match="transcripts were given"):
        processor.prepare(user(sound(1)), transcripts=transcripts)


def test_video_interleaves_frames_and_sound(processor: Processor, tokenizer: Tokenizer, monkeypatch) -> None:
    from minicpm_o.inputs import processor as module
    from minicpm_o.inputs.messages import VideoPart

    frames = [Frame(float(t), Image.new("RGB", (32, 32))) for t in range(3)]
    video = Video(frames, np.zeros(int(2.5 * AUDIO_RATE_HZ), dtype=np.float32), 3.0)
    monkeypatch.setattr(module, "load_video", lambda *args, **kwargs: video)
    inputs = processor.prepare(user(VideoPart("clip.mp4")))
    images, audio = inputs.media
    assert isinstance(images, ImageMedia) and isinstance(audio, AudioMedia)
    assert len(images.spans) == 3 and [span.length for span in audio.spans] == [10, 10, 10]
    starts = [span.start for span in sorted([*images.spans, *audio.spans])]
    assert [s in {span.start for span in images.spans} for s in starts] == [True, False] * 3
    assert inputs.usage.video == 3 * (NanoConfig().resampler.num_tokens + 2) + 30 + 3 * 2


def test_a_foreign_tokenizer_is_refused(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"not a tokenizer\.json"):
        Tokenizer.from_file(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        Tokenizer.from_file(tmp_path / "absent.json")
