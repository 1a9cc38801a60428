"""Prompts, ids, places of media and generation arguments as the reference makes them, both versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tokenizer import made_tokenizer
from PIL import Image

from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.inputs.official_layout import AudioMedia, ClipMedia, OfficialInputs, SlicedImageMedia
from minicpm_o.inputs.official_processor import OfficialProcessor, PromptOptions
from minicpm_o.inputs.official_tokenizer import OfficialTokenizer
from minicpm_o.inputs.session_prompt import SessionPrompt
from minicpm_o.inputs.system_prompts import read_aloud, system_prompt
from minicpm_o.inputs.templates import Slot, ToolCall, Turn, Words, chat_template, prompt_text
from minicpm_o.model.config import OfficialConfig, SlicingConfig, WhisperEncoderConfig
from minicpm_o.rates import AUDIO_RATE_HZ, HOP_SAMPLES
from minicpm_o.runtime.generation_defaults import chat_arguments, generate_kwargs
from oracle import oracle_cases, oracle_root, read_json

CASES = oracle_cases("_08_chat_templates")
OPTIONS = {"max_slice_nums": "max_slice_nums", "use_image_id": "use_image_id", "omni_mode": "omni_mode",
           "omni_input": "omni_mode", "stream_input": "stream_input", "chunk_input": "stream_input",
           "use_tts_template": "use_tts_template", "enable_thinking": "enable_thinking",
           "max_inp_length": "max_inp_length"}
ARGUMENTS = {"sampling": "do_sample", "do_sample": "do_sample", "num_beams": "num_beams",
             "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "teacher_forcing": "teacher_forcing",
             "repetition_penalty": "repetition_penalty", "max_new_tokens": "max_new_tokens",
             "min_new_tokens": "min_new_tokens"}
PLUMBING = {"stream", "vision_hidden_states"}
"""What reached `generate` and says nothing of how words are chosen."""


def official_folder() -> Path:
    """The tokenizer files of 4.5, which lie beside the cases."""
    folder = oracle_root() / "tokenizer-4.5"
    if not (folder / "vocab.json").is_file():
        pytest.skip(f"no tokenizer-4.5 beside the cases in {oracle_root().name}")
    return folder


@cache
def tokenizer_45() -> OfficialTokenizer:
    return OfficialTokenizer.from_folder(official_folder())


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], OfficialTokenizer]:
    """4.5's from its files. 2.6's from the same base vocabulary and the tokens that the case's config.json names."""

    def tokenizer(case: Path) -> OfficialTokenizer:
        if case.name.startswith("45"):
            return tokenizer_45()
        folder, source = tmp_path_factory.mktemp("tokenizer"), official_folder()
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((source / name).read_bytes())
        names = {token_id: text for text, token_id in read_json(source / "added_tokens.json").items()}
        base = {names[token_id]: token_id for token_id in range(151643, 151665)}
        own = read_json(case / "config.json")["added_tokens_from_151665"]
        added = {**base, **{text: 151665 + i for i, text in enumerate(own)}, "<unk>": 128244}
        (folder / "added_tokens.json").write_text(json.dumps(added))
        return OfficialTokenizer.from_folder(folder)

    return cache(tokenizer)


@pytest.fixture
def processor_of(tokenizer_of: Callable[[Path], OfficialTokenizer]) -> Callable[[Path], OfficialProcessor]:
    return lambda case: OfficialProcessor(official_config(case), tokenizer_of(case))


def version_of(case: Path) -> str:
    return {"45": "4.5", "26": "2.6"}[case.name[:2]]


def official_config(case: Path) -> OfficialConfig:
    """As far as prompts depend on it."""
    values, version = read_json(case / "config.json"), version_of(case)
    image = values.get("image", {})
    default = SlicingConfig()
    slicing = SlicingConfig(max_slices=image.get("max_slice_nums", default.max_slices),
                            scale_px=image.get("scale_resolution", default.scale_px),
                            patch_px=image.get("patch_size", default.patch_px))
    pool_step = values.get("audio_pool_step", 5 if version == "4.5" else 2)
    return OfficialConfig(version=version, slicing=slicing, hearing=WhisperEncoderConfig(pool_step=pool_step))


