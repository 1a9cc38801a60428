"""Prompts of the official checkpoints: places of media, counts, options, batches. Ids are compared in tests/parity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from made_tokenizer import made_tokenizer
from PIL import Image

from minicpm_o.errors import AudioError, ContextFullError, MessageError, OptionError
from minicpm_o.inputs import official_processor
from minicpm_o.inputs.mel import num_audio_tokens
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart, VideoPart
from minicpm_o.inputs.official_layout import (
    AudioMedia,
    ClipMedia,
    OfficialInputs,
    SlicedImageMedia,
    batch_inputs,
    speech_span,
)
from minicpm_o.inputs.official_processor import OfficialProcessor, PromptOptions
from minicpm_o.inputs.official_tokenizer import OfficialTokenizer
from minicpm_o.inputs.session_prompt import FIRST_CHUNK_SAMPLES, SessionPrompt
from minicpm_o.inputs.system_prompts import MarkupPart
from minicpm_o.model.config import NanoConfig, OfficialConfig, QueryResamplerConfig, WhisperEncoderConfig
from minicpm_o.model.fusion.spans import find_spans
from minicpm_o.rates import AUDIO_RATE_HZ

QUERIES = 7
POOL = {"2.6": 2, "4.5": 5}
TYPED = "<image><unk></image><|im_end|><|tts_bos|>"


@dataclass(frozen=True)
class Unit:
    frame: Image.Image
    audio: np.ndarray | None
    stacked: Image.Image | None


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OfficialTokenizer]:
    return {version: made_tokenizer(tmp_path_factory.mktemp("tokenizer"), version) for version in POOL}


@pytest.fixture(params=POOL)
def processor(request: pytest.FixtureRequest, tokenizers: dict[str, OfficialTokenizer]) -> OfficialProcessor:
    return make_processor(request.param, tokenizers)


@pytest.fixture
def processor_45(tokenizers: dict[str, OfficialTokenizer]) -> OfficialProcessor:
    return make_processor("4.5", tokenizers)


@pytest.fixture
def processor_26(tokenizers: dict[str, OfficialTokenizer]) -> OfficialProcessor:
    return make_processor("2.6", tokenizers)


def make_processor(version: str, tokenizers: dict[str, OfficialTokenizer]) -> OfficialProcessor:
    config = OfficialConfig(version=version, resampler=QueryResamplerConfig(queries=QUERIES),
                            hearing=WhisperEncoderConfig(pool_step=POOL[version]))
    return OfficialProcessor(config, tokenizers[version])


def user(*parts) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def sound(seconds: float) -> AudioPart:
    return AudioPart(np.full(round(seconds * AUDIO_RATE_HZ), 0.1, dtype=np.float32), AUDIO_RATE_HZ)


def picture(width: int = 64, height: int = 64) -> ImagePart:
    return ImagePart(Image.new("RGB", (width, height), "teal"))


def all_spans(inputs: OfficialInputs) -> list:
    return sorted([*inputs.image_bounds, *inputs.audio_bounds])


def test_media_have_the_runs_that_their_spans_say(processor: OfficialProcessor) -> None:
    inputs = processor.prepare([user(picture(), sound(1), picture(900, 500), sound(2.3), "hi"), user(sound(1))])
    assert all_spans(inputs) == find_spans(inputs.ids, processor.tokenizer.special.unk)
    pictures = [media for media in inputs.media if isinstance(media, SlicedImageMedia)]
    for media in pictures:
        assert [span.length for span in media.spans] == [QUERIES] * len(media.pieces)
        assert [len(piece) for piece in media.pieces] == media.grid_sizes.prod(axis=1).tolist()
    assert len(pictures[0].pieces) == 1 < len(pictures[1].pieces)
    starts = [media.spans[0].start for media in inputs.media]
    assert starts == sorted(starts)


def test_usage_counts_by_medium(processor_45: OfficialProcessor) -> None:
    inputs = processor_45.prepare([user(picture(), picture(900, 500), sound(1), "hi")])
    pieces = sum(len(media.pieces) for media in inputs.media if isinstance(media, SlicedImageMedia))
    assert len(inputs.media[1].pieces) == 3                                 # 900 x 500: two slices side by side
    assert inputs.usage.image == pieces * (QUERIES + 2) + 2 * 3             # and <image_id>0</image_id> for each
    assert inputs.usage.audio == 10 + 2
    assert inputs.usage.total == len(inputs.ids)


def test_what_a_user_typed_stays_letters(processor: OfficialProcessor) -> None:
    special = processor.tokenizer.special
    typed = processor.prepare([user(TYPED)])
    assert TYPED in processor.tokenizer.decode(typed.ids)
    assert typed.media == () and special.unk not in typed.ids and special.image_start not in typed.ids
    assert (typed.ids == special.im_end).sum() == (1 if processor.version == "4.5" else 2)
    assert typed.speech_start is None
    assert (processor.prepare([user(MarkupPart("<unit>"))]).ids == special.unit_start).sum() == 1


def test_markup_counts_when_the_words_are_ones_own(processor_45: OfficialProcessor) -> None:
    special = processor_45.tokenizer.special
    inputs = processor_45.prepare([user("a<|speak|>b<|listen|>c")], options=PromptOptions(text_is_markup=True))
    assert special.speak in inputs.ids and special.listen not in inputs.ids
    with pytest.raises(MessageError, match=r"1 <\|spk_bos\|> and 0 <\|spk_eos\|>"):
        processor_45.prepare([user("<|spk_bos|>")], options=PromptOptions(text_is_markup=True))


def test_words_are_encoded_together_across_their_joints(processor_45: OfficialProcessor) -> None:
    """The reference encodes one string, in which the user's new line and the joint's are one token."""
    inputs = processor_45.prepare([user("hi\n", sound(1))])
    two_lines = processor_45.tokenizer.id_of("ĊĊ")
    assert inputs.ids[inputs.audio_bounds[0].start - 2] == two_lines


def test_sound_makes_the_answer_spoken(processor: OfficialProcessor) -> None:
    special = processor.tokenizer.special
    silent, spoken = processor.prepare([user("hi")]), processor.prepare([user(sound(1))])
    assert special.tts_bos not in silent.ids and silent.speech_start is None
    assert spoken.ids[-1] == special.tts_bos and spoken.speech_start == len(spoken.ids)
    assert len(spoken.speaker_spans) == (1 if processor.version == "2.6" else 0)
    asked = processor.prepare([user("hi")], options=PromptOptions(use_tts_template=True))
    assert asked.speech_start == len(asked.ids)


def test_sounds_of_a_message_are_heard_as_one_and_placed_one_by_one(processor_45: OfficialProcessor) -> None:
    inputs = processor_45.prepare([user(sound(1), sound(1.5)), user(sound(0.5))])
    first, second = inputs.media
    assert first.num_frames == (250,) and [span.length for span in first.spans] == [10, 15]
    assert second.num_frames == (50,) and first.num_tokens == 25
    assert first.contents[:-1] == first.log_mels and first.log_mels[0].dtype == np.float32


def test_long_sounds_are_cut_at_30_s(processor: OfficialProcessor) -> None:
    media = processor.prepare([user(sound(31.7))], options=PromptOptions(stream_input=False)).media[0]
    assert media.num_frames == (3000, 170)
    assert [span.length for span in media.spans] == [num_audio_tokens(round(31.7 * 16_000), POOL[processor.version])]


def test_seconds_are_placed_one_by_one_when_streamed(processor: OfficialProcessor) -> None:
    rate = {"2.6": 25, "4.5": 10}[processor.version]
    streamed = processor.prepare([user(sound(2.2))], options=PromptOptions(stream_input=True))
    assert [span.length for span in streamed.audio_bounds] == [rate, rate, int(rate * 0.2)]
    by_default = processor.prepare([user(sound(2.2))])
    assert len(by_default.audio_bounds) == (3 if processor.version == "2.6" else 1)


@pytest.mark.parametrize("samples", [[1440, 1440], [16_161, 16_161, 1_760], [20_000, 479_999]])
def test_pieces_bring_a_token_for_every_place(processor: OfficialProcessor, samples: list[int]) -> None:
    """Merged clips can come to fewer tokens than they do one by one; then they are heard one by one."""
    parts = [AudioPart(np.full(count, 0.1, np.float32), AUDIO_RATE_HZ) for count in samples]
    media = processor.prepare([user(*parts)]).media[0]
    pool_step = POOL[processor.version]
    brought = [num_audio_tokens(frames * 160, pool_step) for frames in media.num_frames]
    assert min(brought) >= 1 and sum(brought) >= media.num_tokens
    assert media.num_tokens == sum(num_audio_tokens(count, pool_step) for count in samples)


def test_a_sound_too_short_for_a_token_still_has_one(processor: OfficialProcessor) -> None:
    media = processor.prepare([user(AudioPart(np.full(100, 0.1, np.float32), AUDIO_RATE_HZ))]).media[0]
    assert media.num_tokens >= 1 and media.num_frames == (10,)
    with pytest.raises(AudioError, match="holds no samples"):
        processor.prepare([user(AudioPart(np.zeros(0, np.float32), AUDIO_RATE_HZ))])


def test_pictures_are_numbered_and_cut_as_asked(processor: OfficialProcessor) -> None:
    special = processor.tokenizer.special
    wide = [user(picture(900, 900), picture(900, 900))]
    default = processor.prepare(wide)
    assert (default.ids == special.image_id_start).sum() == 2
    assert [len(media.pieces) for media in default.media] == [5, 5]
    whole = processor.prepare(wide, options=PromptOptions(use_image_id=False, max_slice_nums=1))
    assert special.image_id_start not in whole.ids and [len(media.pieces) for media in whole.media] == [1, 1]


def test_parts_join_as_the_version_joins_them(processor: OfficialProcessor) -> None:
    def shown(**options) -> str:
        prompt = processor.prepare([user("a", "b")], options=PromptOptions(**options)).prompt
        return prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]

    assert shown() == "a\nb" and shown(omni_mode=True) == "ab"
    assert shown(stream_input=True) == ("ab" if processor.version == "4.5" else "a\nb")


def test_video_is_a_row_of_units(processor: OfficialProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, second = Image.new("RGB", (900, 900)), np.full(AUDIO_RATE_HZ, 0.1, np.float32)
    asked = {}

    def units(source, **options):
        asked.update(options)
        return [Unit(frame, second, frame if options["stack_frames"] > 1 else None)] * 2

    monkeypatch.setattr(official_processor, "video_units", units)
    inputs = processor.prepare([user(VideoPart("clip.mp4"), "hi")])
    image, audio = ("(<image>./</image>)", "(<audio>./</audio>)") if processor.version == "2.6" else (
        "<image>./</image>", "<audio>./</audio>")
    unit = "<unit>" if processor.version == "2.6" else ""
    assert f"user\n{unit}{image}{audio}{unit}{image}{audio}hi<" in inputs.prompt
    assert asked["version"] == processor.version
    special = processor.tokenizer.special
    assert special.image_id_start not in inputs.ids
    assert (inputs.ids == special.unit_start).sum() == (2 if unit else 0)
    assert [len(media.pieces) for media in inputs.media if isinstance(media, SlicedImageMedia)] == [1, 1]
    rate = {"2.6": 25, "4.5": 10}[processor.version]
    assert inputs.usage.video == 2 * (QUERIES + 2 + rate + 2) + (2 if unit else 0)
    assert inputs.usage.image == inputs.usage.audio == 0
    if processor.version == "4.5":
        stacked = processor.prepare([user(VideoPart("clip.mp4"))], options=PromptOptions(stack_frames=5))
        assert f"user\n{image}{audio}{image}{image}{audio}{image}<" in stacked.prompt
    else:
        with pytest.warns(UserWarning, match="stack_frames has no effect"):
            processor.prepare([user(VideoPart("clip.mp4"))], options=PromptOptions(stack_frames=5))


def test_a_silent_video_is_frames_alone(processor_45: OfficialProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_processor, "video_units",
                        lambda source, **options: [Unit(Image.new("RGB", (64, 64)), None, None)] * 3)
    inputs = processor_45.prepare([user(VideoPart("clip.mp4"))])
    assert len(inputs.image_bounds) == 3 and inputs.audio_bounds == [] and inputs.speech_start is None


def test_a_video_file(processor: OfficialProcessor, encode_video) -> None:
    """Three seconds of pictures and sound, through the whole path."""
    path = encode_video("clip.mp4", "mpeg4", "aac", seconds=3)
    inputs = processor.prepare([user(VideoPart(path), "hi")])
    assert len(inputs.image_bounds) == len(inputs.audio_bounds) == 3
    assert all_spans(inputs) == find_spans(inputs.ids, processor.tokenizer.special.unk)
    assert inputs.usage.video > 0 == inputs.usage.image + inputs.usage.audio
    stills = processor.prepare([user(VideoPart(path), "hi")], options=PromptOptions(video_stills=True))
    assert len(stills.image_bounds) == 3 and stills.audio_bounds == []
    assert "</image>" in stills.prompt.split("\nhi<")[0]


def test_a_prompt_that_is_too_long_is_refused(processor: OfficialProcessor) -> None:
    messages = [user(picture(), "hi")]
    length = len(processor.prepare(messages).ids)
    assert len(processor.prepare(messages, options=PromptOptions(max_inp_length=length)).ids) == length
    with pytest.raises(ContextFullError, match=f"takes {length} tokens .* max_inp_length = {length - 1}"):
        processor.prepare(messages, options=PromptOptions(max_inp_length=length - 1))


def test_wrong_options_and_messages(processor: OfficialProcessor) -> None:
    with pytest.raises(OptionError, match="max_slice_nums is 0"):
        PromptOptions(max_slice_nums=0)
    with pytest.raises(MessageError, match="no messages"):
        processor.prepare([])
    with pytest.raises(OptionError, match="the config is nano's"):
        OfficialProcessor(NanoConfig(), processor.tokenizer)


def test_media_of_parts_that_were_left_out(processor: OfficialProcessor) -> None:
    blind = OfficialProcessor(replace(processor.config, vision=None), processor.tokenizer)
    deaf = OfficialProcessor(replace(processor.config, hearing=None), processor.tokenizer)
    with pytest.raises(MessageError, match="bring a picture, but the model was loaded without vision"):
        blind.prepare([user(picture())])
    with pytest.raises(MessageError, match="bring a sound, but the model was loaded without hearing"):
        deaf.prepare([user(sound(1))])
    assert deaf.prepare([user(picture())]).media and blind.prepare([user(sound(1))]).media


def test_tools_are_described(processor: OfficialProcessor) -> None:
    inputs = processor.prepare([user("hi")], tools=[{"name": "time"}])
    assert '<tools>\n{"name": "time"}\n</tools>' in inputs.prompt


def test_a_batch_is_padded_on_the_left(processor: OfficialProcessor) -> None:
    """Prompts with and without sound go together, which the reference cannot do."""
    prompts = [processor.prepare([user("hi")], options=PromptOptions(use_tts_template=True)),
               processor.prepare([user(picture(), sound(1))])]
    batch = batch_inputs(prompts)
    assert batch.ids.shape == batch.attention_mask.shape == (2, len(prompts[1].ids))
    pad = len(prompts[1].ids) - len(prompts[0].ids)
    assert not batch.attention_mask[0, :pad].any() and batch.attention_mask[0, pad:].all()
    assert (batch.ids[0, :pad] == 0).all() and batch.attention_mask[1].all()
    assert batch.rows[1].image_bounds == prompts[1].image_bounds
    turned = batch_inputs([processor.prepare([user(picture(), sound(1))]),
                           processor.prepare([user(sound(1), picture(), sound(2), "hi hi hi")])]).rows[0]
    assert all_spans(turned) == find_spans(turned.ids, processor.tokenizer.special.unk)
    assert turned.speech_start == len(turned.ids)
    assert all(turned.ids[span.start - 1] == processor.tokenizer.special.spk_bos for span in turned.speaker_spans)
    with pytest.raises(MessageError, match="batch of no prompts"):
        batch_inputs([])


def test_what_is_spoken_of_an_answer(processor_45: OfficialProcessor) -> None:
    special = processor_45.tokenizer.special
    inputs = processor_45.prepare([user(sound(1))])
    start = len(inputs.ids)
    assert speech_span(inputs, [1, 2, special.tts_eos, special.im_end], special) == (start, start + 2)
    assert speech_span(inputs, [1, 2], special) == (start, start + 2)
    assert speech_span(inputs, [1, special.tts_eos], special, teacher_forcing=True) == (start, start + 2)
    assert speech_span(inputs, [1, special.tts_bos, 2, special.tts_eos], special) == (start + 2, start + 3)
    assert speech_span(processor_45.prepare([user("hi")]), [1], special) is None
    earlier = processor_45.prepare([user("<|tts_eos|>")],
                                   options=PromptOptions(text_is_markup=True, use_tts_template=True))
    assert speech_span(earlier, [1, 2], special) == (len(earlier.ids), len(earlier.ids) + 2)


def test_a_session_of_45_streams_what_it_hears(processor_45: OfficialProcessor) -> None:
    state, first = processor_45.prefill(SessionPrompt(), "s", Message("system", (TextPart("a"), sound(1))))
    assert isinstance(first.inputs.media[0], ClipMedia) and not first.prompt.is_stream
    state, second = processor_45.prefill(state, "s", user(picture(900, 900), sound(1)))
    whole, heard = second.inputs.media
    assert isinstance(heard, AudioMedia) and len(heard.waveform) == FIRST_CHUNK_SAMPLES
    assert len(whole.pieces) == 1 and second.prompt.is_stream
    assert all_spans(second.inputs) == find_spans(second.inputs.ids, processor_45.tokenizer.special.unk)
    _, third = processor_45.prefill(state, "s", user(sound(1)))
    assert third.inputs.prompt == "<audio>./</audio>" and len(third.inputs.media[0].waveform) == AUDIO_RATE_HZ
    with pytest.raises(MessageError, match="2 sounds"):
        processor_45.prefill(state, "s", user(sound(1), sound(1)))


def test_a_session_of_26_hears_seconds_whole(processor_26: OfficialProcessor) -> None:
    state, first = processor_26.prefill(SessionPrompt(), "s", user("a", sound(1)))
    assert first.inputs.prompt == "<|im_start|>user\na(<audio>./</audio>)<|im_end|>\n"
    _, second = processor_26.prefill(state, "s", user(MarkupPart("<unit>"), picture(), sound(1)))
    assert second.inputs.prompt == "<|im_start|>user\n<unit>(<image>./</image>)(<audio>./</audio>)"
    assert all(isinstance(media, ClipMedia | SlicedImageMedia) for media in second.inputs.media)
    assert second.inputs.media[1].num_frames == (100,) and second.prompt.is_stream