def to_part(item: Any) -> Any:
    if isinstance(item, str):
        return TextPart(item)
    if item["type"] == "image":
        return ImagePart(Image.new("RGB", tuple(item["size_wh"]), "teal"))
    return AudioPart(silence(item["seconds"]), AUDIO_RATE_HZ)


def to_message(item: dict[str, Any]) -> Message:
    content = [item["content"]] if isinstance(item["content"], str) else item["content"]
    return Message(item["role"], tuple(map(to_part, content)))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * AUDIO_RATE_HZ), dtype=np.float32)


def runs(ids: Sequence[int]) -> list[list[int]]:
    return [[token_id, len(list(run))] for token_id, run in groupby(map(int, ids))]


def as_lists(spans: Sequence[Any]) -> list[list[int]]:
    return [list(span) for span in spans]


def frames(inputs: OfficialInputs) -> list[int]:
    return [length for media in inputs.media if isinstance(media, ClipMedia) for length in media.num_frames]


def chats(case: Path) -> dict[str, Any]:
    return {name: value for name, value in read_json(case / "inputs.json").items() if not name.startswith("stream:")}


def prepare(processor: OfficialProcessor, chat: dict[str, Any], *, text_is_markup: bool) -> OfficialInputs:
    kwargs = chat["chat_kwargs"]
    unknown = set(kwargs) - set(OPTIONS) - set(ARGUMENTS)
    assert not unknown, f"the test does not know what {unknown} means"
    options = PromptOptions(**{OPTIONS[key]: value for key, value in kwargs.items() if key in OPTIONS},
                            text_is_markup=text_is_markup)
    return processor.prepare(list(map(to_message, chat["messages"])), options=options,
                             add_generation_prompt=not kwargs.get("teacher_forcing", False))


@pytest.mark.parametrize("case", CASES)
def test_chat_prompts(case: Path, processor_of: Callable[[Path], OfficialProcessor]) -> None:
    processor, expected = processor_of(case), read_json(case / "outputs.json")
    for name, chat in chats(case).items():
        inputs, wanted = prepare(processor, chat, text_is_markup=True), expected[name]
        assert inputs.prompt == wanted["prompt"], name
        assert runs(inputs.ids) == wanted["id_runs"], name
        assert len(inputs.ids) == wanted["n_ids"] == inputs.usage.total, name
        assert as_lists(inputs.image_bounds) == wanted["image_bound"], name
        assert as_lists(inputs.audio_bounds) == wanted["audio_bounds"], name
        assert as_lists(inputs.speaker_spans) == wanted["spk_bounds"], name
        assert [frames(inputs)] == wanted["audio_feature_lens"], name


@pytest.mark.parametrize("case", CASES)
def test_chat_prompts_without_the_official_vocabulary(case: Path, tmp_path: Path) -> None:
    """All that does not depend on how words are cut: with a tokenizer made for tests, so it runs everywhere."""
    processor = OfficialProcessor(official_config(case), made_tokenizer(tmp_path, version_of(case)))
    expected = read_json(case / "outputs.json")
    for name, chat in chats(case).items():
        inputs, wanted = prepare(processor, chat, text_is_markup=True), expected[name]
        assert inputs.prompt == wanted["prompt"], name
        assert lengths(inputs.image_bounds) == lengths(wanted["image_bound"]), name
        assert lengths(inputs.audio_bounds) == lengths(wanted["audio_bounds"]), name
        assert lengths(inputs.speaker_spans) == lengths(wanted["spk_bounds"]), name
        assert [frames(inputs)] == wanted["audio_feature_lens"], name


def lengths(spans: Sequence[Any]) -> list[int]:
    return [stop - start for start, stop in spans]


@pytest.mark.parametrize("case", CASES)
def test_letters_and_markup_agree_where_no_special_token_was_typed(
        case: Path, processor_of: Callable[[Path], OfficialProcessor]) -> None:
    processor, expected = processor_of(case), read_json(case / "outputs.json")
    num_plain = 0
    for name, chat in chats(case).items():
        texts = [part.text for item in chat["messages"] for part in to_message(item).parts
                 if isinstance(part, TextPart)]
        is_plain = all(isinstance(piece, str) for text in texts for piece in processor.tokenizer.split_markup(text))
        same = runs(prepare(processor, chat, text_is_markup=False).ids) == expected[name]["id_runs"]
        left_out = any("</think>" in text for text in texts)  # thoughts of earlier turns, with the tokens around them
        assert same == is_plain or (same and left_out), name
        num_plain += is_plain
    assert num_plain


@pytest.mark.parametrize("case", CASES)
def test_generation_arguments(case: Path) -> None:
    expected, version = read_json(case / "outputs.json"), version_of(case)
    for name, chat in chats(case).items():
        given = {ARGUMENTS[key]: value for key, value in chat["chat_kwargs"].items() if key in ARGUMENTS}
        wanted = {key: value for key, value in expected[name]["generate_kwargs"].items() if key not in PLUMBING}
        assert generate_kwargs(version, chat_arguments(version, **given)) == wanted, name


@pytest.mark.parametrize("case", CASES)
def test_system_prompts(case: Path) -> None:
    version, num_checked = version_of(case), 0
    for name, chat in chats(case).items():
        if not name.startswith("sys_"):
            continue
        mode, _, ending = name.removeprefix("sys_").rpartition("_")
        mode, language = (mode[:-3], mode[-2:]) if mode.endswith(("_en", "_zh")) else (mode, "en")
        has_voice = ending == "ref" and mode != "default"
        voice = silence(1.0) if has_voice else None
        got = system_prompt(version, mode, language=language, ref_audio=voice, rate_hz=16_000 if has_voice else None)
        assert shape(got) == shape(to_message(chat["messages"][0])), name
        num_checked += 1
    assert num_checked


def shape(message: Message) -> tuple[str, list[str | type]]:
    return message.role, [part.text if isinstance(part, TextPart) else type(part) for part in message.parts]


@pytest.mark.parametrize("case", CASES)
def test_zero_shot_speech(case: Path) -> None:
    chat = chats(case).get("zero_shot_tts")
    if chat is None:
        pytest.skip("the case has no zero_shot_tts")
    expected = list(map(to_message, chat["messages"]))
    text = expected[1].parts[0].text.split(" ", 1)[1]
    got = read_aloud(version_of(case), text, silence(1.0), rate_hz=AUDIO_RATE_HZ)
    assert list(map(shape, got)) == list(map(shape, expected))


@pytest.mark.parametrize("case", CASES)
def test_sessions(case: Path, tmp_path: Path) -> None:
    inputs, outputs = read_json(case / "inputs.json"), read_json(case / "outputs.json")
    names = [name for name in inputs if name.startswith("stream:")]
    if not names:
        pytest.skip("the case has no session")
    processor = OfficialProcessor(official_config(case), made_tokenizer(tmp_path, version_of(case)))
    for name in names:
        state, wanted = SessionPrompt(), iter(outputs[name])
        for step in inputs[name]:
            if "state" in step:
                state = with_flags(state, step["state"])
                continue
            chunk_index = 0 if step["session_id"] != state.session_id else state.chunk_index
            state, piece = processor.prefill(state, step["session_id"], to_message(step["msg"]))
            assert summary(piece.inputs, piece.prompt.is_stream, chunk_index) == in_whole_frames(next(wanted)), name
            assert piece.prompt.chunk_index == chunk_index
        assert next(wanted, None) is None


def with_flags(state: SessionPrompt, flags: dict[str, bool]) -> SessionPrompt:
    return replace(state, has_replied=flags["llm_generated"], is_reply_complete=flags["llm_generate_completed"],
                   is_new_turn=flags["new_user_msg"])


def in_whole_frames(wanted: dict[str, Any]) -> dict[str, Any]:
    """What is wanted of a piece, with the samples of a clip rounded up to mel frames; a stream's are exact."""
    if wanted["online_streaming"]:
        return wanted
    return wanted | {"audio_samples": [-(-count // HOP_SAMPLES) * HOP_SAMPLES for count in wanted["audio_samples"]]}


def summary(inputs: OfficialInputs, is_stream: bool, chunk_index: int) -> dict[str, Any]:
    """A piece as the reference's processor call shows it, but for clips, which are known in mel frames by then."""
    pictures = [media for media in inputs.media if isinstance(media, SlicedImageMedia)]
    samples = [count for media in inputs.media if not isinstance(media, SlicedImageMedia) for count in (
        [len(media.waveform)] if isinstance(media, AudioMedia) else [n * HOP_SAMPLES for n in media.num_frames])]
    max_slices = max((len(media.pieces) for media in pictures), default=1)
    return {"prompt": inputs.prompt, "audio_samples": samples, "n_images": len(pictures),
            "online_streaming": is_stream, "audio_chunk_idx": chunk_index, "use_image_id": False,
            "max_slice_nums": max_slices}


# The template file itself


@cache
def official_template() -> Callable[..., str]:
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(read_json(official_folder() / "tokenizer_config.json")["chat_template"]).render


def turn(message: dict[str, Any]) -> Turn:
    calls = tuple(ToolCall(call["name"], call["arguments"]) for call in message.get("tool_calls", ()))
    return Turn(message["role"], (Words(message["content"]),), message.get("reasoning_content"), calls)


TOOLS = [{"name": "weather", "parameters": {"city": "Köln"}}, {"name": "time"}]
ASK, ANSWER = {"role": "user", "content": "How warm is it?"}, {"role": "assistant", "content": "\n12 degrees."}
THOUGHT = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\n12 degrees."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Köln"}},
                                                           {"name": "time", "arguments": "{}"}]}
REASONED = {"role": "assistant", "content": "So.", "reasoning_content": "\nhm\n", "tool_calls": CALL["tool_calls"]}
TOOL, SYSTEM = {"role": "tool", "content": "12"}, {"role": "system", "content": "Be brief."}
HANDED_BACK = {"role": "user", "content": "<tool_response>\n12\n</tool_response>"}


@pytest.mark.parametrize("use_tts_template", [False, True])
@pytest.mark.parametrize("enable_thinking", [False, True])
@pytest.mark.parametrize("tools", [[], TOOLS])
@pytest.mark.parametrize("messages", [
    [ASK], [SYSTEM, ASK], [ASK, ANSWER], [ASK, THOUGHT], [ASK, THOUGHT, ASK], [ASK, THOUGHT, ANSWER, ASK, SYSTEM],
    [SYSTEM, ASK, CALL, TOOL, TOOL], [ASK, CALL, TOOL, ANSWER, ASK], [ASK, REASONED, TOOL, THOUGHT],
    [ASK, REASONED, HANDED_BACK, THOUGHT], [TOOL, ASK], [SYSTEM], [ANSWER, ANSWER],
])
def test_template_of_45_is_the_files(messages: list[dict[str, Any]], tools: list[dict[str, Any]],
                                     enable_thinking: bool, use_tts_template: bool) -> None:
    flags = {"enable_thinking": enable_thinking, "use_tts_template": use_tts_template}
    for add_generation_prompt in (True, False):
        expected = official_template()(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt,
                                       **flags)
        got = chat_template("4.5", list(map(turn, messages)), tools=tools, **flags,
                            add_generation_prompt=add_generation_prompt)
        assert not any(isinstance(segment, Slot) for segment in got)
        assert prompt_text(got, "4.5") == expected
